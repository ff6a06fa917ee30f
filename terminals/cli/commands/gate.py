"""`swm gate`: the programs that speak to sites."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from terminals.cli.command import Command
from terminals.cli.options import connected, json_option, site_argument

_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?", re.ASCII)
"""As the core has it: the name becomes part of certificates and addresses."""


@click.group(invoke_without_command=True)
@click.pass_context
def gate(ctx: click.Context) -> None:
    """Look after gates, as their administrator."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@gate.command(
    cls=Command,
    context_settings={"ignore_unknown_options": True},
    examples=["swm gate add azure", "swm gate add azure --name lab-cloud"],
)
@click.argument("kind", metavar="KIND")
@click.option("--name", default="", help="The site's name.  [default: KIND]")
@click.argument("options", metavar="[OPTIONS OF THE GATE]...", nargs=-1, type=click.UNPROCESSED)
def add(kind: str, name: str, options: tuple[str, ...]) -> None:
    """Set a site up, and add it to swm.toml.

    It is for gates that need keys and a configuration before their first start. KIND is what the
    gate's program is called after: azure for swm-azure-gate. That program makes what the site needs
    in SWM_HOME and tells what is to be done next; further options are its own, see `swm-azure-gate
    set-up --help`. What is there already stays as it is. The core need not run, and reads swm.toml
    when it starts.
    """
    from terminals.cli.failures import Refused
    from terminals.cli.gate_programs import GateProgram
    from terminals.cli.home import core_home

    home = core_home()
    name = name or kind
    if not all(_NAME.fullmatch(each) for each in (kind, name)):
        raise Refused(f'"{name}" can\'t be the name of a site; use a-z, 0-9 and "-"')
    config = home / f"{name}.toml"
    program = f"swm-{kind}-gate"
    command = [program, "--config", str(config)]
    _with_site(home / "swm.toml", name, command)  # told before anything is made
    gate = GateProgram([program], home, f"the gate of {kind}")
    if "set-up" not in gate.help():
        line = f'command = ["{program}", "--config", FILE]'
        raise Refused(
            f"{program} has nothing to set up; write [sites.{name}] and {line} into "
            f"{home / 'swm.toml'}"
        )
    folder = home / "gates" / name
    words = ("--name", name, "--folder", str(folder), "--config", str(config))
    if code := gate.run("set-up", *words, *options):
        sys.exit(code)
    # Anew: that may have taken long, and what was written meanwhile is to stay.
    text = _with_site(home / "swm.toml", name, command)
    if text is not None:
        from rpc_kit import private_files

        private_files.replace(home / "swm.toml", text.encode())
        click.echo(f"\nadded site {name} to {home / 'swm.toml'}", err=True)


@gate.command(name="list", cls=Command, examples=["swm gate list"])
@json_option
def list_(as_json: bool) -> None:
    """List gates: who runs each, and how often it was started anew."""
    from skyport.terminal.v1 import catalog_pb2
    from terminals.cli.commands.catalog import how_to_add
    from terminals.cli.tables import Column, note, show_json, show_table
    from terminals.cli.words import NOTHING, cell

    with connected() as client:
        pages = client.pages(client.catalog.ListSites, catalog_pb2.ListSitesRequest())
        found = [site for page in pages for site in page.sites]
    if as_json:
        show_json(found)
        return
    if not found:
        note(f"no gates; {how_to_add()}")
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


def _with_site(path: Path, name: str, command: list[str]) -> str | None:
    """The text of swm.toml with a further site; None if it has that one.

    Raises:
        Refused: It is not there, can't be read, or has another site of that name.
    """
    import json
    import tomllib

    from terminals.cli.failures import Refused
    from terminals.cli.home import has_bundle_alone

    if has_bundle_alone(path.parent):
        raise Refused(
            f"{path.parent} has no core, only the bundle of one elsewhere; add the site where it "
            "lives"
        )
    try:
        text = path.read_text(encoding="utf-8")
        sites = tomllib.loads(text).get("sites", {})
    except FileNotFoundError:
        raise Refused(f"{path} is not there; run `swm init` first") from None
    except ValueError as error:
        raise Refused(f"{path} is not TOML: {error}") from None
    if isinstance(sites, dict) and name in sites:
        if isinstance(sites[name], dict) and sites[name].get("command") == command:
            return None
        raise Refused(f"{path} has a site {name} already; choose another --name")
    # A TOML text is what JSON has, for what is in a path.
    words = json.dumps(command, ensure_ascii=False)
    table = f"[sites.{name}]\ncommand = {words}\n"
    longer = f"{text.rstrip()}\n\n{table}"
    try:
        tomllib.loads(longer)
    except ValueError:
        one_line = table.strip().replace("\n", " ")
        raise Refused(f"{path} has its sites in one line; add by hand: {one_line}") from None
    return longer
