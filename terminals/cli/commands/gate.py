"""`swm gate`: the programs that speak to sites."""

from __future__ import annotations

import click

from terminals.cli.command import Command
from terminals.cli.options import connected, json_option, site_argument


@click.group(invoke_without_command=True)
@click.pass_context
def gate(ctx: click.Context) -> None:
    """Look after gates, as their administrator."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@gate.command(name="list", cls=Command, examples=["swm gate list"])
@json_option
def list_(as_json: bool) -> None:
    """List gates: who runs them, as which process, and how often they were started anew."""
    from skyport.terminal.v1 import catalog_pb2
    from terminals.cli.tables import Column, note, show_json, show_table
    from terminals.cli.words import NOTHING, cell

    with connected() as client:
        pages = client.pages(client.catalog.ListSites, catalog_pb2.ListSitesRequest())
        found = [site for page in pages for site in page.sites]
    if as_json:
        show_json(found)
        return
    if not found:
        note("no gates; add a site to swm.toml")
        return
    columns = [
        Column("SITE"),
        Column("GATE"),
        Column("RUN BY"),
        Column("PROCESS", right=True),
        Column("RESTARTS", right=True),
        Column("DETAIL", shrinks=True),
    ]
    rows = (
        [
            cell(site.name),
            cell(f"{site.gate_name} {site.gate_version}"),
            "core" if site.supervised else "others",
            str(site.pid) if site.pid else NOTHING,
            str(site.restarts) if site.supervised else NOTHING,
            cell(site.message or site.summary),
        ]
        for site in found
    )
    show_table(columns, rows)


@gate.command(cls=Command, examples=["swm gate restart lab"])
@site_argument
def restart(name: str) -> None:
    """Have the gate of a site end, and start it anew. Jobs run on.

    NAME is the site's. Only of a gate that the core starts.
    """
    from skyport.terminal.v1 import admin_pb2

    with connected() as client:
        client.call(client.admin.RestartGate, admin_pb2.RestartGateRequest(site=name))
    click.echo(f"the gate of site {name} is starting anew; `swm sites` shows when it is ready")
