"""Pages of a list as AIP-158 has them: bounded sizes, and tokens that fit one question only."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import Message

from rpc_kit import errors

DEFAULT_SIZE = 100
MAX_SIZE = 1_000

_DIGEST_BYTES = 8

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """One page to answer: at most `size` items that come after the position `after`."""

    size: int
    after: str
    """Where the last page ended, in the words of who made it; empty on the first page."""
    _bound: bytes = dataclasses.field(default=b"", repr=False)

    def token(self, position: str) -> str:
        """The `next_page_token` for a page that ends at `position` (not empty).

        Send an empty string instead when nothing comes after it.
        """
        data = position.encode()
        return base64.urlsafe_b64encode(_digest(data, self._bound) + data).decode().rstrip("=")

    def cut(self, items: Iterable[tuple[str, T]]) -> tuple[list[T], str]:
        """This page of items that are all at hand, and the `next_page_token`.

        Args:
            items: Each with its position: by these they are sorted.
        """
        rest = sorted((item for item in items if item[0] > self.after), key=lambda item: item[0])
        shown = rest[: self.size]
        token = self.token(shown[-1][0]) if len(rest) > len(shown) else ""
        return [item for _, item in shown], token


def page(
    size: int,
    token: str,
    *arguments: object,
    default_size: int = DEFAULT_SIZE,
    max_size: int = MAX_SIZE,
) -> Page:
    """The page that a request asks for.

    Args:
        size: The request's `page_size`: 0 means `default_size`, more than `max_size` is lowered.
        token: The request's `page_token`.
        arguments: All else that decides which items are listed and in which order, the caller
            included. Values whose repr says all.
        default_size: Items of a page when the caller does not say.
        max_size: Items of a page at most.

    Raises:
        Refusal: INVALID_ARGUMENT, FIELD_OUT_OF_RANGE for a negative size, PAGE_TOKEN_INVALID for
            a token that is not ours or was given for other arguments.
    """
    return _page(size, token, repr(arguments).encode(), default_size, max_size)


def page_of(
    request: Message,
    *also: object,
    default_size: int = DEFAULT_SIZE,
    max_size: int = MAX_SIZE,
) -> Page:
    """As `page`, for a request message: its fields other than the page's own are the arguments.

    Args:
        request: A message with `page_size` and `page_token`.
        also: What else decides about the items, such as who calls.
        default_size: Items of a page when the caller does not say.
        max_size: Items of a page at most.
    """
    question = type(request)()
    question.CopyFrom(request)
    question.ClearField("page_size")
    question.ClearField("page_token")
    bound = (
        question.DESCRIPTOR.full_name.encode()
        + question.SerializeToString(deterministic=True)
        + repr(also).encode()
    )
    # Every list request of the contracts has the two; a Message in general has not.
    size, token = getattr(request, "page_size"), getattr(request, "page_token")  # noqa: B009
    return _page(size, token, bound, default_size, max_size)


def _page(size: int, token: str, bound: bytes, default_size: int, max_size: int) -> Page:
    if size < 0:
        raise errors.invalid(
            f"page_size is {size}; send 0 for the default, or up to {max_size}",
            field="page_size",
            reason="FIELD_OUT_OF_RANGE",
        )
    after = _position(token, bound) if token else ""
    return Page(min(size or default_size, max_size), after, bound)


def _position(token: str, bound: bytes) -> str:
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        digest, data = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if data and digest == _digest(data, bound):
            return data.decode()
    except (binascii.Error, ValueError):
        pass
    raise errors.invalid(
        "page_token is not one that this question was answered with; start again without one",
        field="page_token",
        reason="PAGE_TOKEN_INVALID",
    )


def _digest(position: bytes, bound: bytes) -> bytes:
    sealed = hashlib.blake2s(position, digest_size=_DIGEST_BYTES, key=b"skyport page")
    sealed.update(b"\0" + bound)
    return sealed.digest()
