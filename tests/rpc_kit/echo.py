"""A service of four methods over bytes, one of each arity, that does what its requests say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from rpc_kit import errors, interceptor
from rpc_kit.interceptor import Context

NAME = "skyport.test.Echo"
DOMAIN = "skyport.test"
ARITIES = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
SECRET = "the password is hunter2"


class Echo:
    """Requests: `refuse`, `crash`, `abort`, `unwritten`, `group`, `who`, `wait`, `large`; others
    come back as they are."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.cleaned_up = asyncio.Event()
        self.calls = 0

    async def _do(self, request: bytes, context: Context) -> bytes:
        self.calls += 1
        match request:
            case b"refuse":
                raise errors.exhausted("QUOTA", "no more than 3", retry_after_s=1.5, limit="3")
            case b"crash":
                raise ValueError(SECRET)
            case b"abort":
                await context.abort(grpc.StatusCode.NOT_FOUND, "by hand")
            case b"unwritten":
                context.set_code(grpc.StatusCode.UNIMPLEMENTED)
                raise NotImplementedError("Method not implemented!")
            case b"group refuse" | b"group crash" | b"group abort":
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._do(request.removeprefix(b"group "), context))
            case b"interrupt":
                work = asyncio.create_task(asyncio.Event().wait())
                asyncio.get_running_loop().call_soon(work.cancel)
                await work
            case b"flaky" if self.calls < 3:
                raise errors.unavailable("SITE_UNREACHABLE", "not now")
            case b"who":
                return str(interceptor.caller.get()).encode()
            case b"large":
                return bytes(5 << 20)
            case b"wait":
                try:
                    self.waiting.set()
                    await asyncio.Event().wait()
                finally:
                    self.cleaned_up.set()
        return request

    async def unary_unary(self, request: bytes, context: Context) -> bytes:
        return await self._do(request, context)

    async def unary_stream(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        if request.startswith(b"forever"):
            try:
                while True:
                    self.waiting.set()
                    yield request
            finally:
                self.cleaned_up.set()
        yield await self._do(request, context)

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        return b"".join([await self._do(request, context) async for request in requests])

    async def stream_stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        async for request in requests:
            await context.write(await self._do(request, context))


def add_echo(servicer: Echo, server: Any) -> None:
    """Register as generated code does."""
    handlers: dict[str, Any] = {
        "UnaryUnary": grpc.unary_unary_rpc_method_handler(servicer.unary_unary),
        "UnaryStream": grpc.unary_stream_rpc_method_handler(servicer.unary_stream),
        "StreamUnary": grpc.stream_unary_rpc_method_handler(servicer.stream_unary),
        "StreamStream": grpc.stream_stream_rpc_method_handler(servicer.stream_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
    server.add_registered_method_handlers(NAME, handlers)


async def call(
    channel: grpc.aio.Channel, arity: str, request: bytes, timeout_s: float = 10
) -> bytes:
    """Call one of the methods, and return what it answers, joined."""
    method = f"/{NAME}/{arity}"
    calls: Any = channel  # generic in types that nothing here tells

    async def requests() -> AsyncIterator[bytes]:
        yield request

    answers: list[bytes]
    match arity:
        case "UnaryUnary":
            answers = [await calls.unary_unary(method)(request, timeout=timeout_s)]
        case "UnaryStream":
            stream = calls.unary_stream(method)(request, timeout=timeout_s)
            answers = [answer async for answer in stream]
        case "StreamUnary":
            answers = [await calls.stream_unary(method)(requests(), timeout=timeout_s)]
        case _:
            stream = calls.stream_stream(method)(requests(), timeout=timeout_s)
            answers = [answer async for answer in stream]
    return b"".join(answers)
