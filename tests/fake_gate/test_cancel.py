"""Cancel, time limit and removal: nothing of the attempt runs afterwards."""

from __future__ import annotations

import asyncio
import time

import grpc

from skyport.gate.v1 import job_pb2
from tests.fake_gate.harness import (
    Gate,
    Tree,
    begin_request,
    drained,
    eventually,
    make_ref,
    pages,
    pieces,
    problem,
    processes_of,
    refused,
    start_request,
)

# A child that ignores TERM and has left session and process group.
_STUBBORN = "setsid sh -c 'trap \"\" TERM; echo up; sleep 61 & wait; sleep 62' & "
_UP = "echo up; "


async def test_cancel_ends_every_process_also_one_that_left_the_session(gate: Gate) -> None:
    ref, _ = await gate.start_job(f"env -i sleep 63 & {_STUBBORN} sleep 64")
    await gate.running(ref)
    await gate.printed(ref, b"up\n")
    began = time.monotonic()
    answer = await gate.cancel(ref, 0.3)
    assert time.monotonic() - began >= 0.3
    assert not processes_of(ref)
    assert answer.status.end.failure.reason == "CANCELLED"
    assert answer.status.end.HasField("start_time")
    again = await gate.cancel(ref)
    assert again.status.end == answer.status.end


async def test_a_script_that_obeys_term_is_not_killed(gate: Gate) -> None:
    ref, _ = await gate.start_job(
        f"trap 'echo bye; exit 0' TERM; {_UP} while :; do sleep 0.05; done", grace_s=30
    )
    await gate.running(ref)
    await gate.printed(ref, b"up\n")
    began = time.monotonic()
    answer = await gate.cancel(ref)
    assert time.monotonic() - began < 10
    assert answer.status.end.failure.reason == "CANCELLED"
    assert await gate.output(ref) == b"up\nbye\n"


async def test_a_second_cancel_with_less_grace_cuts_the_first_short(gate: Gate) -> None:
    ref, _ = await gate.start_job(f"trap '' TERM; {_UP} while :; do sleep 1; done")
    await gate.running(ref)
    await gate.printed(ref, b"up\n")
    patient = asyncio.create_task(gate.cancel(ref, 300))
    await eventually(
        lambda: (gate.attempt_folder(ref) / "verdict.n1").exists(), "the first cancel is noted"
    )
    await gate.cancel(ref, 0)
    assert (await patient).status.end.failure.reason == "CANCELLED"


async def test_cancel_before_the_start_has_no_start_time(gate: Gate) -> None:
    ref = make_ref()
    await gate.stage(ref)
    answer = await gate.cancel(ref)
    assert answer.status.state == job_pb2.JOB_STATE_ENDED
    assert answer.status.end.failure.reason == "CANCELLED"
    assert not answer.status.end.HasField("start_time")
    assert answer.status.end.HasField("end_time")


async def test_an_end_before_the_cancel_is_kept(gate: Gate) -> None:
    ref, _ = await gate.start_job("exit 4")
    end = await gate.ended(ref)
    answer = await gate.cancel(ref)
    assert answer.status.end == end
    assert end.exit_code == 4


async def test_cancel_ends_an_upload_that_is_under_way(gate: Gate) -> None:
    ref = make_ref()
    tree = Tree(files={"a": b"12345"})
    call = gate.files.PutFiles()
    await call.write(begin_request(ref, tree))
    for page in pages(tree):
        await call.write(page)
    assert (await call.read()).needed.last
    digest = next(iter(tree.contents))
    await call.write(pieces((digest, 0, b"12", False)))
    await gate.cancel(ref)
    await refused(drained(call), "JOB_CANCELLED", grpc.StatusCode.FAILED_PRECONDITION)


async def test_cancel_does_not_wait_for_a_start_that_hangs(gate: Gate) -> None:
    ref = make_ref()
    await gate.stage(ref)
    gate.faults({"kind": "never", "method": "StartJob", "when": "inside"})
    start = asyncio.create_task(problem(gate.jobs.StartJob(start_request(ref, "sleep 60"))))
    await eventually(lambda: (gate.attempt_folder(ref) / "spec").exists(), "the spec is written")
    answer = await gate.cancel(ref, 0)
    assert answer.status.end.failure.reason == "CANCELLED"
    assert (await start).reason == "JOB_CANCELLED"


async def test_the_time_limit_ends_every_process_without_the_gate(gate: Gate) -> None:
    ref, _ = await gate.start_job(
        f"trap '' TERM; {_STUBBORN} while :; do sleep 1; done", time_limit_s=3, grace_s=0.2
    )
    await gate.printed(ref, b"up\n")
    gate.kill()
    await eventually(lambda: (gate.attempt_folder(ref) / "end.n1").exists(), "the limit has come")
    assert not processes_of(ref)
    await gate.start()
    status = await gate.status(ref)
    assert status.end.failure.reason == "TIME_LIMIT"
    assert not status.end.failure.retryable


