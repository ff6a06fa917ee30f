"""Asks Slurm, and the folders of attempts, as one account on the login node.

Two shells serve it: one answers within a moment, the other waits for Slurm's own commands, each of
which has a deadline: with slurmctld away they wait for it for long.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import NamedTuple

from gate_kit import errors
from gate_kit.ssh.batches import Batch
from gate_kit.ssh.evidence import Lasting
from gate_kit.ssh.host import Host
from gate_kit.ssh.runner import Runner
from gate_kit.ssh.shell import Reply, Shell, ShellLost
from gates.ssh_cluster_gate.slurm import evidence, queue, sbatch
from gates.ssh_cluster_gate.slurm.evidence import Evidence

_WITHIN_S = 10
"""For what only asks."""
_CUT = 124
"""The code of a command that was ended at its deadline."""
_MOST = 100
"""Attempts that are looked at by one request."""


def _text(name: str) -> bytes:
    return resources.files(__package__).joinpath(name).read_bytes()


@functools.cache
def batch() -> Runner:
    """What Slurm is given to run."""
    text = _text("batch.sh")
    return Runner(text, f"batch-{hashlib.sha256(text).hexdigest()[:12]}.sh")


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a command of Slurm said."""

    lines: tuple[str, ...]
    errors: tuple[str, ...]
    code: int

    @property
    def text(self) -> str:
        """Its errors, for people."""
        return "; ".join(line.strip() for line in self.errors if line.strip())[:500]


class _Asked(NamedTuple):
    path: str
    """Of the attempt's key."""
    root_uid: str
    """The root that is expected there."""


class Account:
    """Slurm as one account has it.

    Args:
        host: The account on the login node.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self._quick = _Serving(host)
        self._slow = _Serving(host)
        self._submits = _Serving(host, submits=True)
        self._filesystem: str | None = None
        self._glances = {
            mode: Batch(functools.partial(self._look, mode), f"glances at {host.node}")
            for mode in ("all", "changes")
        }

    async def close(self) -> None:
        """Ask no more."""
        for serving in (self._quick, self._slow, self._submits):
            await serving.close()

    # Folders of attempts.

    async def look(
        self, asked: Mapping[str, str], known: Mapping[str, Lasting] | None = None
    ) -> dict[str, Evidence]:
        """What lies of attempts, by the paths of their keys.

        Args:
            asked: For each path the root that is expected there; empty at a first contact.
            known: What never changes of all of them; without it that is asked for as well.

        Raises:
            Refusal: NODE_UNREACHABLE.
        """
        pairs = list(asked.items())
        mode = "all" if known is None else "changes"
        found: dict[str, Evidence] = {}
        # A shell takes more time for each word the more there are, and others wait for it.
        for start in range(0, len(pairs), _MOST):
            words = [word for pair in pairs[start : start + _MOST] for word in pair]
            found |= evidence.read_look(await self._quick.ask("look", mode, *words), known)
        return found

    async def glance(self, path: str, root_uid: str, known: Lasting | None = None) -> Evidence:
        """What lies of one attempt; asked together with others that are asked for meanwhile.

        Args:
            path: Of its key.
            root_uid: The root that is expected there; empty at a first contact.
            known: What never changes of it; without it that is asked for as well.

        Raises:
            Refusal: NODE_UNREACHABLE.
        """
        mode = "all" if known is None else "changes"
        found = await self._glances[mode].answer(_Asked(path, root_uid))
        if known is None or not found.exists:
            return found
        return dataclasses.replace(found, lasting=known)

    async def _look(self, mode: str, asked: Sequence[_Asked]) -> dict[_Asked, Evidence | Exception]:
        words = [word for each in asked for word in each]
        reply = await self._quick.ask("look", mode, *words)
        found = evidence.read_look(reply, {} if mode == "changes" else None)
        return {each: found[each.path] for each in asked}

    async def all_of(self, installation: str) -> dict[str, Evidence]:
        """What lies of all attempts of an installation, of all with a star."""
        found = evidence.read_look(await self._quick.ask("list", installation))
        found.pop("", None)
        return found

    async def events(self) -> list[str]:
        """Where jobs have said that they began or ended, each once."""
        return (await self._quick.ask("events")).lines

    async def filesystem(self) -> str:
        """The kind of file system that the work root is on, as stat names it; empty: not known.

        Raises:
            Refusal: NODE_UNREACHABLE.
        """
        if self._filesystem is None:
            self._filesystem = "".join((await self._quick.ask("filesystem")).lines)
        return self._filesystem

    async def log_reason(self, path: str) -> str:
        """What Slurm's log of a job says of why it ended; empty if nothing."""
        return queue.why_of_log("\n".join((await self._quick.ask("log", path)).lines))

    async def settle(self, path: str, kind: str, reason: str) -> None:
        """Write down an end that no runner has told."""
        await self._quick.ask("settle", path, kind, reason)

    async def conceal(self, path: str) -> None:
        """Remove what only the job may see."""
        await self._quick.ask("conceal", path)

    # Slurm.

    async def command(self, *words: str, within_s: int = _WITHIN_S) -> Answer:
        """What a command of Slurm says.

        Raises:
            Refusal: NODE_UNREACHABLE.
        """
        return _answer(await self._slow.ask("slurm", str(within_s), *words))

    async def ask(self, *words: str) -> tuple[str, ...]:
        """The lines of a command that has to succeed.

        Raises:
            Refusal: NODE_UNREACHABLE; SITE_UNREACHABLE where Slurm does not answer.
        """
        answer = await self.command(*words)
        if answer.code:
            why = answer.text or "it took too long"
            raise errors.site_unreachable(f"{words[0]} on {self.host.node} failed: {why}")
        return answer.lines

    async def submit(
        self,
        path: str,
        root_uid: str,
        *,
        ranks: int,
        forgotten: str,
        words: Sequence[str],
        private: bytes,
    ) -> str:
        """Submit an attempt, unless that was done; returns Slurm's id.

        Args:
            path: Of its key.
            root_uid: The root that is expected there.
            ranks: How many get the private variables.
            forgotten: The id that the queue has forgotten; empty if it has none.
            words: The command.
            private: The variables, as runners read them.

        Raises:
            HostRefused: JOB_CANCELLED, SITE_CHANGED.
            Refusal: What `sbatch.refusal` makes of it; NODE_UNREACHABLE, after which nobody knows
                whether it was submitted.
        """
        reply = await self._submits.ask(
            "submit", path, root_uid, str(ranks), forgotten, *words, data=private, again=False
        )
        answer = _answer(reply)
        found = sbatch.job_id("\n".join(answer.lines))
        if not found:
            raise sbatch.refusal(answer.errors, answer.code)
        return found


