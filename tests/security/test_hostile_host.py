"""What an account on a host makes up reaches nobody else's jobs, and stops no gate.

Two users of Sky Port have an account each on one real host. One of them writes into the own account
whatever helps against the other: everything there is theirs to write.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gate_kit.errors import Refusal
from gate_kit.ssh.local import LocalTransport
from gate_kit.ssh.remote_files import Reader, RemoteFiles
from gate_kit.ssh.shell import Shell
from skyport.gate.v1 import job_pb2 as gate_pb2
from skyport.gate.v1 import types_pb2
from skyport.terminal.v1 import catalog_pb2
from tests.ssh_gate.harness import SshSite
from tests.system.harness.core import Core, running_sites
from tests.system.harness.jobs import CANCELLED, ENDS, FAILED, RUNNING, SUCCEEDED, JobHandle
from tests.system.harness.sites import GateProcess
from tests.system.harness.waiting import eventually
from tests.testbed.fixtures import need_root
from tests.testbed.hosts import Bed

VICTIM, ATTACKER = "bo", "cy"
ACCOUNTS = {VICTIM: "alice", ATTACKER: "bob"}
WAIT = "echo up; until [ -e ~/go ]; do sleep 0.1; done; exit 3"


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    need_root()
    with Bed(("h1",)) as bed:
        yield bed


@pytest.fixture(scope="module")
def gate(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GateProcess]:
    folder = tmp_path_factory.mktemp("gate")
    (host,) = bed.hosts
    config = {
        "partitions": {"one": {"hosts": ["h1"]}},
        "host": {"h1": {"address": host.address}},
        "users": ACCOUNTS,
        "identity": f"{bed.folder}/keys/%r",
        "known_hosts": str(bed.known_hosts),
        "ssh_config": "",
        "use_agent": False,
        "work_root": "~/.skyport",
        "cpus": 16,
    }
    endpoint = f"unix://{folder}/s/gate.sock"
    site = SshSite.make("lab", folder / "lab", config, endpoint=endpoint)
    with contextlib.closing(GateProcess(site)) as gate:
        gate.keep_running()
        yield gate


@pytest.fixture(scope="module")
def core(gate: GateProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    with running_sites(tmp_path_factory.mktemp("core"), [gate.site]) as core:
        # Both accounts have their place.
        for user in ACCOUNTS:
            core.user(user).submit("true").until(SUCCEEDED, within_s=60)
        yield core


@pytest.fixture
def running(core: Core, bed: Bed) -> Iterator[JobHandle]:
    """A job of the victim's that runs, and that ends with exit code 3 once it may."""
    go = bed["h1"].home("alice") / "go"
    go.unlink(missing_ok=True)
    job = core.user(VICTIM).submit(WAIT)
    job.until(RUNNING, within_s=60)
    job.written(b"up\n")
    yield job
    go.touch()
    eventually(lambda: job.get().state in ENDS, "it has ended", within_s=60)


def begin_anew(core: Core, gate: GateProcess) -> None:
    """Have the gate forget all, and read it again from what lies on the host."""
    starts = gate.starts
    gate.kill()
    eventually(lambda: gate.starts > starts, "the gate is started again")
    core.wait_ready("lab", within_s=60)


class Account:
    """What the attacker writes."""

    def __init__(self, bed: Bed, core: Core) -> None:
        self.root = bed["h1"].home("bob") / ".skyport"
        self.jobs = self.root / "jobs/one" / core.installation
        self._uid = bed.uid("bob")
        self._installation = core.installation

    def attempt(self, name: str) -> Path:
        folder = self.jobs / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write(self, folder: Path, **files: str) -> None:
        for name, text in files.items():
            (folder / name.replace("_", ".")).write_text(text)

    def spec(self, job: JobHandle, owner: str) -> str:
        """What a gate writes down of a start, for a job of somebody's."""
        ref = types_pb2.JobRef(
            installation=self._installation, partition_id="one", job_id=job.job_id, attempt=1,
            owner=owner, nodes=["h1"],
        )  # fmt: skip
        request = gate_pb2.StartJobRequest(ref=ref, spec_fingerprint="0" * 64)
        return base64.b64encode(request.SerializeToString()).decode() + "\n.\n"

    def give(self) -> None:
        """All of it belongs to the account, as it would."""
        for path in [self.root, *self.root.rglob("*")]:
            os.chown(path, self._uid, self._uid, follow_symlinks=False)


