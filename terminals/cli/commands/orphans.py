"""`swm orphans`: what sites have and the core does not know."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from terminals.cli.command import Command
from terminals.cli.options import connected, json_option, quietly_connected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skyport.terminal.v1 import admin_pb2
    from terminals.client.connection import Client


class OrphanId(click.ParamType[str]):
    """The id of an orphan; completed from what the core lists."""

    name = "orphan"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        # Whoever presses Tab wants no error and no waiting.
        with contextlib.suppress(Exception):
            from skyport.terminal.v1 import admin_pb2

            with quietly_connected() as client:
                request = admin_pb2.ListOrphansRequest()
                answer = client.call(client.admin.ListOrphans, request, timeout_s=1.0)
            return [
                CompletionItem(orphan.id, help=f"at site {orphan.site}")
                for orphan in answer.orphans
                if orphan.id.startswith(incomplete)
            ]
        return []


@click.command(
    cls=Command,
    examples=["swm orphans", "swm orphans --delete k3x9m2p7q4w8z", "swm orphans --delete --yes"],
)
@click.argument("ids", metavar="[ID...]", nargs=-1, type=OrphanId())
@click.option("--delete", is_flag=True, help="Delete these now, or all where no ID is given.")
@click.option("--yes", is_flag=True, help="Delete without asking.")
@json_option
def orphans(ids: tuple[str, ...], delete: bool, yes: bool, as_json: bool) -> None:
    """List what sites have of this core that it does not know.

    ID is that of a partition, or JOB/ATTEMPT. The core deletes an orphan by itself after the time
    of grace in swm.toml, unless another copy of its store may know it. For administrators.
    """
    if ids and not delete:
        raise click.UsageError("an ID goes with --delete")
    if yes and not delete:
        raise click.UsageError("--yes goes with --delete")
    with connected() as client:
        found, unreachable = _all(client)
        if ids:
            found = _chosen(found, ids)
        if delete:
            failed = _delete(client, found, yes=yes, as_json=as_json)
            _note_unreachable(unreachable)
            sys.exit(failed)
    _show(found, as_json=as_json)
    _note_unreachable(unreachable)


def _all(client: Client) -> tuple[list[admin_pb2.Orphan], list[str]]:
    from skyport.terminal.v1 import admin_pb2

    pages = list(client.pages(client.admin.ListOrphans, admin_pb2.ListOrphansRequest()))
    found = [orphan for page in pages for orphan in page.orphans]
    return found, [site for page in pages for site in page.unreachable_sites]


def _chosen(found: Sequence[admin_pb2.Orphan], ids: Sequence[str]) -> list[admin_pb2.Orphan]:
    from terminals.cli.failures import Refused

    chosen = [orphan for orphan in found if orphan.id in ids]
    missing = [each for each in ids if each not in {orphan.id for orphan in chosen}]
    if missing:
        raise Refused(f'there is no orphan "{missing[0]}"; `swm orphans` lists them')
    return chosen


def _delete(client: Client, found: Sequence[admin_pb2.Orphan], *, yes: bool, as_json: bool) -> int:
    """Have them deleted, after a question; returns the exit code."""
    from skyport.terminal.v1 import admin_pb2
    from terminals.cli.failures import Refused, report
    from terminals.cli.tables import note, show_json
    from terminals.cli.words import counted, plain
    from terminals.client.errors import ClientError, CoreUnreachable

    if not found:
        note("no orphans")
        return 0
    if not yes:
        if not sys.stdin.isatty():
            raise Refused("nobody is there to be asked; add --yes to delete them all the same")
        if not as_json:
            _show(found, as_json=False)
        what = counted(len(found), "orphan")
        if not click.confirm(f"Delete {what}, with what runs there?", err=True):
            raise Refused("nothing was deleted")
    failed = 0
    for orphan in found:
        request = admin_pb2.DeleteOrphanRequest(site=orphan.site, kind=orphan.kind, id=orphan.id)
        try:
            client.call(client.admin.DeleteOrphan, request)
        except CoreUnreachable:
            raise  # it would be the same for all
        except ClientError as error:
            failed = report(error)
        else:
            if as_json:
                show_json([orphan])
                continue
            click.echo(f"{plain(orphan.id)}  to be deleted at site {plain(orphan.site)}")
    return failed


def _show(found: Sequence[admin_pb2.Orphan], *, as_json: bool) -> None:
    from terminals.cli.tables import Column, note, show_json, show_table
    from terminals.cli.words import ago, cell, short_moment

    if as_json:
        show_json(found)
        return
    if not found:
        note("no orphans")
        return
    columns = [
        Column("ORPHAN"),
        Column("SITE"),
        Column("KIND"),
        Column("SEEN"),
        Column("DELETED AT"),
        Column("DETAIL", shrinks=True),
    ]
    rows = (
        [
            cell(each.id),
            cell(each.site),
            _kind(each),
            ago(each.seen_time),
            short_moment(each.delete_time) if each.HasField("delete_time") else "never",
            cell(each.message),
        ]
        for each in found
    )
    show_table(columns, rows, styles={"never": "yellow"})


def _kind(orphan: admin_pb2.Orphan) -> str:
    from skyport.terminal.v1 import admin_pb2

    try:
        name = admin_pb2.OrphanKind.Name(orphan.kind)
    except ValueError:
        return f"kind {int(orphan.kind)}"  # of a newer core
    return name.removeprefix("ORPHAN_KIND_").lower()


def _note_unreachable(sites: Sequence[str]) -> None:
    from terminals.cli.tables import note_unreachable

    note_unreachable(sites)
