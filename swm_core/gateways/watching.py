"""Read a stream of a gate that has to give a sign of life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar, cast

import grpc.aio

T = TypeVar("T")

SILENCE_S = 90.0
"""A watch must say something every 30 s; three times that is a gate that hangs."""


async def heard(call: grpc.aio.UnaryStreamCall[Any, T]) -> AsyncIterator[T]:
    """The messages of `call`, to its end; the call is cancelled when the caller stops early.

    Raises:
        TimeoutError: Nothing came for SILENCE_S seconds.
        grpc.aio.AioRpcError: The call failed, or what came can't be read.
    """
    try:
        while True:
            async with asyncio.timeout(SILENCE_S):
                answer = await call.read()
            if answer is grpc.aio.EOF:
                return
            yield readable(cast(T, answer))  # read() is typed with EOF, which is dealt with above
    finally:
        call.cancel()


def readable(answer: T | None) -> T:
    """`answer`, which grpc gives as None where it is no message of its type.

    Raises:
        grpc.aio.AioRpcError: It is None; nothing is known then.
    """
    if answer is None:
        text = "its gate sent what can't be read"
        nothing = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, nothing, nothing, details=text)
    return answer
