"""What is left of the store after kill -9, and what a full disk does to it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swm_core.domain.job import Job
from swm_core.store import Store, StoreUnavailable
from tests.core.store.conftest import MakeJob

# Submits from 16 callers; each acknowledged id goes to standard output in one atomic write.
_WRITER = """
import asyncio, itertools, os, sys
from pathlib import Path
from swm_core.domain.job import Job, JobSpec
from swm_core.domain.states import JobState
from swm_core.store import Store

async def main():
    store = Store.open(Path(sys.argv[1]))
    run = sys.argv[2]
    numbers = itertools.count()
    async def caller():
        for number in numbers:
            job_id = f"{run}-{number}"
            job = Job(job_id=job_id, owner="alice", spec=JobSpec(), manifest_sha256="",
                      state=JobState.QUEUED, submit_time=1.0, state_time=1.0)
            await store.jobs.submit(job, b"true" * 100, job_id, "f", {"TOKEN": "secret"})
            os.write(1, f"{job_id}\\n".encode())
    await asyncio.gather(*(caller() for _ in range(16)))

asyncio.run(main())
"""


def acknowledged_before_kill_9(store_path: Path, run: str, enough: int) -> set[str]:
    """Let the writer acknowledge at least `enough` jobs, kill it, and return their ids."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(store_path), run], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(enough)]
        process.send_signal(signal.SIGKILL)
        # What was acknowledged in the moment of the kill counts as well.
        lines.extend(process.stdout.readlines())
    assert process.returncode == -signal.SIGKILL
    return {line.strip() for line in lines}


async def test_no_acknowledged_submit_is_lost_by_kill_9(store_path: Path) -> None:
    acknowledged: set[str] = set()
    for run, enough in (("a", 20), ("b", 300), ("c", 900)):
        acknowledged |= await asyncio.to_thread(acknowledged_before_kill_9, store_path, run, enough)

    store = Store.open(store_path)
    jobs = {job.job_id: job for job in store.jobs.active()}
    assert acknowledged <= jobs.keys()
    # Whole or not at all: each job has its script, its secrets, and exactly its own event.
    events = store.journal.since(0, limit=1_000_000).events
    assert [event.job_id for event in events] == list(jobs)
    assert [event.sequence for event in events] == [job.last_sequence for job in jobs.values()]
    for job_id in jobs:
        assert store.jobs.script(job_id) == b"true" * 100
        assert store.jobs.secrets(job_id) == {"TOKEN": "secret"}
    await store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB of its own, which takes root to mount."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "swm-test", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
async def test_a_full_disk_acknowledges_nothing_and_is_recovered_from(
    small_disk: Path, make_job: MakeJob
) -> None:
    store = Store.open(small_disk / "swm.db")
    kept: list[Job] = []
    refused: StoreUnavailable | None = None
    while refused is None and len(kept) < 1000:
        try:
            job, _ = await store.jobs.submit(make_job(), b"x" * 20_000, "", "f", {})
            kept.append(job)
        except StoreUnavailable as error:
            refused = error
    assert "full" in str(refused)
    assert kept
    # The next one fails alike, and readers still see everything that was acknowledged.
    with pytest.raises(StoreUnavailable):
        await store.jobs.submit(make_job(), b"x" * 20_000, "", "f", {})
    assert [job.job_id for job in store.jobs.active()] == [job.job_id for job in kept]
    assert store.journal.latest() == kept[-1].last_sequence

    await asyncio.to_thread(
        subprocess.run, ["mount", "-o", "remount,size=8m", str(small_disk)], check=True
    )
    job, created = await store.jobs.submit(make_job(), b"x" * 20_000, "", "f", {})
    assert created
    assert job.last_sequence == kept[-1].last_sequence + 1
    await store.close()

    again = Store.open(small_disk / "swm.db")
    assert len(again.jobs.active()) == len(kept) + 1
    await again.close()


async def test_a_full_disk_fails_every_write_of_the_batch(
    store_path: Path, make_job: MakeJob
) -> None:
    """The limit on file sizes stands for the disk, so that this needs no root."""
    result = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _FULL_BATCH, str(store_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "8 failed\n"
    store = Store.open(store_path)
    scripts = [store.jobs.script(job.job_id) for job in store.jobs.active()]
    assert scripts == [b"before", b"after"]
    await store.close()


_FULL_BATCH = """
import asyncio, itertools, resource, signal, sys
from pathlib import Path
from swm_core.domain.job import Job, JobSpec
from swm_core.domain.states import JobState
from swm_core.domain.job import Job
from swm_core.store import Store, StoreUnavailable

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
numbers = itertools.count()

def submit(store, script):
    job = Job(job_id=f"job-{next(numbers)}", owner="alice", spec=JobSpec(), manifest_sha256="",
              state=JobState.QUEUED, submit_time=1.0, state_time=1.0)
    return store.jobs.submit(job, script, "", "f", {})

async def main():
    store = Store.open(Path(sys.argv[1]))
    await submit(store, b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    big = [submit(store, b"x" * 100_000) for _ in range(8)]
    results = await asyncio.gather(*big, return_exceptions=True)
    failed = sum(isinstance(result, StoreUnavailable) for result in results)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await submit(store, b"after")
    await store.close()
    print(failed, "failed")

asyncio.run(main())
"""


_HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
"""


@pytest.fixture
def holder(store_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that can be told to let go of the write lock, which it takes when it is made."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(store_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


async def test_another_process_that_holds_the_lock_delays_a_write_only(
    store: Store, holder: subprocess.Popen[str], make_job: MakeJob
) -> None:
    assert holder.stdout is not None
    assert await asyncio.to_thread(holder.stdout.readline) == "held\n"
    submit = asyncio.create_task(store.jobs.submit(make_job(), b"", "", "f", {}))
    await asyncio.wait([submit], timeout=0.2)
    assert not submit.done()
    await asyncio.to_thread(holder.communicate, "go\n", 10)
    job, _ = await asyncio.wait_for(submit, 10)
    assert store.jobs.get(job.job_id) == job
