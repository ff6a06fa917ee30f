"""How the fake core's handlers answer with errors: `Refusal`, as in a real one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar, cast

import grpc

from rpc_kit.errors import Refusal, unavailable

P = ParamSpec("P")
T = TypeVar("T")


class CutError(Exception):
    """The line breaks here."""


def handler(function: Callable[P, T]) -> Callable[P, T]:
    """Turn what a handler raises into a status."""

    def abort(context: grpc.ServicerContext, error: Exception) -> None:
        if isinstance(error, CutError):
            error = unavailable("SHUTTING_DOWN", "the core is shutting down")
        assert isinstance(error, Refusal), error
        context.abort_with_status(error.to_status("skyport.terminal.v1"))

    def note(self: Any) -> None:
        with self.state.changed:
            self.state.calls.append(function.__name__)
            self.state.changed.notify_all()

    @functools.wraps(function)
    def stream(self: Any, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        note(self)
        try:
            yield from cast("Any", function)(self, request, context)
        except (Refusal, CutError) as error:
            abort(context, error)

    @functools.wraps(function)
    def unary(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        note(self)
        try:
            return cast("Any", function)(self, request, context)
        except (Refusal, CutError) as error:
            abort(context, error)
            raise

    return cast("Callable[P, T]", stream if inspect.isgeneratorfunction(function) else unary)
