"""One account on one host: its long-lived shell, scripts on channels of their own, its events.

The shell answers requests within about a millisecond, one after the other; what takes longer runs
in a channel of its own. All is made anew when the link was lost: nothing is kept there but files.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import logging
import secrets
import time
from collections.abc import Callable, Sequence

from gate_kit import errors
from gate_kit.errors import Refusal
from gate_kit.ssh import script_texts
from gate_kit.ssh.runner import runner
from gate_kit.ssh.shell import Reply, Shell, ShellLost, encoded, read_line
from gate_kit.ssh.transport import Process, Reader, Transport

log = logging.getLogger(__name__)

# fmt: off
TOOLS = (
    "awk", "cat", "chmod", "cp", "date", "dd", "df", "du", "find", "grep", "head", "id", "ln",
    "ls", "mkdir", "mkfifo", "mv", "readlink", "rm", "rmdir", "sed", "setsid", "sha256sum",
    "sleep", "sort", "stat", "sync", "tail", "tar", "touch", "tr", "uname", "wc", "xargs",
)
# fmt: on
"""What has to be on a host, beside a POSIX shell."""

_START_S = 60.0
"""A login shell may look things up on a network before it comes to our command."""
_NOISE_BYTES = 1 << 20
"""What a login shell may print before our script speaks."""
_PAUSE_S = (0.2, 10.0)
"""How long to wait before the events are opened again: at first, and at most."""


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What a host says of itself when the shell begins."""

    root: str
    """The work root, absolute."""
    root_uid: str
    """Its identity; empty if nothing was ever written there."""
    boot_id: str
    user: str
    home: str
    path: str
    """Where a login finds programs."""
    shell: str
    lang: dict[str, str]
    """LANG, LC_ALL and TZ, as far as a login sets them."""
    lacks: tuple[str, ...]
    """Of `TOOLS`, those that are not there."""
    clock_offset_s: float
    """How far its clock is ahead of ours, to a second or so."""
    runtime_dir: str = ""
    """Where the account reaches a systemd of its own, which puts limits on what it runs; empty
    where it has none that outlives its logins."""


