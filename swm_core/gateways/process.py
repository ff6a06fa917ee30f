"""The process of a gate that the core starts itself: kept running, and ended with the core."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rpc_kit.endpoint import Endpoint
from rpc_kit.server import SUPERVISED
from swm_core.gateways.backoff import Backoff

log = logging.getLogger(__name__)

_SPAWN = Path(__file__).with_name("spawn.py")
_LOG_BYTES = 10 << 20
_TAIL_BYTES = 4 << 10
_TAIL_LINES = 10
_STEADY_S = 60.0
"""A gate that ran so long has not crashed at its start: the next wait is short again."""


class GateProcess:
    """One supervised gate.

    Args:
        name: The site's name.
        command: Program and arguments; `--listen ENDPOINT` is appended.
        endpoint: Where the gate is to listen.
        log_path: Where its output goes; kept below about 20 MiB with one older file.
    """

    def __init__(
        self, name: str, command: Sequence[str], endpoint: Endpoint, log_path: Path
    ) -> None:
        self.name = name
        self.restarts = 0
        """How often it was started anew since the core's start."""
        self.pid: int | None = None
        self._command = [*command, "--listen", str(endpoint)]
        self._log_path = log_path
        self._running: asyncio.subprocess.Process | None = None
        self.last_exit = ""
        """How it last ended, with its last words; empty: it has not."""

    async def run(self) -> None:
        """Keep it running until cancelled; then end it."""
        backoff = Backoff(first_s=0.1, most_s=30.0)
        try:
            while True:
                started = time.monotonic()
                code = await self._run_once()
                if time.monotonic() - started > _STEADY_S:
                    backoff.reset()
                wait_s = backoff.next()
                last_words = (self.log_tail() or [""])[-1]
                self.last_exit = _exit_text(code) + (
                    f", saying: {last_words}" if last_words else ""
                )
                log.warning("gate %s: %s; again in %.1f s", self.name, self.last_exit, wait_s)
                await asyncio.sleep(wait_s)
                self.restarts += 1
        finally:
            await self._end()

    def log_tail(self) -> list[str]:
        """The last lines of its log."""
        with contextlib.suppress(OSError), self._log_path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
        return []

    def terminate(self) -> None:
        """Ask it to end; it is started again."""
        if self._running is not None and self._running.returncode is None:
            self._running.terminate()

    async def _run_once(self) -> int:
        self._rotate()
        environment = dict(os.environ)
        environment[SUPERVISED] = "1"
        # A gate that was installed beside the core is found without being on the user's PATH.
        beside = str(Path(sys.executable).parent)
        environment["PATH"] = f"{beside}:{environment.get('PATH', os.defpath)}"
        with self._log_path.open("ab") as output:
            self._running = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(_SPAWN), str(os.getpid()), *self._command,
                stdin=asyncio.subprocess.PIPE, stdout=output, stderr=output,
                env=environment, start_new_session=True,
            )  # fmt: skip
        self.pid = self._running.pid
        log.info("gate %s runs as process %d", self.name, self.pid)
        code = await self._running.wait()
        self.pid = None
        return code

    async def _end(self) -> None:
        process = self._running
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(8):
                await process.wait()
        except TimeoutError:
            log.warning("gate %s did not end in time: killed", self.name)
            process.kill()
            await process.wait()

    def _rotate(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self._log_path.stat().st_size > _LOG_BYTES:
                self._log_path.replace(self._log_path.with_suffix(".log.1"))


def _exit_text(code: int) -> str:
    return f"it was ended by signal {-code}" if code < 0 else f"it ended with exit code {code}"
