"""A backup brings everything back, and a core that was put back starts nothing a second time."""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from skyport.terminal.v1 import job_pb2
from tests.system.harness.core import Core, running
from tests.system.harness.files import File
from tests.system.harness.jobs import FAILED, QUEUED, RUNNING, SUCCEEDED, JobHandle
from tests.system.harness.latch import Latch
from tests.system.harness.refusals import refused
from tests.system.harness.sites import dynamic, node, processes_of
from tests.system.harness.waiting import eventually

pytestmark = pytest.mark.timeout(300)

MakeLatch = Callable[[], Latch]


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    parts = {name: {"kind": "static", "nodes": [node(f"{name}-1")]} for name in ("a", "b", "c")}
    with running(tmp_path / "core", {"lab": {"partitions": parts}, "cloud": dynamic()}) as core:
        yield core


def swm(core: Core, *words: str) -> subprocess.CompletedProcess[str]:
    """The command of whoever owns the home."""
    return subprocess.run(
        [sys.executable, "-m", "terminals.cli.main", *words],
        env=os.environ | {"SWM_HOME": str(core.home.path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def done(core: Core, *words: str) -> str:
    """What a command says that succeeds."""
    told = swm(core, *words)
    assert told.returncode == 0, told.stderr
    return told.stdout


def put_back(core: Core, file: Path, *options: str) -> None:
    """Lose the home of a core that does not run, and make it of a backup."""
    core.home.path.rename(core.home.path.with_name("lost"))
    done(core, "restore", str(file), *options)


@dataclasses.dataclass
class Jobs:
    """Jobs as a backup finds them, and how often each has run."""

    folder: Path
    ended: JobHandle
    ends: JobHandle
    goes_on: JobHandle
    waits: JobHandle
    boots: JobHandle
    hold: dict[str, Latch]

    def ran(self, name: str) -> list[str]:
        """The attempts of a job that have begun."""
        path = self.folder / f"ran-{name}"
        return path.read_text().split() if path.exists() else []


def some_jobs(core: Core, folder: Path, latch: MakeLatch) -> Jobs:
    """One that has ended, two that run, one that waits behind them, one whose node is made."""
    hold = {name: latch() for name in ("ends", "goes_on", "waits")}

    def submit(name: str, partition: str, then: str = "") -> JobHandle:
        where = f"#SWM partition {partition}\n" if partition else "#SWM site cloud\n"
        return core.user().submit(
            f"{where}#SWM output r.txt\n#SWM retries 3\n#SWM cpus {4 if partition else 1}\n"
            f"echo $SWM_ATTEMPT >>{folder}/ran-{name}\necho begun\n{then}\ncat in >r.txt; echo end",
            inputs={"in": name.encode()},
        )

    ended = submit("ended", "c")
    ended.until(SUCCEEDED)
    ends = submit("ends", "a", hold["ends"].wait)
    goes_on = submit("goes_on", "b", hold["goes_on"].wait)
    for job in (ends, goes_on):
        job.written(b"begun\n")
    waits = submit("waits", "a")
    core.site("cloud").faults({"kind": "boot_never"})
    boots = submit("boots", "")
    eventually(core.site("cloud").partitions, "a partition is being made")
    assert waits.get().state == QUEUED
    return Jobs(folder, ended, ends, goes_on, waits, boots, hold)


def failed(job: JobHandle) -> job_pb2.Job:
    """The job, once it has failed; its events are of another history."""
    eventually(lambda: job.get().state == FAILED, f"{job.job_id} has failed")
    return job.get()


def came_home(job: JobHandle, name: str, attempt: int = 1) -> None:
    """Assert that a job has succeeded, with all that it gave."""
    assert job.get().state == SUCCEEDED
    assert job.output(attempt=attempt) == b"begun\nend\n"
    assert job.outputs() == {"r.txt": File(name.encode())}


def copied(core: Core, file: Path) -> Callable[[], None]:
    """A copy by hand of all that a core keeps, once it has ended, and how to put it back."""
    kept = file.with_suffix(".kept")

    def back() -> None:
        shutil.rmtree(core.home.path)
        shutil.copytree(kept, core.home.path, copy_function=shutil.copy2)

    core.kill()
    shutil.copytree(core.home.path, kept, ignore=shutil.ignore_patterns("*.sock"))
    core.start()
    core.wait_ready()
    return back


def backed_up(core: Core, file: Path) -> Callable[[], None]:
    """A backup of a core that runs, and how to put it back."""
    done(core, "backup", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    return lambda: put_back(core, file)


@pytest.mark.parametrize("keep", [backed_up, copied])
def test_an_older_store_starts_nothing_that_has_run_since_and_says_what_it_does_not_know(
    core: Core,
    tmp_path: Path,
    latch: MakeLatch,
    keep: Callable[[Core, Path], Callable[[], None]],
) -> None:
    jobs = some_jobs(core, tmp_path, latch)
    back = keep(core, tmp_path / "core.tar")
    # What the backup does not know: two that ran to their ends, one that was made.
    jobs.hold["ends"].release()
    jobs.ends.until(SUCCEEDED)
    jobs.waits.until(SUCCEEDED)
    new = core.user().submit(f"#SWM partition a\n{jobs.hold['waits'].wait}; echo new")
    new.until(RUNNING)
    lost_token = new.token
    core.site("lab").cleared(jobs.waits.job_id)
    core.kill()
    back()
    # As after a week: nothing at the site tells of it any more.
    shutil.rmtree(core.site("lab").root / "tombstones")
    core.site("cloud").faults()
    core.start()

    for job in (jobs.ends, jobs.waits):
        assert failed(job).failure.reason == "END_UNKNOWN"
    came_home(jobs.ended, "ended")
    jobs.hold["goes_on"].release()
    eventually(lambda: jobs.goes_on.get().state == SUCCEEDED, "it has come home")
    came_home(jobs.goes_on, "goes_on")
    assert [jobs.ran(name) for name in ("ended", "ends", "goes_on", "waits")] == [["1"]] * 4
    # Nodes that were being made are not made again.
    failed(jobs.boots)
    core.site("cloud").given_back()
    assert not jobs.ran("boots")
    # What the store does not know runs on, and is nobody's any more.
    assert processes_of(new.job_id)
    with pytest.raises(grpc.RpcError) as caught:
        new.get()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = core.user().jobs.WatchJobs(job_pb2.WatchJobsRequest(resume_token=lost_token))
    refused(lambda _, timeout: list(watch), None, grpc.StatusCode.OUT_OF_RANGE, "WATCH_EXPIRED")
    jobs.hold["waits"].release()
    # Whoever wants it to run again says so; no attempt of before is taken for the new one.
    jobs.waits.requeue()
    assert jobs.waits.until(SUCCEEDED).attempt == 101
    came_home(jobs.waits, "waits", 101)
    assert jobs.ran("waits") == ["1", "101"]


def test_a_core_that_has_moved_goes_on_with_every_job(
    core: Core, tmp_path: Path, latch: MakeLatch
) -> None:
    jobs = some_jobs(core, tmp_path, latch)
    core.stop()
    # Whose swm.toml lies elsewhere.
    core.home.config.rename(tmp_path / "swm.toml")
    core.home.config.symlink_to(tmp_path / "swm.toml")
    done(core, "backup", str(tmp_path / "core.tar"))
    jobs.hold["ends"].release()
    put_back(core, tmp_path / "core.tar", "--no-core-ran-since")
    assert not core.home.config.is_symlink()
    for path in core.home.path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    core.site("cloud").faults()
    core.start()
    jobs.hold["goes_on"].release()
    for name in ("ends", "goes_on", "waits", "boots"):
        job = getattr(jobs, name)
        job.until(SUCCEEDED)
        came_home(job, name)
        assert jobs.ran(name) == ["1"]
    came_home(jobs.ended, "ended")


def test_a_backup_without_files_keeps_jobs_and_takes_new_ones(core: Core, tmp_path: Path) -> None:
    job = core.user().submit("#SWM output r\necho r >r; echo said")
    job.until(SUCCEEDED)
    done(core, "backup", str(tmp_path / "core.tar"), "--without-files")
    with tarfile.open(tmp_path / "core.tar") as archive:
        assert not [name for name in archive.getnames() if name.startswith("home/spool/")]
    core.kill()
    put_back(core, tmp_path / "core.tar")
    core.start()
    assert job.get().state == SUCCEEDED
    assert job.output() == b""
    again = core.user().submit("#SWM output r\necho r >r", site="lab")
    again.until(SUCCEEDED)
    assert again.outputs() == {"r": File(b"r\n")}


def test_what_can_t_be_backed_up_or_restored_is_refused_in_one_line(
    core: Core, tmp_path: Path
) -> None:
    def refused_with(text: str, *words: str) -> None:
        told = swm(core, *words)
        assert (told.returncode, told.stdout) == (1, ""), words
        assert text in told.stderr
        assert told.stderr.count("\n") == 1, told.stderr

    good, other = tmp_path / "good.tar", tmp_path / "other.tar"
    done(core, "backup", str(good))
    refused_with("is there already", "backup", str(good))
    refused_with("part of its own backup", "backup", str(core.home.path / "b.tar"))
    refused_with("no such folder", "backup", str(tmp_path / "none" / "b.tar"))
    refused_with("is there already", "restore", str(good))
    core.kill()
    lost = core.home.path.with_name("lost")
    core.home.path.rename(lost)
    other.write_bytes(b"no backup")
    refused_with("is not a backup", "restore", str(other))
    with tarfile.open(other, "w") as archive:
        archive.add(core.site("lab").folder / "gate.toml", "gate.toml")
    refused_with("is not a backup", "restore", str(other))
    with tarfile.open(good) as source, tarfile.open(other, "w") as archive:
        for entry in source:
            archive.addfile(entry, source.extractfile(entry))
        archive.add(core.site("lab").folder / "gate.toml", "home/../../gate.toml")
    refused_with("it was changed", "restore", str(other))
    other.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    refused_with("is not a backup, or a part", "restore", str(other))
    assert not core.home.path.exists()
    assert sorted(path.name for path in lost.parent.iterdir() if path.name[0] == ".") == []
    lost.rename(core.home.path)