class Host:
    """One account on one host.

    Args:
        transport: The way there.
        partition_id: The partition that the node belongs to.
        work_root: The folder for all that is kept there; `~` is the account's home.
        shell: What runs our scripts there: a POSIX shell.
        claims_as: What stands for the node in the names of files; empty is its own name.
    """

    def __init__(
        self,
        transport: Transport,
        partition_id: str,
        work_root: str,
        *,
        shell: str = "/bin/sh",
        claims_as: str = "",
    ) -> None:
        self.transport = transport
        self.partition_id = partition_id
        self.facts: Facts | None = None
        """From the last time that the shell began."""
        self.on_event: list[Callable[[str], None]] = []
        """Called with the path of an attempt's key when something has changed there; and with the
        empty string when that may have been missed."""
        self._work_root = work_root
        self._posix_shell = shell
        self._claims_as = claims_as or transport.node
        self._shell: Shell | None = None
        self._is_closed = False
        self._opening = asyncio.Lock()
        self._events: asyncio.Task[None] | None = None
        self._is_listening = False
        self._has_root = asyncio.Event()
        self._has_runner = False

    @property
    def node(self) -> str:
        """The node's name."""
        return self.transport.node

    @property
    def is_listening(self) -> bool:
        """Whether runners can tell of claims and ends; if not, somebody has to look."""
        return self._is_listening

    async def open(self) -> Facts:
        """What the host says of itself; connects if need be.

        Raises:
            Refusal: NODE_UNREACHABLE, HOST_KEY_MISMATCH, CREDENTIALS_INVALID, PERMISSION_MISSING.
        """
        await self._opened()
        assert self.facts is not None  # noqa: S101 - for the type only: the shell has told
        return self.facts

    async def ask(self, verb: str, *words: str, data: bytes = b"") -> Reply:
        """The answer of the shell to a request of scripts/agent.sh.

        Args:
            verb: What is to be done.
            words: Any text without NUL.
            data: Bytes that come after the words.

        Raises:
            HostRefused: With the reason that the script gave.
            Refusal: DISK_FULL, NODE_UNREACHABLE where it could not write; and as for `open`.
                After NODE_UNREACHABLE nobody knows whether it was done.
        """
        shell = self._shell
        if shell is not None and not shell.is_lost:
            try:
                return await shell.ask(verb, words, data)
            except ShellLost:
                pass  # the link may have gone long ago, and is only noticed now; all verbs are safe
        return await (await self._opened()).ask(verb, words, data)

    async def run(self, script: str | bytes, *words: str, lasting: bool = False) -> Process:
        """Start a script in a channel of its own.

        It finds `root`, `partition` and `node` set, and `words` as its arguments. Its streams are
        its own, from their beginning: what login shells print before is dropped.

        Args:
            script: The name of one of `scripts/`, without `.sh`; or the text of a gate's own.
            words: Any text without NUL.
            lasting: Whether it stays for as long as the gate does.

        Raises:
            Refusal: As for `open`.
        """
        facts = await self.open()
        head = [facts.root, self.partition_id, self._claims_as, *words]
        lines = [b"%d\n" % len(head), *(encoded(word) for word in head)]
        return await self._begin(
            (script_texts.for_channel(script),), b"".join(lines), lasting=lasting
        )

    async def close(self) -> None:
        """Let go of the host, for good. What runs there goes on."""
        self._is_closed = True
        if self._events is not None:
            self._events.cancel()
            await asyncio.gather(self._events, return_exceptions=True)
            self._events = None
        if self._shell is not None:
            await self._shell.close()
            self._shell = None
        await self.transport.close()

    # The shell.

    async def _opened(self) -> Shell:
        if self._shell is not None and not self._shell.is_lost:
            return self._shell
        async with self._opening:
            if self._shell is not None and not self._shell.is_lost:
                return self._shell
            if self._is_closed:
                raise errors.shutting_down()
            if self._shell is not None:
                await self._shell.close()
                self._shell = None
            self._shell = await self._open_shell()
        if self._events is None:
            self._events = asyncio.create_task(self._listen(), name=f"events of {self.node}")
        return self._shell

    async def _open_shell(self) -> Shell:
        process = await self._begin(script_texts.agent(self._posix_shell), b"", lasting=True)
        shell = Shell(self.node, process)
        try:
            await self._introduce(shell)
        except BaseException:
            await shell.close()
            raise
        return shell

    async def _introduce(self, shell: Shell) -> None:
        names = (self.partition_id, self._claims_as, runner().name)
        words = (self._work_root, *names, " ".join(TOOLS))
        told = await shell.ask("hello", words, b"")
        self.facts, self._has_runner = _facts(told, time.time())
        if self.facts.root_uid and not self._has_runner:
            try:
                await shell.ask("install", (), runner().text)
            except ShellLost:
                raise
            except Refusal as refusal:
                # What runs there can be seen and ended all the same.
                log.warning("%s: %s", self.node, refusal.message)
            else:
                self._has_runner = True

    async def begin_anew(self) -> None:
        """Have the next request begin a new shell: what the host said of itself may be outdated."""
        if self._shell is not None:
            await self._shell.close()

    async def make_root(self) -> str:
        """The identity of the place; made, with all that belongs there, if there is none yet."""
        facts = await self.open()
        reply = await self.ask("make_root", secrets.token_hex(16))
        root_uid = reply.lines[0].partition(" ")[2]
        if facts.root_uid != root_uid:
            await self.ask("install", data=runner().text)
            self._has_runner = True
            self.facts = dataclasses.replace(facts, root_uid=root_uid)
            self._has_root.set()
        return root_uid

    async def need_runner(self) -> None:
        """Have what supervises jobs there, if there is a root.

        Raises:
            Refusal: DISK_FULL, NODE_UNREACHABLE where it can't be written; and as for `open`.
        """
        facts = await self.open()
        if facts.root_uid and not self._has_runner:
            await self.ask("install", data=runner().text)
            self._has_runner = True

    async def _begin(self, scripts: Sequence[bytes], head: bytes, *, lasting: bool) -> Process:
        """Start a script, and skip all that comes before it speaks.

        Args:
            scripts: Each is read by the one before, the first by a login shell's child.
            head: What the last one reads after the nonce.
            lasting: Whether it stays for as long as the gate does.
        """
        command = script_texts.BOOTSTRAP.format(shell=self._posix_shell, size=len(scripts[0]))
        process = await self.transport.open(command, lasting=lasting)
        nonce = secrets.token_hex(16).encode()
        try:
            process.stdin.write(b"".join(scripts) + nonce + b"\n" + head)
            async with asyncio.timeout(_START_S):
                await process.stdin.drain()
                await _skip_noise(process.stdout, nonce)
        except (OSError, EOFError, TimeoutError) as error:
            process.close()
            why = process.stderr.decode(errors="replace").strip() or str(error)
            raise errors.node_unreachable(
                self.node, f"{self.node} runs no script of ours: {why or 'it does not answer'}"
            ) from error
        except BaseException:
            process.close()
            raise
        return process

    # Events.

    async def _listen(self) -> None:
        """Pass on what runners tell, for ever; the link may go and come back meanwhile."""
        pause_s = _PAUSE_S[0]
        while True:
            try:
                facts = await self.open()
                if facts.root_uid or await self._has_root_now():
                    process = await self.run("events", lasting=True)
                    try:
                        await self._pass_on(process.stdout)
                        pause_s = _PAUSE_S[0]
                    finally:
                        self._is_listening = False
                        process.close()
            except (Refusal, OSError):
                pass  # who asks for something is told
            self._has_root.clear()
            # The first job at a place makes it, and runs soon after.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._has_root.wait()
            pause_s = min(pause_s * 2, _PAUSE_S[1])

    async def _has_root_now(self) -> bool:
        """Whether there is a root where there was none: its disk may have been mounted late."""
        told = (await self.ask("list", "-")).lines
        if told == ["root_uid "]:
            return False
        if self.facts is None or not self.facts.root_uid:  # else it has just been made by us
            await self._introduce(await self._opened())
        return True

    async def _pass_on(self, reader: Reader) -> None:
        while line := await reader.readline():
            key = line.decode(errors="replace").strip()
            if key == "ready":
                self._is_listening = True
                key = ""
            for told in self.on_event:
                told(key)


async def _skip_noise(reader: Reader, nonce: bytes) -> None:
    seen = 0
    while True:
        line = await read_line(reader)
        if line == nonce:
            return
        seen += len(line)
        if seen > _NOISE_BYTES:
            raise EOFError("the login shell prints without end")


def _facts(reply: Reply, now: float) -> tuple[Facts, bool]:
    told = collections.defaultdict(str)
    lacks = []
    for line in reply.lines:
        name, _, value = line.partition(" ")
        if name == "lacks":
            lacks.append(value)
        else:
            told[name] = value
    lang = {"LANG": told["lang"], "LC_ALL": told["lc_all"], "TZ": told["tz"]}
    offset_s = 0.0
    with contextlib.suppress(ValueError):
        offset_s = int(told["time"]) + 0.5 - now
    facts = Facts(
        root=told["root"],
        root_uid=told["root_uid"],
        boot_id=told["boot_id"],
        user=told["user"],
        home=told["home"],
        path=told["path"],
        shell=told["shell"] or "/bin/sh",
        lang={name: value for name, value in lang.items() if value},
        lacks=tuple(lacks),
        clock_offset_s=offset_s,
        runtime_dir=told["limits"],
    )
    return facts, "runner" in told
