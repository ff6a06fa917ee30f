"""One account on two hosts that see one home: what their jobs share, and what two cores do not."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import environment
from tests.cli.terminal import Swm
from tests.ssh_gate.bad_days import AGAIN_S, SITE, USER, site_config
from tests.ssh_gate.harness import SshSite
from tests.system.harness.core import Core, free_port, running_sites
from tests.system.harness.files import File
from tests.system.harness.jobs import CANCELLED, RUNNING, SUCCEEDED, JobHandle
from tests.system.harness.latch import Latch
from tests.system.harness.orphans import JOB, orphans, told, until_text
from tests.system.harness.sites import processes_of
from tests.system.harness.strays import Strays
from tests.system.harness.tunnels import answering, ask
from tests.system.harness.waiting import eventually
from tests.testbed.fixtures import need_root
from tests.testbed.hosts import Bed, BedHost

PARTITION = "both"
SOON = {"reconciliation": {"every": 1, "grace": 1}}
EVERY = "#SWM nodes 2\n#SWM launch every\n"
SIZE = 8 << 20
WAIT = "read -r _ <~/hold"

# With the directives of the original, as its users wrote them.
ORIGINAL = """\
#!/bin/bash

#SWM name Test job
#SWM comment It was written for the original
#SWM ports 8888/tcp/in,{port}/tcp/out
#SWM input {input}
#SWM output results.dat
#SWM workdir /tmp
#SWM relocatable

echo "job $SWM_JOBID of $USER in $PWD"
tr a-z A-Z <input.dat >results.dat
exec python3 - {port} <<'END'
import os, socket, sys, time
while True:
    try:
        hub = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
hub.sendall(os.environ["SWM_JOBID"].encode())
hub.shutdown(socket.SHUT_WR)
print(hub.makefile().read())
server = socket.create_server(("127.0.0.1", 8888))
print("listening", flush=True)
connection, _ = server.accept()
while data := connection.recv(100):
    connection.sendall(data.upper())
connection.close()
END
"""


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    need_root()
    with Bed(shared_home=True) as bed:
        yield bed


def make_site(bed: Bed, folder: Path) -> SshSite:
    """The site of one core; others may have the same hosts and the same work root."""
    both = {PARTITION: {"hosts": [host.name for host in bed.hosts]}}
    config = site_config(bed, partitions=both, shared_filesystem=True)
    site = SshSite.make(SITE, folder, config)
    # What the hosts call ~/.skyport.
    site.root.symlink_to(bed.home("h1") / USER / ".skyport")
    return site


@pytest.fixture(scope="module")
def core(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    folder = tmp_path_factory.mktemp("one")
    with running_sites(folder, [make_site(bed, folder / SITE)], **SOON) as core:
        yield core


@pytest.fixture
def root(core: Core) -> Iterator[Path]:
    """The work root, without jobs of the test before."""
    yield core.site(SITE).root
    if core.site(SITE).holds():
        core.end_all()
        core.site(SITE).cleared()


def nothing_is_left(root: Path) -> None:
    """Wait until the account has nothing of any job, but what later ones may use."""

    def left() -> list[Path]:
        places = ("jobs/*/*", "trash/*", "cache/in/*")
        return [path for place in places for path in root.glob(place)]

    eventually(lambda: not left(), "nothing is left of any job")


@pytest.fixture
def hold(bed: Bed) -> Iterator[Latch]:
    """A latch for jobs, whose name there is ~/hold."""
    latch = Latch(bed.home("h1") / USER / "hold")
    latch.path.chmod(0o666)
    with contextlib.closing(latch):
        yield latch
    latch.path.unlink()


def received(host: BedHost) -> int:
    """The bytes that have come to a host."""
    for line in host.run("cat /proc/net/dev").splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "eth0":
            return int(counts.split()[0])
    raise AssertionError(f"{host.name} has no cable")


def numbered(rank: int) -> bytes:
    return b"".join(b"%d %d\n" % (rank, number) for number in range(1, 20_001))


def test_what_a_job_on_two_hosts_needs_is_brought_once_and_all_that_both_made_comes_home(
    core: Core, bed: Bed, root: Path
) -> None:
    big = os.urandom(SIZE)
    before = {host.name: received(host) for host in bed.hosts}
    script = f"""{EVERY}#SWM input-files big
