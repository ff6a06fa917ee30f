"""Tells when something in a folder changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from gates.fake_gate import libc

log = logging.getLogger(__name__)

_MODIFY, _MOVED_TO, _CREATE, _DELETE_SELF = 0x2, 0x80, 0x100, 0x400
_MASK = _MODIFY | _MOVED_TO | _CREATE | _DELETE_SELF
_OVERFLOW = -1
_HEAD = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
_POLL_S = 0.1


class FolderEvents:
    """One inotify instance for the whole process; each user may have only a few of them."""

    def __init__(self) -> None:
        self._watchers: dict[int, set[asyncio.Event]] = {}
        self._descriptor = -1
        try:
            self._descriptor = libc.inotify_open()
        except OSError as error:
            log.warning("no inotify (%s): looking ten times a second", error.strerror)
        else:
            asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def close(self) -> None:
        """Watch no more."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)

    @contextlib.contextmanager
    def watch(self, folder: Path) -> Iterator[asyncio.Event]:
        """An event that is set whenever a file in `folder` grows, comes, or is replaced.

        Clear it before looking, or a change in between is missed. Where the kernel watches no more
        folders, it is set ten times a second.
        """
        changed = asyncio.Event()
        number = -1
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                number = libc.inotify_watch(self._descriptor, folder, _MASK)
        if number < 0:
            with _ticking(changed):
                yield changed
            return
        self._watchers.setdefault(number, set()).add(changed)
        try:
            yield changed
        finally:
            left = self._watchers.get(number, set())
            left.discard(changed)
            if not left:
                self._watchers.pop(number, None)
                libc.inotify_forget(self._descriptor, number)

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return
        position = 0
        while position < len(data):
            number, _, _, length = _HEAD.unpack_from(data, position)
            position += _HEAD.size + length
            told = [number] if number != _OVERFLOW else list(self._watchers)
            for each in told:
                for changed in self._watchers.get(each, ()):
                    changed.set()


@contextlib.contextmanager
def _ticking(changed: asyncio.Event) -> Iterator[None]:
    async def tick() -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            changed.set()

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()
