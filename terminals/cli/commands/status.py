"""`swm status`: how the core does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from terminals.cli.command import Command
from terminals.cli.options import connected, json_option

if TYPE_CHECKING:
    from skyport.terminal.v1 import catalog_pb2, server_pb2


_CA_WARNED_S = 180 * 86_400
"""As the core's log does."""


@click.command(cls=Command, examples=["swm status", "swm status --json | jq .pid"])
@json_option
def status(as_json: bool) -> None:
    """Show whether the core runs, and what it does.

    The exit code is 0 if it answers, otherwise 1.
    """
    from skyport.terminal.v1 import catalog_pb2, server_pb2
    from terminals.cli.tables import show_json
    from terminals.cli.words import ago, moment, plain

    with connected() as client:
        info = client.call(client.server.GetServerInfo, server_pb2.GetServerInfoRequest())
        if as_json:
            show_json([info])
            return
        pages = client.pages(client.catalog.ListSites, catalog_pb2.ListSitesRequest())
        sites = [site for page in pages for site in page.sites]
        endpoint = client.bundle.endpoint
    click.echo(f"core    up at {endpoint}, version {plain(info.version)}, process {info.pid}")
    click.echo(f"since   {moment(info.start_time)} ({ago(info.start_time)})")
    click.echo(f"jobs    {_jobs(info)}")
    click.echo(f"spool   {_spool(info)}")
    show_sites(sites)
    for line in [*_ca_lines(info), *troubles(sites)]:
        click.echo(line)


def show_sites(sites: list[catalog_pb2.Site], config: object = "the core's swm.toml") -> None:
    """Print a table of sites under an empty line, or what to do without any.

    Args:
        sites: To be shown.
        config: The core's file, where it is known.
    """
    from terminals.cli.commands.catalog import how_to_add, sites_table
    from terminals.cli.tables import show_table

    if not sites:
        click.echo(f"sites   none; {how_to_add(config)}")
        return
    click.echo()
    show_table(*sites_table(sites), styles={"BROKEN": "red", "UNREACHABLE": "yellow"})


def troubles(sites: list[catalog_pb2.Site]) -> list[str]:
    """What an administrator has to know beside the table, in lines."""
    from terminals.cli.commands.catalog import crash_lines

    lines = crash_lines(sites)
    for site in sites:
        lines += _removal_lines(site)
    for site in sites:
        if site.orphans:
            from terminals.cli.words import counted, plain

            what = counted(site.orphans, "orphan")
            lines += ["", f"site {plain(site.name)} has {what}; see `swm orphans`"]
    return lines


def _ca_lines(info: server_pb2.GetServerInfoResponse) -> list[str]:
    """What to do about a CA that ends; of use only while the core can still be asked."""
    import time

    from terminals.cli.words import short_moment, span

    left_s = info.ca_expire_time.seconds - time.time()
    if not info.HasField("ca_expire_time") or left_s >= _CA_WARNED_S:
        return []
    ends = f"ends in {span(left_s)}, {short_moment(info.ca_expire_time)}"
    return [
        "",
        f"the CA of this installation {ends}, and with it every certificate;",
        "run `swm-core renew-ca` on the core's machine",
    ]


def _removal_lines(site: catalog_pb2.Site) -> list[str]:
    from terminals.cli.words import counted, plain

    if not site.failed_removals:
        return []
    waiting = f"{site.pending_removals} to be removed at site {plain(site.name)}"
    lines = ["", f"{waiting}; asked in vain, and asked again until it is done:"]
    for each in site.failed_removals:
        what = f"attempt {each.job_id}/{each.attempt}" if each.job_id else "partition"
        where = f" in {each.partition_id}" if each.job_id else f" {each.partition_id}"
        tries = counted(each.tries, "time")
        lines.append(f"  {plain(what + where)}, {tries}: {plain(each.message)}")
    return lines


def _jobs(info: server_pb2.GetServerInfoResponse) -> str:
    from terminals.cli.states import ENDED, state_word

    counts = [
        f"{count.jobs} {state_word(count.state)}"
        for count in info.active_jobs
        if count.state not in ENDED
    ]
    return ", ".join(counts) or "none that have not ended"


def _spool(info: server_pb2.GetServerInfoResponse) -> str:
    from rpc_kit.units import format_size

    return f"{format_size(info.spool_used_bytes)} of {format_size(info.spool_limit_bytes)}"