@pytest.fixture
def account(bed: Bed, core: Core) -> Iterator[Account]:
    made = Account(bed, core)
    yield made
    shutil.rmtree(made.jobs, ignore_errors=True)


END = "exit 0\n0m0.01s 0m0.02s\n0m0.01s 0m0.02s\n.\n"
CLAIM = "00000000-0000-0000-0000-000000000000 1 1\n"


@pytest.mark.parametrize("owner", [VICTIM, ATTACKER])
@pytest.mark.parametrize("moment", ["told", "listed"])
def test_an_end_that_another_account_makes_up_is_none(
    core: Core,
    gate: GateProcess,
    running: JobHandle,
    account: Account,
    owner: str,
    moment: str,
    bed: Bed,
) -> None:
    folder = account.attempt(f"{running.job_id}.1")
    account.write(folder, spec=account.spec(running, owner), claim_h1=CLAIM, end_h1=END)
    account.give()
    if moment == "listed":
        begin_anew(core, gate)
    else:
        for pipe in account.root.glob("events/*"):
            with pipe.open("w") as told:
                told.write(f"one/{core.installation}/{running.job_id}.1\n")
    # Whatever the gate makes of it comes before the next job's own news.
    core.user(ATTACKER).submit("true").until(SUCCEEDED, within_s=60)
    assert running.get().state == RUNNING
    (bed["h1"].home("alice") / "go").touch()
    ended = running.until(FAILED, within_s=60)
    assert ended.exit_code == 3


def test_an_account_can_not_end_another_s_job_by_its_own_job_s_files(
    core: Core, gate: GateProcess, running: JobHandle, account: Account, bed: Bed
) -> None:
    """Its own job is real, and what lies in its folder tells of the victim's."""
    own = core.user(ATTACKER).submit("echo up; sleep 600")
    own.until(RUNNING, within_s=60)
    folder = account.attempt(f"{own.job_id}.1")
    account.write(folder, spec=account.spec(running, VICTIM), end_h1=END)
    account.give()
    begin_anew(core, gate)
    core.user(ATTACKER).submit("true").until(SUCCEEDED, within_s=60)
    assert running.get().state == RUNNING
    own.cancel(force=True)
    own.until(CANCELLED, within_s=60)
    (bed["h1"].home("alice") / "go").touch()
    assert running.until(FAILED, within_s=60).exit_code == 3


def contents(account: Account, running: JobHandle) -> None:
    """Files that say what cannot be."""
    for number, (name, text) in enumerate(
        {
            "labels": "no base64!\n.\n",
            "spec": base64.b64encode(b"\xff" * 99).decode() + "\n.\n",
            "claim.h1": "a b c\n",
            "verdict.h1": "\x1b[2J" * 9 + "\n",
            "workdir": "/../\0\n=key x\n.\n",
            "session.h1": "-1\n",
        }.items()
    ):
        (account.attempt(f"junk{number}.1") / name).write_text(text)


def ends(account: Account, running: JobHandle) -> None:
    """Ends of the account's own making, for an attempt that is told of."""
    whole = account.spec(running, ATTACKER)
    folder = account.attempt(f"{running.job_id}.1")
    times = f"{'9' * 40}m{'9' * 40}s 0m0.0.0.0s\n" * 2
    account.write(folder, spec=whole, claim_h1=CLAIM, end_h1=f"exit {'9' * 20}\n{times}.\n")
    # A time that no calendar has.
    for file in folder.iterdir():
        os.utime(file, (2**33 * 40, 2**33 * 40))


def names(account: Account, running: JobHandle) -> None:
    """Folders whose names are none of ours, or begin other lines."""
    for name in (
        "x.y",
        "x.1_0",
        ".1",
        "a b.1",
        "a\n.\n=key z.1",
        "$(touch up).1",
        "-rf.1",
        "x.\u0661",
    ):
        account.attempt(name)


def kinds(account: Account, running: JobHandle) -> None:
    """Links out, a pipe, and a folder where files belong."""
    linked = account.attempt("link.1")
    for name in ("labels", "spec", "claim.h1", "end.h1"):
        (linked / name).symlink_to("/etc/shadow")
    os.mkfifo(account.attempt("pipe.1") / "end.h1")
    (account.attempt("folder.1") / "spec").mkdir()


