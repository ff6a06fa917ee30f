"""Starts runners, and learns of their claims and ends without asking again and again.

A claim is told through one pipe that all runners of this gate share, an end by the runner's pidfd.
Runners of a gate before this one are watched in the same way, but tell their claims to nobody: the
core repeats their starts, and the second runner, which finds the claim taken, ends and is noticed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import subprocess
from collections.abc import Callable, Mapping

from gate_kit.ssh.layout import AttemptPath
from gates.fake_gate import processes
from gates.fake_gate.attempt import Attempt, Claim
from gates.fake_gate.site import write_all

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """What one runner is started with."""

    attempt: Attempt
    node: str
    arguments: tuple[str, ...]
    """Of /bin/sh."""
    environment: Mapping[str, str]
    private: bytes
    """Variables that only the job may see, as the runner reads them."""


@dataclasses.dataclass(eq=False, slots=True)
class _Runner:
    key: AttemptPath
    node: str
    process: subprocess.Popen[bytes] | None = None
    """Of our own; None for one that an earlier gate started."""
    watched: processes.Watched | None = None


class Launcher:
    """The runners that are on their way or alive, as far as this gate knows.

    Args:
        on_claim: Told when a runner of this gate has claimed.
        on_end: Told when a runner has ended, however.
    """

    def __init__(
        self,
        on_claim: Callable[[AttemptPath, str], None],
        on_end: Callable[[AttemptPath, str], None],
    ) -> None:
        self._on_claim = on_claim
        self._on_end = on_end
        self._runners: dict[tuple[AttemptPath, str], _Runner] = {}
        self._by_pid: dict[int, _Runner] = {}
        self._unwatched: list[subprocess.Popen[bytes]] = []
        # A full pipe must never hold up a runner.
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        asyncio.get_running_loop().add_reader(self._reading, self._read_claims)
        self._unread = b""

    def close(self) -> None:
        """Watch no more; the runners go on."""
        asyncio.get_running_loop().remove_reader(self._reading)
        os.close(self._reading)
        os.close(self._writing)
        for runner in self._runners.values():
            if runner.watched:
                runner.watched.close()
            if runner.process:
                runner.process.returncode = 0  # not ours any more: nothing for Popen to warn of
        for process in self._unwatched:
            process.returncode = 0
        self._runners.clear()
        self._by_pid.clear()

    def is_live(self, key: AttemptPath, node: str) -> bool:
        """Whether a runner is known to be on its way there, or alive."""
        return (key, node) in self._runners

    def start(self, command: Command) -> bool:
        """Start a runner. It takes about half a millisecond, and does not wait for the claim.

        Returns:
            Whether its claim and its end will be told. The system may have no descriptor left for
            that, though the runner is on its way.

        Raises:
            OSError: The system can't start it.
        """
        stdin = _input(command.private)
        try:
            process = subprocess.Popen(
                ["/bin/sh", *command.arguments],
                cwd=command.attempt.folder,
                env=command.environment,
                stdin=stdin,
                stdout=self._writing,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(stdin)
        self._unwatched = [each for each in self._unwatched if each.poll() is None]
        # A child keeps its number until it is waited for, so there is nothing to compare.
        try:
            descriptor = os.pidfd_open(process.pid)
        except OSError:
            self._unwatched.append(process)
            return False
        runner = _Runner(command.attempt.key, command.node, process)
        self._runners[runner.key, runner.node] = self._by_pid[process.pid] = runner
        runner.watched = processes.Watched(descriptor)
        asyncio.get_running_loop().add_reader(descriptor, self._ended, runner)
        return True

    def adopt(self, key: AttemptPath, node: str, claim: Claim) -> bool:
        """Watch the runner that has claimed, unless it is watched already.

        Returns:
            False if it has ended.

        Raises:
            OSError: The system has no descriptor left for it.
        """
        if (key, node) in self._runners:
            return True
        runner = _Runner(key, node)
        runner.watched = processes.on_end(claim.pid, claim.started, lambda: self._ended(runner))
        if runner.watched is None:
            return False
        self._runners[key, node] = runner
        return True

    def _ended(self, runner: _Runner) -> None:
        if runner.watched:
            runner.watched.close()
        if runner.process:
            runner.process.wait()
            del self._by_pid[runner.process.pid]
            # It may have claimed just before: that comes first.
            self._read_claims()
        del self._runners[runner.key, runner.node]
        self._on_end(runner.key, runner.node)

    def _read_claims(self) -> None:
        try:
            data = self._unread + os.read(self._reading, 1 << 16)
        except BlockingIOError:
            return
        *lines, self._unread = data.split(b"\n")
        for line in lines:
            runner = self._by_pid.get(int(line))
            if runner:
                self._on_claim(runner.key, runner.node)


def _input(private: bytes) -> int:
    """A descriptor to read `private` from. It lies in memory only, and blocks nobody."""
    if not private:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    descriptor = os.memfd_create("private", os.MFD_CLOEXEC)
    write_all(descriptor, private)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
