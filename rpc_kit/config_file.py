"""Configuration from a TOML file into dataclasses, or all of its mistakes with their lines.

The schema is a dataclass. Its fields may be `str`, `int`, `float`, `bool`, an enum of strings,
another dataclass (a table), `tuple[T, ...]` (a list), `dict[str, T]` (a table of any names), a type
of `PARSERS` or one whose class method `parse` takes a text, or one of these `| None`, where ""
stands for None. A field without a default is
required. A dataclass may have `rules`, a static method from its raw table, whose values may still
be of any type, to what is wrong with them beyond their types:

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]: ...

A text says what is wrong and, after a semicolon, how to mend it.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from rpc_kit import units
from rpc_kit.endpoint import Endpoint

T = TypeVar("T")
Steps = tuple[str | int, ...]


def _size(value: Any) -> units.Bytes:
    return units.parse_size(_written(value, 'a size; write it as "100G"'))


def _duration(value: Any) -> units.Seconds:
    return units.parse_duration(_written(value, 'a duration; write it as "1d2h30m"'))


def _endpoint(value: Any) -> Endpoint:
    return Endpoint.parse(_scalar(str, value))


def _written(value: Any, wanted: str) -> str:
    """A bare number means bytes or seconds."""
    if type(value) not in (str, int):
        raise ValueError(f"{_shown(value)} is not {wanted}")
    return str(value)


PARSERS: Mapping[object, Callable[[Any], object]] = {
    units.Bytes: _size,
    units.Seconds: _duration,
    Endpoint: _endpoint,
}
"""From a raw value to the type; a ValueError says what is wrong."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mistake:
    """One thing to mend in a file."""

    file: str
    line: int
    field: str
    """Its path, as `sites.lab.endpoint`; empty for the file as a whole."""
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field}{': ' if self.field else ''}{self.text}"


class ConfigError(Exception):
    """A file that can't be used; its text has one line for each mistake, in the file's order."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes


def load(path: Path, schema: type[T]) -> T:
    """The configuration in the file `path`.

    Raises:
        ConfigError: It can't be read, or has mistakes: all of them, unless it is not TOML at all.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError((Mistake(path.name, 1, "", f"can't be read: {why}"),)) from None
    return parse(text, schema, path.name)


