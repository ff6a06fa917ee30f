"""`swm init`, `up`: a core on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from terminals.cli.command import Command
from terminals.cli.options import DURATION, json_option

if TYPE_CHECKING:
    from skyport.terminal.v1 import catalog_pb2, server_pb2
    from terminals.client.connection import Client

_LOG_LINES = 20
_TICK_S = 0.1
_ANSWER_S = 2.0
"""A core answers within milliseconds; what takes longer is something else."""
_SITES_S = 10.0
"""How long `up` waits for gates that start."""


@click.command(cls=Command, examples=["swm init", "SWM_HOME=/srv/swm swm init --user ann"])
@click.option("--user", default="", help="Who you are to the core.  [default: your login name]")
def init(user: str) -> None:
    """Make certificates and configuration in SWM_HOME.

    Your own bundle too, with which you call the core. SWM_HOME is ~/.swm by default. What is there
    stays as it is. `swm up` does it by itself.
    """
    from terminals.cli.home import core_home

    sys.exit(_initialise(core_home(), user))


@click.command(cls=Command, examples=["swm up"])
@click.option(
    "--timeout", "timeout_s", type=DURATION, default="1m", help="How long to wait.  [default: 1m]"
)
@json_option
def up(timeout_s: int, as_json: bool) -> None:
    """Start the core in the background, and wait until it answers.

    The first time it makes what `swm init` makes. The core's log is log/core.log in SWM_HOME.
    """
    from terminals.cli.home import core_home
    from terminals.cli.progress import spinner
    from terminals.cli.tables import show_json
    from terminals.client.connection import Client

    home = core_home()
    if not ((home / "swm.toml").exists() and (home / "client.toml").exists()):
        _check_home(home)
        code = _initialise(home)
        if code:
            sys.exit(code)
    with Client.connect(home) as client:
        info = _answer(client)
        word = "up already"
        if info is None:
            _check_ports(home, client.bundle.endpoint)
            word = "up"
            with spinner() as waiting:
                waiting.say("starting the core")
                info = _start(client, home, timeout_s)
        with spinner() as waiting:
            waiting.say("waiting for the gates")
            sites = _settled_sites(client)
        if as_json:
            show_json([info])
            return
        click.echo(f"core {word} at {client.bundle.endpoint} (process {info.pid})")
    from terminals.cli.commands.status import show_sites

    show_sites(sites, home / "swm.toml")


def _check_home(home: Path) -> None:
    """Look whether a home is that of a user of a core elsewhere.

    Raises:
        Refused: It is, and no core is made in it.
    """
    from terminals.cli.failures import Refused
    from terminals.cli.home import has_bundle_alone

    if has_bundle_alone(home):
        raise Refused(
            f"{home} has the bundle of a core elsewhere, which `swm` calls; to run one here as "
            "well, set SWM_HOME to another folder"
        )


def _check_ports(home: Path, endpoint: str) -> None:
    """Look whether the core will listen where our bundle says it does.

    Raises:
        Refused: It won't.
    """
    import tomllib

    from terminals.cli.failures import Refused

    try:
        listen = tomllib.loads((home / "swm.toml").read_text()).get("listen")
    except (OSError, ValueError):
        return  # the core tells more about it
    if isinstance(listen, str) and listen.rpartition(":")[2] != endpoint.rpartition(":")[2]:
        raise Refused(
            f"{home}/swm.toml has the core listen at {listen}, and {home}/client.toml looks for it "
            f"at {endpoint}; make them the same"
        )


def _initialise(home: Path, user: str = "") -> int:
    """Run the core's own first run; returns its exit code."""
    from terminals.cli.home import CORE_COMMAND, core_environment

    done = subprocess.run(
        [*CORE_COMMAND, "init", *(["--user", user] if user else [])],
        env=core_environment(home),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        check=False,
    )
    return min(max(done.returncode, 0), 1)