@pytest.mark.parametrize("junk", [contents, ends, names, kinds])
def test_what_an_account_leaves_lying_about_stops_nobody(
    core: Core,
    gate: GateProcess,
    running: JobHandle,
    account: Account,
    bed: Bed,
    junk: Callable[[Account, JobHandle], None],
) -> None:
    junk(account, running)
    account.give()
    begin_anew(core, gate)
    # Neither the other, nor the account itself.
    for user in ACCOUNTS:
        core.user(user).submit("echo on").until(SUCCEEDED, within_s=60)
    assert core.gate("lab").state == catalog_pb2.SITE_STATE_READY
    assert running.get().state == RUNNING
    assert not (bed["h1"].home("bob") / "up").exists()
    log = gate.site.folder / "gate.log"
    assert "\x1b" not in log.read_text(errors="replace")


def test_what_an_account_writes_to_its_pipes_stops_nobody(
    core: Core, running: JobHandle, account: Account
) -> None:
    lines = ["ready", "", "../../../..", "one/x/y.z", "one/../x.1", "\x1b[2J", "x" * 100_000, "\0"]
    for pipe in account.root.glob("events/*"):
        with pipe.open("w") as told:
            told.write("\n".join(lines * 3) + "\n")
    for user in ACCOUNTS:
        core.user(user).submit("true").until(SUCCEEDED, within_s=60)
    assert running.get().state == RUNNING


def test_a_login_shell_without_end_costs_its_own_account_alone(
    core: Core, gate: GateProcess, bed: Bed, running: JobHandle
) -> None:
    shell = bed["h1"].home("bob") / "flood"
    shell.write_text("#!/bin/sh\nexec cat /dev/zero\n")
    shell.chmod(0o755)
    bed.set_login_shell("bob", "/home/bob/flood")
    try:
        begin_anew(core, gate)
        core.user(VICTIM).submit("true").until(SUCCEEDED, within_s=60)
        assert running.get().state == RUNNING
        assert peak_mib(gate) < 500
    finally:
        bed.set_login_shell("bob", "/bin/bash")


def peak_mib(gate: GateProcess) -> int:
    """The most memory that a gate had."""
    assert gate._process is not None
    status = Path(f"/proc/{gate._process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) >> 10


# Programs in place of our own scripts, as an account may have them.


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("printf '#999999999999999\\n'; exec cat /dev/zero", "without end"),
        ("exec yes =$(head -c 60000 /dev/zero | tr '\\000' x)", "without end"),
        ("printf '#-5\\n.\\n'", ""),
        ("printf '#x\\n'", ""),
        ("head -c 3000000 /dev/zero | tr '\\000' x", ""),
    ],
)
async def test_an_answer_without_end_is_no_answer(program: str, says: str) -> None:
    transport = LocalTransport("n1")
    shell = Shell("n1", await transport.open(program))
    with pytest.raises(Refusal) as refused:
        await shell.ask("list", ("x",), b"")
    assert refused.value.reason == "NODE_UNREACHABLE"
    assert says in refused.value.message
    await shell.close()
    await transport.close()


async def test_a_file_that_grew_meanwhile_is_not_held(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"small")
    with large.open("wb") as file:
        file.truncate(64 << 20)
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(large, "./large")
        tar.add(small, "./small")
    transport = LocalTransport("n1")
    process = await transport.open(f"printf '.\\n'; cat {archive}; printf '.\\n'")
    files = RemoteFiles("n1", process, Reader(0, frozenset()), by_find=True)
    _, contents, _ = await files.small(["large", "small"])
    assert contents == {"small": b"small"}
    files.close()
    await transport.close()


@pytest.mark.parametrize(
    "answer",
    [
        "no record at all\\000\\000.\\n",
        "x x x x x f ./p\\000\\000.\\n",
        "644 -1 1e9 0 0 f ./p\\000\\000.\\n",
    ],
)
async def test_records_that_are_none_are_a_lost_link(answer: str) -> None:
    transport = LocalTransport("n1")
    process = await transport.open(f"printf '{answer}'")
    files = RemoteFiles("n1", process, Reader(0, frozenset()), by_find=True)
    with pytest.raises(Refusal) as refused:
        async for _ in files.walk(["*"]):
            pass
    assert refused.value.reason == "NODE_UNREACHABLE"
    files.close()
    await transport.close()
