"""A channel whose certificate can be exchanged while calls are under way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class RenewableChannel:
    """A channel for generated stubs that makes each new call on the newest of several channels.

    Calls that are under way stay on the channel that they began on. It is closed when the one that
    replaced it is replaced in turn: by then, its certificate has long ended.

    Args:
        channel: The first one, of grpc or of grpc.aio. All others must be alike.
        renew: Asked before each call; may return a channel that replaces the newest one (of grpc).
    """

    def __init__(self, channel: Any, renew: Callable[[], Any] = lambda: None) -> None:
        self._newest = channel
        self._older: Any = None
        self._renew = renew
        self._is_closed = False

    def replace(self, channel: Any) -> Any:
        """Make new calls on `channel` from now on.

        Returns:
            The channel that is to be closed now, if there is one.
        """
        closable, self._older, self._newest = self._older, self._newest, channel
        return closable

    def close(self) -> list[Any]:
        """What `close` of each channel returned; those of grpc.aio are to be awaited."""
        self._is_closed = True
        return [each.close() for each in (self._newest, self._older) if each is not None]

    def newest(self) -> Any:
        """The channel for a call that is made now."""
        fresh = None if self._is_closed else self._renew()
        if fresh is not None:
            closable = self.replace(fresh)
            if closable is not None:
                closable.close()
        return self._newest

    # What generated stubs ask a channel for.

    def unary_unary(self, *args: Any, **kwargs: Any) -> _Method:
        return _Method(self, "unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> _Method:
        return _Method(self, "unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> _Method:
        return _Method(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> _Method:
        return _Method(self, "stream_stream", args, kwargs)


class _Method:
    """A method of a stub, which is looked up on the newest channel when it is called."""

    def __init__(self, channel: RenewableChannel, kind: str, args: Any, options: Any) -> None:
        self._channel = channel
        self._kind = kind
        self._args = args
        self._options = options
        # At once, as stubs do it: grpc crashes when a closed channel is asked for a method.
        self._known = self._on(channel.newest())

    def _on(self, channel: Any) -> tuple[Any, Any]:
        return channel, getattr(channel, self._kind)(*self._args, **self._options)

    def _now(self) -> Any:
        newest = self._channel.newest()
        if self._known[0] is not newest:
            self._known = self._on(newest)
        return self._known[1]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._now()(*args, **kwargs)

    def future(self, *args: Any, **kwargs: Any) -> Any:
        """As the method's own, which those of grpc have and those of grpc.aio have not."""
        return self._now().future(*args, **kwargs)
