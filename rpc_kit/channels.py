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

    def replace(self, channel: Any) -> Any:
        """Make new calls on `channel` from now on.

        Returns:
            The channel that is to be closed now, if there is one.
        """
        closable, self._older, self._newest = self._older, self._newest, channel
        return closable

    def close(self) -> list[Any]:
        """What `close` of each channel returned; those of grpc.aio are to be awaited."""
        return [each.close() for each in (self._newest, self._older) if each is not None]

    def newest(self) -> Any:
        """The channel for a call that is made now."""
        fresh = self._renew()
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
        self._known: tuple[Any, Any] = (None, None)

    def _now(self) -> Any:
        newest = self._channel.newest()
        channel, method = self._known
        if channel is not newest:
            method = getattr(newest, self._kind)(*self._args, **self._options)
            self._known = newest, method
        return method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._now()(*args, **kwargs)

    def future(self, *args: Any, **kwargs: Any) -> Any:
        """As the method's own, which those of grpc have and those of grpc.aio have not."""
        return self._now().future(*args, **kwargs)
