"""`swm-core`: make a home, run a core on it, or check its configuration."""

from __future__ import annotations

import asyncio
import datetime
import logging
import sys
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import click

from rpc_kit import standard_output
from rpc_kit.allocator import keep_buffers
from rpc_kit.config_file import ConfigError
from rpc_kit.logs import configure
from rpc_kit.server import ServeError
from swm_core import __version__, config
from swm_core.home import Home, HomeError, initialise, lock
from swm_core.store.errors import StoreError

log = logging.getLogger("swm_core")

_SWITCH_S = 0.0005
"""How long a thread keeps the interpreter when another wants it. Each commit goes to the store's
thread and back; with Python's own 5 ms, what waits for one took a quarter longer."""


class _Commands(click.Group):
    """Commands whose errors are one line, as those of `swm`."""

    def main(self, *arguments: Any, **options: Any) -> NoReturn:
        code: object = 0
        options = {"prog_name": "swm-core", **options, "standalone_mode": False}
        try:
            code = super().main(*arguments, **options)
            sys.stdout.flush()
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else "swm-core"
            text = " ".join(error.format_message().split()).rstrip(".")
            click.echo(f"{where}: {text[:1].lower()}{text[1:]}; see `{where} --help`", err=True)
            code = 2
        except click.ClickException as error:
            click.echo(f"swm-core: {error.format_message()}", err=True)
            code = 1
        except click.Abort:
            click.echo("swm-core: interrupted", err=True)
            code = 130
        except OSError as error:
            if text := standard_output.failure_of(error):
                click.echo(f"swm-core: {text}", err=True)
                code = 1
            elif isinstance(error, BrokenPipeError):
                code = 141
            else:
                raise
            standard_output.drop()
        sys.exit(code if isinstance(code, int) else 0)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="swm-core")
@click.pass_context
def main(ctx: click.Context) -> None:
    """The core of Sky Port. $SWM_HOME names its folder (default ~/.swm)."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@main.command()
@click.option("--user", help="Name of the first user.  [default: your login name]")
def init(user: str | None) -> None:
    """Make certificates, configuration and the first user's bundle; overwrites nothing."""
    home = Home.find()
    try:
        first = initialise(home, user)
    except (HomeError, ConfigError) as error:
        _fail(error)
    if not first.created:
        click.echo(f"{home.path}: is initialised already; nothing was changed")
        return
    for path in first.created:
        click.echo(f"made {path}")


@main.command()
def serve() -> None:
    """Run the core in the foreground, until SIGTERM or SIGINT."""
    home = Home.find()
    try:
        first = initialise(home)
        settings = config.load(home.config)
        configure(settings.log.level, settings.log.format)
        from swm_core import app

        sys.setswitchinterval(_SWITCH_S)
        keep_buffers()
        with lock(home):
            asyncio.run(app.serve(first, settings))
    except (HomeError, ConfigError, ServeError, StoreError) as error:
        _fail(error)


@main.command("gate-certificate")
@click.argument("name")
@click.option(
    "--csr",
    type=click.File("rb"),
    help="A signing request of the gate's own key, which never leaves its machine.",
)
def gate_certificate(name: str, csr: BinaryIO | None) -> None:
    """Make the certificate of gate NAME, for one that serves on TCP and not on a unix socket."""
    from swm_core.security.ca import installation_of
    from swm_core.security.gates import certify_gate, issue_gate

    home = Home.find()
    try:
        key: Path | str = "KEY"
        if csr is not None:
            cert = certify_gate(home, name, csr.read())
        else:
            cert, key = issue_gate(home, name)
    except HomeError as error:
        _fail(error)
    click.echo(f"certificate of gate {name}; start the gate with:")
    click.echo(f"  --tls-cert {cert} --tls-key {key} --tls-ca {home.ca_cert}")
    click.echo(f"  --core-identity spiffe://{installation_of(home.ca_cert.read_bytes())}.swm/core")


@main.command("renew-ca")
def renew_ca() -> None:
    """Make a new certificate, for ten years, for the CA's key; the core may run.

    Certificates from before stay valid until they end.
    """
    from swm_core.security import renewal

    home = Home.find()
    try:
        old, new = renewal.renew_ca(home)
    except HomeError as error:
        _fail(error)
    click.echo(f"{home.ca_cert}: valid until {_day(new)}")
    click.echo(
        f"gates on other machines need a copy before {_day(old)}, and users a new bundle "
        "(`swm user renew NAME`); see docs/users.md"
    )


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--without-files", is_flag=True, help="Leave inputs, results and logs of jobs out.")
def backup(file: Path, without_files: bool) -> None:
    """Write all that the core keeps to FILE, which is new; the core may run."""
    from swm_core.backup import BackupError, back_up

    home = Home.find()
    try:
        back_up(home, file, with_files=not without_files)
    except (BackupError, HomeError) as error:
        _fail(error)
    click.echo(f"{file}: the backup of {home.path}; it holds all keys, so keep it as safe as them")


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--no-core-ran-since",
    is_flag=True,
    help="Take every job up again; only right if no core has run since the backup.",
)
def restore(file: Path, no_core_ran_since: bool) -> None:
    """Make the core's home, which must not be there, of the backup FILE."""
    from swm_core.backup import BackupError
    from swm_core.backup import restore as restored

    home = Home.find()
    try:
        contents = restored(home, file, nothing_since=no_core_ran_since)
    except (BackupError, HomeError) as error:
        _fail(error)
    made = datetime.datetime.fromtimestamp(contents.time, datetime.UTC)
    click.echo(f"{home.path}: as it was at {made:%Y-%m-%d %H:%M:%S} UTC")
    if not contents.has_files:
        click.echo("inputs, results and logs are not in this backup")
    if not no_core_ran_since:
        click.echo("jobs that had not ended then are not started again; `swm jobs` tells of each")


@main.command("check-config")
def check_config() -> None:
    """Tell every mistake in swm.toml, or that there is none."""
    home = Home.find()
    try:
        settings = config.load(home.config)
    except (HomeError, ConfigError) as error:
        _fail(error)
    names = ", ".join(settings.sites) or "none yet"
    click.echo(f"{home.config}: no mistakes; sites: {names}")


def _day(moment: float) -> str:
    return f"{datetime.datetime.fromtimestamp(moment, datetime.UTC):%Y-%m-%d}"


def _fail(error: Exception) -> NoReturn:
    for line in str(error).splitlines():
        click.echo(f"swm-core: {line}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
