"""How a server's process takes memory from the system, where the C library is glibc."""

from __future__ import annotations

import ctypes

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def keep_buffers() -> None:
    """Have the buffers of messages used again; call it before threads begin.

    By default each buffer of a megabyte is mapped, faulted in and unmapped anew, which takes a
    third of the time of a large upload, and each thread has an arena of its own, which keeps what
    others could use. With another C library nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, 2 << 20)
        mallopt(_TRIM_THRESHOLD, 8 << 20)
