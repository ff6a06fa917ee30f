"""Text of any message that is safe to log: secrets masked, long values cut, one line.

Which fields are secret is told by the option `(skyport.common.v1.secret)` in the protos, read from
the descriptors, so a new secret field is covered without a word here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

if TYPE_CHECKING:
    # Of a message it may be either, depending on how protobuf was built.
    from google._upb._message import Descriptor as UpbDescriptor
    from google.protobuf.descriptor import Descriptor

    _Descriptor: TypeAlias = Descriptor | UpbDescriptor

MASK = "***"
_VALUE_CHARS = 80

# Keyed by the descriptor itself, which this keeps alive: an id alone could come to name another.
_secret_fields: dict[Any, frozenset[str]] = {}


def safe_text(message: Message, limit: int = 500) -> str:
    """`message` as one line of at most about `limit` characters, without its secrets.

    A secret field shows that it is set, not how long it is. Bytes show their number only, and so
    does an `Any`, since what it holds may not be known here.
    """
    shown: list[str] = []
    room = limit
    for part in _parts(message):
        if len(part) > room:
            shown.append(part[:room] + "…")
            break
        room -= len(part)
        shown.append(part)
    return "".join(shown)


def secret_fields(descriptor: _Descriptor) -> frozenset[str]:
    """The names of the fields of one message type that are marked as secret."""
    known = _secret_fields.get(descriptor)
    if known is None:
        # Here, since the option exists in the stubs alone and costs nothing until it is asked for.
        from skyport.common.v1 import options_pb2

        known = frozenset(
            field.name
            for field in descriptor.fields
            if field.GetOptions().Extensions[options_pb2.secret]
        )
        _secret_fields[descriptor] = known
    return known


def _parts(message: Message) -> Iterator[str]:
    """The text in small pieces, so that a huge message is not walked beyond what is shown."""
    yield message.DESCRIPTOR.name + "{"
    yield from _fields(message)
    yield "}"


def _fields(message: Message) -> Iterator[str]:
    descriptor = message.DESCRIPTOR
    if descriptor.full_name == "google.protobuf.Any":
        # type_url and value are what every Any has; its class is not known to the type checker.
        any_message: Any = message
        yield f"{_text(any_message.type_url)} <{len(any_message.value)} bytes>"
        return
    secret = secret_fields(descriptor)
    separator = ""
    for field, value in message.ListFields():
        yield f"{separator}{field.name}="
        separator = " "
        if is_map(field):
            yield from _map(field, value, hidden=field.name in secret)
        elif field.name in secret:
            yield MASK
        elif field.is_repeated:
            yield from _list(field, value)
        else:
            yield from _value(field, value)


def is_map(field: FieldDescriptor) -> bool:
    """Whether the field is a map, which the wire has as a repeated message."""
    kind = field.message_type
    return kind is not None and kind.GetOptions().map_entry


def _map(field: FieldDescriptor, value: Any, *, hidden: bool) -> Iterator[str]:
    entry = field.message_type
    if entry is None:  # a map always has one: for the type checker
        return
    values = entry.fields_by_name["value"]
    yield "{"
    separator = ""
    for key in value:
        yield f"{separator}{_scalar(entry.fields_by_name['key'], key)}: "
        separator = ", "
        if hidden:
            yield MASK
        else:
            yield from _value(values, value[key])
    yield "}"


def _list(field: FieldDescriptor, values: Any) -> Iterator[str]:
    yield "["
    separator = ""
    for value in values:
        yield separator
        separator = ", "
        yield from _value(field, value)
    yield "]"


def _value(field: FieldDescriptor, value: Any) -> Iterator[str]:
    if field.message_type is not None:
        yield "{"
        yield from _fields(value)
        yield "}"
    else:
        yield _scalar(field, value)


def _scalar(field: FieldDescriptor, value: Any) -> str:
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, str):
        return _text(value)
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return named.name if named else str(value)
    return str(value)


def _text(value: str) -> str:
    cut = value if len(value) <= _VALUE_CHARS else value[:_VALUE_CHARS] + "…"
    return json.dumps(cut, ensure_ascii=False)
