"""Secrets at a Slurm site: not in what sbatch gets, nor in what Slurm keeps, tells and logs."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyport.terminal.v1 import job_pb2
from tests.security import sentinel
from tests.security.sentinel import LOUD, LoudSshSite, Secret, Sentinel, Trace
from tests.slurm.apptainer import SLOW, on_all_nodes
from tests.slurm.harness import SITE, replaced, site_config
from tests.system.harness.core import Core, running_sites
from tests.system.harness.jobs import (
    CANCELLED,
    QUEUED_AT_SITE,
    RUNNING,
    SUCCEEDED,
    JobHandle,
)
from tests.system.harness.waiting import eventually
from tests.testbed.fixtures import need_root
from tests.testbed.processes import descendants, only_child
from tests.testbed.slurm import Slurm

pytestmark = pytest.mark.timeout(300)

LONG_S = 90.0
SBATCH = """case $1 in --version) ;; *)
    echo called >>~/sbatch.called
    until [ -e ~/sbatch.go ]; do sleep 0.05; done
esac
exec /usr/bin/sbatch "$@"
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    """Two nodes; all daemons log all they can."""
    need_root()
    settings = ("SlurmctldDebug=debug5", "SlurmdDebug=debug5", "DebugFlags=Script,Steps,Protocol")
    with Slurm(settings=settings, sshd=("LogLevel DEBUG3",)) as slurm:
        yield slurm


