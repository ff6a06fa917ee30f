"""Bars and spinners on a terminal; nothing where there is none."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from terminals.client.progress import Progress, Report, silent

if TYPE_CHECKING:
    from rich.console import Console


def _console() -> Console | None:
    """Standard error, if a person watches it."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    console = Console(stderr=True)
    # A dumb terminal shows what we would draw over.
    return console if console.is_terminal and not console.is_dumb_terminal else None


@contextlib.contextmanager
def transfer() -> Iterator[Report]:
    """What tells of a transfer: a bar for each activity, gone when the block ends."""
    console = _console()
    if console is None:
        yield silent
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    with Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TextColumn("{task.fields[files]}"),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bars:
        tasks = {}

        def report(progress: Progress) -> None:
            files = f"{progress.done_files}/{progress.total_files} files"
            if progress.activity not in tasks:
                tasks[progress.activity] = bars.add_task(progress.activity, files=files)
            bars.update(
                tasks[progress.activity],
                completed=progress.done_bytes,
                total=progress.total_bytes,
                files=files,
            )

        yield report


class Spinner:
    """One line that says what is waited for. `stop` makes room for other output."""

    def __init__(self, console: Console | None) -> None:
        self._status = console.status("") if console else None
        self._started = False

    @property
    def is_shown(self) -> bool:
        """Whether there is a terminal to show it."""
        return self._status is not None

    def say(self, text: str) -> None:
        """Show `text` instead of what was shown before."""
        if self._status is None:
            return
        from rich.markup import escape

        self._status.update(escape(text))
        if not self._started:
            self._started = True
            self._status.start()

    def stop(self) -> None:
        """Show nothing until the next text."""
        if self._status is not None and self._started:
            self._started = False
            self._status.stop()


@contextlib.contextmanager
def spinner() -> Iterator[Spinner]:
    """A spinner, gone when the block ends."""
    shown = Spinner(_console())
    try:
        yield shown
    finally:
        shown.stop()
