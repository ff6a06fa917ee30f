"""`swm sites`, `flavors`, `images`, `partitions`, `nodes`: what there is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from terminals.cli.command import Command
from terminals.cli.options import connected, json_option

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from skyport.common.v1.money_pb2 import HourlyPrice
    from skyport.terminal.v1 import catalog_pb2
    from terminals.cli.tables import Column

F = TypeVar("F", bound=Callable[..., Any])

_STYLES = {
    "BROKEN": "red",
    "UNREACHABLE": "yellow",
    "DOWN": "red",
    "DRAINED": "yellow",
    "STARTING": "yellow",
    "CREATING": "yellow",
    "DELETING": "yellow",
}


def site_option(function: F) -> F:
    """The option --site, as `site`."""
    return click.option("--site", default="", help="Only of this site.")(function)


@click.command(
    cls=Command,
    examples=["swm sites", "swm sites --json | jq 'select(.state != \"SITE_STATE_READY\")'"],
)
@json_option
def sites(as_json: bool) -> None:
    """List the configured sites, and whether they take jobs."""
    from skyport.terminal.v1 import catalog_pb2

    with connected() as client:
        pages = client.pages(client.catalog.ListSites, catalog_pb2.ListSitesRequest())
        found = [site for page in pages for site in page.sites]
    columns, rows = sites_table(found)
    _show(found, columns, rows, [], as_json=as_json, none=f"no sites; {how_to_add()}")
    if not as_json:
        for line in crash_lines(found):
            click.echo(line)


def how_to_add(config: object = "the core's swm.toml") -> str:
    """What to do where there is no site.

    Args:
        config: The file, where it is known.
    """
    return (
        f"add one to {config}, for this machine the [sites.here] at its end; then `swm down` and "
        "`swm up`"
    )


def crash_lines(found: Iterable[catalog_pb2.Site]) -> list[str]:
    """The last lines of the logs of gates that keep ending; the core tells administrators."""
    from terminals.cli.words import counted, plain

    lines = []
    for site in found:
        if site.log_tail and site.restarts:
            name = plain(site.name)
            times = counted(site.restarts, "time")
            lines += ["", f"gate of site {name}, started anew {times}; the end of its log:"]
            # A gate that always ends for the same reason says it again and again.
            told = map(_told, site.log_tail)
            lines += [f"  {plain(line)}" for line, _ in itertools.groupby(told)]
            lines.append(f"  all of it is in log/gate-{name}.log below SWM_HOME")
    return lines


def _told(line: str) -> str:
    """A line of a gate's log for people: those of our own gates are JSON."""
    import json

    try:
        entry = json.loads(line)
        return f"{entry['time']} {entry['level']} {entry['message']}"
    except (ValueError, TypeError, KeyError):
        return line


def sites_table(found: Iterable[catalog_pb2.Site]) -> tuple[list[Column], Iterator[list[str]]]:
    """The columns and rows of a list of sites."""
    from skyport.terminal.v1 import catalog_pb2
    from terminals.cli.tables import Column
    from terminals.cli.words import ago, cell

    columns = [
        Column("SITE"),
        Column("STATE"),
        Column("GATE"),
        Column("JOBS", right=True),
        Column("LAST CONTACT"),
        Column("DETAIL", shrinks=True),
    ]
    rows = (
        [
            cell(site.name),
            _word(catalog_pb2.SiteState, site.state, "SITE_STATE_"),
            cell(f"{site.gate_name} {site.gate_version}"),
            str(site.active_jobs),
            ago(site.last_contact_time) if site.HasField("last_contact_time") else "never",
            cell(site.message or _what_it_is(site)),
        ]
        for site in found
    )
    return columns, rows


def _what_it_is(site: catalog_pb2.Site) -> str:
    from terminals.cli.words import span

    parts = [site.summary]
    if site.storage:
        parts.append(f"storage {', '.join(site.storage)}")
    if site.max_partitions:
        parts.append(f"{site.partitions} of {site.max_partitions} partitions")
    if site.HasField("idle_time"):
        parts.append(f"idle ones are kept {span(site.idle_time.seconds)}")
    return "; ".join(parts)


@click.command(
    cls=Command,
    examples=["swm flavors", "swm flavors --site azure --json | jq 'select(.gpus > 0).name'"],
)
@site_option
@json_option
def flavors(site: str, as_json: bool) -> None:
    """List the kinds of nodes that sites give, with prices."""
    from skyport.terminal.v1 import catalog_pb2
    from terminals.cli.tables import Column
    from terminals.cli.words import NOTHING, cell

    def price(known: bool, value: HourlyPrice) -> str:
        from terminals.cli.words import hourly

        return hourly(value) if known else NOTHING

    with connected() as client:
        request = catalog_pb2.ListFlavorsRequest(site=site)
        pages = list(client.pages(client.catalog.ListFlavors, request))
    found = [flavor for page in pages for flavor in page.flavors]
    rows = (
        [
            cell(each.name),
            cell(each.site),
            cell(each.location),
            str(each.cpus),
            _size(each.memory_bytes),
            cell(f"{each.gpus} {each.gpu_model}") if each.gpus else NOTHING,
            _size(each.disk_bytes),
            price(each.HasField("on_demand_price"), each.on_demand_price),
            price(each.HasField("spot_price"), each.spot_price),
        ]
        for each in found
    )
    columns = [
        Column("FLAVOR"),
        Column("SITE"),
        Column("LOCATION"),
        Column("CPUS", right=True),
        Column("MEMORY", right=True),
        Column("GPUS", shrinks=True),
        Column("DISK", right=True),
        Column("PRICE", right=True),
        Column("SPOT", right=True),
    ]
    _show(found, columns, rows, _unreachable(pages), as_json=as_json, none="no flavors")


