"""Calls of every RPC of an API with messages that nobody would send, many at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf import message_factory
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from hypothesis import settings

from rpc_kit.errors import Problem
from tests.fuzz.messages import Maker
from tests.system.harness.refusals import check_words

AT_ONCE = 24
_LONG_ENOUGH_S = 0.4
"""So long a stream that does not end by itself is looked at."""
_CALL_S = 60.0
_SENT_TOO_LATE = "Internal error from Core"
"""What grpc.aio's client says by itself when a call ends while it still sends."""


def batches() -> int:
    """How many batches an RPC gets: a few, or many by hand (`--hypothesis-profile=long`)."""
    profile = settings.default
    return 3 if profile is None or profile.derandomize else 60


def methods(files: Sequence[Any]) -> dict[str, MethodDescriptor]:
    """All RPCs of some generated modules, by service and name."""
    services = [service for file in files for service in _file(file).services_by_name.values()]
    return {
        f"{service.name}.{method.name}": method
        for service in services
        for method in service.methods
    }


def _file(module: Any) -> FileDescriptor:
    found: FileDescriptor = module.DESCRIPTOR
    return found


class Caller:
    """Sends batches of calls to one server.

    Args:
        channel: To it.
        domain: Of its reasons.
        known: Values that mean something to it, by field.
    """

    def __init__(
        self, channel: grpc.aio.Channel, domain: str, known: Mapping[str, Sequence[Any]]
    ) -> None:
        self._channel = channel
        self._domain = domain
        self._known = known

    async def batch(self, method: MethodDescriptor, seed: int) -> list[str]:
        """Some calls of one RPC at once; returns what was wrong with answers, one text each."""
        chance = random.Random(seed)  # noqa: S311 - no secret
        maker = Maker(chance, self._known)
        calls = []
        for _ in range(AT_ONCE):
            count = 1 if not method.client_streaming else chance.choice((0, 1, 1, 2, 4))
            calls.append(
                self._call(method, [maker.encoded(method.input_type) for _ in range(count)])
            )
        return [wrong for wrong in await asyncio.gather(*calls) if wrong]

    async def _call(self, method: MethodDescriptor, requests: Sequence[bytes]) -> str:
        try:
            await self._answered(method, requests)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not method.server_streaming or (task is not None and task.cancelling()):
                raise
            return ""  # the server's clock for the deadline was first
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and method.server_streaming:
                return ""  # it goes on, as it should
            if method.client_streaming and error.details() == _SENT_TOO_LATE:
                return ""
            try:
                self._check(Problem.from_error(error))
            except AssertionError as wrong:
                asked = _shown(method, requests)
                return f"{method.full_name}: {wrong}\n  {error.details()}\n  {asked}"
        return ""

    async def _answered(self, method: MethodDescriptor, requests: Sequence[bytes]) -> None:
        kind = "_".join(
            "stream" if streams else "unary"
            for streams in (method.client_streaming, method.server_streaming)
        )
        call = getattr(self._channel, kind)(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=None,
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        sent: Any = _each(requests) if method.client_streaming else requests[0]
        if not method.server_streaming:
            await call(sent, timeout=_CALL_S)
            return
        async for _ in call(sent, timeout=_LONG_ENOUGH_S):
            pass

    def _check(self, problem: Problem) -> None:
        assert problem.code not in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}, problem
        assert problem.domain == self._domain, problem
        assert problem.reason, problem
        check_words(problem.message)
        for violation in problem.violations:
            check_words(violation.description)


async def _each(requests: Sequence[bytes]) -> AsyncIterator[bytes]:
    for request in requests:
        yield request


def _shown(method: MethodDescriptor, requests: Sequence[bytes]) -> str:
    kind = message_factory.GetMessageClass(method.input_type)
    texts = []
    for data in requests:
        try:
            texts.append(str(kind.FromString(data)).replace("\n", " ")[:1_500])
        except Exception:  # noqa: BLE001 - for people
            texts.append(data.hex()[:200])
    return " | ".join(texts)
