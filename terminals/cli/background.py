"""Waits that Ctrl-C ends, whatever they wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")

INTERRUPTIBLE_S = 0.5
"""The longest wait of the main thread: a Ctrl-C given to another thread does not end a wait."""


class _End:
    """What a thread puts last; `error` is what ended it, if anything did."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def background(values: Iterable[T], *, timeout_s: float | None = None) -> Iterator[T]:
    """The values, taken by another thread.

    The interrupt of a Ctrl-C can be lost when it comes while the main thread is deep in grpc.

    Args:
        values: What to iterate over.
        timeout_s: Seconds after which to give up; None means never.

    Raises:
        TimeoutError: `timeout_s` is over. The thread goes on until the process ends.
    """
    queue: SimpleQueue[T | _End] = SimpleQueue()

    def take() -> None:
        try:
            for value in values:
                queue.put(value)
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            queue.put(_End(error))
        else:
            queue.put(_End(None))

    threading.Thread(target=take, daemon=True).start()
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:  # ends with the values, or by the deadline
        value = next_of(queue, deadline)
        if not isinstance(value, _End):
            yield value
        elif value.error is None:
            return
        else:
            raise value.error


def next_of(queue: SimpleQueue[T], deadline: float | None = None) -> T:
    """The next thing in a queue.

    Args:
        queue: Filled by other threads.
        deadline: By the monotonic clock; None means wait for ever.

    Raises:
        TimeoutError: The deadline has passed.
    """
    while deadline is None or time.monotonic() < deadline:
        try:
            return queue.get(timeout=INTERRUPTIBLE_S)
        except Empty:
            continue
    raise TimeoutError