@click.command(cls=Command, examples=["swm images --site azure"])
@site_option
@json_option
def images(site: str, as_json: bool) -> None:
    """List what nodes boot and jobs run in."""
    from skyport.terminal.v1 import catalog_pb2
    from terminals.cli.tables import Column
    from terminals.cli.words import cell

    with connected() as client:
        request = catalog_pb2.ListImagesRequest(site=site)
        pages = list(client.pages(client.catalog.ListImages, request))
    found = [image for page in pages for image in page.images]
    rows = (
        [
            cell(each.name),
            cell(each.site),
            "container" if each.container else "node",
            cell(each.architecture),
            cell(each.location),
            cell(each.description),
        ]
        for each in found
    )
    columns = [
        Column("IMAGE"),
        Column("SITE"),
        Column("FOR"),
        Column("ARCHITECTURE"),
        Column("LOCATION"),
        Column("DESCRIPTION", shrinks=True),
    ]
    _show(found, columns, rows, _unreachable(pages), as_json=as_json, none="no images")


@click.command(cls=Command, examples=["swm partitions"])
@site_option
@json_option
def partitions(site: str, as_json: bool) -> None:
    """List groups of nodes.

    Static ones are always there, a queue places jobs by itself, and dynamic ones are made for your
    jobs and deleted after them.
    """
    from skyport.terminal.v1 import catalog_pb2
    from terminals.cli.tables import Column
    from terminals.cli.words import NOTHING, cell, hourly

    with connected() as client:
        request = catalog_pb2.ListPartitionsRequest(site=site)
        pages = list(client.pages(client.catalog.ListPartitions, request))
    found = [partition for page in pages for partition in page.partitions]
    rows = (
        [
            cell(each.partition_id),
            cell(each.site),
            _word(catalog_pb2.PartitionKind, each.kind, "PARTITION_KIND_").lower(),
            _word(catalog_pb2.PartitionState, each.state, "PARTITION_STATE_"),
            cell(each.flavor),
            str(each.node_count),
            hourly(each.price) if each.HasField("price") else NOTHING,
            cell(each.job_id),
            cell(each.text),
        ]
        for each in found
    )
    columns = [
        Column("PARTITION"),
        Column("SITE"),
        Column("KIND"),
        Column("STATE"),
        Column("FLAVOR", shrinks=True),
        Column("NODES", right=True),
        Column("A NODE COSTS", right=True),
        Column("JOB"),
        Column("DETAIL", shrinks=True),
    ]
    _show(found, columns, rows, _unreachable(pages), as_json=as_json, none="no partitions")


@click.command(cls=Command, examples=["swm nodes --site lab"])
@site_option
@click.option("--partition", default="", help="Only of this partition.")
@json_option
def nodes(site: str, partition: str, as_json: bool) -> None:
    """List machines, and what jobs have of them."""
    from skyport.terminal.v1 import catalog_pb2
    from terminals.cli.tables import Column
    from terminals.cli.words import NOTHING, cell

    with connected() as client:
        request = catalog_pb2.ListNodesRequest(site=site, partition_id=partition)
        pages = list(client.pages(client.catalog.ListNodes, request))
    found = [node for page in pages for node in page.nodes]
    rows = (
        [
            cell(each.name),
            cell(each.site),
            cell(each.partition_id),
            _word(catalog_pb2.NodeState, each.state, "NODE_STATE_"),
            f"{each.allocated_cpus}/{each.cpus}",
            f"{_size(each.allocated_memory_bytes, '0')}/{_size(each.memory_bytes)}",
            f"{each.allocated_gpus}/{each.gpus}" if each.gpus else NOTHING,
            str(each.active_jobs),
            cell(each.message),
        ]
        for each in found
    )
    columns = [
        Column("NODE"),
        Column("SITE"),
        Column("PARTITION", shrinks=True),
        Column("STATE"),
        Column("CPUS", right=True),
        Column("MEMORY", right=True),
        Column("GPUS", right=True),
        Column("JOBS", right=True),
        Column("DETAIL", shrinks=True),
    ]
    _show(found, columns, rows, _unreachable(pages), as_json=as_json, none="no nodes")


def _show(
    found: Sequence[Message],
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    unreachable: Iterable[str],
    *,
    as_json: bool,
    none: str,
) -> None:
    from terminals.cli.tables import note, note_unreachable, show_json, show_table

    if as_json:
        show_json(found)
    elif found:
        show_table(columns, rows, styles=_STYLES)
    else:
        note(none)
    note_unreachable(unreachable)


def _unreachable(pages: Iterable[Any]) -> list[str]:
    return [site for page in pages for site in page.unreachable_sites]


def _word(kind: Any, value: int, prefix: str) -> str:
    """A value of an enum without its prefix; of a newer core's its number."""
    name: str = kind.Name(value) if value in kind.values() else f"{prefix}{value}"
    return name.removeprefix(prefix)


def _size(size_bytes: int, none: str = "-") -> str:
    from rpc_kit.units import format_size

    return format_size(size_bytes) if size_bytes else none
