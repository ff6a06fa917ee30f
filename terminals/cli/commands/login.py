"""`swm login`: keep the bundle that an administrator has handed over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from terminals.cli.command import Command

if TYPE_CHECKING:
    from rpc_kit.bundle import Bundle


@click.command(cls=Command, examples=["swm login bo.swm.toml"])
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--force", is_flag=True, help="Take the place of a bundle that you have.")
def login(file: Path, force: bool) -> None:
    """Become the user of the bundle FILE, here, for all commands.

    FILE comes from the core's administrator (`swm user add`). It is tried, and copied to
    client.toml in SWM_HOME, or to where SWM_CLIENT says. Then FILE can be deleted.
    """
    from rpc_kit.bundle import Bundle, BundleError
    from skyport.terminal.v1 import account_pb2
    from terminals.cli.tables import note
    from terminals.cli.words import moment, plain
    from terminals.client.connection import Client, bundle_path
    from terminals.client.errors import BundleInvalid

    try:
        if not file.exists():
            raise BundleError(f"{file}: no such file; name the bundle that you were given")
        bundle = Bundle.read(file)
    except BundleError as error:
        raise BundleInvalid(str(error)) from None
    path = bundle_path()
    _check_place(path, force=force)
    with Client(bundle) as client:
        me = client.call(client.accounts.WhoAmI, account_pb2.WhoAmIRequest())
    _keep(bundle, path, force=force)
    click.echo(
        f"you are {plain(me.user)} at {bundle.endpoint} until "
        f"{moment(me.certificate_expire_time)}; kept in {path}"
    )
    if file.resolve() != path.resolve():
        note(f"{file} is needed no more; delete it")


def _check_place(path: Path, *, force: bool) -> None:
    """Look whether a bundle may be put there.

    Raises:
        Refused: It may not.
    """
    import os

    from terminals.cli.failures import Refused

    if not os.path.lexists(path):
        return
    if (path.parent / "swm.toml").exists() and path.name == "client.toml":
        # It may be the only one with which that core can be looked after.
        raise Refused(
            f"{path} is the bundle of the core in {path.parent}; to be the user of another core as "
            "well, name a file of its own for it in SWM_CLIENT"
        )
    if not force:
        raise Refused(f"{path} is there; take its place with --force, or set SWM_CLIENT")


def _keep(bundle: Bundle, path: Path, *, force: bool) -> None:
    from rpc_kit import private_files
    from terminals.cli.failures import Refused

    try:
        if not path.parent.exists():
            private_files.make_folder(path.parent)
        if force:
            bundle.replace(path)
        elif not bundle.write_new(path):
            raise Refused(f"{path} has come into being meanwhile; take its place with --force")
    except OSError as error:
        raise Refused(f"{path}: {error.strerror or error}") from None