#SWM output-files of-*
touch here-$SWM_NODE_RANK
until [ -e here-0 ] && [ -e here-1 ]; do sleep 0.05; done
sha256sum big
seq 1 20000 | sed "s/^/$SWM_NODE_RANK /" | tee of-$SWM_NODE_RANK
"""
    job = core.user().submit(script, inputs={"big": big}, site=SITE)
    (attempt,) = job.until(SUCCEEDED, within_s=AGAIN_S).attempts
    nodes = [node.name for node in attempt.nodes]
    assert sorted(nodes) == ["h1", "h2"]
    came = [received(bed[node]) - before[node] for node in nodes]
    assert came[0] > SIZE
    assert came[1] < SIZE / 2
    for rank, node in enumerate(nodes):
        said = f"{hashlib.sha256(big).hexdigest()}  big\n".encode()
        assert job.output(node=node) == said + numbered(rank)
    # Not in a folder of each node's own.
    assert job.outputs() == {f"of-{rank}": File(numbered(rank)) for rank in (0, 1)}
    root_uid = (root / "root_uid").read_text().strip()
    with contextlib.closing(sqlite3.connect(f"file:{core.home.database}?mode=ro", uri=True)) as db:
        assert set(db.execute("SELECT node, root_uid FROM roots")) == {("", root_uid)}
    nothing_is_left(root)


def test_a_cancel_is_confirmed_by_both_hosts(core: Core, root: Path) -> None:
    job = core.user().submit(f"{EVERY}echo up; sleep 600", site=SITE)

    def wrote() -> list[bytes]:
        return [file.read_bytes() for file in root.glob(f"jobs/*/*/{job.job_id}.1/stdout.h*")]

    eventually(lambda: wrote() == [b"up\n"] * 2, "it runs on both", within_s=AGAIN_S)
    job.cancel()
    job.until(CANCELLED, within_s=AGAIN_S)
    assert not processes_of(job.job_id)
    nothing_is_left(root)


def test_what_runs_on_a_host_and_the_core_does_not_know_is_told_and_removed_after_the_grace_time(
    core: Core, root: Path
) -> None:
    # So that it is seen before it goes: nothing can be moved out of its folder's folder.
    script = 'chmod 500 "$SWM_WORKDIR/../.."; sleep 600'
    job_id = Strays(core, SITE).attempt(script=script, partition=PARTITION, node="h2")
    folder = core.site(SITE).attempt_folder(job_id)
    try:
        (orphan,) = told(core, f"{job_id}/1")
        assert (orphan.site, orphan.kind) == (SITE, JOB)
        assert orphan.delete_time.seconds - orphan.seen_time.seconds == 1
        until_text(core, f"{job_id}/1", "can't be moved")
        assert not processes_of(job_id)
        # As the host has it; and the clock of files is a little late.
        seen = orphan.seen_time.ToNanoseconds() / 1e9
        assert (folder / "end.h2").stat().st_mtime > seen + 0.9
    finally:
        folder.parent.chmod(0o700)
    eventually(lambda: not orphans(core), "nothing is told of any more")
    nothing_is_left(root)


def test_two_cores_with_one_account_leave_each_other_s_things_alone(
    core: Core, bed: Bed, root: Path, hold: Latch, tmp_path: Path
) -> None:
    script = f"#SWM input-files in\n#SWM output-files out\ncat in >out; echo up; {WAIT}"
    site = core.site(SITE)
    # With a gate of its own for each.
    with running_sites(tmp_path / "o", [make_site(bed, tmp_path / SITE)], **SOON) as other:
        jobs = [
            each.user().submit(script, inputs={"in": b"the same\n"}, site=SITE)
            for each in (core, other)
        ]
        for job in jobs:
            job.written(b"up\n")
        # Once these are gone, each core has compared the site and cleaned it.
        strays = [
            Strays(each, SITE).attempt(partition=PARTITION, node=node)
            for each, node in ((core, "h1"), (other, "h2"))
        ]
        for stray in strays:
            site.cleared(stray)
        assert [f"attempt {stray}/1 in" in core.log() for stray in strays] == [True, False]
        for job in jobs:
            assert f"attempt {job.job_id}/1 in" not in core.log() + other.log()
        kept, ended = jobs
        ended.cancel()
        ended.until(CANCELLED, within_s=AGAIN_S)
        site.cleared(ended.job_id)
        assert kept.get().state == RUNNING
        assert processes_of(kept.job_id)
        hold.release()
        kept.until(SUCCEEDED)
        assert kept.outputs() == {"out": File(b"the same\n")}
        nothing_is_left(root)


def test_a_script_that_was_written_for_the_original_runs_as_it_is(
    core: Core, bed: Bed, root: Path, tmp_path: Path
) -> None:
    port = free_port()
    (tmp_path / "input.dat").write_text("some input\n")
    text = ORIGINAL.format(port=port, input=tmp_path / "input.dat")
    here = tmp_path / "here"
    here.mkdir()
    (here / "job.sh").write_text(text)
    swm = Swm(environment(core.home.path), here)
    with answering(port) as came:
        result = swm("submit", "job.sh")
        assert (result.code, result.err) == (0, "")
        job_id = result.out.strip()
        job = JobHandle(core.admin, job_id, "")
        job.written(b"listening\n", within_s=AGAIN_S)
        assert ask(place_of_port(job), b"hello") == b"HELLO"
        assert swm("wait", job_id).code == 0
    assert came == [job_id.encode()]
    said = f"job {job_id} of {USER} in /tmp\nheard {job_id}\nlistening\n"
    assert swm.ok("logs", job_id) == said
    swm.ok("fetch", job_id, "-d", "results")
    assert (here / "results/results.dat").read_text() == "SOME INPUT\n"
    ended = job.get()
    assert (ended.spec.name, ended.spec.comment) == ("Test job", "It was written for the original")
    (node,) = ended.attempts[0].nodes
    # What it brought is taken away again.
    tmp = bed[node.name].folder / "tmp"
    eventually(lambda: [each.name for each in tmp.iterdir()] == ["results.dat"], "it is removed")
    nothing_is_left(root)


def place_of_port(job: JobHandle) -> tuple[str, int]:
    """Where the in port of a job is reached."""

    def found() -> list[str]:
        ports = [port for node in job.get().nodes for port in node.ports]
        return [port.local_address for port in ports if port.local_address]

    place, _, number = eventually(found, "the core listens")[0].rpartition(":")
    return place, int(number)
