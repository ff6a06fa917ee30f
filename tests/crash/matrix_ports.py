"""A job with ports, and who talks with it from the user's side, however often that breaks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio

from rpc_kit.tls import channel_credentials, channel_options, core_name
from skyport.terminal.v1 import tunnel_pb2, tunnel_pb2_grpc
from tests.crash.matrix_play import Play
from tests.crash.world import NODE, Submitted
from tests.system.harness.core import free_port

if TYPE_CHECKING:
    from skyport.terminal.v1.tunnel_pb2_grpc import TunnelServiceAsyncStub

_PAUSE_S = 0.1
_CALL_S = 5.0

# Serves its port until it was reached, and dials out when it is allowed to, once for each permit.
SCRIPT = b"""import os, socket, sys, threading, time
at, port, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
there = lambda name: os.path.exists(os.path.join(folder, name))
server = socket.create_server((at, int(os.environ["SWM_PORT_WEB"])))
def serve():
    while True:
        connection, _ = server.accept()
        try:
            with connection:
                connection.settimeout(5)
                data = b"".join(iter(lambda: connection.recv(65536), b""))
                connection.sendall(data[::-1])
        except OSError:
            pass
threading.Thread(target=serve, daemon=True).start()
answer = b""
while answer != b"heard hello":
    time.sleep(0.02)
    try:
        os.rename(os.path.join(folder, "permit"), os.path.join(folder, "used"))
    except OSError:
        if there("give-up"):
            sys.exit(3)
        continue
    try:
        with socket.create_connection((at, port), timeout=5) as connection:
            connection.sendall(b"hello")
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError:
        pass
open(os.path.join(folder, "heard"), "w").close()
while not there("reached"):
    time.sleep(0.02)
"""


class Ports:
    """The user's side of one job with ports, with a channel and a thread of its own.

    Args:
        play: Where it plays.
    """

    def __init__(self, play: Play) -> None:
        self._core = play.world.core
        self._out = free_port()
        self._folder = play.folder
        self._at = "127.0.0.1" if play.name in {"lab", "azure"} else NODE

    @property
    def directives(self) -> tuple[str, ...]:
        return ("ports 0/tcp/in WEB", f"ports {self._out}/tcp/out")

    @property
    def hold(self) -> str:
        """The line that runs the script, which has to come with the inputs as ports.py."""
        return f"python3 ports.py {self._at} {self._out} {self._folder}"

    @contextlib.contextmanager
    def talking(self, submitted: Submitted) -> Iterator[None]:
        """Talk with the job while the context lasts."""
        closing = threading.Event()
        thread = threading.Thread(target=asyncio.run, args=(self._talk(submitted, closing),))
        thread.start()
        try:
            yield
        finally:
            closing.set()
            thread.join()

    async def _talk(self, submitted: Submitted, closing: threading.Event) -> None:
        user, job_id = submitted.job.user, submitted.job.job_id
        channel = grpc.aio.secure_channel(
            user.endpoint.target,
            channel_credentials(user.keys),
            [
                *channel_options(core_name(user.installation)),
                ("grpc.max_reconnect_backoff_ms", 200),
            ],
        )
        async with channel:
            # The generated stubs know no asyncio; their types for it exist for the checker only.
            stub: TunnelServiceAsyncStub = tunnel_pb2_grpc.TunnelServiceStub(channel)
            turns = [
                asyncio.create_task(_again(lambda: self._reach(stub, job_id))),
                asyncio.create_task(_again(lambda: self._listen(stub, job_id))),
            ]
            await asyncio.to_thread(closing.wait)
            for turn in turns:
                turn.cancel()
            await asyncio.gather(*turns, return_exceptions=True)

    async def _reach(self, stub: TunnelServiceAsyncStub, job_id: str) -> bool:
        """Be answered by the job once."""
        opening = tunnel_pb2.ConnectOpen(job_id=job_id, port_name="WEB")
        call = stub.Connect(timeout=_CALL_S)
        await call.write(tunnel_pb2.ConnectRequest(open=opening))
        await call.write(tunnel_pb2.ConnectRequest(data=b"abc"))
        await call.write(tunnel_pb2.ConnectRequest(eof=tunnel_pb2.TunnelEof()))
        if await _rest(call) != b"cba":
            return False
        self._touch("reached")
        return True

    async def _listen(self, stub: TunnelServiceAsyncStub, job_id: str) -> bool:
        """Answer the job until it was answered."""
        call = stub.Listen(tunnel_pb2.ListenRequest(job_id=job_id, port=self._out), timeout=_CALL_S)
        async for told in call:
            if told.HasField("listening"):
                # On a host by sshd both ends are this machine: the core must not dial itself.
                self._touch("permit")
            elif told.HasField("connection"):
                await self._answer(stub, told.connection.connection_id)
                self._touch("permit")
            if Path(self._folder, "heard").exists():
                return True
        return False

    async def _answer(self, stub: TunnelServiceAsyncStub, connection_id: str) -> None:
        opening = tunnel_pb2.AcceptOpen(connection_id=connection_id)
        call = stub.Accept(timeout=_CALL_S)
        await call.write(tunnel_pb2.AcceptRequest(open=opening))
        data = b"heard " + await _rest(call)
        await call.write(tunnel_pb2.AcceptRequest(data=data))
        await call.write(tunnel_pb2.AcceptRequest(eof=tunnel_pb2.TunnelEof()))
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass

    def _touch(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # the play is over
            Path(self._folder, name).touch()


async def _again(turn: Callable[[], Awaitable[bool]]) -> None:
    """Have a turn until one has gone well."""
    done = False
    while not done:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            done = await turn()
        await asyncio.sleep(_PAUSE_S)


async def _rest(call: Any) -> bytes:
    """The data of the other side until its end."""
    data = b""
    while (frame := await call.read()) is not grpc.aio.EOF:
        if frame.WhichOneof("frame") == "eof":
            break
        data += frame.data
    return data
