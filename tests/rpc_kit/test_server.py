from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from rpc_kit.endpoint import Endpoint
from rpc_kit.errors import Problem
from rpc_kit.server import RpcServer, ServeError
from rpc_kit.tls import KeyPair
from tests.rpc_kit.conftest import ANYWHERE, Connect, Serve
from tests.rpc_kit.echo import DOMAIN, NAME, call

DEADLINE_S = 20
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health_of(channel: grpc.aio.Channel, service: str) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_S)
    status: int = answer.status
    return status


def watch_health(channel: grpc.aio.Channel, service: str = "") -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_S)


async def test_health_is_told_of_the_server_and_of_each_service(
    serve: Serve, connect: Connect
) -> None:
    channel = connect((await serve()).endpoint)
    assert await health_of(channel, "") == SERVING
    assert await health_of(channel, NAME) == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await health_of(channel, "skyport.test.Unknown")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    messages: Any = health_pb2  # the types know no List yet
    stub: Any = health_pb2_grpc.HealthStub(channel)
    listed = await stub.List(messages.HealthListRequest(), timeout=DEADLINE_S)
    assert {name: each.status for name, each in listed.statuses.items()} == {
        "": SERVING,
        NAME: SERVING,
    }


async def test_reflection_lists_every_service(serve: Serve, connect: Connect) -> None:
    channel: Any = connect((await serve()).endpoint)
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    stream = stub.ServerReflectionInfo(timeout=DEADLINE_S)
    await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    await stream.done_writing()
    answer = await stream.read()
    assert {service.name for service in answer.list_services_response.service} == {
        NAME,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_the_end_is_told_then_watches_close_then_calls_finish(
    serve: Serve, connect: Connect
) -> None:
    served = await serve()
    channel = connect(served.endpoint)
    told: list[str] = []

    async def close_watches() -> None:
        told.append(f"health {await health_of(channel, NAME)}")
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await call(channel, "UnaryUnary", b"hello", DEADLINE_S)
        told.append(str(Problem.from_error(late.value).reason))

    served.server.on_drain(close_watches)
    watch = watch_health(channel, NAME)
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        assert (await watch.read()).status == SERVING
        running = group.create_task(problem_of_waiting(channel))
        await served.echo.waiting.wait()
        await served.server.stop(grace_s=1)
        problem = await running
        assert (await watch.read()).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await watch.read()
    assert told == [f"health {NOT_SERVING}", "SHUTTING_DOWN"]
    # The running call had its grace; the watch of health was not waited for.
    assert problem.reason is None
    assert Problem.from_error(raised.value).reason == "SHUTTING_DOWN"


async def problem_of_waiting(channel: grpc.aio.Channel) -> Problem:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(channel, "UnaryUnary", b"wait", DEADLINE_S)
    return Problem.from_error(raised.value)


async def test_an_idle_server_with_a_health_watch_ends_without_its_grace(
    serve: Serve, connect: Connect
) -> None:
    served = await serve()
    watch = watch_health(connect(served.endpoint))
    assert (await watch.read()).status == SERVING
    async with asyncio.timeout(5):
        await served.server.stop(grace_s=60)


async def test_a_watch_that_does_not_close_holds_the_end_up_for_its_grace_only(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    served = await serve()
    served.server.on_drain(asyncio.Event().wait)  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        await served.server.stop(grace_s=0.1)
    assert "watches did not close" in caplog.text


async def test_a_failure_while_draining_does_not_stop_the_end(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    served = await serve()

    async def fail() -> None:
        raise ValueError("broken watch")

    served.server.on_drain(fail)
    await served.server.stop(0)
    assert "broken watch" in caplog.text


async def test_a_port_in_use_is_one_clear_line(serve: Serve, core_keys: KeyPair) -> None:
    taken = (await serve()).endpoint
    with pytest.raises(ServeError) as raised:
        await serve(taken)
    assert str(raised.value) == (
        f"{taken} is in use by another process; end it, or choose another address"
    )


FAILING = """
import asyncio, sys
from rpc_kit.endpoint import Endpoint
from rpc_kit.server import RpcServer, ServeError

async def main():
    await RpcServer("skyport.test").start(Endpoint.parse(sys.argv[1]))

try:
    asyncio.run(main())
except ServeError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("where", ["unix:///proc/no/a.sock", "127.0.0.1:1", "0.0.0.0:1"])
async def test_a_server_that_can_not_listen_says_one_line_and_nothing_else(where: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", FAILING, where), stderr=asyncio.subprocess.PIPE
        )
        _, told = await process.communicate()
    assert process.returncode == 1
    assert where in told.decode()
    assert told.count(b"\n") == 1


async def test_a_port_that_just_became_free_is_taken_again(serve: Serve, connect: Connect) -> None:
    first = await serve()
    assert await call(connect(first.endpoint), "UnaryUnary", b"hello") == b"hello"
    await first.server.stop(0)
    second = await serve(first.endpoint)
    assert second.endpoint == first.endpoint


async def test_an_address_that_others_reach_needs_leave(core_keys: KeyPair) -> None:
    with pytest.raises(ServeError, match="other machines"):
        await RpcServer(DOMAIN).start(Endpoint("0.0.0.0", 0), core_keys)  # noqa: S104


async def test_tcp_without_a_certificate_is_refused() -> None:
    with pytest.raises(ServeError, match="needs a certificate"):
        await RpcServer(DOMAIN).start(ANYWHERE)


@pytest.fixture
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")  # 0700, and short enough for a socket


async def test_a_unix_socket_lies_in_a_folder_of_its_own_that_only_we_enter(
    serve: Serve, connect: Connect, run_folder: Path
) -> None:
    path = run_folder / "gates" / "lab.sock"
    served = await serve(Endpoint(path=path))
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600
    assert await call(connect(served.endpoint), "UnaryUnary", b"hello") == b"hello"
    await served.server.stop(0)
    assert not path.exists()


async def test_a_folder_that_others_enter_is_refused_and_left_as_it_is(
    serve: Serve, run_folder: Path
) -> None:
    run_folder.chmod(0o755)
    with pytest.raises(ServeError, match="open to other users"):
        await serve(Endpoint(path=run_folder / "lab.sock"))
    assert run_folder.stat().st_mode & 0o777 == 0o755


async def test_a_socket_that_somebody_serves_is_not_taken_over(
    serve: Serve, connect: Connect, run_folder: Path
) -> None:
    endpoint = Endpoint(path=run_folder / "lab.sock")
    await serve(endpoint)
    with pytest.raises(ServeError, match="is served by another process"):
        await serve(endpoint)
    assert await call(connect(endpoint), "UnaryUnary", b"hello") == b"hello"


async def test_a_socket_that_a_killed_server_left_is_replaced(
    serve: Serve, connect: Connect, run_folder: Path
) -> None:
    path = run_folder / "lab.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    served = await serve(Endpoint(path=path))
    assert await call(connect(served.endpoint), "UnaryUnary", b"hello") == b"hello"


async def test_a_file_that_is_no_socket_is_not_removed(serve: Serve, run_folder: Path) -> None:
    path = run_folder / "lab.sock"
    path.write_text("precious")
    with pytest.raises(ServeError):
        await serve(Endpoint(path=path))
    assert path.read_text() == "precious"


PROGRAM = """
import asyncio, sys
from pathlib import Path
from rpc_kit.endpoint import Endpoint
from rpc_kit.server import RpcServer, run

async def main():
    server = RpcServer("skyport.test")
    async def closed():
        print("drained", flush=True)
        if "slow" in sys.argv:
            await asyncio.Event().wait()
    server.on_drain(closed)
    await server.start(Endpoint(path=Path(sys.argv[1])))
    # Said from inside run, when signals are waited for.
    asyncio.get_running_loop().call_soon(lambda: print("up", flush=True))
    await run(server, grace_s=60)
    print("ended", flush=True)

asyncio.run(main())
"""


class Program:
    """A server process with a pipe as its standard input."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self.stdin, self.stdout = process, process.stdin, process.stdout

    @classmethod
    async def start(cls, socket_path: Path, *words: str, supervised: bool = False) -> Program:
        environment = dict(os.environ, SKYPORT_SUPERVISED="1" if supervised else "0")
        program = cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", PROGRAM, str(socket_path), *words),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environment,
            )
        )
        assert await program.line() == "up"
        return program

    async def line(self) -> str:
        async with asyncio.timeout(DEADLINE_S):
            return (await self.stdout.readline()).decode().strip()

    async def end(self) -> int:
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_server_gracefully(
    run_folder: Path, number: signal.Signals
) -> None:
    program = await Program.start(run_folder / "a.sock")
    program.process.send_signal(number)
    assert [await program.line(), await program.line()] == ["drained", "ended"]
    assert await program.end() == 0
    assert not (run_folder / "a.sock").exists()


async def test_a_second_signal_cuts_the_grace_short(run_folder: Path) -> None:
    program = await Program.start(run_folder / "a.sock", "slow")
    program.process.terminate()
    assert await program.line() == "drained"
    program.process.terminate()
    assert await program.line() == "ended"
    assert await program.end() == 0


async def test_a_supervised_server_ends_when_its_parent_is_gone(run_folder: Path) -> None:
    program = await Program.start(run_folder / "a.sock", supervised=True)
    program.stdin.write(b"a word from the parent changes nothing\n")
    await program.stdin.drain()
    program.stdin.close()
    assert [await program.line(), await program.line()] == ["drained", "ended"]
    assert await program.end() == 0


async def test_a_server_that_nobody_supervises_outlives_its_standard_input(
    run_folder: Path, connect: Connect
) -> None:
    program = await Program.start(run_folder / "a.sock")
    program.stdin.close()
    channel = connect(Endpoint(path=run_folder / "a.sock"))
    assert await health_of(channel, "") == SERVING
    program.process.terminate()
    assert await program.end() == 0
