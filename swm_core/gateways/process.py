"""The process of a gate that the core starts itself: kept running, and ended with the core."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from rpc_kit.endpoint import Endpoint
from rpc_kit.server import SUPERVISED
from swm_core.gateways.backoff import Backoff

log = logging.getLogger(__name__)

_SPAWN = Path(__file__).with_name("spawn.py")
_LOG_BYTES = 10 << 20
_LOG_LOOK_S = 60.0
"""How often it is looked whether the log of a gate that runs has become so long."""
_TAIL_BYTES = 4 << 10
_TAIL_LINES = 10
_END_S = 12.0
"""A gate may let calls finish for 10 s before it ends."""
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
        """How it last ended without being told to, with its last words; empty: it has not."""
        self.crashes = 0
        """How often it has ended so in a row, without having run for a minute."""
        self.start_time = 0.0
        """When it was last started; by the monotonic clock."""
        self._asked = asyncio.Event()
        """Whether somebody wants it to be started anew."""

    async def run(self) -> None:
        """Keep it running until cancelled; then end it."""
        backoff = Backoff(first_s=0.1, most_s=30.0)
        try:
            while True:
                self._asked.clear()
                self.start_time = time.monotonic()
                try:
                    how = _exit_text(await self._run_once(), self.log_tail())
                except OSError as error:
                    # No process, or no file more: there may be again, and the core goes on.
                    how = f"it can't be started: {error.strerror}"
                if time.monotonic() - self.start_time > _STEADY_S:
                    backoff.reset()
                    self.crashes = 0
                if not self._asked.is_set():
                    await self._pause(how, backoff.next())
                if self._asked.is_set():
                    log.info("gate %s is started anew, as somebody asked", self.name)
                    backoff.reset()
                    self.crashes, self.last_exit = 0, ""
                self.restarts += 1
        finally:
            await self._end()

    async def _pause(self, how: str, wait_s: float) -> None:
        """Note how it ended, and wait, unless somebody wants it sooner."""
        self.crashes += 1
        self.last_exit = how
        log.warning("gate %s: %s; again in %.1f s", self.name, how, wait_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._asked.wait(), wait_s)

    def log_tail(self) -> list[str]:
        """The last lines of its log."""
        with contextlib.suppress(OSError), self._log_path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
        return []

    def restart(self) -> None:
        """Have it end and be started anew at once; one that does not end in time is killed."""
        self._asked.set()
        process = self._running
        if process is not None and process.returncode is None:
            process.terminate()
            asyncio.get_running_loop().call_later(_END_S, _kill, process)

    def kill(self, why: str) -> None:
        """Have it gone, because it does its work no more; it is started again."""
        if self._running is not None and self._running.returncode is None:
            log.warning("gate %s is killed: %s", self.name, why)
            _kill(self._running)

    async def _run_once(self) -> int:
        environment = dict(os.environ)
        environment[SUPERVISED] = "1"
        # A gate that was installed beside the core is found without being on the user's PATH.
        beside = str(Path(sys.executable).parent)
        environment["PATH"] = f"{beside}:{environment.get('PATH', os.defpath)}"
        with self._log() as output:
            self._running = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(_SPAWN), str(os.getpid()), *self._command,
                stdin=asyncio.subprocess.PIPE, stdout=output, stderr=output,
                env=environment, start_new_session=True,
            )  # fmt: skip
        self.pid = self._running.pid
        log.info("gate %s runs as process %d", self.name, self.pid)
        code = await self._ended(self._running)
        self.pid = None
        return code

    async def _ended(self, process: asyncio.subprocess.Process) -> int:
        """Its exit code; its log is kept short meanwhile."""
        while True:
            try:
                async with asyncio.timeout(_LOG_LOOK_S):
                    return await process.wait()
            except TimeoutError:
                await asyncio.to_thread(self._shorten_log)

    def _shorten_log(self) -> None:
        """Put aside what a gate has written, which writes on into the same file."""
        try:
            if self._log_path.stat().st_size > _LOG_BYTES:
                shutil.copy(self._log_path, self._old_log_path)
                os.truncate(self._log_path, 0)
        except OSError as error:
            log.warning("the log of gate %s gets longer: %s", self.name, error)

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

    @property
    def _old_log_path(self) -> Path:
        return self._log_path.with_suffix(".log.1")

    def _log(self) -> IO[bytes]:
        """Where its output goes. A disk that takes none is no reason to have no gate."""
        try:
            with contextlib.suppress(FileNotFoundError):
                if self._log_path.stat().st_size > _LOG_BYTES:
                    self._log_path.replace(self._old_log_path)
            return self._log_path.open("ab")
        except OSError as error:
            log.warning("gate %s runs without a log: %s", self.name, error)
            return open(os.devnull, "ab")  # noqa: PTH123 - no path of ours


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def _exit_text(code: int, said: Sequence[str]) -> str:
    if code < 0:
        # What it said last has nothing to do with it.
        return f"it was ended by signal {-code}"
    how = f"it ended with exit code {code}"
    return f"{how}, saying: {_message(said[-1])}" if said else how


def _message(line: str) -> str:
    """What a line of a log tells a person; our own are JSON."""
    with contextlib.suppress(ValueError):
        entry = json.loads(line)
        if isinstance(entry, dict) and isinstance(entry.get("message"), str):
            return str(entry["message"])
    return line
