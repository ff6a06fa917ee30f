"""`swm site`: what administrators do about a site.

The core is not needed for `swm site check`, whether jobs can run there: the gate's own program is
run with `--check`, as the core would run it to serve, and looks at the site itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from terminals.cli.command import Command
from terminals.cli.options import connected, site_argument


@click.group(invoke_without_command=True)
@click.pass_context
def site(ctx: click.Context) -> None:
    """Look after sites, as their administrator."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@site.command(
    cls=Command,
    examples=[
        "swm site check lab",
        "swm site check lab --json | jq 'select(.state == \"failed\")'",
    ],
)
@click.argument("name", metavar="NAME")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def check(name: str, as_json: bool) -> None:
    """Look at a site, and tell what to mend.

    NAME is a site of swm.toml in SWM_HOME whose gate the core starts. The core need not run. What
    is looked at is the gate's matter, and so is what jobs will miss there, each with the command
    that mends it. The SSH gate logs in to all hosts at once, as each account; that of Azure looks
    at login, role, quota, images and prices.

    The exit code is 1 if something has to be mended, otherwise 0.
    """
    from terminals.cli.failures import Refused
    from terminals.cli.gate_programs import GateProgram
    from terminals.cli.home import core_home

    home = core_home()
    gate = GateProgram(_command(home, name), home, f"the gate of site {name}")
    # One that has no check might begin to serve.
    if "--check" not in gate.help():
        raise Refused(
            f"the gate of site {name} ({gate.name}) has no check; whether it can reach the site is "
            "told by `swm sites`"
        )
    code = gate.run("--check", *(["--json"] if as_json else []))
    sys.exit(1 if code else 0)


@site.command(cls=Command, examples=["swm site drain lab"])
@site_argument
def drain(name: str) -> None:
    """Have a site take no new jobs. What it has runs to its end."""
    _set_drained(name, drained=True)
    click.echo(f"site {name} takes no new jobs, until `swm site resume {name}`")


@site.command(cls=Command, examples=["swm site resume lab"])
@site_argument
def resume(name: str) -> None:
    """Have a site that was drained take jobs again."""
    _set_drained(name, drained=False)
    click.echo(f"site {name} takes jobs")


def _set_drained(name: str, *, drained: bool) -> None:
    from skyport.terminal.v1 import admin_pb2

    with connected() as client:
        request = admin_pb2.DrainSiteRequest(site=name, drained=drained)
        client.call(client.admin.DrainSite, request)


@site.command(
    name="accept-change",
    cls=Command,
    examples=["swm site accept-change lab --partition hosts --node n3"],
)
@site_argument
@click.option("--partition", default="", help="Only this partition.")
@click.option("--node", default="", help="Only this node of the partition.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
def accept_change(name: str, partition: str, node: str, yes: bool) -> None:
    """Take a site as it is now, after a change that was meant.

    That is a host or a disk that was replaced, or another account. Where a site is not what it was,
    the core waits: what it sees there says nothing about what was there before. This ends the
    attempts that were on the old one, as lost.
    """
    from skyport.terminal.v1 import admin_pb2
    from terminals.cli.failures import Refused

    if node and not partition:
        raise click.UsageError("--node goes with --partition")
    if not yes:
        if not sys.stdin.isatty():
            raise Refused("nobody is there to be asked; add --yes to do it all the same")
        if not click.confirm(f"Give up what was at site {name} before it changed?", err=True):
            raise Refused("nothing was given up")
    request = admin_pb2.AcceptSiteChangeRequest(site=name, partition_id=partition, node=node)
    with connected() as client:
        # Each place that the core knows there is asked what it is now.
        client.call(client.admin.AcceptSiteChange, request, timeout_s=120)
    click.echo(f"site {name} is taken as it is now")


def _command(home: Path, name: str) -> list[str]:
    """The command of the gate of a site.

    Raises:
        Refused: There is no such site, or none whose gate we can run.
    """
    import tomllib

    from terminals.cli.failures import Refused
    from terminals.cli.home import has_bundle_alone

    if has_bundle_alone(home):
        raise Refused(
            f"{home} has no core, only the bundle of one elsewhere; check its sites where it lives"
        )
    path = home / "swm.toml"
    try:
        sites = tomllib.loads(path.read_text()).get("sites", {})
    except FileNotFoundError:
        raise Refused(f"{path} is not there; run `swm init`, and add the site to it") from None
    except ValueError as error:
        raise Refused(f"{path} is not TOML: {error}") from None
    if name not in sites:
        known = f"it has {', '.join(sites)}" if sites else "it has none"
        raise Refused(f'{path} has no site "{name}"; {known}')
    command = sites[name].get("command") if isinstance(sites[name], dict) else None
    if command and isinstance(command, list) and all(isinstance(word, str) for word in command):
        return list(command)
    endpoint = sites[name].get("endpoint") if isinstance(sites[name], dict) else None
    if endpoint:
        raise Refused(
            f"the gate of site {name} is run by somebody else, at {endpoint}; run its program "
            "there with --check, as `swm-ssh-gate --config FILE --check`"
        )
    raise Refused(f'site {name} in {path} has no gate; add command = ["…"]')
