"""kill -9 of the gate at the moments that matter: nothing starts twice, nothing is forgotten."""

from __future__ import annotations

import os

import pytest

from skyport.gate.v1 import identity_pb2, job_pb2
from tests.fake_gate.harness import (
    Gate,
    claimed_pid,
    eventually,
    kill_process,
    make_ref,
    problem,
    processes_of,
    refused,
    start_request,
)

_SLEEP = "echo up; sleep 60"
_COUNT = "echo x >> ../count; read -r line < ../go"


def _count(gate: Gate, request: job_pb2.StartJobRequest) -> int:
    count = gate.attempt_folder(request.ref) / "count"
    return len(count.read_text().split()) if count.exists() else 0


async def _staged(gate: Gate, script: str = _COUNT) -> job_pb2.StartJobRequest:
    """A script that waits for a line in a named pipe."""
    ref = make_ref()
    await gate.stage(ref)
    os.mkfifo(gate.attempt_folder(ref) / "go")
    return start_request(ref, script)


def _go(gate: Gate, request: job_pb2.StartJobRequest) -> None:
    with (gate.attempt_folder(request.ref) / "go").open("w") as pipe:
        pipe.write("\n")


async def test_a_gate_that_dies_between_spec_and_runner_starts_it_when_asked_again(
    gate: Gate,
) -> None:
    request = await _staged(gate)
    gate.faults({"kind": "die", "method": "StartJob", "when": "inside", "times": 1})
    assert (await problem(gate.jobs.StartJob(request))).reason is None
    await gate.died()
    await gate.start()
    # The start was not answered and nothing runs: it is to be asked for again.
    assert (await gate.status(request.ref)).state == job_pb2.JOB_STATE_STAGED
    await gate.jobs.StartJob(request)
    await gate.running(request.ref)
    _go(gate, request)
    await gate.ended(request.ref)
    assert _count(gate, request) == 1


async def test_a_gate_that_dies_after_the_start_does_not_start_it_twice(gate: Gate) -> None:
    request = await _staged(gate)
    gate.faults({"kind": "die", "method": "StartJob", "times": 1})
    assert (await problem(gate.jobs.StartJob(request))).reason is None
    await gate.died()
    await gate.start()
    await gate.jobs.StartJob(request)
    await gate.running(request.ref)
    _go(gate, request)
    assert (await gate.ended(request.ref)).exit_code == 0
    assert _count(gate, request) == 1


async def test_a_lost_answer_changes_nothing(gate: Gate) -> None:
    request = await _staged(gate)
    gate.faults({"kind": "lose", "method": "StartJob", "times": 1})
    assert (await problem(gate.jobs.StartJob(request))).reason is None
    answer = await gate.jobs.StartJob(request)
    assert answer.status.state in {job_pb2.JOB_STATE_STARTING, job_pb2.JOB_STATE_RUNNING}
    await gate.running(request.ref)
    _go(gate, request)
    await gate.ended(request.ref)
    assert _count(gate, request) == 1


async def test_a_job_outlives_its_gate_and_its_end_is_pushed_by_the_next(gate: Gate) -> None:
    request = await _staged(gate, "read -r line < ../go; exit 6")
    await gate.jobs.StartJob(request)
    await gate.running(request.ref)
    await gate.restart()
    assert (await gate.status(request.ref)).state == job_pb2.JOB_STATE_RUNNING
    _go(gate, request)
    assert (await gate.ended(request.ref)).exit_code == 6


async def test_an_end_while_no_gate_was_there_is_found(gate: Gate) -> None:
    request = await _staged(gate, "read -r line < ../go; exit 8")
    await gate.jobs.StartJob(request)
    await gate.running(request.ref)
    gate.kill()
    _go(gate, request)
    await eventually(
        lambda: (gate.attempt_folder(request.ref) / "end.n1").exists(), "the runner wrote the end"
    )
    await gate.start()
    end = await gate.ended(request.ref)
    assert end.exit_code == 8
    assert end.start_time.ToNanoseconds() <= end.end_time.ToNanoseconds()


async def test_a_new_run_of_a_gate_has_a_new_incarnation(gate: Gate) -> None:
    before = await gate.identity.Probe(identity_pb2.ProbeRequest())
    await gate.restart()
    after = await gate.identity.Probe(identity_pb2.ProbeRequest())
    assert before.incarnation != after.incarnation


@pytest.mark.parametrize("watched", [True, False])
async def test_a_runner_that_is_gone_without_an_end_is_a_failed_node(
    gate: Gate, *, watched: bool
) -> None:
    ref, _ = await gate.start_job(_SLEEP)
    await gate.printed(ref, b"up\n")
    runner = claimed_pid(gate, ref)
    if not watched:
        gate.kill()
    kill_process(runner)
    if not watched:
        await gate.start()
    # What the script started still runs, so the attempt does.
    assert (await gate.status(ref)).state == job_pb2.JOB_STATE_RUNNING
    for pid in processes_of(ref):
        kill_process(pid)
    end = await gate.ended(ref)
    assert end.failure.reason == "NODE_FAIL"
    assert end.failure.retryable
    assert (await gate.status(ref)).end == end
    await refused(gate.jobs.StartJob(start_request(ref, "other")), "JOB_DIFFERS")
    again = await gate.jobs.StartJob(start_request(ref, _SLEEP))
    assert again.status.end == end


