"""Shows a job's output while it runs, attempt after attempt, until it has ended."""

from __future__ import annotations

import re
import sys
import threading
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING

from terminals.cli.background import next_of
from terminals.cli.progress import Spinner, spinner
from terminals.cli.states import ENDED, state_word
from terminals.cli.tables import note
from terminals.cli.words import plain
from terminals.client.output import Gap, OutputReader

if TYPE_CHECKING:
    from skyport.terminal.v1 import job_pb2
    from terminals.client.connection import Client

_LAST_OUTPUT_S = 10.0
"""How long to wait for the rest of the output of an attempt that has ended."""

_LAPSE = re.compile(r", [0-9]+ s$")

_BEGUN = ("RUNNING", "STAGING_OUT", "SUCCEEDED", "FAILED", "CANCELLED")


News = SimpleQueue["job_pb2.Job | BaseException"]


class Pump(threading.Thread):
    """Copies one stream of one attempt to one of ours.

    Args:
        reader: What to copy.
        sink: Where to.
        name: For people: which stream it is.
        news: Told the error that ended it, if one did.
    """

    def __init__(self, reader: OutputReader, sink: IO[bytes], name: str, news: News) -> None:
        super().__init__(daemon=True, name=name)
        self.reader = reader
        self.error: BaseException | None = None
        self._sink = sink
        self._news = news
        self._writing = False

    def run(self) -> None:
        try:
            for piece in self.reader:
                self._writing = True
                show(piece, self._sink, self.name)
                self._writing = False
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self.error = error
            self._news.put(error)

    def finish(self, timeout_s: float) -> bool:
        """Wait for its end; returns whether it came.

        It does not come when nothing is read for `timeout_s` seconds. Somebody who reads our output
        slowly, or has stopped a pager, is waited for.
        """
        seen = -1
        while self.is_alive() and (self._writing or seen != self.reader.offset):
            seen = self.reader.offset
            self.join(timeout_s)
        if self.error is not None:
            raise self.error
        return not self.is_alive()


def show(piece: bytes | Gap, sink: IO[bytes], name: str) -> None:
    """Write a piece of output at once, or say that bytes lack."""
    if isinstance(piece, Gap):
        note_gap(piece, name)
    else:
        sink.write(piece)
        sink.flush()


def note_gap(gap: Gap, name: str) -> None:
    """Say that bytes lack."""
    from rpc_kit.units import format_size

    note(f"{format_size(gap.size)} of {name} were not kept here, since the job wrote too much")


def follow(client: Client, job_id: str) -> job_pb2.Job:
    """Copy a job's output to ours until it has ended; returns it as it is then.

    Only the latest attempt is shown when several pass while we look away.

    Raises:
        ClientError: The job can't be followed (any more).
        BrokenPipeError: Nobody reads our output.
    """
    with spinner() as waiting:
        following = _Following(client, job_id, waiting)
        try:
            return following.run()
        finally:
            following.stop()


class _Following:
    def __init__(self, client: Client, job_id: str, waiting: Spinner) -> None:
        self._client = client
        self._job_id = job_id
        self._waiting = waiting
        self._news: News = SimpleQueue()
        self._pumps: list[Pump] = []
        self._attempt = 0
        self._told = ""
        """The step that has a line of its own already."""

    def run(self) -> job_pb2.Job:
        threading.Thread(target=self._watch, daemon=True, name="watch").start()
        while True:  # ends with the job, or an error of a thread
            job = self._next()
            state = state_word(job.state)
            if state in _BEGUN and job.attempt:
                self._show(job)
            if job.state in ENDED:
                self._finish()
                return job
            if state not in _BEGUN:
                self._tell(job, state)

    def stop(self) -> None:
        for pump in self._pumps:
            pump.reader.stop()

    def _tell(self, job: job_pb2.Job, state: str) -> None:
        """Say what is waited for: on one line of a terminal, else on a line for each step.

        That it is tried again stays on a terminal, too. What takes a moment alone is no step.
        """
        text = plain(job.text)
        is_again = state == "QUEUED" and job.attempt > 0
        is_step = is_again or state == "PROVISIONING"
        # How long it takes already is no step.
        step = _LAPSE.sub("", text)
        if is_step and step and step != self._told and (is_again or not self._waiting.is_shown):
            self._told = step
            self._waiting.stop()
            note(f"job {self._job_id}: {text}")
        self._waiting.say(f"{self._job_id}  {state}  {text}")

    def _watch(self) -> None:
        try:
            for job in self._client.wait_for([self._job_id]):
                self._news.put(job)
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self._news.put(error)

    def _next(self) -> job_pb2.Job:
        news = next_of(self._news)
        if isinstance(news, BaseException):
            raise news
        return news

    def _show(self, job: job_pb2.Job) -> None:
        """Copy the output of the job's latest attempt, if it isn't already."""
        if job.attempt == self._attempt:
            return
        self._waiting.stop()
        if self._attempt:
            self._finish()
            note(f"job {self._job_id} runs again: attempt {job.attempt}")
        self._attempt = job.attempt
        sinks = ((False, sys.stdout.buffer), (True, sys.stderr.buffer))
        for stderr, sink in sinks:
            reader = OutputReader(
                self._client, self._job_id, stderr=stderr, attempt=job.attempt, follow=True
            )
            name = "standard error" if stderr else "standard output"
            self._pumps.append(Pump(reader, sink, name, self._news))
        for pump in self._pumps:
            pump.start()

    def _finish(self) -> None:
        """Let the readers come to their ends. One that does not is left for `swm logs`."""
        for pump in self._pumps:
            if not pump.finish(_LAST_OUTPUT_S):
                note(f"the end of {pump.name} did not come; see `swm logs {self._job_id}`")
                pump.reader.stop()
        self._pumps.clear()
