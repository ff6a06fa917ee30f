"""Sessions of asyncssh that hold little of what nobody has read yet, also for a slow reader.

asyncssh grants the other side a whole new window whenever reading is resumed, however little was
read: each piece that a slow reader takes lets a window more come, and all of a large file is in
memory in the end. Here reading is resumed only where all that waits in the channel, a window at the
most, finds room; so the channel is empty each time, and no more than three windows are ever held.
"""

from __future__ import annotations

import asyncssh
from asyncssh.stream import SSHTCPStreamSession

STREAM_WINDOW = 1 << 20
"""Bytes on the way to a connection through a host; there may be many of these."""


class SteadyProcess(asyncssh.SSHClientProcess[bytes]):
    """A command, for `create_session`."""

    def _should_pause_reading(self) -> bool:
        return _is_full(self._limit, self._recv_buf_len, is_paused=self._read_paused)


class SteadyStream(SSHTCPStreamSession[bytes]):
    """A connection, for `create_connection`, or one that comes to a listener."""

    def _should_pause_reading(self) -> bool:
        return _is_full(self._limit, self._recv_buf_len, is_paused=self._read_paused)


def _is_full(window: int, held: int, *, is_paused: bool) -> bool:
    # Without a window there is no limit: asyncssh wants the rest of what has ended.
    return bool(window) and held >= (window if is_paused else 2 * window)
