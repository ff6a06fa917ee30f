"""What happens around every call of a server: who calls, which error goes out, what is logged.

Handlers raise `Refusal` for what they refuse. Anything else that they raise is a defect: the caller
gets INTERNAL with an incident id, and only the log gets the text.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from rpc_kit import failpoints
from rpc_kit.errors import Refusal, invalid, unimplemented
from rpc_kit.redaction import safe_text

log = logging.getLogger(__name__)

# grpc tells of each answer that its caller did not wait for as an error, with a traceback.
logging.getLogger("grpc._cython.cygrpc").addFilter(
    lambda record: not (record.exc_info and isinstance(record.exc_info[1], grpc.aio.InternalError))
)

# As text, since grpc's classes are generic to the type checker only.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Authenticate: TypeAlias = Callable[[str, Context], object]
Admit: TypeAlias = Callable[[object], contextlib.AbstractContextManager[None]]
Behavior: TypeAlias = Callable[[Any, Context], Awaitable[Any]]

HEALTH = "/grpc.health.v1.Health/"

_LAST_WRITE_S = 2.0
"""How long a call that is ended from outside waits for a caller to read what is being sent."""

caller: ContextVar[object] = ContextVar("caller")
"""Inside a handler: what `authenticate` returned for this call."""


@dataclasses.dataclass(eq=False, slots=True)
class _Call:
    """A call under way. `ended_with` is set when it is ended from outside."""

    method: str
    task: asyncio.Task[Any]
    who: object = None
    ended_with: Refusal | None = None


# What tells the caller most comes first: an abort has been sent already.
_NO_DEFECTS = (grpc.aio.AbortError, Refusal, grpc.aio.InternalError)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps each handler of a grpc.aio server; handlers must be async.

    Args:
        domain: The domain of this server's reasons, as `skyport.gate.v1`.
        authenticate: Called before each handler with the full method name and the context. May
            raise `Refusal`; its result is `caller` in the handler. Since it is asked before the
            handler looks at anything, a stranger never learns what exists.
        admit: Entered around each streaming call, with what `authenticate` returned. May raise
            `Refusal` when it is entered.
        unserved: The reason for an RPC of a generated servicer that was not written.
    """

    def __init__(
        self,
        domain: str,
        authenticate: Authenticate | None = None,
        *,
        admit: Admit | None = None,
        unserved: str = "NOT_SERVED",
    ) -> None:
        self._domain = domain
        self._authenticate = authenticate
        self._admit = admit
        self._unserved = unserved
        self._closed: Refusal | None = None
        self._wrapped: dict[str, Handler] = {}
        self._streams: set[_Call] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None  # nobody serves it; not kept, since such names come from outside
            wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def close(self, refusal: Refusal) -> None:
        """Answer every call that comes from now on with `refusal`, except for those of health."""
        self._closed = refusal

    def end_streams(
        self, refusal: Refusal, matches: Callable[[str, object], bool] = lambda method, who: True
    ) -> int:
        """End streaming calls that are under way, each with `refusal`.

        Args:
            refusal: What their callers are told.
            matches: Asked with the method and with what `authenticate` returned; default: all.

        Returns:
            How many are being ended. Each handler's own `finally` runs before its caller is told.
        """
        return self.end_refused(lambda method, who: refusal if matches(method, who) else None)

    def end_refused(self, decide: Callable[[str, object], Refusal | None]) -> int:
        """As `end_streams`, with what `decide` says for each call; None leaves it alone."""
        ended = 0
        for call in list(self._streams):
            refusal = None if call.ended_with else decide(call.method, call.who)
            if refusal is not None:
                call.ended_with = refusal
                call.task.cancel()
                ended += 1
        return ended

    def _wrap(self, method: str, handler: Handler) -> Handler:
        # The one of the four attributes that is set; the others are None.
        behavior: Any = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )
        if failpoints.ON:
            behavior = failpoints.served(method, behavior)
        if inspect.isasyncgenfunction(behavior):
            behavior = _drain(behavior)
        elif not inspect.iscoroutinefunction(behavior):
            raise TypeError(f"the handler of {method} is not async")
        make: Callable[..., Handler] = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        streams = handler.request_streaming or handler.response_streaming
        return make(
            self._guard(method, behavior, streams=streams),
            request_deserializer=_reading(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    def _guard(self, method: str, behavior: Behavior, *, streams: bool) -> Behavior:
        async def respond(request: Any, context: Context) -> Any:
            call = _Call(method, _this_task())
            started = time.monotonic()
            told = log.isEnabledFor(logging.DEBUG)
            if told:
                # Before, too: what a call that never comes back was asked is worth knowing.
                asked = safe_text(request) if isinstance(request, Message) else "stream"
                log.debug("%s %s", method, asked)
            outcome = "OK"
            try:
                if self._closed is not None and not method.startswith(HEALTH):
                    raise self._closed
                if self._authenticate is not None:
                    call.who = self._authenticate(method, context)
                    caller.set(call.who)
                request = _readable(request)
                if not streams:
                    return await behavior(request, context)
                self._streams.add(call)
                with self._admit(call.who) if self._admit else contextlib.nullcontext():
                    return await behavior(request, context)
            except asyncio.CancelledError as interrupted:
                outcome = "CANCELLED"
                if call.ended_with is not None:
                    call.task.uncancel()
                elif call.task.cancelling():
                    raise  # the caller left, or the time for the end is up
                # Otherwise what the handler awaited was cancelled, and not the call: grpc would
                # leave its caller waiting.
                refusal = call.ended_with or self._closed or _incident(method, interrupted)
                outcome = refusal.reason
                await self._refuse(context, refusal)
            except Exception as error:  # noqa: BLE001 - logged, unless it is no defect
                cause = _what_counts(error)
                if isinstance(cause, grpc.aio.AbortError):
                    outcome = context.code().name
                    raise cause from None
                refusal = self._as_refusal(cause, context) or _incident(method, cause)
                outcome = refusal.reason
                await self._refuse(context, refusal)
            finally:
                self._streams.discard(call)
                if told:
                    milliseconds = (time.monotonic() - started) * 1e3
                    log.debug("%s %s in %.1f ms", method, outcome, milliseconds)

        return respond

    def _as_refusal(self, error: Exception, context: Context) -> Refusal | None:
        """What was refused on purpose, or None for a defect."""
        if isinstance(error, Refusal):
            return error
        unwritten = context.code() is grpc.StatusCode.UNIMPLEMENTED  # as generated servicers say
        if isinstance(error, NotImplementedError) and unwritten:
            return unimplemented(self._unserved, "this call is not served")
        return None

    async def _refuse(self, context: Context, refusal: Refusal) -> NoReturn:
        status = refusal.to_status(self._domain)
        try:
            await context.abort(status.code, status.details, status.trailing_metadata)
        except (grpc.aio.InternalError, grpc.aio.UsageError):
            # Nobody is left to tell, or was told already.
            raise asyncio.CancelledError from None


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a call is handled outside of a task")
    return task


class _Unreadable:
    """Stands for a request that is no message of its kind.

    grpc would answer UNKNOWN, with our insides in the text, before anybody asks who calls.
    """


_UNREADABLE = _Unreadable()


def _reading(parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if parse is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return _UNREADABLE

    return read


def _readable(request: Any) -> Any:
    """The request, or the stream of requests.

    Raises:
        Refusal: FIELD_MALFORMED; for a stream, when its turn comes.
    """
    if hasattr(request, "__aiter__"):
        return _Requests(aiter(request))
    if request is _UNREADABLE:
        raise invalid("the request can't be read: it is no message of this call's kind")
    return request


class _Requests:
    """A stream of requests, of which each can be read."""

    def __init__(self, requests: AsyncIterator[Any]) -> None:
        self._requests = requests

    def __aiter__(self) -> _Requests:
        return self

    async def __anext__(self) -> Any:
        return _readable(await anext(self._requests))


def _drain(generate: Callable[[Any, Context], AsyncGenerator[Any, None]]) -> Behavior:
    """A handler that sends what an async generator yields.

    grpc would leave a generator whose call was cancelled to the garbage collector; a `finally` in
    it (unsubscribe, close) must run when the call ends.
    """

    async def send_all(request: Any, context: Context) -> None:
        async with contextlib.aclosing(generate(request, context)) as answers:
            async for answer in answers:
                await _finished(asyncio.ensure_future(context.write(answer)))

    return send_all


async def _finished(writing: asyncio.Future[None]) -> None:
    """Await a write; when this is cancelled in the middle of it, the write is finished first.

    grpc takes no status while a write is under way: the caller would not be told how it ended.
    """
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        # Nothing helps against a caller that does not read: the server cuts it in the end.
        await asyncio.wait({writing}, timeout=_LAST_WRITE_S)
        writing.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


def _what_counts(error: Exception) -> Exception:
    """Of a group, as a handler's task group raises it, the one that tells the caller most.

    A group with a defect in it is one defect, and stays as it is for the log.
    """
    leaves = _leaves(error)
    for kind in _NO_DEFECTS:
        found = [leaf for leaf in leaves if isinstance(leaf, kind)]
        if found and all(isinstance(leaf, _NO_DEFECTS) for leaf in leaves):
            return found[0]
    return error


def _leaves(error: Exception) -> list[Exception]:
    if isinstance(error, ExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


def _incident(method: str, error: BaseException) -> Refusal:
    incident = secrets.token_hex(4)
    # A read or write that failed is no defect: in all likelihood nobody is left to hear of it.
    level = logging.DEBUG if isinstance(error, grpc.aio.InternalError) else logging.ERROR
    log.log(level, "incident %s in %s", incident, method, exc_info=error)
    return Refusal(
        grpc.StatusCode.INTERNAL,
        "INTERNAL",
        f"an internal error; the server's log tells more under incident {incident}",
        metadata={"incident": incident},
    )
