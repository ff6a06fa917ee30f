"""Lists: a table that fits a terminal, plain columns for everything else."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from google.protobuf.message import Message

_GAP = "  "


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, and how it takes too little room."""

    title: str
    right: bool = False
    """Aligned to the right: numbers."""
    shrinks: bool = False
    """Cut on a narrow terminal, before any that doesn't shrink."""


def show_table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    *,
    styles: Mapping[str, str] | None = None,
) -> None:
    """Print rows under titles. Nothing is cut where no terminal is.

    Args:
        columns: One for each value of a row.
        rows: The values; none may be empty.
        styles: Colours of values, on a terminal.
    """
    lines = list(rows)
    if sys.stdout.isatty():
        _show_rich(columns, lines, styles or {})
    else:
        _show_plain(columns, lines)


def _show_plain(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    table = [[column.title for column in columns], *rows]
    widths = [max(len(row[index]) for row in table) for index in range(len(columns))]
    out = []
    for row in table:
        values = [
            value.rjust(width) if column.right else value.ljust(width)
            for value, width, column in zip(row, widths, columns, strict=True)
        ]
        out.append(_GAP.join(values).rstrip())
    click.echo("\n".join(out))


def _show_rich(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], styles: Mapping[str, str]
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, len(_GAP), 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        longest = max(len(column.title), *(len(row[index]) for row in rows), 0)
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not column.shrinks,  # only those that may wrap are made narrower
            min_width=None if column.shrinks else longest,
        )
    for row in rows:
        texts = (
            Text(value, style=styles.get(value, ""), no_wrap=True, overflow="ellipsis")
            for value in row
        )
        table.add_row(*texts)
    Console().print(table)


def show_json(messages: Iterable[Message]) -> None:
    """Print messages as proto JSON with the names of the protos, one object a line."""
    from google.protobuf import json_format

    for message in messages:
        text = json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None)
        click.echo(text)


def note(text: str) -> None:
    """Say something beside the output, on standard error."""
    click.echo(f"swm: {text}", err=True)


def note_unreachable(sites: Iterable[str]) -> None:
    """Say of which sites something may lack."""
    names = sorted(set(sites))
    if names:
        note(f"not told by {', '.join(names)}: what is theirs may be missing; see `swm sites`")
