"""A secret is seen by its job's own processes and by nobody else, on no side and at no time.

Also keys: those of the CA and of the core are nowhere but in their files.
"""

from __future__ import annotations

import hashlib
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skyport.terminal.v1 import job_pb2
from tests.cli.terminal import SWM
from tests.security import sentinel
from tests.security.sentinel import LOUD, LoudSshSite, Secret, Sentinel, Trace
from tests.system.harness.core import Core, running_sites
from tests.system.harness.jobs import CANCELLED, QUEUED, RUNNING, SUCCEEDED, JobHandle
from tests.system.harness.sites import Site, node, queue, static
from tests.system.harness.waiting import eventually
from tests.testbed.fixtures import need_root
from tests.testbed.hosts import Bed

SITES = ["pretend", "batch", "lab"]


class LoudSite(Site):
    """A gate that logs all it can."""

    @property
    def command(self) -> list[str]:
        return [*super().command, "--log-level", "debug"]


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    """One host with two accounts, whose sshd logs all it can."""
    need_root()
    with Bed(("h1",), settings=("LogLevel DEBUG3",)) as bed:
        yield bed


@pytest.fixture(scope="module")
def core(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    folder = tmp_path_factory.mktemp("sentinel")
    (host,) = bed.hosts
    lab = {
        "partitions": {"one": {"hosts": ["h1"]}},
        "host": {"h1": {"address": host.address}},
        "users": {"bo": "alice", "cy": "bob"},
        "identity": f"{bed.folder}/keys/%r",
        "known_hosts": str(bed.known_hosts),
        "ssh_config": "",
        "use_agent": False,
        "work_root": "~/.skyport",
    }
    sites = [
        LoudSite.make("pretend", folder / "pretend", static(node("n1", cpus=1))),
        LoudSite.make("batch", folder / "batch", queue()),
        LoudSshSite.make("lab", folder / "lab", lab),
    ]
    with running_sites(folder, sites, log=LOUD) as core:
        yield core


@pytest.fixture(scope="module")
def trace(core: Core, bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trace]:
    """All programs that core, gates and sshd start from now on."""
    sshd = bed["h1"]._sshd
    assert sshd is not None
    made = Trace(tmp_path_factory.mktemp("trace") / "programs", [core.pid, sshd.pid])
    yield made
    made.close()


@pytest.fixture(scope="module")
def look(core: Core, bed: Bed, trace: Trace) -> Sentinel:
    return Sentinel(core, trace, lambda: [*core.home.log.iterdir(), bed["h1"].log])


@pytest.fixture
def hold(bed: Bed, tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes a file whose being there lets a script at a site go on."""
    made: list[Path] = []

    def make(site: str) -> Path:
        folder = bed["h1"].home("alice") if site == "lab" else tmp_path
        made.append(folder / f"go-{secrets.token_hex(4)}")
        return made[-1]

    yield make
    for path in made:
        path.touch()  # whatever the test has come to


def submit(core: Core, site: str, go: Path, secret: Secret) -> JobHandle:
    where = f"/home/alice/{go.name}" if site == "lab" else str(go)
    login = job_pb2.RegistryLogin(registry="r.example:5000", username="u", password=secret.password)
    return core.user().submit(
        # It tells that it has the secret, without telling the secret.
        f'#SWM output out\nprintf %s "$TOKEN" | sha256sum | tee out\n'
        f"until [ -e {where} ]; do sleep 0.1; done",
        site=site,
        secret_env={"TOKEN": secret.token},
        registry_logins=[login],
    )


def nowhere_now(look: Sentinel, bed: Bed, job: JobHandle, secret: Secret) -> None:
    """Look everywhere while the job may be anywhere on its way."""
    look.unseen(job, *secret.texts)
    host = bed["h1"]
    needles = [needle for text in secret.texts for needle in sentinel.forms(text)]
    for folder in (*(site.folder for site in look.core.sites.values()), bed.folder):
        assert not sentinel.files_with(folder, *needles)
    words = f"-e {secret.token} -e {secret.password}"
    assert not host.run(f"grep -rlsF {words} /home /tmp /run /var/tmp || :")
    for site in look.core.sites.values():
        assert not sentinel.open_to_others(site.folder / "site")
    sentinel.hidden(host.run(sentinel.sight("alice"), user="bob"), *secret.texts)


def nowhere_any_more(core: Core, bed: Bed, secret: Secret) -> None:
    """Look everywhere after the end: not even the store has it, nor its log."""
    sentinel.forgotten((core.home.path.parent, bed.folder), *secret.texts)


@pytest.mark.parametrize("site", SITES)
def test_a_secret_is_seen_by_its_job_and_nobody_else(
    look: Sentinel, bed: Bed, hold: Callable[[str], Path], secret: Secret, site: str
) -> None:
    go, core = hold(site), look.core
    job = submit(core, site, go, secret)
    job.written(b"-\n", within_s=60)
    nowhere_now(look, bed, job, secret)
    go.touch()
    job.until(SUCCEEDED, within_s=60)
    digest = hashlib.sha256(secret.token.encode()).hexdigest()
    assert job.output() == f"{digest}  -\n".encode()
    # The trace has seen the job begin: else it could not have seen a secret in its arguments.
    assert any(job.job_id in environment for _, environment in look.trace.started())
    nowhere_now(look, bed, job, secret)
    nowhere_any_more(core, bed, secret)
    job.delete()
    nowhere_any_more(core, bed, secret)


@pytest.mark.parametrize("site", ["pretend", "batch"])
def test_a_job_that_is_cancelled_before_its_start_leaves_none(
    look: Sentinel, bed: Bed, hold: Callable[[str], Path], secret: Secret, site: str
) -> None:
    first, second, core = hold(site), hold(site), look.core
    before = core.user().submit(f"until [ -e {first} ]; do sleep 0.1; done", site=site)
    before.until(RUNNING)
    job = submit(core, site, second, secret)
    if site == "batch":
        job.until(job_pb2.JOB_STATE_QUEUED_AT_SITE)
        # At a queue it waits in a file of the account's alone, until the claim.
        (private,) = sentinel.files_with(core.site(site).folder, secret.token.encode())
        assert private.stat().st_mode & 0o077 == 0
        assert not sentinel.open_to_others(core.site(site).folder / "site")
    else:
        assert job.get().state == QUEUED
        nowhere_now(look, bed, job, secret)
    job.cancel()
    job.until(CANCELLED)
    nowhere_any_more(core, bed, secret)
    first.touch()
    before.until(SUCCEEDED)


def test_a_gate_that_dies_before_the_claim_leaves_none(
    core: Core, bed: Bed, hold: Callable[[str], Path], secret: Secret
) -> None:
    site = core.site("pretend")
    site.faults({"kind": "die", "method": "StartJob", "when": "inside", "times": 1})
    go = hold("pretend")
    go.touch()
    pid = core.gate("pretend").pid
    job = submit(core, "pretend", go, secret)
    eventually(lambda: core.gate("pretend").pid not in (0, pid), "the gate was killed, and is back")
    job.until(SUCCEEDED, within_s=60)
    site.faults()
    nowhere_any_more(core, bed, secret)


def test_a_gate_that_dies_while_a_job_waits_in_its_queue_leaves_none(
    core: Core, bed: Bed, hold: Callable[[str], Path], secret: Secret
) -> None:
    first, second = hold("batch"), hold("batch")
    before = core.user().submit(f"until [ -e {first} ]; do sleep 0.1; done", site="batch")
    before.until(RUNNING)
    job = submit(core, "batch", second, secret)
    job.until(job_pb2.JOB_STATE_QUEUED_AT_SITE)
    core.kill_gate("batch")
    first.touch()
    second.touch()
    job.until(SUCCEEDED, within_s=60)
    nowhere_any_more(core, bed, secret)


def test_keys_are_nowhere_but_in_their_files(core: Core, bed: Bed, look: Sentinel) -> None:
    for file in (core.home.ca_key, core.home.core_key, bed.key("alice"), bed.key("bob")):
        look.kept(file, core.home.path.parent, bed.folder)


def test_a_crash_leaves_no_memory_behind(
    core: Core, look: Sentinel, bed: Bed, hold: Callable[[str], Path], secret: Secret
) -> None:
    """Last: what has secrets and keys in its memory is killed as by a defect."""
    go = hold("pretend")
    job = submit(core, "pretend", go, secret)
    job.written(b"-\n")
    gates = [core.gate(site).pid for site in SITES]
    for pid in (core.pid, *gates):
        limits = Path(f"/proc/{pid}/limits").read_text()
        (line,) = (line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert line.split()[4] == "0", "it may leave its memory in a file"
    before = time.time()
    assert core._end(signal.SIGABRT) == -signal.SIGABRT
    # Wherever this machine puts them.
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if not pattern.startswith("|"):
        folder = Path(pattern).parent if pattern.startswith("/") else Path.cwd()
        dumped = [path for path in folder.glob("core*") if path.lstat().st_mtime >= before]
        assert not [path for path in dumped if path.is_file()]
    core.start()
    core.wait_ready()
    go.touch()
    job.until(SUCCEEDED, within_s=60)
    for log in look.logs():
        assert secret.token not in log.read_text(errors="replace")
    nowhere_any_more(core, bed, secret)


def test_the_command_takes_secrets_from_no_argument() -> None:
    """It takes their names: values are read from the environment, which only the user sees."""
    told = subprocess.run(
        [SWM, "submit", "--secret-env", "A=b", "x"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert told.returncode == 2
    assert "A=b" not in told.stdout + told.stderr
