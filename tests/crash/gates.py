"""A gate as a process of the test's own, to be killed and started again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.system.harness.sites import Site

_END_S = 30.0


class GateRun:
    """The gate of one site. It runs while it is started: nothing starts it again by itself.

    Args:
        site: With an endpoint.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def scratch(self) -> Path:
        """Where it has what it needs for a while only."""
        return self.site.folder / "tmp"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the one that runs, or ran last."""
        assert self._process is not None
        return self._process.pid

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it, with more variables if need be. It need not answer yet on return."""
        assert not self.is_running
        self.scratch.mkdir(exist_ok=True)
        with (self.site.folder / "gate.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self.site.command, "--listen", self.site.endpoint],
                env={**os.environ, "TMPDIR": str(self.scratch), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Have it gone at once, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_END_S)

    def wait(self, within_s: float = _END_S) -> int:
        """Wait until it has ended by itself; returns its exit code (negative: the signal)."""
        assert self._process is not None
        return self._process.wait(within_s)
