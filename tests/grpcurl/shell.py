"""Runs the steps of the page one after the other in one bash, as somebody who copies them does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.grpcurl.page import Step


class Session:
    """What a bash made of steps. It stops at the first that does not end as the page says.

    Args:
        folder: Empty; the commands run in `work` below it.
        steps: What to run.
        environment: Of the shell.
        within_s: Seconds for all of them.
    """

    def __init__(
        self, folder: Path, steps: Iterable[Step], environment: Mapping[str, str], within_s: float
    ) -> None:
        self._folder = folder
        work = folder / "work"
        work.mkdir()
        script = folder / "session.sh"
        script.write_text("".join(self._lines(steps)))
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", str(script)],
                cwd=work,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(within_s)
            # Watches that the page leaves behind, and whatever hangs.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _lines(self, steps: Iterable[Step]) -> Iterable[str]:
        yield "set -o pipefail\n"
        for step in steps:
            output, status = self._output(step), self._status(step)
            yield f"trap 'echo $? > {status}' EXIT\n"
            # In a step that is to succeed the first failure ends it, not only one at its end.
            yield f"set {'+' if step.status else '-'}e\n"
            yield f"{{\n{step.script}}} > {output} 2>&1\n"
            yield "status=$?; trap - EXIT\n"
            yield f"echo $status > {status}; [ $status = {step.status} ] || exit\n"

    def _output(self, step: Step) -> Path:
        return self._folder / f"{step.line}.output"

    def _status(self, step: Step) -> Path:
        return self._folder / f"{step.line}.status"

    def output(self, step: Step) -> str:
        """What a step has printed, on either stream; empty if it was not reached."""
        path = self._output(step)
        return path.read_text(errors="replace") if path.exists() else ""

    def status(self, step: Step) -> int | None:
        """The exit status of a step; None if it did not end, or was not reached."""
        path = self._status(step)
        text = path.read_text() if path.exists() else ""
        return int(text) if text else None
