"""`swm user add`, `list`, `renew`, `revoke`: who may use the core, for administrators."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from terminals.cli.command import Command
from terminals.cli.options import F, connected, json_option

if TYPE_CHECKING:
    from rpc_kit.bundle import Bundle
    from skyport.terminal.v1 import admin_pb2
    from terminals.client.connection import Client


@click.group(invoke_without_command=True)
@click.pass_context
def user(ctx: click.Context) -> None:
    """Look after users, as an administrator."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


class _Address(click.ParamType[str]):
    """HOST:PORT."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from rpc_kit.endpoint import Endpoint

        try:
            return str(Endpoint.parse(str(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _bundle_options(function: F) -> F:
    """What the file with a bundle is called, and what it says of the core."""
    for option in (
        click.option("--force", is_flag=True, help="Write over a file that is there."),
        click.option(
            "--address",
            type=_Address(),
            help="Where the user reaches the core.  [default: where the core listens]",
        ),
        click.option(
            "-o",
            "--output",
            type=click.Path(path_type=Path, dir_okay=False),
            help="The file to write.  [default: NAME.swm.toml]",
        ),
    ):
        function = option(function)
    return function


@user.command(
    cls=Command,
    examples=[
        "swm user add bo",
        "swm user add bo --address core.example.org:7717 -o /media/key/bo",
    ],
)
@click.argument("name", metavar="NAME")
@click.option("--admin", is_flag=True, help="Make an administrator.")
@_bundle_options
def add(name: str, admin: bool, output: Path | None, address: str | None, force: bool) -> None:
    """Make a user, and write the bundle to hand over.

    Whoever has the file can act as the user: hand it over where nobody else reads it, and delete it
    here. The user runs `swm login FILE`. Names are never used again for somebody else.
    """
    from skyport.terminal.v1 import admin_pb2

    path = _free_path(name, output, force=force)
    with connected() as client:
        request = admin_pb2.AddUserRequest(name=name, admin=admin)
        answer = client.call(client.admin.AddUser, request, timeout_s=60)
        _write(client, answer.bundle, path, address, force=force)


@user.command(cls=Command, examples=["swm user renew bo", "swm user renew bo -o bo.toml --force"])
@click.argument("name", metavar="NAME")
@_bundle_options
def renew(name: str, output: Path | None, address: str | None, force: bool) -> None:
    """Make a new certificate for a user, in a new bundle.

    For one whose certificate ends soon or was revoked, or whose bundle was lost. Certificates from
    before stay valid until they end; `swm user revoke` ends them at once.
    """
    from skyport.terminal.v1 import admin_pb2

    path = _free_path(name, output, force=force)
    with connected() as client:
        request = admin_pb2.RenewUserRequest(name=name)
        answer = client.call(client.admin.RenewUser, request, timeout_s=60)
        _write(client, answer.bundle, path, address, force=force)


@user.command(cls=Command, examples=["swm user revoke bo"])
@click.argument("name", metavar="NAME")
def revoke(name: str) -> None:
    """End all certificates of a user, at once.

    All calls that are open with them end too. The user's jobs run on, and their results stay;
    administrators see them and can cancel them. `swm user renew` lets the user in again.
    """
    from skyport.terminal.v1 import admin_pb2
    from terminals.cli.tables import note
    from terminals.cli.words import counted, plain

    with connected() as client:
        jobs = _active_jobs(client, name)
        client.call(client.admin.RevokeUser, admin_pb2.RevokeUserRequest(name=name), timeout_s=60)
    click.echo(f"revoked all certificates of {plain(name)}")
    if jobs:
        note(
            f"{counted(jobs, 'job')} of {plain(name)} go on; `swm jobs --state active "
            f"--owner {plain(name)}` lists them"
        )


@user.command("list", cls=Command, examples=["swm user list", "swm user list --json | jq .name"])
@json_option
def list_(as_json: bool) -> None:
    """List users, and until when their certificates are valid."""
    from skyport.terminal.v1 import admin_pb2
    from terminals.cli.tables import Column, show_json, show_table
    from terminals.cli.words import cell, short_moment

    with connected() as client:
        pages = client.pages(client.admin.ListUsers, admin_pb2.ListUsersRequest())
        users = [each for page in pages for each in page.users]
    if as_json:
        show_json(users)
        return
    rows = [
        [
            cell(each.name),
            "admin" if each.admin else "user",
            short_moment(each.create_time),
            _certificate(each),
        ]
        for each in users
    ]
    columns = [Column("USER"), Column("ROLE"), Column("SINCE"), Column("CERTIFICATE")]
    show_table(columns, rows, styles={"revoked": "red"})


def _certificate(each: admin_pb2.User) -> str:
    """How long the user can call the core, as far as is known."""
    from terminals.cli.words import NOTHING, short_moment

    if not each.certificates:
        return NOTHING
    valid = [certificate for certificate in each.certificates if not certificate.revoked]
    if not valid:
        return "revoked"
    latest = max(valid, key=lambda certificate: certificate.expire_time.seconds)
    word = "until" if latest.expire_time.seconds > time.time() else "ended"
    return f"{word} {short_moment(latest.expire_time)}"


def _active_jobs(client: Client, owner: str) -> int:
    from skyport.terminal.v1 import job_pb2
    from terminals.cli.states import ENDED

    states = [number for number in job_pb2.JobState.values() if number and number not in ENDED]
    request = job_pb2.ListJobsRequest(filter=job_pb2.JobFilter(owner=owner, states=states))
    return sum(len(page.jobs) for page in client.pages(client.jobs.ListJobs, request))


def _free_path(name: str, output: Path | None, *, force: bool) -> Path:
    """Where the bundle is to be written; looked at before the core makes anything.

    Raises:
        Refused: It can't be written there.
    """
    from terminals.cli.failures import Refused

    path = output or Path(f"{name}.swm.toml")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise Refused(f"{path.parent} is no folder that you can write to; choose another --output")
    if os.path.lexists(path) and not force:
        raise Refused(f"{path} is there; choose another --output, or write over it with --force")
    return path


def _write(
    client: Client, sent: admin_pb2.Bundle, path: Path, address: str | None, *, force: bool
) -> None:
    """Write a bundle to a file for its user.

    Raises:
        Refused: It can't be written; the certificate is made all the same.
    """
    import dataclasses

    from rpc_kit.bundle import Bundle, BundleError
    from terminals.cli.failures import Refused
    from terminals.cli.tables import note

    try:
        bundle = Bundle.parse(sent.content.decode(), "what the core sent")
    except (BundleError, UnicodeDecodeError) as error:
        raise Refused(str(error)) from None
    if address:
        bundle = dataclasses.replace(bundle, endpoint=address)
    again = f"once that is mended, `swm user renew {bundle.user}` makes another bundle"
    try:
        if force:
            bundle.replace(path)
        elif not bundle.write_new(path):
            raise Refused(f"{path} has come into being meanwhile; {again}")
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}; {again}") from None
    click.echo(path)
    note(f"whoever has this file can act as {bundle.user}; see `swm user add --help`")
    _note_address(bundle)


def _note_address(bundle: Bundle) -> None:
    from rpc_kit.endpoint import Endpoint
    from terminals.cli.tables import note

    if Endpoint.parse(bundle.endpoint).is_local:
        note(
            f"it is for this machine: others do not reach the core at {bundle.endpoint}; "
            "docs/users.md tells what to do"
        )
