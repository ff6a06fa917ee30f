"""The core's own disk is full, lies, can't be written or is away: nothing is lost, all goes on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from skyport.terminal.v1 import file_pb2
from tests.system.harness.core import Core, end_jobs
from tests.system.harness.disks import ThinDisk, filled, hidden, read_only, small_disk
from tests.system.harness.files import File, bring, manifest, sha256, upload_requests
from tests.system.harness.jobs import RUNNING, STAGING_OUT, SUCCEEDED, JobHandle
from tests.system.harness.latch import Latch
from tests.system.harness.refusals import problem_of, refused
from tests.system.harness.sites import Site, node, static
from tests.system.harness.users import submission
from tests.system.harness.watcher import Watcher
from tests.testbed.fixtures import need_root

AGAIN_S = 90.0
"""What could not be written is tried again after up to half a minute."""
PADDING = "#" * 200_000
"""In scripts, so that the store's disk notices each of them."""

SWM = (sys.executable, "-m", "terminals.cli.main")
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

pytestmark = pytest.mark.timeout(300)

MakeLatch = Callable[[], Latch]


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> ThinDisk:
    need_root()
    return ThinDisk(tmp_path_factory.mktemp("thin") / "backing")


@pytest.fixture(scope="module")
def core(thin: ThinDisk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    """Its store is on a disk that is thin, its spool on one that is small."""
    folder = tmp_path_factory.mktemp("disk")
    site = Site.make("lab", folder / "lab", static(node("n1", cpus=64)))
    core = Core(folder / "home", [site])
    with (
        thin.under(core.home.database.parent),
        small_disk(core.home.spool, 48),
        contextlib.ExitStack() as ending,
    ):
        ending.callback(end_jobs, core)
        ending.callback(core.close)
        core.start()
        core.wait_ready()
        yield core


def begun(core: Core, script: Path) -> subprocess.Popen[bytes]:
    """A `swm submit` that goes on."""
    return subprocess.Popen(
        [*SWM, "submit", str(script)],
        env=environment(core),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def says(core: Core, *words: str) -> str:
    """What a command says that fails."""
    done = subprocess.run(
        [*SWM, *words],
        env=environment(core),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def environment(core: Core) -> dict[str, str]:
    return os.environ | {"SWM_HOME": str(core.home.path)}


@pytest.mark.parametrize("fault", ["can not sync", "is full"])
def test_no_submit_that_was_acknowledged_is_lost_when_the_disk_of_the_store(
    core: Core, thin: ThinDisk, latch: MakeLatch, tmp_path: Path, fault: str
) -> None:
    hold = latch()
    runs = core.user().submit(f"#SWM output r\necho up; {hold.wait}; echo r >r; echo down")
    runs.written(b"up\n")
    watcher = Watcher(core.user())
    accepted: list[JobHandle] = []
    fails = {"can not sync": thin.out_of_storage(), "is full": filled(core.home.database.parent)}
    submit = core.user().jobs.SubmitJob
    request = submission("true")
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    with fails[fault]:
        for _ in range(400):
            request = submission(f"echo ran {PADDING}")
            try:
                answer = submit(request, timeout=30)
            except grpc.RpcError:
                break
            accepted.append(JobHandle(core.user(), answer.job.job_id, answer.watch_token))
        refused(submit, request, UNAVAILABLE, "STORE_UNAVAILABLE", says="cannot write its store")
        # What ends now can't be written down. It can be asked for as ever.
        hold.release()
        assert runs.get().state == RUNNING
        waits = begun(core, script)
        words = says(core, "cancel", runs.job_id)
        assert words.startswith("swm: the core cannot write its store, so nothing was done"), words
        assert words.count("\n") == 1
    # It gets well by itself: also whoever was refused and goes on asking.
    assert waits.wait(AGAIN_S) == 0
    same = submit(request, timeout=30)
    accepted.append(JobHandle(core.user(), same.job.job_id, same.watch_token))
    for job in (runs, *accepted):
        assert job.until(SUCCEEDED, within_s=AGAIN_S).attempt == 1
    watcher.saw_the_ends_of([runs, *accepted], within_s=AGAIN_S)
    assert (runs.output(), runs.outputs()) == (b"up\ndown\n", {"r": File(b"r\n")})
    core.restart()
    for job in accepted:
        assert job.get().state == SUCCEEDED
        assert job.output() == b"ran\n"


FAULTS = {"is full": filled, "is read-only": read_only, "is away": hidden}


@pytest.mark.parametrize("fault", FAULTS)
def test_results_wait_and_uploads_are_refused_when_the_disk_of_the_spool(
    core: Core, latch: MakeLatch, fault: str
) -> None:
    user = core.user()
    hold, more = latch(), latch()
    data = os.urandom(3 << 20)
    runs = user.submit(
        f"#SWM input in\n#SWM output out\necho up; {hold.wait}; cp in out; echo down; {more.wait}",
        inputs={"in": data},
    )
    runs.written(b"up\n")
    tree = {"big": os.urandom(2 << 20)}
    text, contents = manifest(tree)
    known = bring(user, {"known": b"known"})
    with FAULTS[fault](core.home.spool):
        upload = list(upload_requests((each, 0) for each in (*contents, text)))
        problem = problem_of(user.files.Upload, upload)
        if fault == "is full":
            assert (problem.code, problem.reason) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "SPOOL_FULL",
            )
        else:
            assert (problem.code, problem.reason) == (UNAVAILABLE, "STORE_UNAVAILABLE")
            asked = file_pb2.FindMissingRequest(
                contents=[file_pb2.Content(sha256=sha256(b"known"), size=5)]
            )
            missing = user.files.FindMissing
            refused(missing, asked, UNAVAILABLE, "STORE_UNAVAILABLE", says="its spool")
            request = submission("true")
            request.manifest_sha256 = known
            submit = user.jobs.SubmitJob
            refused(submit, request, UNAVAILABLE, "STORE_UNAVAILABLE", says="its spool")
        # Jobs without files come and go, and what has ended waits with its results.
        user.submit("true").until(STAGING_OUT, SUCCEEDED)
        hold.release()
        more.release()
        runs.until(STAGING_OUT)
        if fault == "is full":
            runs.until_text("room in the core's spool")
    job = user.submit("#SWM input big\n#SWM output big\ntrue", inputs=tree)
    for each in (job, runs):
        assert each.until(SUCCEEDED, within_s=AGAIN_S).attempt == 1
    assert job.outputs() == {"big": File(tree["big"])}
    assert runs.outputs() == {"out": File(data)}
    assert runs.output() == b"up\ndown\n"


def test_a_core_whose_spool_is_not_there_does_not_start_with_an_empty_one(core: Core) -> None:
    job = core.user().submit("#SWM output r\necho r >r", inputs={"a": b"a"})
    job.until(SUCCEEDED)
    core.stop()
    with hidden_at_start(core.home.spool), pytest.raises(AssertionError, match="mount its disk"):
        core.start()
    core.start()
    core.wait_ready()
    assert job.outputs() == {"r": File(b"r\n")}


@contextlib.contextmanager
def hidden_at_start(folder: Path) -> Iterator[None]:
    """As `hidden`, where the core may leave the mark of a new spool."""
    with hidden(folder):
        yield
        for path in folder.iterdir():
            path.unlink()


def test_a_gate_that_ends_is_started_again_where_no_log_can_be_written(
    core: Core, latch: MakeLatch
) -> None:
    hold = latch()
    job = core.user().submit(f"echo up; {hold.wait}")
    job.written(b"up\n")
    with read_only(core.home.log):
        core.kill_gate("lab")
        core.wait_ready("lab")
        hold.release()
        job.until(SUCCEEDED, within_s=AGAIN_S)
