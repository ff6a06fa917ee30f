"""Points at which a process is killed, or waits, because a test has asked for it.

Off unless SKYPORT_FAILPOINTS names a plan when the process starts; then `ON` is False, no call site
does anything, and nothing here is run. Never set it where real work is done.

A plan is a JSON file, which is read again whenever it has changed:

    {"trace": FILE,            to which the name of every point that is reached is added; OPTIONAL
     "orders": [{
        "point": NAME,         as "lab job RUNNING>STAGING_OUT before"
        "hit": 1,              which time it is reached, counted since the plan was read
        "marker": FILE,        made when the order is carried out; where it exists, it was.
                               It gets a line with the process id of each process that is killed
        "delay_s": 0,          seconds to wait there; what others do goes on meanwhile
        "kill": [FILE...]}]}   files with process ids, killed in this order; "self": this process
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import inspect
import json
import os
import select
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import grpc.aio

VARIABLE = "SKYPORT_FAILPOINTS"
_PATH = os.environ.get(VARIABLE, "")
ON: Final = bool(_PATH)
"""Whether there is a plan. To be asked before anything else is done for a point."""

SELF = "self"
_GONE_WITHIN_MS = 5_000


@dataclasses.dataclass(frozen=True, slots=True)
class _Order:
    """What to do at a point, once."""

    point: str
    marker: str
    hit: int = 1
    delay_s: float = 0.0
    kill: tuple[str, ...] = ()


class _Plan:
    """The plan file, and how often each point was reached."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._trace = ""
        self._orders: dict[str, list[_Order]] = {}
        self._hits: collections.Counter[str] = collections.Counter()

    def reached(self, point: str) -> _Order | None:
        """Count that a point was reached; what is to be done there now, by the caller alone."""
        with self._lock:
            self._refresh()
            if self._trace:
                self._note(point)
            if point not in self._orders:
                return None
            self._hits[point] += 1
            due = [each for each in self._orders[point] if each.hit == self._hits[point]]
        return next((order for order in due if _taken(order)), None)

    def delays(self, point: str) -> bool:
        """Whether somebody is to wait at a point."""
        with self._lock:
            self._refresh()
            return any(order.delay_s for order in self._orders.get(point, ()))

    def _refresh(self) -> None:
        with contextlib.suppress(OSError):  # no plan, no orders
            status = self._path.stat()
            seen = (status.st_ino, status.st_mtime_ns)
            if seen == self._seen:
                return
            table = json.loads(self._path.read_text())
            self._seen = seen
            self._trace = table.get("trace", "")
            self._hits.clear()
            self._orders = {}
            for entry in table.get("orders", ()):
                order = _Order(**{**entry, "kill": tuple(entry.get("kill", ()))})
                self._orders.setdefault(order.point, []).append(order)

    def _note(self, point: str) -> None:
        with Path(self._trace).open("a") as file:
            file.write(f"{point}\n")


def _taken(order: _Order) -> bool:
    """Whether the order is ours to carry out: whoever makes the marker is the only one."""
    try:
        os.close(os.open(order.marker, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    return True


_plan = _Plan(_PATH)


def reach(point: str) -> None:
    """Be at a point, in a thread that may be held up."""
    order = _plan.reached(point)
    if order is not None:
        time.sleep(order.delay_s)
        _kill(order)


async def pass_by(point: str) -> None:
    """Be at a point, on the event loop."""
    order = _plan.reached(point)
    if order is not None:
        await asyncio.sleep(order.delay_s)
        _kill(order)


def _kill(order: _Order) -> None:
    """Kill whom the order names; returns when they are gone."""
    for name in order.kill:
        pid = os.getpid() if name == SELF else int(Path(name).read_text())
        with contextlib.suppress(ProcessLookupError), Path(order.marker).open("a") as file:
            descriptor = os.pidfd_open(pid)
            file.write(f"{pid}\n")
            file.flush()
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(_GONE_WITHIN_MS)
            os.close(descriptor)


@contextlib.asynccontextmanager
async def _answered(name: str) -> AsyncIterator[None]:
    """Be at the point `after` when what is inside has an answer; a refusal is one too."""
    try:
        yield
    except Exception:
        await pass_by(f"{name} after")
        raise
    await pass_by(f"{name} after")


# ---- calls that are served ----


def served(method: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
    """A handler with points around it: `before`, the `first` answer of a stream, and `after`.

    `after` is where all work is done and the caller has not heard of it. A call that waits at
    `before` is carried out even if its caller has left meanwhile: as one that was long on its way.
    """
    name = f"serve {method.lstrip('/')}"

    async def stream(request: Any, context: Any) -> Any:
        await pass_by(f"{name} before")
        is_first = True
        async with (
            _answered(name),
            contextlib.aclosing(behavior(request, context)) as answers,
        ):
            async for answer in answers:
                if is_first:
                    await pass_by(f"{name} first")
                is_first = False
                yield answer

    async def whole(request: Any, context: Any) -> Any:
        await pass_by(f"{name} before")
        async with _answered(name):
            return await behavior(request, context)

    async def unary(request: Any, context: Any) -> Any:
        if _plan.delays(f"{name} before"):
            return await asyncio.shield(asyncio.ensure_future(whole(request, context)))
        return await whole(request, context)

    return stream if inspect.isasyncgenfunction(behavior) else unary


# ---- calls that are made ----


class Calls:
    """A channel whose calls have points around them, named `WHO call METHOD`, as those served.

    Args:
        channel: A channel of grpc.aio, for generated stubs.
        who: The first word of the points' names.
    """

    def __init__(self, channel: Any, who: str) -> None:
        self._channel = channel
        self._who = who

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        inner = self._channel.unary_unary(method, *args, **kwargs)
        name = self._name(method)

        async def call(*args: Any, **kwargs: Any) -> Any:
            await pass_by(f"{name} before")
            async with _answered(name):
                return await inner(*args, **kwargs)

        return call

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._streaming(method, self._channel.unary_stream(method, *args, **kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._streaming(method, self._channel.stream_stream(method, *args, **kwargs))

    def _streaming(self, method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> _Stream:
            return _Stream(self._name(method), lambda: inner(*args, **kwargs))

        return call

    def _name(self, method: str) -> str:
        return f"{self._who} call {method.lstrip('/')}"


class _Stream:
    """A streaming call that is begun when it is first used; read by `read`."""

    def __init__(self, name: str, begin: Callable[[], Any]) -> None:
        self._name = name
        self._begin = begin
        self._call: Any = None
        self._has_first = False

    async def _begun(self) -> Any:
        if self._call is None:
            await pass_by(f"{self._name} before")
            self._call = self._begin()
        return self._call

    async def read(self) -> Any:
        call = await self._begun()
        try:
            answer = await call.read()
        except Exception:
            await pass_by(f"{self._name} after")
            raise
        if answer is grpc.aio.EOF:
            await pass_by(f"{self._name} after")
        elif not self._has_first:
            self._has_first = True
            await pass_by(f"{self._name} first")
        return answer

    async def write(self, message: Any) -> None:
        await (await self._begun()).write(message)

    def cancel(self) -> bool:
        return self._call is not None and bool(self._call.cancel())

    def __getattr__(self, name: str) -> Any:
        """What else a call has: there is nothing of it before it has begun."""
        return getattr(self._call, name)