@pytest.fixture(scope="module")
def core(cluster: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    folder = tmp_path_factory.mktemp("slurm")
    config = site_config(cluster, containers={"runtime": "apptainer"})
    site = LoudSshSite.make(SITE, folder / SITE, config)
    with running_sites(folder, [site], log=LOUD) as core:
        yield core


@pytest.fixture(scope="module")
def look(
    core: Core, cluster: Slurm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sentinel]:
    """Sees what core, gate, sshd and nodes start from now on, and all logs."""
    sshd = cluster.login._sshd
    assert sshd is not None
    daemons = [pid for name in cluster.names for pid in _daemons(cluster, name)]
    trace = Trace(tmp_path_factory.mktemp("trace") / "programs", [core.pid, sshd.pid, *daemons])
    yield Sentinel(
        core,
        trace,
        lambda: [
            *core.home.log.iterdir(),
            *(cluster.folder / "log").iterdir(),
            *(host.log for host in cluster.bed.hosts),
        ],
    )
    trace.close()


def _daemons(cluster: Slurm, name: str) -> list[int]:
    """The slurmd of a node, as this machine numbers it."""
    init = cluster.node(name)._init
    assert init is not None
    there = descendants(only_child(init.pid))
    found = [pid for pid in there if Path(f"/proc/{pid}/comm").read_text() == "slurmd\n"]
    assert found
    return found


@pytest.fixture
def go(cluster: Slurm) -> Iterator[Path]:
    """A file that lets jobs go on."""
    path = cluster.login.home() / f"go-{secrets.token_hex(4)}"
    yield path
    path.touch()  # whatever the test has come to
    cluster.heal()


@contextlib.contextmanager
def drained(cluster: Slurm) -> Iterator[None]:
    """Have no job begin while the context lasts."""
    update = f"SLURM_CONF={cluster.folder}/etc/slurm.conf scontrol update"
    nodes = f"nodename={','.join(cluster.names)}"
    cluster.controller.run(f"{update} {nodes} state=drain reason=test")
    try:
        yield
    finally:
        cluster.controller.run(f"{update} {nodes} state=resume")


def submit(core: Core, go: Path, secret: Secret, directives: str = "") -> JobHandle:
    login = job_pb2.RegistryLogin(
        registry="registry.example", username="u", password=secret.password
    )
    return core.user().submit(
        f'{directives}\nprintf %s "$TOKEN" | sha256sum\n'
        f"until [ -e /home/alice/{go.name} ]; do sleep 0.1; done",
        site=SITE,
        secret_env={"TOKEN": secret.token},
        registry_logins=[login],
    )


def digest(secret: Secret) -> bytes:
    return f"{hashlib.sha256(secret.token.encode()).hexdigest()}  -\n".encode()


def lies(cluster: Slurm, secret: Secret) -> list[Path]:
    """The files of the cluster with a secret: of homes, of hosts and of Slurm itself."""
    needles = [needle for text in secret.texts for needle in sentinel.forms(text)]
    for host in cluster.bed.hosts:
        # What this machine does not see.
        found = host.run(f"grep -rlsF -e {secret.token} -e {secret.password} /run || :")
        assert not found, f"{host.name}: {found}"
    return sentinel.files_with(cluster.bed.folder, *needles)


def private(cluster: Slurm, secret: Secret, ranks: int = 1) -> None:
    """Have the secret lie in a file of the account's alone for each rank, and nowhere else."""
    found = lies(cluster, secret)
    assert {path.name for path in found} == {f"private.{rank}" for rank in range(ranks)}
    for path in found:
        assert path.stat().st_mode & 0o077 == 0
        assert secret.password.encode() not in path.read_bytes()


def concealed(cluster: Slurm, look: Sentinel, job: JobHandle, secret: Secret, *unseen: str) -> None:
    """Have nobody but the job see its secrets, wherever Slurm tells of it.

    Args:
        cluster: Whose accounts look.
        look: Who looks besides.
        job: Whose they are.
        secret: The secrets.
        unseen: Those of them that no process ever had; all, if none is given.
    """
    look.unseen(job, *(unseen or secret.texts))
    ask = "squeue -a -O ALL; scontrol -o -d show job; scontrol -o show step; sinfo -O ALL"
    scripts = "for id in $(squeue -h -a -o %i); do scontrol write batch_script $id -; done"
    told = {
        user: cluster.login.run(f"{{ {ask}; {scripts}; }} 2>&1; :", user=user)
        for user in ("root", "alice", "bob")
    }
    # What each of them may ask for was told: the job, and the owner its script.
    assert all(f"{job.job_id}" in text for text in told.values())
    for text in told.values():
        assert not [needle for needle in secret.texts if needle in text]
    for host in (cluster.login, *map(cluster.node, cluster.names)):
        sentinel.hidden(host.run(sentinel.sight("alice"), user="bob"), *secret.texts)


def spooled(folder: Path) -> list[Path]:
    """What Slurm has below a folder of the script that it was given."""
    return sentinel.files_with(folder, b"# What Slurm runs for an attempt")


def nowhere_any_more(core: Core, cluster: Slurm, secret: Secret) -> None:
    sentinel.forgotten((core.home.path.parent, cluster.bed.folder), *secret.texts)


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_secret_is_seen_by_its_job_and_nobody_else(
    look: Sentinel, cluster: Slurm, go: Path, secret: Secret, nodes: int
) -> None:
    core = look.core
    directives = f"#SWM nodes {nodes}\n#SWM launch every\n#SWM site-option slurm.exclusive yes"
    with drained(cluster):
        job = submit(core, go, secret, directives)
        job.until(QUEUED_AT_SITE, within_s=LONG_S)
        private(cluster, secret, nodes)
        # The controller has the script and its environment by now.
        assert spooled(cluster.folder / "state")
        concealed(cluster, look, job, secret)
    job.until(RUNNING, within_s=LONG_S)
    job.written(digest(secret), within_s=LONG_S)
    eventually(lambda: not lies(cluster, secret), "it is in no file", within_s=LONG_S)
    assert any(spooled(cluster.folder / f"spool.{name}") for name in cluster.names)
    concealed(cluster, look, job, secret)
    go.touch()
    job.until(SUCCEEDED, within_s=LONG_S)
    # What was started there was seen: else a secret in arguments could not have been.
    seen = look.trace.started()
    assert any(job.job_id in environment for _, environment in seen)
    assert any('"sbatch"' in arguments for arguments, _ in seen)
    look.unseen(job, *secret.texts)
    nowhere_any_more(core, cluster, secret)


@pytest.mark.parametrize("is_gate_killed", [False, True])
def test_a_job_that_is_cancelled_in_the_queue_leaves_none(
    look: Sentinel, cluster: Slurm, go: Path, secret: Secret, is_gate_killed: bool
) -> None:
    with drained(cluster):
        job = submit(look.core, go, secret)
        job.until(QUEUED_AT_SITE, within_s=LONG_S)
        private(cluster, secret)
        if is_gate_killed:
            look.core.kill_gate(SITE)
        job.cancel()
        job.until(CANCELLED, within_s=LONG_S)
        assert not lies(cluster, secret)
    look.unseen(job, *secret.texts)
    nowhere_any_more(look.core, cluster, secret)


def test_a_gate_that_dies_between_spec_and_submission_leaves_none(
    look: Sentinel, cluster: Slurm, go: Path, secret: Secret
) -> None:
    home, core = cluster.login.home(), look.core
    called = home / "sbatch.called"
    with replaced(cluster, "sbatch", SBATCH):
        job = submit(core, go, secret)
        eventually(called.exists, "sbatch is called", within_s=LONG_S)
        private(cluster, secret)
        look.unseen(job, *secret.texts)
        core.kill_gate(SITE)
        eventually(lambda: len(called.read_text()) > len("called\n"), "again", within_s=LONG_S)
        private(cluster, secret)
        look.unseen(job, *secret.texts)
        (home / "sbatch.go").touch()
        # Whichever of the two comes first: none leaves anything.
        job.written(digest(secret), within_s=LONG_S)
    eventually(lambda: not lies(cluster, secret), "it is in no file", within_s=LONG_S)
    go.touch()
    job.until(SUCCEEDED, within_s=LONG_S)
    look.unseen(job, *secret.texts)
    nowhere_any_more(core, cluster, secret)


def test_a_login_is_seen_by_the_pull_of_its_image_alone(
    look: Sentinel, cluster: Slurm, go: Path, secret: Secret
) -> None:
    """Of what stands for apptainer."""
    with on_all_nodes(cluster) as apptainer:
        job = submit(look.core, go, secret, f"#SWM container-image {SLOW}")
        job.until_text(f"pulling {SLOW}: 1 layers", within_s=LONG_S)
        # It takes a login from its environment and from no better place: nobody else has that.
        for pid, data in sentinel.environments():
            if secret.password.encode() in data:
                assert b"\0--debug\0pull\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert not lies(cluster, secret)
        look.core.kill_gate(SITE)
        apptainer.go()
        job.until(QUEUED_AT_SITE, RUNNING, within_s=LONG_S)
        job.written(digest(secret), within_s=LONG_S)
        eventually(lambda: not lies(cluster, secret), "it is in no file", within_s=LONG_S)
        seen = [words for words, data in look.trace.started() if secret.password in data]
        assert seen
        assert all('"--debug", "pull", ' in words for words in seen)
        assert secret.password.encode() not in b"".join(it for _, it in sentinel.environments())
        concealed(cluster, look, job, secret, secret.token)
        go.touch()
        job.until(SUCCEEDED, within_s=LONG_S)
    nowhere_any_more(look.core, cluster, secret)
