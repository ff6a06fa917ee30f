"""What `swm submit --dry-run` tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from terminals.cli.tables import Column, note, show_json, show_table
from terminals.cli.wishes import resources
from terminals.cli.words import NOTHING, cell, counted, hourly, plain, span

if TYPE_CHECKING:
    from skyport.terminal.v1 import job_pb2


_ALWAYS = 5
"""So many columns are shown whatever is in them."""


def show_dry_run(checked: job_pb2.CheckJobResponse, *, as_json: bool) -> int:
    """Print what a job would become and where it could run; returns the exit code.

    Raises:
        InputsInvalid: Its input files are not all here.
    """
    from rpc_kit.units import format_size
    from terminals.client.inputs import Kind, select

    spec = checked.spec
    selection = select(spec.input_files)
    for line in selection.skipped:
        note(plain(line))
    if as_json:
        show_json([checked])
    else:
        click.echo(f"asks for  {resources(spec)}")
        if spec.name:
            click.echo(f"name      {plain(spec.name)}")
        if spec.input_files:
            files = sum(entry.kind is Kind.FILE for entry in selection.inputs)
            size = format_size(selection.total_bytes)
            click.echo(f"inputs    {counted(files, 'file')}, {size}")
        if spec.output_files:
            click.echo(f"outputs   {', '.join(map(plain, spec.output_files))}")
        _show_candidates(checked)
    for obstacle in checked.obstacles:
        note(plain(obstacle.message))
    return 1 if checked.obstacles and not checked.candidates else 0


def _show_candidates(checked: job_pb2.CheckJobResponse) -> None:
    if not checked.candidates:
        if not checked.obstacles:
            note("no site that takes jobs has told yet what it has; see `swm sites`")
        return
    rows = [
        [
            cell(candidate.site),
            cell(candidate.partition_id),
            cell(candidate.location),
            cell(candidate.flavor),
            hourly(candidate.price) if candidate.HasField("price") else NOTHING,
            "yes" if candidate.spot else NOTHING,
            span(candidate.time_limit.seconds) if candidate.HasField("time_limit") else NOTHING,
        ]
        for candidate in checked.candidates
    ]
    columns = [
        Column("COULD RUN AT"),
        Column("PARTITION", shrinks=True),
        Column("LOCATION"),
        Column("FLAVOR"),
        Column("A NODE COSTS", right=True),
        Column("SPOT"),
        Column("ENDS AFTER", right=True),
    ]
    # What says nothing of any place is left out.
    shown = [n for n in range(len(columns)) if n < _ALWAYS or any(r[n] != NOTHING for r in rows)]
    columns = [columns[n] for n in shown]
    rows = [[row[n] for n in shown] for row in rows]
    click.echo()
    show_table(columns, rows)