class _Serving:
    """One shell that runs agent.sh, made anew when it was lost.

    Args:
        host: Where.
        submits: Whether it needs what Slurm is given to run.
    """

    def __init__(self, host: Host, *, submits: bool = False) -> None:
        self._host = host
        self._submits = submits
        self._shell: Shell | None = None
        self._opening = asyncio.Lock()
        self._is_closed = False

    async def ask(self, verb: str, *words: str, data: bytes = b"", again: bool = True) -> Reply:
        """The answer; asks a second time where a shell is found lost, unless told otherwise."""
        shell = self._shell
        if again and shell is not None and not shell.is_lost:
            try:
                return await shell.ask(verb, words, data)
            except ShellLost:
                pass  # it may have gone long ago
        return await (await self._opened()).ask(verb, words, data)

    async def _opened(self) -> Shell:
        async with self._opening:
            if self._shell is not None and not self._shell.is_lost:
                return self._shell
            if self._is_closed:
                raise errors.shutting_down()
            if self._shell is not None:
                await self._shell.close()
            process = await self._host.run(_text("agent.sh"), batch().name, lasting=True)
            shell = Shell(self._host.node, process)
            try:
                if self._submits and not (await shell.ask("prepared", (), b"")).lines:
                    # Of the others nobody has to wait for room on the disk.
                    await shell.ask("prepare", (), batch().text)
            except BaseException:
                await shell.close()
                raise
            self._shell = shell
            return shell

    async def close(self) -> None:
        self._is_closed = True
        if self._shell is not None:
            await self._shell.close()


def _answer(reply: Reply) -> Answer:
    lines, told, code = [], [], 1
    for line in reply.lines:
        name, _, value = line.partition(" ")
        if name == "error":
            told.append(value)
        elif name == "code" and value.isdigit():
            code = int(value)
        else:
            lines.append(line)
    if not lines or lines.pop() != ".":
        # As at a deadline: nobody knows what it has done.
        return Answer(
            (), (*told, "there is no room for its answer in the folder of temporary files"), _CUT
        )
    return Answer(tuple(lines), tuple(told), code)
