"""A core and a gate as real processes, in a home that goes away with them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tomlkit

from bench.processes import run, running, wait_until
from rpc_kit.bundle import Bundle
from skyport.terminal.v1 import catalog_pb2
from swm_core.home import Home
from terminals.client import Client, ClientError

CPUS = 4
"""Of the only node of the only site; it is this machine, whatever it has."""

_ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """The only site of a core.

    Args:
        name: For the core.
        module: Its gate, as `python -m` takes it.
        config: The text of the gate's configuration.
    """

    name: str
    module: str
    config: str


FAKE = Site(
    "fake",
    "gates.fake_gate",
    f"""\
state_dir = "site"

[partitions.local]
kind = "static"
nodes = [{{ name = "node1", cpus = {CPUS} }}]
""",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Core:
    """A core that runs, with a site that is ready."""

    folder: Path
    """For anything that a measurement needs; on the disk that the home is on."""
    home: Path
    pid: int
    bundle: Bundle
    client: Client

    @property
    def environment(self) -> dict[str, str]:
        """What a terminal needs to find it."""
        return _environment(self.home)


@contextlib.contextmanager
def serving(
    site: Site = FAKE,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    prepare: Callable[[Home], None] = lambda home: None,
) -> Iterator[Core]:
    """A fresh core with one site.

    Args:
        site: The site.
        settings: Tables of swm.toml, in place of what its first version says.
        prepare: Done with its home before it starts.

    Raises:
        TimeoutError: Its site is not ready in time; the end of its log was printed.
    """
    folder = Path(tempfile.mkdtemp(prefix="swm-bench-"))
    try:
        home = folder / "home"
        python = [sys.executable, "-m", "swm_core"]
        run([*python, "init"], _environment(home))
        config = folder / "gate.toml"
        config.write_text(site.config)
        command = [sys.executable, "-m", site.module, "--config", str(config)]
        _configure(home, {**(settings or {}), "sites": {site.name: {"command": command}}})
        prepare(Home(home))
        log = folder / "core.log"
        bundle = Bundle.read(home / "client.toml")
        with (
            running("swm_core", "serve", env=_environment(home), log=log) as process,
            Client(bundle) as client,
        ):
            try:
                wait_until(lambda: _is_ready(process, client), "the site to be ready")
            except (TimeoutError, RuntimeError):
                for each in (log, home / "log" / f"gate-{site.name}.log"):
                    print(each.read_text()[-4000:] if each.exists() else "", file=sys.stderr)
                raise
            yield Core(folder, home, process.pid, bundle, client)
    finally:
        _remove(folder)


def _configure(home: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
    path = Home(home).config
    document = tomlkit.parse(path.read_text())
    for name, table in settings.items():
        document.setdefault(name, tomlkit.table()).update(table)
    path.write_text(tomlkit.dumps(document))


def _remove(folder: Path) -> None:
    """Delete a tree in which the last jobs may still write down how they ended."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
    print(f"bench: {folder} could not be removed", file=sys.stderr)


def _environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SWM_")}
    return kept | {"SWM_HOME": str(home), "PYTHONPATH": str(_ROOT)}


def _is_ready(process: subprocess.Popen[str], client: Client) -> bool | None:
    if process.poll() is not None:
        raise RuntimeError(f"the core ended with {process.returncode}")
    try:
        answer = client.call(client.catalog.ListSites, catalog_pb2.ListSitesRequest())
    except ClientError:
        return None
    return all(site.state == catalog_pb2.SITE_STATE_READY for site in answer.sites) or None
