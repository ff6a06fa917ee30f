"""Messages of any kind, made from their descriptors: what is allowed, its limits, and beyond."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_DEPTH = 4
_KNOWN_ALONE = frozenset({"script", "workdir"})
"""What is made by chance is not run on this machine, nor where it would."""
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_NUMBERS = (0, 1, 2, -1, 22, 100, 1_000, 65_535, 65_536, 1 << 20, 1 << 31, 253_402_300_800, 10**15)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e308, -1e308, 1e-300, float("inf"), float("nan"))
_TEXTS = (
    "", " ", "a", "A", "a/b", "/", "/etc/passwd", ".", "..", "../x", "a/../../b", "./a", "a//b",
    "a\0b", "\n", "a\nb", "\x1b[31m", "*", "**", "**/*", "[", "[a", "[]", "[!]a]", "[b-a]", "?",
    "-rf", "--", "%s%n", "{0}", "$(id)", "`id`", "';--", "\\", "a\\", "\u202e", "\ufeff", "é",
    "e\u0301", "\U0001f600", "ﬀ", "İ", "x" * 41, "x" * 256, "é" * 2_100, "x" * 5_000, "0", "-1",
    "1e9", "NaN", "1" * 18, "9" * 19, "9" * 400, "=" * 8, "AAAA", "a.b", "a b", "spiffe://x",
    "127.0.0.1:1", "host",
)  # fmt: skip


class Maker:
    """Makes messages.

    Args:
        chance: Where all that is random comes from.
        known: By the name of a field: values that mean something where they are sent.
    """

    def __init__(self, chance: random.Random, known: Mapping[str, Sequence[Any]]) -> None:
        self._chance = chance
        self._known = known

    def message(self, descriptor: Any) -> Message:
        """Some message of this kind."""
        message = message_factory.GetMessageClass(descriptor)()
        self._fill(message, 0)
        return message

    def encoded(self, descriptor: Any) -> bytes:
        """A message's bytes, as they are, or damaged, or bytes of any kind."""
        chance = self._chance
        kind = chance.random()
        if kind < 0.6:
            return self.message(descriptor).SerializeToString()
        if kind < 0.8:
            data = bytearray(self.message(descriptor).SerializeToString())
            for _ in range(chance.randint(1, 4)):
                if data:
                    data[chance.randrange(len(data))] = chance.randrange(256)
            return bytes(data[: chance.randint(0, len(data))] if chance.random() < 0.5 else data)
        return chance.randbytes(chance.choice((0, 1, 2, 5, 40, 1_000)))

    def _fill(self, message: Message, depth: int) -> None:
        # Mostly whole messages, since a field that is missing ends all checks early.
        often = self._chance.choice((1.0, 0.9, 0.9, 0.5))
        for field in message.DESCRIPTOR.fields:
            if self._chance.random() >= often:
                continue
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                self._fill_message(message, field, depth)
            elif field.is_repeated:
                count = self._chance.choice((0, 1, 1, 2, 3))
                getattr(message, field.name).extend(self._value(field) for _ in range(count))
            else:
                setattr(message, field.name, self._value(field))

    def _fill_message(self, message: Message, field: Any, depth: int) -> None:
        if depth >= _DEPTH:
            return
        part: Any = getattr(message, field.name)
        if field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            for _ in range(self._chance.choice((0, 1, 2))):
                name = self._value(key)
                if value.type == FieldDescriptor.TYPE_MESSAGE:
                    self._fill(part[name], depth + 1)
                else:
                    part[name] = self._value(value)
        elif field.is_repeated:
            for _ in range(self._chance.choice((0, 1, 1, 2, 3))):
                self._fill(part.add(), depth + 1)
        else:
            part.SetInParent()
            self._fill(part, depth + 1)

    def _value(self, field: Any) -> Any:
        chance = self._chance
        known = self._known.get(field.name)
        if known and (field.name in _KNOWN_ALONE or chance.random() < 0.7):
            return chance.choice(known)
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_BOOL:
                return chance.random() < 0.5
            case FieldDescriptor.CPPTYPE_ENUM:
                numbers = [value.number for value in field.enum_type.values]
                return chance.choice([*numbers[1:], *numbers, 99, -1])
            case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
                return chance.choice(_FLOATS)
            case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
                return chance.randbytes(chance.choice((0, 1, 16, 31, 32, 32, 33, 64, 129, 2_000)))
            case FieldDescriptor.CPPTYPE_STRING:
                return chance.choice(_TEXTS)
        lowest, highest = _INTEGERS[field.cpp_type]
        return min(max(chance.choice((*_NUMBERS, lowest, highest, highest - 1)), lowest), highest)
