from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import wrappers_pb2

from rpc_kit import errors
from rpc_kit.errors import Problem
from rpc_kit.interceptor import Context, ErrorInterceptor
from tests.rpc_kit.conftest import Connect, Serve, Served
from tests.rpc_kit.echo import ARITIES, DOMAIN, NAME, SECRET, call

DEADLINE_S = 10

each_arity = pytest.mark.parametrize("arity", ARITIES)


@pytest.fixture
async def served(serve: Serve) -> Served:
    return await serve()


@pytest.fixture
def channel(served: Served, connect: Connect) -> grpc.aio.Channel:
    return connect(served.endpoint)


async def problem_of(channel: grpc.aio.Channel, arity: str, request: bytes) -> Problem:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(channel, arity, request)
    return Problem.from_error(raised.value)


@each_arity
async def test_an_answer_comes_through(channel: grpc.aio.Channel, arity: str) -> None:
    assert await call(channel, arity, b"hello") == b"hello"


@each_arity
async def test_a_refusal_arrives_with_its_reason(channel: grpc.aio.Channel, arity: str) -> None:
    assert await problem_of(channel, arity, b"refuse") == Problem(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA", DOMAIN, "no more than 3", {"limit": "3"}, 1.5
    )


@each_arity
async def test_a_defect_tells_the_caller_an_incident_id_and_the_log_the_rest(
    channel: grpc.aio.Channel, arity: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(channel, arity, b"crash")
    assert SECRET not in str(raised.value)
    assert SECRET.encode() not in b"".join(
        value if isinstance(value, bytes) else value.encode()
        for _, value in raised.value.trailing_metadata()
    )
    problem = Problem.from_error(raised.value)
    incident = problem.metadata["incident"]
    assert (problem.code, problem.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert len(incident) == 8
    assert incident in problem.message
    (record,) = [record for record in caplog.records if incident in record.getMessage()]
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == SECRET


@each_arity
async def test_what_a_handler_aborts_by_hand_stays_as_it_is(
    channel: grpc.aio.Channel, arity: str, caplog: pytest.LogCaptureFixture
) -> None:
    problem = await problem_of(channel, arity, b"abort")
    assert (problem.code, problem.reason) == (grpc.StatusCode.NOT_FOUND, None)
    assert problem.message == "by hand"
    assert not caplog.records


@each_arity
async def test_a_call_that_is_not_written_yet_is_unimplemented(
    channel: grpc.aio.Channel, arity: str
) -> None:
    problem = await problem_of(channel, arity, b"unwritten")
    assert (problem.code, problem.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_SERVED")


async def test_a_refusal_out_of_a_task_group_keeps_its_reason(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await problem_of(channel, "UnaryUnary", b"group refuse")).reason == "QUOTA"
    assert (await problem_of(channel, "UnaryUnary", b"group abort")).message == "by hand"
    assert not caplog.records
    assert (await problem_of(channel, "UnaryUnary", b"group crash")).reason == "INTERNAL"
    assert SECRET in caplog.text


@each_arity
async def test_a_caller_does_not_wait_for_work_that_was_cancelled(
    channel: grpc.aio.Channel, arity: str
) -> None:
    problem = await problem_of(channel, arity, b"interrupt")
    assert (problem.code, problem.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")


async def test_a_method_that_nobody_knows_is_the_transports_business(
    channel: grpc.aio.Channel,
) -> None:
    problem = await problem_of(channel, "NoSuchMethod", b"")
    assert (problem.code, problem.reason) == (grpc.StatusCode.UNIMPLEMENTED, None)


@each_arity
async def test_a_stranger_is_refused_before_the_handler_looks(
    serve: Serve, connect: Connect, arity: str
) -> None:
    asked: list[str] = []

    def refuse(method: str, context: Context) -> object:
        asked.append(method)
        raise errors.denied("USER_UNKNOWN", "who are you?")

    served = await serve(authenticate=refuse)
    problem = await problem_of(connect(served.endpoint), arity, b"hello")
    assert (problem.code, problem.reason) == (grpc.StatusCode.PERMISSION_DENIED, "USER_UNKNOWN")
    assert asked == [f"/{NAME}/{arity}"]
    assert served.echo.calls == 0


@each_arity
async def test_a_handler_knows_who_calls(serve: Serve, connect: Connect, arity: str) -> None:
    served = await serve(authenticate=lambda method, context: "ann")
    assert await call(connect(served.endpoint), arity, b"who") == b"ann"


@pytest.mark.parametrize("request_", [b"wait", b"forever"])
async def test_a_stream_whose_caller_leaves_cleans_up_at_once_and_is_no_incident(
    served: Served,
    channel: grpc.aio.Channel,
    request_: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: Any = channel
    stream = calls.unary_stream(f"/{NAME}/UnaryStream")(request_)
    async with asyncio.timeout(DEADLINE_S):
        await served.echo.waiting.wait()
        stream.cancel()
        await served.echo.cleaned_up.wait()
        # Its server answers others still.
        assert await call(channel, "UnaryUnary", b"hello") == b"hello"
    assert not caplog.records


async def test_an_answer_that_nobody_takes_any_more_is_no_incident(
    served: Served, channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    # The client refuses a message over its limit while the server still writes it.
    for arity in ARITIES:
        problem = await problem_of(channel, arity, b"large")
        assert (problem.code, problem.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, None)
    await served.server.stop(1)  # waits for the handlers
    assert not caplog.records


async def test_an_rpc_that_is_not_written_has_the_reason_of_its_kind_of_server(
    serve: Serve, connect: Connect
) -> None:
    channel = connect((await serve(unserved="CAPABILITY_MISSING")).endpoint)
    assert (await problem_of(channel, "UnaryUnary", b"unwritten")).reason == "CAPABILITY_MISSING"


async def test_streams_can_be_ended_with_a_reason_and_others_go_on(
    serve: Serve, connect: Connect
) -> None:
    served = await serve(authenticate=lambda method, context: context.peer())
    first, second = (connect(served.endpoint) for _ in range(2))
    interceptor = served.server.interceptor
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        waiting = group.create_task(problem_of(first, "UnaryStream", b"wait"))
        await served.echo.waiting.wait()
        refusal = errors.unauthenticated("CERTIFICATE_REVOKED", "revoked")
        assert interceptor.end_streams(refusal, lambda method, who: who == "nobody") == 0
        assert interceptor.end_streams(refusal) == 1
        assert interceptor.end_streams(refusal) == 0  # it is on its way out
        problem = await waiting
        assert served.echo.cleaned_up.is_set()
        assert await call(second, "UnaryUnary", b"hello") == b"hello"
    assert (problem.code, problem.reason) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "CERTIFICATE_REVOKED",
    )


async def drained(stream: Any) -> None:
    """Read to the end."""
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_a_stream_that_is_ended_while_it_sends_tells_its_reason(
    serve: Serve, connect: Connect
) -> None:
    served = await serve()
    channel: Any = connect(served.endpoint)
    stream = channel.unary_stream(f"/{NAME}/UnaryStream")(b"forever", timeout=DEADLINE_S)
    await served.echo.waiting.wait()
    # No turn of the loop later: grpc has not told yet that the first write is done.
    assert served.server.interceptor.end_streams(errors.unavailable("GOING", "at once")) == 1
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await drained(stream)
    assert Problem.from_error(raised.value).reason == "GOING"


async def test_at_debug_calls_are_logged_with_their_end_and_time(
    served: Served, channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rpc_kit.interceptor")
    await call(channel, "UnaryUnary", b"hello")
    await problem_of(channel, "UnaryStream", b"refuse")
    await served.server.stop(1)  # a caller may have its answer before the call is over
    told = [record.getMessage() for record in caplog.records if " in " in record.getMessage()]
    assert told[0].startswith(f"/{NAME}/UnaryUnary OK in ")
    assert told[1].startswith(f"/{NAME}/UnaryStream QUOTA in ")


async def test_at_debug_a_request_is_logged_by_what_is_safe_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "rpc_kit.interceptor")

    async def answer(request: Any, context: Context) -> Any:
        return request

    handler: Any = grpc.unary_unary_rpc_method_handler(answer)
    wrapped: Any = ErrorInterceptor(DOMAIN)._wrap("/a.B/C", handler)
    await wrapped.unary_unary(wrappers_pb2.BytesValue(value=SECRET.encode()), None)
    assert caplog.records[0].getMessage() == f"/a.B/C BytesValue{{value=<{len(SECRET)} bytes>}}"


def test_a_handler_that_would_block_the_loop_is_not_served() -> None:
    handler: Any = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    with pytest.raises(TypeError, match="is not async"):
        ErrorInterceptor(DOMAIN)._wrap("/a.B/C", handler)
