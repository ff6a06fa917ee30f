"""Puts the scripted faults around the calls of a servicer."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from gate_kit import Context
from gates.fake_gate.faults import CALL_KINDS, Fault, FaultScript, LostAnswer, Subject, When, strike

_LOST = "the connection was reset"


def with_faults(servicer: Any, service: ServiceDescriptor, script: FaultScript) -> Any:
    """`servicer` with the faults of `script` around each of its calls; itself if there are none."""
    if script.is_idle:
        return servicer
    return _Faulty(servicer, service, script)


class _Faulty:
    """Has the methods of a servicer, as attributes."""

    def __init__(self, servicer: Any, service: ServiceDescriptor, script: FaultScript) -> None:
        for method in service.methods:
            inner = getattr(servicer, method.name)
            setattr(self, method.name, _wrap(inner, method, script))


def subject_of(method: str, request: Any) -> Subject:
    """What a request is about, of whatever kind it is."""
    opened = request
    if request.DESCRIPTOR.oneofs:
        first = request.WhichOneof(request.DESCRIPTOR.oneofs[0].name)
        opened = getattr(request, first) if first else request
    fields = getattr(opened, "DESCRIPTOR", request.DESCRIPTOR).fields_by_name
    ref = opened.ref if "ref" in fields else None
    partition_id = opened.partition_id if "partition_id" in fields else ""
    return Subject(
        method=method,
        partition_id=ref.partition_id if ref else partition_id,
        job_id=ref.job_id if ref else "",
        job_name=opened.spec.name if ref and "spec" in fields else "",
        nodes=tuple(ref.nodes) if ref else (),
    )


def _wrap(inner: Callable[..., Any], method: MethodDescriptor, script: FaultScript) -> Any:
    name = method.name

    async def unary(request: Any, context: Context) -> Any:
        plan = _Plan(script.strikes(CALL_KINDS, subject_of(name, request)))
        try:
            await plan.at(When.BEFORE)
            answer = await inner(request, context)
            await plan.at(When.AFTER)
        except LostAnswer:
            await context.abort(grpc.StatusCode.UNAVAILABLE, _LOST)
        return answer

    async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
        plan = _Plan([])
        try:
            if method.client_streaming:
                request = aiter(request)
                first = await anext(request, None)
                if first is not None:
                    plan = _Plan(script.strikes(CALL_KINDS, subject_of(name, first)))
                request = plan.counted(first, request)
            else:
                plan = _Plan(script.strikes(CALL_KINDS, subject_of(name, request)))
            await plan.at(When.BEFORE)
            # What a call holds is let go of when it ends, not when its generator is collected.
            async with contextlib.aclosing(inner(request, context)) as answers:
                async for answer in answers:
                    yield answer
                    await plan.sent()
            await plan.at(When.AFTER)
        except LostAnswer:
            await context.abort(grpc.StatusCode.UNAVAILABLE, _LOST)

    return stream if method.server_streaming else unary


class _Plan:
    """The faults that befall one call."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._counted = [f for f in faults if f.after_requests or f.after_responses]
        self._timed = [f for f in faults if not (f.after_requests or f.after_responses)]
        self._came = self._sent = 0

    async def at(self, when: When) -> None:
        for fault in self._timed:
            if fault.point is when:
                await strike(fault)

    async def sent(self) -> None:
        self._sent += 1
        for fault in self._counted:
            if fault.after_responses == self._sent:
                await strike(fault)

    async def counted(self, first: Any, rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
        if first is None:
            return
        message = first
        while message is not None:
            self._came += 1
            for fault in self._counted:
                if fault.after_requests == self._came:
                    await strike(fault)
            yield message
            message = await anext(rest, None)
