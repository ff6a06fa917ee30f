"""Secrets of jobs in containers, and logins for registries, at a real Docker engine."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skyport.terminal.v1 import job_pb2
from tests.security import sentinel
from tests.security.sentinel import LOUD, LoudSshSite, Secret, Sentinel, Trace
from tests.system.harness.core import Core, running_sites
from tests.system.harness.jobs import FAILED, SUCCEEDED, JobHandle
from tests.system.harness.waiting import eventually
from tests.testbed import images
from tests.testbed.docker import Engine
from tests.testbed.fixtures import need_root
from tests.testbed.hosts import Bed, BedHost
from tests.testbed.registry import Registry

pytestmark = pytest.mark.timeout(300)

LONG_S = 90.0
LIST = ("image", "ls", "--all", "--quiet", "--no-trunc")
OWN, SITES = "own", "sites"
"""Two sites on one host: of one the job brings the login, of the other the gate has it."""


@dataclasses.dataclass
class Lab:
    """A host whose engine and sshd log all they can, and a registry."""

    bed: Bed
    engine: Engine
    registry: Registry
    password_file: Path
    """Where the gate of the second site has its login."""

    @property
    def host(self) -> BedHost:
        return self.bed["h1"]

    def image(self) -> str:
        """One that only the registry has."""
        name = f"tool:{secrets.token_hex(4)}"
        return self.registry.push(self.engine, images.busybox(self.engine), name)

    def login(self, password: str) -> job_pb2.RegistryLogin:
        """What a job brings to the registry."""
        return job_pb2.RegistryLogin(
            registry=self.registry.address, username=self.registry.user, password=password
        )

    def lies(self, *texts: str) -> list[Path]:
        """The files of the host and of its engine with one of these texts, in whatever form."""
        needles = [needle for text in texts for needle in sentinel.forms(text)]
        for text in texts:
            # What this machine does not see.
            found = self.host.run(f"grep -rlsF -e {text} /run || :")
            assert not found, found
        return [
            path
            for folder in (self.bed.folder, self.engine.folder)
            for path in sentinel.files_with(folder, *needles)
        ]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    need_root()
    password_file = tmp_path_factory.mktemp("login") / "password"
    with (
        Bed(("h1",), settings=("LogLevel DEBUG3",)) as bed,
        Engine(on=bed["h1"], settings={"debug": True, "log-level": "debug"}) as engine,
        Registry(bed.address) as registry,
    ):
        engine.allow(bed.uid("alice"))
        password_file.write_text(registry.password)
        password_file.chmod(0o600)
        yield Lab(bed, engine, registry, password_file)


@pytest.fixture(scope="module")
def core(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    folder = tmp_path_factory.mktemp("containers")
    config = {
        "hosts": ["h1"],
        "host": {"h1": {"address": lab.host.address}},
        "shared_account": True,
        "user": "alice",
        "identity": str(lab.bed.key("alice")),
        "known_hosts": str(lab.bed.known_hosts),
        "ssh_config": "",
        "use_agent": False,
        "cpus": 16,
        "containers": {"socket": lab.engine.host},
    }
    login = {"username": lab.registry.user, "password_file": str(lab.password_file)}
    sites = [
        LoudSshSite.make(OWN, folder / OWN, {**config, "work_root": "~/.skyport"}),
        LoudSshSite.make(
            SITES,
            folder / SITES,
            {**config, "work_root": "~/.skyport2", "registry": {lab.registry.address: login}},
        ),
    ]
    with running_sites(folder, sites, log=LOUD) as core:
        yield core


@pytest.fixture(scope="module")
def look(core: Core, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinel]:
    """Sees what core, gates, sshd and engine start from now on, and all logs."""
    roots = [lab.host._sshd, lab.engine._dockerd, lab.engine._containerd]
    pids = [process.pid for process in roots if process is not None]
    assert len(pids) == len(roots)
    trace = Trace(tmp_path_factory.mktemp("trace") / "programs", [core.pid, *pids])
    yield Sentinel(
        core,
        trace,
        lambda: [
            *core.home.log.iterdir(),
            lab.host.log,
            lab.engine.log,
            lab.engine.folder / "containerd.log",
        ],
    )
    trace.close()


def submit(core: Core, site: str, image: str, secret: Secret, **more: Any) -> JobHandle:
    return core.user().submit(
        f'#SWM container-image {image}\nprintf %s "$TOKEN" | sha256sum\n'
        "until [ -e go ]; do sleep 0.1; done",
        site=site,
        secret_env={"TOKEN": secret.token},
        **more,
    )


def nowhere_now(look: Sentinel, lab: Lab, job: JobHandle, *texts: str) -> None:
    """Look everywhere while the job is on its way. Its engine does not know its secrets."""
    look.unseen(job, *texts)
    assert not lab.lies(*texts)
    sentinel.hidden(lab.host.run(sentinel.sight("alice"), user="bob"), *texts)
    told = lab.engine.docker("system", "info")
    names = lab.engine.containers()
    for what, asked in (("container", names), ("image", lab.engine.docker(*LIST).split())):
        told += lab.engine.docker(what, "inspect", *asked) if asked else ""
    assert all(name in told for name in names)
    ask = f"docker -H {lab.engine.host} container inspect {' '.join(names) or 'none'} 2>&1; :"
    assert "permission denied" in lab.host.run(ask, user="bob")
    for text in texts:
        assert not [form for form in sentinel.forms(text) if form in told.encode()]


def nowhere_any_more(look: Sentinel, lab: Lab, *texts: str) -> None:
    places = (look.core.home.path.parent, lab.bed.folder, lab.engine.folder)
    sentinel.forgotten(places, *texts)


def is_pulled(image: str) -> bool:
    """Whether some process is there that pulls it."""
    return f"pull\0{image}\0".encode() in sentinel.command_lines()


@pytest.mark.parametrize("site", [OWN, SITES])
def test_a_login_and_a_secret_are_seen_by_nobody_else(
    look: Sentinel, lab: Lab, secret: Secret, site: str
) -> None:
    core, image, password = look.core, lab.image(), lab.registry.password
    logins = [lab.login(password)] if site == OWN else []
    with lab.registry.frozen():
        job = submit(core, site, image, secret, registry_logins=logins)
        eventually(lambda: is_pulled(image), "it is pulled", within_s=LONG_S)
        nowhere_now(look, lab, job, secret.token, password)
        core.kill_gate(site)
        nowhere_now(look, lab, job, secret.token, password)
    digest = hashlib.sha256(secret.token.encode()).hexdigest()
    job.written(f"{digest}  -\n".encode(), within_s=LONG_S)
    # The engine was asked with the login: without it there is nothing to be had.
    assert lab.engine.has(image)
    assert [name for name in lab.engine.containers() if job.job_id in name]
    nowhere_now(look, lab, job, secret.token, password)
    work = f"/home/alice/.skyport*/jobs/*/*/{job.job_id}.1/work"
    lab.host.run(f"cd {work} && touch go", user="alice")
    job.until(SUCCEEDED, within_s=LONG_S)
    # What was started there was seen: else a secret in arguments could not have been.
    seen = look.trace.started()
    for words in (('"docker"', '"pull"', f'"{image}"'), ('"docker"', '"run"', job.job_id)):
        assert any(all(word in arguments for word in words) for arguments, _ in seen), words
    assert any('"runc"' in arguments and '"create"' in arguments for arguments, _ in seen)
    look.unseen(job, secret.token, password)
    nowhere_any_more(look, lab, secret.token, password)


def test_a_login_that_is_refused_is_told_to_nobody(
    look: Sentinel, lab: Lab, secret: Secret
) -> None:
    image = lab.image()
    logins = [lab.login(secret.password)]
    job = submit(look.core, OWN, image, secret, registry_logins=logins)
    ended = job.until(FAILED, within_s=LONG_S)
    assert "does not let us have" in ended.failure.message
    nowhere_now(look, lab, job, *secret.texts)
    nowhere_any_more(look, lab, *secret.texts)
