"""`swm forward`: a port here that leads to a port of a job."""

from __future__ import annotations

import contextlib
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

import click

from terminals.cli.command import Command
from terminals.cli.options import connected, job_argument

if TYPE_CHECKING:
    from skyport.terminal.v1 import job_pb2
    from terminals.client.connection import Client
    from terminals.client.errors import ClientError
    from terminals.client.tunnel import Forwarding


@click.command(
    cls=Command, examples=["swm forward k3x9 8888", "swm forward k3x9 jupyter --local 9000"]
)
@job_argument
@click.argument("port")
@click.option(
    "--local",
    "local_port",
    type=click.IntRange(0, 65_535),
    default=None,
    help="Where to listen; 0 picks a free port.  [default: the same number, if it is free]",
)
@click.option("--node", default="", help="To this node of the job.  [default: the first]")
def forward(job_text: str, port: str, local_port: int | None, node: str) -> None:
    """Reach a port of a running job from here.

    Listens on 127.0.0.1, and carries each connection to PORT: a number, or the name that the script
    gave. Waits for the job to run, prints the address here, and goes on until the job has ended or
    Ctrl-C. Only ports that the script asked for as "in" can be reached.
    """
    from terminals.cli.background import INTERRUPTIBLE_S
    from terminals.cli.failures import Refused
    from terminals.cli.states import ENDED
    from terminals.cli.tables import note

    with connected() as client:
        watching = _Watching(client, client.find_job(job_text).job_id)
        watching.start()
        job = _running(watching)
        if job.state in ENDED:
            raise Refused(f"job {job.job_id} has ended; nothing listens there any more")
        target, number = _target(job, port)
        with _listening(client, job.job_id, target, number, local_port, node) as forwarding:
            try:
                click.echo(f"127.0.0.1:{forwarding.port}")
                note(f"forwards to port {target} of job {job.job_id}; Ctrl-C ends it")
                while watching.is_alive():  # ends with the job, or Ctrl-C
                    watching.join(INTERRUPTIBLE_S)
            except KeyboardInterrupt:
                click.echo(err=True)  # after the ^C
                return
        if watching.error is not None:
            raise watching.error
        note(f"job {job.job_id} has ended")


def _running(watching: _Watching) -> job_pb2.Job:
    """The job when it runs, or when it has ended before."""
    from skyport.terminal.v1 import job_pb2
    from terminals.cli.background import next_of
    from terminals.cli.progress import spinner
    from terminals.cli.states import ENDED, state_word
    from terminals.cli.words import plain

    with spinner() as waiting:
        while True:  # ends with the job, or an error of the thread
            job = next_of(watching.news)
            if isinstance(job, BaseException):
                raise job
            if job.state == job_pb2.JOB_STATE_RUNNING or job.state in ENDED:
                return job
            waiting.say(f"{job.job_id}  {state_word(job.state)}  {plain(job.text)}")


def _target(job: job_pb2.Job, port: str) -> tuple[int | str, int]:
    """What to ask the core for, and the number that it has at the job (0: not known)."""
    from skyport.terminal.v1 import job_pb2

    asked = [each for each in job.spec.ports if each.direction == job_pb2.PORT_DIRECTION_IN]
    known = {each.name: each.number for each in asked if each.name}
    for node in job.nodes[:1]:
        known.update((each.name, each.number) for each in node.ports if each.name in known)
    if port.isascii() and port.isdigit():
        numbers = {each.number for each in asked if each.number} | set(known.values())
        if int(port) not in numbers - {0}:
            has = ", ".join(map(str, sorted(numbers - {0}))) or "none"
            raise click.BadParameter(f"the job has no port {port} to reach; those it has: {has}")
        return int(port), int(port)
    if port not in known:
        names = ", ".join(sorted(known)) or "none"
        raise click.BadParameter(f'"{port}" is no port of the job; names it has: {names}')
    return port, known[port]


def _listening(
    client: Client, job_id: str, target: int | str, number: int, local: int | None, node: str
) -> Forwarding:
    from terminals.client.errors import LocalFileError
    from terminals.client.tunnel import Forwarding

    def listen(local_port: int) -> Forwarding:
        return Forwarding(
            client, job_id, target, local_port=local_port, node=node, on_failure=_Failures()
        )

    if local is not None:
        return listen(local)
    with contextlib.suppress(LocalFileError):
        if number:
            return listen(number)
    return listen(0)


class _Failures:
    """Tells why connections fail, each reason once in a row."""

    def __init__(self) -> None:
        self._last = ""
        self._lock = threading.Lock()

    def __call__(self, error: ClientError) -> None:
        from terminals.cli.failures import lines_of

        text = "\n".join(lines_of(error))
        with self._lock:
            repeated, self._last = text == self._last, text
        if not repeated:
            click.echo(text, err=True)


class _Watching(threading.Thread):
    """Lives until the job has ended, or until it can't be told any more, for which `error` stands.

    Args:
        client: The connection.
        job_id: The whole id.
    """

    def __init__(self, client: Client, job_id: str) -> None:
        super().__init__(daemon=True, name="watch")
        self.error: BaseException | None = None
        self.news: SimpleQueue[job_pb2.Job | BaseException] = SimpleQueue()
        """The job whenever it has changed, and the error."""
        self._client = client
        self._job_id = job_id

    def run(self) -> None:
        try:
            for job in self._client.wait_for([self._job_id]):
                self.news.put(job)
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self.error = error
            self.news.put(error)
