"""The checks at the end of a world: they find nothing where nothing is wrong, and all that is."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.checks import twice, verdict
from tests.crash.leftovers import leftovers
from tests.crash.records import JobRecord, Row
from tests.crash.world import SITES, Submitted, World, running_world
from tests.system.harness.jobs import CANCELLED, RUNNING
from tests.system.harness.waiting import eventually

Spoil = Callable[[World, Submitted], contextlib.AbstractContextManager[None]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One in which everything was killed, and everything has ended."""
    with running_world(tmp_path_factory.mktemp("world")) as world:
        inputs = {"in.txt": b"hello\n" * 1_000}
        for name in SITES:
            for hold in ("true", "sleep 2"):
                world.submit(world.work(name, hold=hold, inputs=inputs))
        world.submit(world.work("hosts", exit_code=3))
        cancelled = world.submit(world.work("lab", hold="sleep 600"))
        world.kill("core", *SITES)
        world.start()
        world.cancel(cancelled)
        world.kill("hosts", "lab")
        world.start()
        world.settle()
        yield world


@pytest.fixture
def first(world: World) -> Submitted:
    """A job that has succeeded."""
    return next(iter(world.jobs.values()))


def test_nothing_is_wrong_after_kills_of_everything(world: World) -> None:
    found = verdict(world, within_s=60)
    assert found.is_clean, str(found)
    assert found.line == "kills 2, jobs 10, lost 0, doubled 0, leaked 0"


# What is wrong, for as long as the context lasts.


@contextlib.contextmanager
def more_facts(world: World, line: str) -> Iterator[None]:
    before = world.facts.read_bytes()
    with world.facts.open("a") as file:
        file.write(f"{line}\n")
    yield
    world.facts.write_bytes(before)


@contextlib.contextmanager
def no_facts(world: World, first: Submitted) -> Iterator[None]:
    before = world.facts.read_text()
    others = [line for line in before.splitlines(True) if first.job.job_id not in line]
    world.facts.write_text("".join(others))
    yield
    world.facts.write_text(before)


@contextlib.contextmanager
def unknown_job(world: World, first: Submitted) -> Iterator[None]:
    del world.jobs[first.job.job_id]
    yield
    world.jobs[first.job.job_id] = first


@contextlib.contextmanager
def forgotten_job(world: World, first: Submitted) -> Iterator[None]:
    world.jobs["none"] = first
    yield
    del world.jobs["none"]


@contextlib.contextmanager
def other_work(world: World, first: Submitted, **fields: object) -> Iterator[None]:
    before = first.work
    first.work = dataclasses.replace(before, **fields)  # type: ignore[arg-type]
    yield
    first.work = before


@contextlib.contextmanager
def process(world: World, first: Submitted) -> Iterator[None]:
    environment = {**os.environ, "SWM_JOB_ID": first.job.job_id}
    left = subprocess.Popen(["sleep", "60"], env=environment)
    yield
    left.kill()
    left.wait()


@contextlib.contextmanager
def runs_on(world: World, _: Submitted) -> Iterator[None]:
    before = world.facts.read_bytes()
    submitted = world.submit(world.work("hosts", hold="sleep 600"))
    submitted.job.until(RUNNING)
    yield
    world.cancel(submitted)
    submitted.job.until(CANCELLED)
    eventually(lambda: not leftovers(world), "nothing is left of it")
    submitted.job.delete()
    del world.jobs[submitted.job.job_id]
    world.facts.write_bytes(before)


@contextlib.contextmanager
def file(path: Path, data: bytes = b"x") -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(data)
    yield
    if before is None:
        path.unlink()
    else:
        path.write_bytes(before)


@contextlib.contextmanager
def listener(world: World) -> Iterator[None]:
    """One of a process that descends from a gate: we take the place of one."""
    pid = world.cluster.hosts["n1"].folder / "sshd.pid"
    with socket.create_server(("127.0.0.1", 0)), file(pid, str(os.getpid()).encode()):
        yield


def failed(world: World) -> Submitted:
    return next(each for each in world.jobs.values() if each.work.exit_code)


def blob(world: World) -> Path:
    return next(world.core.home.spool.glob("u-*/blobs/*/*"))


def runs_twice(world: World, first: Submitted) -> contextlib.AbstractContextManager[None]:
    return more_facts(world, f"{first.job.job_id} 1")


WRONG: dict[str, tuple[str, str, Spoil]] = {
    "ran twice": ("doubled", "ran 2 times", runs_twice),
    "ran unknown": ("doubled", "does not know", lambda w, _: more_facts(w, "nobody 1")),
    "never ran": ("lost", "never ran", no_facts),
    "unknown": ("doubled", "acknowledged to nobody", unknown_job),
    "forgotten": ("lost", "is not in the store", forgotten_job),
    "log": ("lost", "the log of attempt 1", lambda w, j: other_work(w, j, lines=9)),
    "outputs": ("lost", "its outputs", lambda w, j: other_work(w, j, joined_sha256=b"9")),
    "end": ("lost", "it ended as SUCCEEDED", lambda w, j: other_work(w, j, exit_code=1)),
    "other end": (
        "lost", "not ('FAILED', 'SIGNAL')", lambda w, j: other_work(w, j, cut="SIGNAL")
    ),
    "exit code": (
        "lost", "code and signal (3, None), not (4, None)",
        lambda w, _: other_work(w, failed(w), exit_code=4),
    ),
    "process": ("leaked", "has the environment of a job", process),
    "folder": ("leaked", "jobs/a/b/c", lambda w, _: file(w.site("lab").root / "jobs/a/b/c")),
    "allocation": ("leaked", "is allocated", runs_on),
    "draft of the core": (
        "leaked", ".core.pid.0a", lambda w, _: file(w.core.home.run / ".core.pid.0a1b2c3d")
    ),
    "draft": ("leaked", ".spec.1", lambda w, _: file(w.site("hosts").root / ".spec.1")),
    "listener": ("leaked", "listens on port", lambda w, _: listener(w)),
    "transfer": (
        "leaked", "partial/tmp-1", lambda w, _: file(w.core.home.spool / "u-bo/partial/tmp-1")
    ),
    "scratch": ("leaked", "a-put-1", lambda w, _: file(w.gates["lab"].scratch / "a-put-1")),
    "content": ("lost", "holds something else", lambda w, _: file(blob(w))),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_found(world: World, first: Submitted, what: str) -> None:
    kind, text, spoil = WRONG[what]
    with spoil(world, first):
        found = verdict(world, within_s=0.1)
    assert text in " ".join(map(str, getattr(found, kind))), str(found)


def test_two_ends_in_one_life_are_two() -> None:
    record = JobRecord("job", "SUCCEEDED", "request")
    for before, after in ((None, "QUEUED"), ("RUNNING", "FAILED"), ("RUNNING", "SUCCEEDED")):
        kind = "TRANSITION" if before else "SUBMITTED"
        record.events.append(Row(len(record.events), 1, before, after, kind, "", ""))
    assert list(twice(record, {}, runs=1)) == ["it ended 2 times: FAILED, SUCCEEDED"]
