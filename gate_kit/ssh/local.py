"""The machine that the gate runs on, reached as other hosts are, but without SSH."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
from pathlib import Path

from gate_kit import errors, loopback
from gate_kit.loopback import LOOPBACK, LoopbackListener, LoopbackStream
from gate_kit.ssh.tail import Tail

_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
_STREAM_BYTES = 1 << 18
"""Bytes of a stream that wait to be read: the process is held up then."""


_Started = tuple[asyncio.SubprocessTransport, asyncio.subprocess.SubprocessStreamProtocol]


class LocalTransport:
    """This machine and the gate's own account.

    Args:
        node: The node's name.
        address: What plays the loopback of the node. Another one than 127.0.0.1 keeps
            ports of jobs apart from those of whoever else uses this machine.
    """

    def __init__(self, node: str, address: str = LOOPBACK) -> None:
        self._node = node
        self._address = address
        self._processes: dict[asyncio.Task[int | None], LocalProcess] = {}
        self._starting: set[asyncio.Task[_Started]] = set()

    @property
    def node(self) -> str:
        """The node's name."""
        return self._node

    async def open(self, command: str, *, lasting: bool = False) -> LocalProcess:
        """Start `command` by /bin/sh, as a login would: in the home folder, with little else.

        Nothing is shared that one command could use up for another, lasting or not.

        Raises:
            Refusal: NODE_UNREACHABLE: the system starts no more processes.
        """
        account = pwd.getpwuid(os.getuid())
        environment = {
            "HOME": account.pw_dir,
            "LOGNAME": account.pw_name,
            "PATH": _PATH,
            "SHELL": account.pw_shell or "/bin/sh",
            "USER": account.pw_name,
        }
        loop = asyncio.get_running_loop()
        starting = loop.create_task(
            loop.subprocess_exec(
                lambda: asyncio.subprocess.SubprocessStreamProtocol(_STREAM_BYTES, loop),
                "/bin/sh",
                "-c",
                command,
                cwd=account.pw_dir if Path(account.pw_dir).is_dir() else "/",
                env=environment,
                start_new_session=True,
            )
        )
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)
        try:
            # Cancelled in the middle it would wait for ever for the end of what it has started.
            transport, protocol = await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(self._end_unwanted)
            raise
        except OSError as error:
            raise errors.node_unreachable(
                self._node, f"{self._node} starts no process: {error.strerror}"
            ) from error
        return self._keep(transport, protocol)

    def _keep(
        self,
        transport: asyncio.SubprocessTransport,
        protocol: asyncio.subprocess.SubprocessStreamProtocol,
    ) -> LocalProcess:
        loop = asyncio.get_running_loop()
        process = LocalProcess(transport, asyncio.subprocess.Process(transport, protocol, loop))
        waiting = loop.create_task(process.wait())
        self._processes[waiting] = process
        waiting.add_done_callback(self._processes.pop)
        return process

    def _end_unwanted(self, starting: asyncio.Task[_Started]) -> None:
        """End a command whose caller has gone while it was started."""
        if not starting.cancelled() and starting.exception() is None:
            self._keep(*starting.result()).close()

    async def connect(self, port: int, address: str = "") -> LoopbackStream:
        """Connect to a port of the node's loopback, or of what it reaches at `address`.

        Raises:
            Refusal: TARGET_REFUSED where nothing listens.
        """
        return await loopback.connect(self._node, address or self._address, port)

    async def listen(self, port: int) -> LoopbackListener:
        """Listen on a port of the node's loopback; 0 finds a free one.

        Raises:
            Refusal: PORT_IN_USE.
        """
        return loopback.listen(self._node, self._address, port)

    async def close(self) -> None:
        """Let go of all commands that were started."""
        await asyncio.gather(*self._starting, return_exceptions=True)
        for process in self._processes.values():
            process.close()
        await asyncio.gather(*self._processes)


class LocalProcess:
    """A command that runs on this machine."""

    def __init__(
        self, transport: asyncio.SubprocessTransport, process: asyncio.subprocess.Process
    ) -> None:
        assert process.stdin is not None  # noqa: S101 - for the type only: all three are pipes
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        self._transport = transport
        self.stdin = process.stdin
        self.stdout = process.stdout
        self._process = process
        self._tail = Tail(process.stderr)

    @property
    def stderr(self) -> bytes:
        """The end of what it wrote to its standard error."""
        return self._tail.data

    async def wait(self) -> int | None:
        """Its exit code; None when a signal ended it."""
        code = await self._process.wait()
        # What it left running may hold its standard error open for ever.
        await self._tail.ended(within_s=0.5)
        return code if code >= 0 else None

    def close(self) -> None:
        """Let go of it: its streams end, and its process group gets TERM."""
        self._tail.close()
        if self._transport.get_returncode() is None:
            # Not what it has detached, which is of another group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._transport.get_pid(), signal.SIGTERM)
        self._transport.close()
