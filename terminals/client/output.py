"""What a job writes, live or afterwards, across restarts of the core."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from skyport.terminal.v1 import job_pb2
from terminals.client.errors import CallFailed, DataDamaged
from terminals.client.patience import DEFAULT_S, Patience
from terminals.client.stream import SILENCE_S

if TYPE_CHECKING:
    from terminals.client.connection import Client
    from terminals.client.stream import Stream


@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """Bytes that the job wrote and the core has not kept."""

    size: int


class OutputReader:
    """One stream of one attempt. Iterating yields bytes in order, and a `Gap` where some lack.

    It goes on at its offset when the core restarts.

    Args:
        client: The connection.
        job_id: The whole id.
        stderr: Standard error instead of standard output.
        attempt: Which start of the job; 0 means the latest.
        node: Which node; empty means the first.
        offset: Bytes from the stream's beginning at which to begin.
        tail_bytes: Begin so many bytes before what is there now; wins over `offset`.
        follow: Go on until the job has ended.
        patience_s: Seconds without an answer of the core after which it gives up.

    Raises:
        CallFailed: While iterating: the core refused, or stayed away.
        DataDamaged: While iterating: the stream was read from its beginning to its end, and is not
            what the job wrote.
    """

    def __init__(
        self,
        client: Client,
        job_id: str,
        *,
        stderr: bool = False,
        attempt: int = 0,
        node: str = "",
        offset: int = 0,
        tail_bytes: int = 0,
        follow: bool = False,
        patience_s: float = DEFAULT_S,
    ) -> None:
        self._client = client
        self._patience_s = patience_s
        self._stop = threading.Event()
        self._answers: Stream[job_pb2.ReadOutputResponse] | None = None
        self._request = job_pb2.ReadOutputRequest(
            job_id=job_id,
            attempt=attempt,
            node=node,
            kind=job_pb2.OUTPUT_KIND_STDERR if stderr else job_pb2.OUTPUT_KIND_STDOUT,
            offset=offset,
            tail_bytes=tail_bytes,
            follow=follow,
        )
        self._digest = hashlib.sha256()
        self._whole = not offset and not tail_bytes
        self._begun = False
        self.offset = offset
        """Bytes from the stream's beginning at which the next piece begins."""
        self.complete = False
        """Whether the stream's end was read: the job will write no more to it."""

    def stop(self) -> None:
        """End the iteration, from another thread."""
        self._stop.set()
        if self._answers is not None:
            self._answers.cancel()

    def __iter__(self) -> Iterator[bytes | Gap]:
        patience = Patience(self._client, self._patience_s, self._stop)
        while not self._stop.is_set():  # ends by patience
            try:
                method = self._client.jobs.ReadOutput
                with self._client.stream(method, self._request, silence_s=SILENCE_S) as answers:
                    self._answers = answers
                    for answer in answers:
                        patience.answered()
                        yield from self._read(answer)
                return
            except CallFailed as error:
                if self._stop.is_set():
                    return
                patience.pause(error)
            if self._begun:  # a tail is counted once only
                self._request.offset = self.offset
                self._request.tail_bytes = 0

    def _read(self, answer: job_pb2.ReadOutputResponse) -> Iterator[bytes | Gap]:
        # Offsets are those of one attempt: a later call must not read another.
        self._request.attempt = answer.attempt or self._request.attempt
        if answer.data:
            if answer.offset > self.offset:
                # The first piece of a tail tells where it begins; nothing lacks.
                if self._begun or not self._request.tail_bytes:
                    yield Gap(answer.offset - self.offset)
                self._whole = False
                self.offset = answer.offset
            self._begun = True
            # Where the core stepped back, what we have is skipped.
            data = answer.data[self.offset - answer.offset :]
            self.offset += len(data)
            self._digest.update(data)
            if data:
                yield data
        if answer.HasField("end"):
            lacking = answer.end.size - self.offset
            if lacking > 0 and (self._begun or not self._request.tail_bytes):
                yield Gap(lacking)
                self.offset = answer.end.size
                self._whole = False
            self.complete = True
            self._check(answer.end)

    def _check(self, end: job_pb2.OutputEnd) -> None:
        known = end.sha256 and self._whole and end.size == self.offset
        if known and end.sha256 != self._digest.digest():
            raise DataDamaged(
                "the output that arrived is not what the job wrote; read it again, and if it stays "
                "so, ask the administrator to look into the core's spool"
            )
