from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from rpc_kit.channels import RenewableChannel
from rpc_kit.identity import Kind
from tests.rpc_kit.conftest import Connect, Pki, Serve
from tests.rpc_kit.echo import NAME


async def test_new_calls_are_made_on_the_newest_channel_and_old_ones_go_on(
    serve: Serve, connect: Connect, pki: Pki
) -> None:
    served = await serve()
    first = connect(served.endpoint, pki.keys(Kind.USER, "ann"))
    channel = RenewableChannel(first)
    stream: Any = channel.stream_stream(f"/{NAME}/StreamStream")
    echo = stream()
    await echo.write(b"one")
    assert await echo.read() == b"one"

    second = connect(served.endpoint, pki.keys(Kind.USER, "bob"))
    assert channel.replace(second) is None
    unary: Any = channel.unary_unary(f"/{NAME}/UnaryUnary")
    await echo.write(b"still")
    assert await echo.read() == b"still"
    await first.close(grace=None)  # whatever is made on it now fails
    assert await unary(b"two", timeout=10) == b"two"
    third = connect(served.endpoint)
    assert channel.replace(third) is first
    assert await unary(b"three", timeout=10) == b"three"
    for closing in channel.close():
        await closing
    with pytest.raises(grpc.aio.UsageError):
        await unary(b"four", timeout=10)


async def test_a_call_asks_for_a_newer_channel_first(serve: Serve, connect: Connect) -> None:
    served = await serve()
    gone = connect(served.endpoint)
    await gone.close()
    fresh = [connect(served.endpoint)]
    channel = RenewableChannel(gone, lambda: fresh.pop() if fresh else None)
    method: Any = channel.unary_unary(f"/{NAME}/UnaryUnary")
    for _ in range(2):
        assert await method(b"hello", timeout=10) == b"hello"