def parse(text: str, schema: type[T], name: str) -> T:
    """As `load`, for a text whose file is called `name`."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column \d+\)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        why = re.sub(r" \(at .*\)", "", str(error))
        raise ConfigError((Mistake(name, line, "", f"is not TOML: {why}"),)) from None
    reader = _Reader()
    config = reader.table(schema, table, ())
    if reader.wrong:
        lines = _Lines(text)
        mistakes = [
            Mistake(name, lines.of(steps), _dotted(steps), why) for steps, why in reader.wrong
        ]
        raise ConfigError(tuple(sorted(mistakes, key=lambda mistake: mistake.line)))
    return cast("T", config)


class _Reader:
    """Reads values by their types, and notes what is wrong instead of stopping there."""

    def __init__(self) -> None:
        self.wrong: list[tuple[Steps, str]] = []

    def table(self, schema: type[Any], value: object, at: Steps) -> object:
        """An instance of the dataclass `schema`, or None when something in it is wrong."""
        if not isinstance(value, dict):
            self.wrong.append((at, f"{_shown(value)} is not a table; write it as [{_dotted(at)}]"))
            return None
        before = len(self.wrong)
        kinds = typing.get_type_hints(schema)
        fields = {field.name: field for field in dataclasses.fields(schema)}
        for key in (key for key in value if key not in fields):
            near = difflib.get_close_matches(key, fields, n=1)
            known = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(fields)}"
            self.wrong.append(((*at, key), f"there is no such setting; {known}"))
        read: dict[str, object] = {}
        for key, field in fields.items():
            if key in value:
                read[key] = self.value(kinds[key], value[key], (*at, key))
            elif (
                field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING
            ):
                self.wrong.append(((*at, key), "is missing; add it"))
        for steps, why in getattr(schema, "rules", _no_rules)(value):
            self.wrong.append(((*at, *steps), why))
        return None if len(self.wrong) > before else schema(**read)

    def value(self, kind: Any, value: Any, at: Steps) -> object:
        if kind in PARSERS:
            return self._try(PARSERS[kind], value, at)
        if hasattr(kind, "parse"):
            return self._try(lambda raw: kind.parse(_scalar(str, raw)), value, at)
        if dataclasses.is_dataclass(kind):
            return self.table(cast("type[Any]", kind), value, at)
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            if value == "":
                return None
            return self.value(next(arg for arg in arguments if arg is not type(None)), value, at)
        if origin is tuple:
            if not isinstance(value, list):
                self.wrong.append((at, f'{_shown(value)} is not a list; write it as ["…", "…"]'))
                return None
            return tuple(self.value(arguments[0], v, (*at, i)) for i, v in enumerate(value))
        if origin is dict:
            if not isinstance(value, dict):
                self.wrong.append((at, f"{_shown(value)} is not a table; use [{_dotted(at)}.NAME]"))
                return None
            return {key: self.value(arguments[1], v, (*at, key)) for key, v in value.items()}
        if issubclass(kind, enum.Enum):
            return self._try(lambda raw: _choice(kind, raw), value, at)
        return self._try(lambda raw: _scalar(kind, raw), value, at)

    def _try(self, parse: Callable[[Any], object], value: Any, at: Steps) -> object:
        try:
            return parse(value)
        except ValueError as error:
            self.wrong.append((at, str(error)))
            return None


def _no_rules(table: Mapping[str, Any]) -> tuple[tuple[Steps, str], ...]:
    return ()


_NAMES: Mapping[type, str] = {
    str: 'text; write it in quotes, as "…"',
    int: "a whole number; write it without quotes",
    float: "a number; write it without quotes",
    bool: "a choice; write true or false, without quotes",
}


def _scalar(kind: type[T], value: Any) -> T:
    if kind is float and type(value) is int:
        return kind(value)  # type: ignore[call-arg]
    if type(value) is not kind:  # by type: a bool is an int to Python, and not to a reader
        raise ValueError(f"{_shown(value)} is not {_NAMES[kind]}")
    return value


def _choice(kind: type[enum.Enum], value: Any) -> enum.Enum:
    try:
        return kind(value)
    except ValueError:
        names = [str(member.value) for member in kind]
        near = difflib.get_close_matches(str(value), names, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"choose one of: {', '.join(names)}"
        raise ValueError(f"{_shown(value)} is not known; {hint}") from None


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = text if len(text) <= 40 else text[:40] + "…"
    return f'"{text}"' if isinstance(value, str) else text


def _dotted(steps: Steps) -> str:
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f"{'.' if text else ''}{step}"
    return text


class _Lines:
    """Finds the lines of a TOML text that keys stand on."""

    _MARK = "<the line that is looked for>"

    def __init__(self, text: str) -> None:
        self._text = text

    def of(self, steps: Steps) -> int:
        """The line of the key at `steps`, or of the nearest table above it that is there."""
        for length in range(len(steps), 0, -1):
            line = self._of(steps[:length])
            if line is not None:
                return line
        return 1

    def _of(self, steps: Steps) -> int | None:
        # tomlkit keeps the text as it was, but tells no lines: so the place is marked in a copy,
        # and the mark looked for in what that is written as.
        import tomlkit
        from tomlkit.exceptions import TOMLKitError

        document = tomlkit.parse(self._text)
        try:
            holder: Any = document
            for step in steps[:-1]:
                holder = holder[step]
            _mark(holder, steps[-1], self._MARK)
        except (TOMLKitError, LookupError, TypeError, AttributeError):
            return None
        before, mark, _ = tomlkit.dumps(document).partition(self._MARK)
        return before.count("\n") + 1 if mark else None


def _mark(holder: Any, key: str | int, mark: str) -> None:
    from tomlkit.items import Table

    while isinstance(holder[key], Table) and holder[key].is_super_table():
        # [sites.lab] alone has no line that is [sites]: its first table stands for it.
        holder = holder[key]
        key = next(iter(holder))
    if isinstance(holder[key], Table):
        holder[key].comment(mark)
    else:
        holder[key] = mark