async def test_a_claim_of_another_boot_is_a_failed_node(gate: Gate) -> None:
    ref, _ = await gate.start_job(_SLEEP)
    await gate.printed(ref, b"up\n")
    gate.kill()
    claim = gate.attempt_folder(ref) / "claim.n1"
    _, pid, started = claim.read_text().split()
    for each in (int(pid), *processes_of(ref)):
        kill_process(each)
    claim.write_text(f"00000000-0000-0000-0000-000000000000 {pid} {started}\n")
    await gate.start()
    assert (await gate.ended(ref)).failure.reason == "NODE_FAIL"


async def test_a_number_that_another_process_has_now_is_not_the_runner(gate: Gate) -> None:
    ref, _ = await gate.start_job(_SLEEP)
    await gate.printed(ref, b"up\n")
    gate.kill()
    claim = gate.attempt_folder(ref) / "claim.n1"
    boot, pid, _ = claim.read_text().split()
    for each in (int(pid), *processes_of(ref)):
        kill_process(each)
    claim.write_text(f"{boot} {os.getpid()} 1\n")
    await gate.start()
    assert (await gate.ended(ref)).failure.reason == "NODE_FAIL"


async def test_a_claim_that_nobody_can_read_is_an_unknown_end(gate: Gate) -> None:
    ref, _ = await gate.start_job(_SLEEP)
    await gate.printed(ref, b"up\n")
    gate.kill()
    for each in (claimed_pid(gate, ref), *processes_of(ref)):
        kill_process(each)
    (gate.attempt_folder(ref) / "claim.n1").write_text("garbage")
    await gate.start()
    end = await gate.ended(ref)
    assert end.failure.reason == "END_UNKNOWN"
    assert not end.failure.retryable


async def test_a_cancel_that_was_cut_is_finished_by_the_next_gate(gate: Gate) -> None:
    ref, _ = await gate.start_job(_SLEEP)
    await gate.printed(ref, b"up\n")
    gate.faults({"kind": "die", "method": "CancelJob", "when": "inside", "times": 1})
    assert (await problem(gate.cancel(ref))).reason is None
    await gate.died()
    await gate.start()
    answer = await gate.cancel(ref, 0)
    assert answer.status.end.failure.reason == "CANCELLED"
    assert not processes_of(ref)


async def test_a_removal_that_was_cut_is_finished_by_the_next_gate(gate: Gate) -> None:
    ref, _ = await gate.start_job("true")
    await gate.ended(ref)
    gate.faults({"kind": "die", "method": "RemoveJob", "when": "inside", "times": 1})
    assert (await problem(gate.remove(ref))).reason is None
    await gate.died()
    await gate.start()
    await gate.remove(ref)
    left = [path for path in gate.site.rglob("*job-1*") if path.stat().st_size or path.is_dir()]
    assert left == []


async def test_output_goes_on_across_a_restart_of_the_gate(gate: Gate) -> None:
    request = await _staged(gate, "echo one; read -r line < ../go; echo two")
    await gate.jobs.StartJob(request)
    await gate.printed(request.ref, b"one\n")
    await gate.restart()
    _go(gate, request)
    assert await gate.output(request.ref) == b"one\ntwo\n"


async def test_another_site_under_the_same_path_is_never_taken_for_gone(gate: Gate) -> None:
    ref, _ = await gate.start_job(_SLEEP)
    await gate.printed(ref, b"up\n")
    (gate.site / "root_uid").rename(gate.site / "root_uid.aside")
    known = [
        gate.jobs.GetJob(job_pb2.GetJobRequest(ref=ref)),
        gate.jobs.StartJob(start_request(ref, _SLEEP)),
        gate.jobs.CancelJob(job_pb2.CancelJobRequest(ref=ref)),
        gate.jobs.RemoveJob(job_pb2.RemoveJobRequest(ref=ref)),
    ]
    for call in known:
        await refused(call, "SITE_CHANGED")
    (gate.site / "root_uid").write_text("another")
    await refused(gate.jobs.GetJob(job_pb2.GetJobRequest(ref=ref)), "SITE_CHANGED")
    (gate.site / "root_uid.aside").rename(gate.site / "root_uid")
    assert (await gate.status(ref)).state == job_pb2.JOB_STATE_RUNNING
    await gate.cancel(ref, 0)


async def test_what_a_gate_was_removing_when_it_died_is_removed_by_the_next(gate: Gate) -> None:
    gate.kill()
    left = [
        gate.site / "jobs" / ".removed.p1.1a2b",  # a partition's
        gate.site / "jobs" / "p1" / "i1" / ".removed.job-1.1.1a2b",
        gate.site / "tombstones" / ".removed.p1.1a2b",
    ]
    for folder in left:
        (folder / "within").mkdir(parents=True)
    await gate.start()
    assert [folder for folder in left if folder.exists()] == []
