"""How long to go on without an answer, and how long to pause between tries."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

from terminals.client.errors import CallFailed, CoreUnreachable

if TYPE_CHECKING:
    from terminals.client.connection import Client

DEFAULT_S = 600.0
"""A core that restarts is back within seconds, one whose machine restarts within minutes."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


class Patience:
    """The pauses of one long operation: they grow while nothing answers, and end after `limit_s`.

    A core that has never answered is not waited for: it is not running, or not ours.

    Args:
        client: The connection.
        limit_s: Seconds without an answer after which it ends.
        stop: Ends a pause at once when set.
    """

    def __init__(self, client: Client, limit_s: float, stop: threading.Event | None = None) -> None:
        self._client = client
        self._limit_s = limit_s
        self._stop = stop or threading.Event()
        self.answered()

    def answered(self) -> None:
        """Something came from the core: begin anew."""
        self._since = time.monotonic()
        self._pause_s = _FIRST_PAUSE_S

    def pause(self, error: CallFailed) -> None:
        """Wait before the next try after `error`.

        Raises:
            CallFailed: `error` itself, where trying again can't help or has lasted long enough.
        """
        left_s = self._limit_s - (time.monotonic() - self._since)
        # No answer in time is one of these: whoever is patient may repeat the call.
        unanswered = error.transient or isinstance(error, CoreUnreachable)
        hopeless = not unanswered or not self._client.has_answered
        if hopeless or left_s <= 0 or self._stop.is_set():
            raise error
        asked_s = error.problem.retry_after_s or 0.0
        # Jitter, so that the terminals of many jobs do not come back at the same moment.
        pause_s = max(asked_s, self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret  # nosec B311
        self._stop.wait(min(pause_s, left_s))
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
