"""A real core: a process on a home of its own, with users, sites and certificates."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tomlkit

from rpc_kit.endpoint import Endpoint
from rpc_kit.identity import Kind
from rpc_kit.tls import KeyPair
from skyport.terminal.v1 import catalog_pb2, job_pb2
from swm_core.home import Home, initialise, load_ca
from swm_core.store import Store
from swm_core.store import User as StoredUser
from tests.system.harness.jobs import SUCCEEDED
from tests.system.harness.sites import Site, processes_marked
from tests.system.harness.users import User
from tests.system.harness.waiting import WITHIN_S, eventually, gone

ADMIN = "ann"
USERS = ("bo", "cy")
_START_S = 60.0
_STOP_S = 30.0


class Core:
    """A core that a test starts, stops and kills.

    Args:
        folder: Where its home is made; it must be new.
        sites: What it is configured with.
        settings: More tables of swm.toml.
    """

    def __init__(self, folder: Path, sites: Iterable[Site], **settings: Any) -> None:
        self.sites = {site.name: site for site in sites}
        self.endpoint = Endpoint("127.0.0.1", free_port())
        self.home = Home(folder)
        folder.mkdir(parents=True, mode=0o700)
        self.settings = settings
        """The tables of swm.toml beside its sites."""
        self.environment: dict[str, str] = {}
        """Of its process, beside what it always has."""
        self.configure()
        first = initialise(self.home, ADMIN)
        self.installation = first.installation
        self._ca = load_ca(self.home)
        asyncio.run(self._add_users())
        self._keys: dict[str, KeyPair] = {}
        self._users: dict[str, User] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, **settings: Any) -> None:
        """Write swm.toml, with these tables beside or in place of those of before."""
        self.settings = {"log": {"format": "text"}, **self.settings, **settings}
        tables = {name: site.settings for name, site in self.sites.items()}
        text = tomlkit.dumps({"listen": str(self.endpoint), **self.settings, "sites": tables})
        self.home.config.write_text(text)
        self.home.config.chmod(0o600)

    async def _add_users(self) -> None:
        store = Store.open(self.home.database)
        try:
            await store.users.add(StoredUser(ADMIN, admin=True, created=time.time()))
            for name in USERS:
                await store.users.add(StoredUser(name, admin=False, created=time.time()))
        finally:
            await store.close()

    # Who calls.

    def keys(self, name: str, kind: Kind = Kind.USER, **life: Any) -> KeyPair:
        """A fresh certificate of this installation's CA."""
        issued = self._ca.issue(kind, name, **life)
        return KeyPair(self._ca.cert_pem, issued.cert_pem, issued.key_pem)

    def user(self, name: str = "bo") -> User:
        """A user, with the same certificate each time."""
        if name not in self._users:
            if name not in self._keys:
                self._keys[name] = self.keys(name)
            self._users[name] = self.caller(self._keys[name], name)
        return self._users[name]

    def caller(self, keys: KeyPair, name: str = "somebody") -> User:
        """Whoever shows this certificate; close it in the end."""
        return User(name, keys, self.endpoint, self.installation)

    @property
    def admin(self) -> User:
        return self.user(ADMIN)

    def site(self, name: str) -> Site:
        return self.sites[name]

    # The process.

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and return when it answers calls, those of users of before too."""
        assert self._process is None or self._process.poll() is not None
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SWM_")}
        environment |= {"SWM_HOME": str(self.home.path), "PYTHONUNBUFFERED": "1"}
        environment |= self.environment
        with self.home.core_log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "swm_core", "serve"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + _START_S
        for user in dict.fromkeys([self.admin, *self._users.values()]):
            self._wait_for(user, until)

    def _wait_for(self, user: User, until: float) -> None:
        """Wait until a user's calls are answered.

        It is a call that shows it: a channel may be ready still, by the process before.
        """
        assert self._process is not None
        while not user.is_answered(within_s=2.0):
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"the core did not start:\n{self.log()[-3000:]}")

    def stop(self) -> int:
        """End it as `swm down` does; returns its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Have it gone at once, as by a crash."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill it, and start it again."""
        self.kill()
        self.start()

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(_STOP_S)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """What it has logged."""
        return self.home.core_log.read_text(errors="replace")

    # Its gates.

    def gate(self, name: str) -> catalog_pb2.Site:
        """A site as the core tells it to an administrator."""
        answer = self.admin.catalog.ListSites(catalog_pb2.ListSitesRequest(), timeout=30)
        (found,) = (site for site in answer.sites if site.name == name)
        return found

    def wait_ready(self, *names: str, within_s: float = WITHIN_S) -> None:
        """Wait until sites take jobs: these, or all."""
        for name in names or self.sites:

            def is_ready(name: str = name) -> bool:
                return self.gate(name).state == catalog_pb2.SITE_STATE_READY

            try:
                eventually(is_ready, f"site {name} is ready", within_s=within_s)
            except AssertionError as error:
                site = self.gate(name)
                told = "\n".join([site.message, *site.log_tail])
                raise AssertionError(f"{error}\n{told}") from None

    def kill_gate(self, name: str) -> int:
        """Kill a gate that the core started; returns which process that was."""
        pid = eventually(lambda: self.gate(name).pid, f"the gate of {name} runs")
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        return pid

    def end_all(self) -> None:
        """Have all jobs end now, whatever their sites say."""
        for site in self.sites.values():
            site.faults()
        states = [number for number in job_pb2.JobState.values() if 0 < number < SUCCEEDED]
        request = job_pb2.ListJobsRequest(filter=job_pb2.JobFilter(states=states), page_size=1_000)
        for job in self.admin.jobs.ListJobs(request, timeout=30).jobs:
            cancel = job_pb2.CancelJobRequest(job_id=job.job_id, force=True)
            self.admin.jobs.CancelJob(cancel, timeout=30)

    def close(self) -> None:
        """End it, however."""
        for user in self._users.values():
            user.close()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@contextlib.contextmanager
def running(
    folder: Path, sites: Mapping[str, Mapping[str, Any]], **settings: Any
) -> Iterator[Core]:
    """A core that runs, with sites that are ready.

    Args:
        folder: For all of it.
        sites: The configurations of fake gates, which the core starts.
        settings: More tables of swm.toml.
    """
    made = [Site.make(name, folder / name, config) for name, config in sites.items()]
    with running_sites(folder, made, **settings) as core:
        yield core


@contextlib.contextmanager
def running_sites(folder: Path, sites: Iterable[Site], **settings: Any) -> Iterator[Core]:
    """As `running`, for sites of whatever kind."""
    core = Core(folder / "home", sites, **settings)
    try:
        core.start()
        core.wait_ready()
        yield core
    finally:
        core.close()
        end_jobs(core)


def serves(core: Core, *sites: str) -> None:
    """Assert that a core and its gates still do their work: a job goes its whole way."""
    for site in sites or list(core.sites)[:1]:
        core.admin.submit("true", site=site).until(SUCCEEDED)


def end_jobs(core: Core) -> None:
    """Kill what jobs of this core a failed test has left behind."""
    for pid in processes_marked(core.installation):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    """A port that nobody has, below those that the system gives to outgoing connections."""
    while True:
        port = random.randrange(10_000, 20_000)  # noqa: S311  no secret
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