async def test_a_script_within_its_limit_leaves_no_timer_behind(gate: Gate) -> None:
    ref, _ = await gate.start_job("true", time_limit_s=3_333)
    assert (await gate.ended(ref)).exit_code == 0
    await eventually(
        lambda: not any(b"sleep\x003333" in data for data in _commands()), "the timer is gone"
    )


def _commands() -> list[bytes]:
    from pathlib import Path

    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found.append((folder / "cmdline").read_bytes())
            except OSError:
                continue
    return found


async def test_what_a_script_leaves_behind_is_ended_before_the_end_is_told(gate: Gate) -> None:
    ref, _ = await gate.start_job("setsid sleep 65 & env -i sleep 66 & exit 0")
    end = await gate.ended(ref)
    assert end.exit_code == 0
    assert not processes_of(ref)
    assert not any(b"sleep\x0066" in command for command in _commands())


async def test_a_cancel_does_not_wait_for_the_time_limit(gate: Gate) -> None:
    ref, _ = await gate.start_job("echo up; sleep 60", time_limit_s=3_600)
    await gate.printed(ref, b"up\n")
    answer = await gate.cancel(ref)
    assert answer.status.end.failure.reason == "CANCELLED"


async def test_interrupts_reach_a_script(gate: Gate) -> None:
    ref, _ = await gate.start_job("trap 'exit 9' INT; kill -INT $$; sleep 60")
    assert (await gate.ended(ref)).exit_code == 9


async def test_what_runs_is_not_removed(gate: Gate) -> None:
    ref, _ = await gate.start_job("sleep 60")
    await gate.running(ref)
    await refused(
        gate.jobs.RemoveJob(job_pb2.RemoveJobRequest(ref=ref)),
        "JOB_RUNNING",
        grpc.StatusCode.FAILED_PRECONDITION,
    )
    await gate.cancel(ref, 0)
    await gate.remove(ref)
    await gate.remove(ref)
    await refused(gate.jobs.GetJob(job_pb2.GetJobRequest(ref=ref)), "JOB_NOT_FOUND")


async def test_a_folder_that_a_job_made_unwritable_is_removed(gate: Gate) -> None:
    ref, _ = await gate.start_job("mkdir -p a/b; echo > a/b/c; chmod 500 a a/b")
    await gate.ended(ref)
    await gate.remove(ref)
    assert not gate.attempt_folder(ref).exists()


async def test_remove_of_the_never_seen_leaves_a_tombstone(gate: Gate) -> None:
    ref = make_ref("never-seen")
    await gate.remove(ref)
    await gate.remove(ref)
    await refused(gate.stage(ref), "JOB_CANCELLED")


async def test_a_named_work_folder_keeps_what_is_not_ours(gate: Gate) -> None:
    work = gate.folder / "mine" / "deep"
    work.mkdir(parents=True)
    (work / "theirs.txt").write_text("theirs")
    (work / "same.txt").write_text("same")
    ref = make_ref()
    tree = Tree(files={"in/ours.txt": b"ours", "same.txt": b"same"}, links={"link": "in/ours.txt"})
    await gate.stage(ref, tree, workdir=str(work))
    await gate.start_job(
        "cat link; echo out > out.txt", ref, workdir=str(work), manifest_sha256=tree.digest
    )
    await gate.ended(ref)
    assert await gate.output(ref) == b"ours"
    await gate.remove(ref)
    left = sorted(str(path.relative_to(work)) for path in work.rglob("*"))
    assert left == ["out.txt", "same.txt", "theirs.txt"]


async def test_another_file_in_a_named_work_folder_is_never_overwritten(gate: Gate) -> None:
    work = gate.folder / "mine"
    work.mkdir()
    (work / "a").write_text("theirs")
    found = await refused(
        gate.stage(make_ref(), Tree(files={"a": b"ours"}), workdir=str(work)), "FILE_DIFFERS"
    )
    assert found.code is grpc.StatusCode.ALREADY_EXISTS
    assert (work / "a").read_text() == "theirs"
    outside = gate.folder / "outside"
    outside.mkdir()
    (work / "b").symlink_to(outside)
    await refused(
        gate.stage(make_ref("j2"), Tree(files={"b/c": b"ours"}), workdir=str(work)), "FILE_DIFFERS"
    )
    assert not list(outside.iterdir())


async def test_the_next_attempt_of_a_job_takes_over_a_named_work_folder(gate: Gate) -> None:
    work = gate.folder / "mine"
    first, second = make_ref("job-1"), make_ref("job-1", attempt=2)
    await gate.stage(first, Tree(files={"a": b"one"}), workdir=str(work))
    await gate.stage(second, Tree(files={"a": b"two"}), workdir=str(work))
    await gate.remove(first)
    assert (work / "a").read_bytes() == b"two"
    await gate.remove(second)
    assert not work.exists()
