"""The answers of a call that go on: errors as ours, and an end to silence."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import grpc

if TYPE_CHECKING:
    from terminals.client.connection import Client

SILENCE_S = 90.0
"""A call with heartbeats (every 30 s at least) that tells nothing for so long is broken."""

Response = TypeVar("Response")
Answer_co = TypeVar("Answer_co", covariant=True)


class _Answers(Protocol[Answer_co]):
    """What a stub returns for a streaming call."""

    def __next__(self) -> Answer_co: ...

    def cancel(self) -> Any: ...


class Stream(Generic[Response]):
    """The answers of a call, one by one. Leaving its `with` block ends the call.

    Args:
        client: The connection.
        call: What the stub returned.
        silence_s: Seconds after which a call that tells nothing, not even a heartbeat, is taken for
            broken; up to twice as many may pass. None for calls that may be silent.

    Raises:
        CallFailed: While iterating: the call failed, perhaps after some answers.
    """

    def __init__(
        self, client: Client, call: _Answers[Response], silence_s: float | None = None
    ) -> None:
        self._client = client
        self._call = call
        self._waiting_since: float | None = None
        self._ended = threading.Event()
        if silence_s is not None:
            threading.Thread(target=self._listen, args=(silence_s,), daemon=True).start()

    def _listen(self, silence_s: float) -> None:
        """Cancel the call when somebody waits for an answer and none comes."""
        while not self._ended.wait(silence_s):
            since = self._waiting_since
            if since is not None and time.monotonic() - since >= silence_s:
                self.cancel()
                return

    def cancel(self) -> None:
        """End the call, also from another thread: iterating then raises."""
        self._ended.set()
        self._call.cancel()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Response:
        self._waiting_since = time.monotonic()
        try:
            answer = next(self._call)
        except grpc.RpcError as error:
            raise self._client.failure(error) from None
        finally:
            self._waiting_since = None
        self._client.has_answered = True
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