def _start(client: Client, home: Path, timeout_s: float) -> server_pb2.GetServerInfoResponse:
    """Start a core and wait for its first answer.

    Raises:
        Refused: It ended, or did not answer in time.
    """
    from terminals.cli.failures import Refused
    from terminals.cli.home import core_pid, is_in_use

    log = home / "log" / "core.log"
    deadline = time.monotonic() + timeout_s
    while True:  # ends by the deadline
        # Another core may be on its way up, or down.
        while is_in_use(home):
            if info := _answer(client):
                return info
            if time.monotonic() >= deadline:
                raise Refused(
                    f"a core (process {core_pid(home) or 'unknown'}) is on its way up or down in "
                    f"{home}, or hangs: it does not answer after {timeout_s:g} s; see {log}"
                )
            time.sleep(_TICK_S)  # a lock can't be watched
        child, began = _spawn(home, log)
        while time.monotonic() < deadline:
            try:
                child.wait(_TICK_S)
                break
            except subprocess.TimeoutExpired:
                info = _answer(client)
                if info is not None and info.pid == child.pid:
                    return info
        else:
            raise Refused(
                f"the core (process {child.pid}) does not answer after {timeout_s:g} s; it goes on "
                f"starting, see {log}; it said:{_last_words(log, began)}"
            )
        # Another `swm up` may have been a moment earlier.
        if info := _answer(client):
            return info
        if not is_in_use(home):
            raise Refused(f"the core ended at its start; it said:{_last_words(log, began)}")


def _spawn(home: Path, log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a core; returns it, and where in the log its words begin."""
    from terminals.cli.home import CORE_COMMAND, core_environment

    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    descriptor = os.open(log, flags, 0o600)
    try:
        began = os.fstat(descriptor).st_size
        child = subprocess.Popen(
            [*CORE_COMMAND, "serve"],
            env=core_environment(home),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    return child, began


def _answer(client: Client) -> server_pb2.GetServerInfoResponse | None:
    """What the core says of itself; None if it does not answer (yet).

    Raises:
        CallFailed: It answers, and refuses us.
    """
    from rpc_kit.endpoint import Endpoint
    from skyport.terminal.v1 import server_pb2
    from terminals.client.errors import CallFailed

    endpoint = Endpoint.parse(client.bundle.endpoint)
    try:
        # Where nothing listens, grpc would try for most of a second.
        socket.create_connection((endpoint.host, endpoint.port), 2).close()
    except OSError:
        return None
    try:
        request = server_pb2.GetServerInfoRequest()
        return client.call(client.server.GetServerInfo, request, timeout_s=_ANSWER_S)
    except CallFailed as error:
        if error.reason:
            raise
        return None


def _last_words(log: Path, began: int) -> str:
    """What was written to the log since `began`, each line indented; at most the last 20."""
    import json

    from terminals.cli.words import plain

    with log.open("rb") as file:
        file.seek(max(began, log.stat().st_size - 65_536))
        lines = file.read().decode(errors="replace").splitlines()
    shown = []
    for line in lines[-_LOG_LINES:]:
        text = line.removeprefix("swm-core: ")
        if line.startswith("{"):
            try:
                record = json.loads(line)
                text = f"{record['level'].lower()}: {record['message']}"
            except (ValueError, KeyError, AttributeError, TypeError):
                pass  # cut, or not ours: as it is
        shown.append(f"\n  {plain(text)}")
    return "".join(shown) or f"\n  nothing, in {log}"


def _settled_sites(client: Client) -> list[catalog_pb2.Site]:
    """The sites, when none is starting any more, or after a while."""
    from skyport.terminal.v1 import catalog_pb2

    deadline = time.monotonic() + _SITES_S
    while True:  # ends by the deadline
        pages = client.pages(client.catalog.ListSites, catalog_pb2.ListSitesRequest())
        sites = [site for page in pages for site in page.sites]
        starting = any(site.state == catalog_pb2.SITE_STATE_STARTING for site in sites)
        if not starting or time.monotonic() > deadline:
            return sites
        time.sleep(_TICK_S)  # sites can't be watched
