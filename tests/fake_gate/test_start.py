"""StartJob: once, whatever happens, and only what may start."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from skyport.gate.v1 import job_pb2
from tests.fake_gate.conftest import MakeGate
from tests.fake_gate.harness import (
    STATIC,
    Gate,
    Tree,
    eventually,
    make_ref,
    problem,
    processes_of,
    refused,
    start_request,
)

_COUNT = "echo x >> ../count; sleep 60"


async def _staged(gate: Gate, job_id: str = "job-1") -> job_pb2.StartJobRequest:
    ref = make_ref(job_id)
    await gate.stage(ref)
    return start_request(ref, _COUNT)


def _starts(gate: Gate, request: job_pb2.StartJobRequest) -> int:
    count = gate.attempt_folder(request.ref) / "count"
    return len(count.read_text().split()) if count.exists() else 0


async def test_the_same_start_again_answers_the_present_state_and_starts_nothing(
    gate: Gate,
) -> None:
    request = await _staged(gate)
    await asyncio.gather(*(gate.jobs.StartJob(request) for _ in range(5)))
    await gate.running(request.ref)
    again = await gate.jobs.StartJob(request)
    assert again.status.state == job_pb2.JOB_STATE_RUNNING
    await eventually(lambda: _starts(gate, request), "the script runs")
    assert _starts(gate, request) == 1
    await gate.cancel(request.ref, 0)
    ended = await gate.status(request.ref)
    assert ended.end.failure.reason == "CANCELLED"
    await refused(gate.jobs.StartJob(request), "JOB_CANCELLED")
    assert _starts(gate, request) == 1


async def test_the_same_start_after_the_end_answers_the_end(gate: Gate) -> None:
    ref, _ = await gate.start_job("exit 3")
    await gate.ended(ref)
    again = await gate.jobs.StartJob(start_request(ref, "exit 3"))
    assert again.status.end.exit_code == 3


async def test_another_fingerprint_differs(gate: Gate) -> None:
    request = await _staged(gate)
    await gate.jobs.StartJob(request)
    other = start_request(request.ref, "echo other")
    found = await refused(gate.jobs.StartJob(other), "JOB_DIFFERS", grpc.StatusCode.ALREADY_EXISTS)
    assert found.metadata["job_id"] == "job-1"
    await gate.cancel(request.ref, 0)


async def test_nothing_starts_after_cancel_or_remove(gate: Gate) -> None:
    cancelled = await _staged(gate, "cancelled")
    await gate.cancel(cancelled.ref)
    removed = await _staged(gate, "removed")
    await gate.remove(removed.ref)
    never = start_request(make_ref("never"), _COUNT)
    never.ref.roots.extend(removed.ref.roots)
    answer = await gate.cancel(never.ref)
    assert not answer.HasField("status")
    for request in (cancelled, removed, never):
        await refused(
            gate.jobs.StartJob(request), "JOB_CANCELLED", grpc.StatusCode.FAILED_PRECONDITION
        )
        assert not processes_of(request.ref)


async def test_a_start_without_a_root_is_no_first_contact(gate: Gate) -> None:
    await refused(gate.jobs.StartJob(start_request(make_ref(), "true")), "FIELD_REQUIRED")


async def test_inputs_that_are_not_whole_are_missing(gate: Gate) -> None:
    request = await _staged(gate)
    request.spec.manifest_sha256 = Tree(files={"a": b"a"}).digest
    await refused(
        gate.jobs.StartJob(request), "INPUTS_MISSING", grpc.StatusCode.FAILED_PRECONDITION
    )


async def test_a_missing_standard_input_is_told(gate: Gate) -> None:
    request = await _staged(gate)
    request.spec.stdin_path = "nope.txt"
    await refused(gate.jobs.StartJob(request), "FILE_NOT_FOUND", grpc.StatusCode.NOT_FOUND)


async def test_standard_input_is_the_named_file(gate: Gate) -> None:
    ref = make_ref()
    tree = Tree(files={"in.txt": b"from a file"})
    await gate.stage(ref, tree)
    await gate.start_job("cat", ref, stdin_path="in.txt", manifest_sha256=tree.digest)
    assert await gate.output(ref) == b"from a file"


@pytest.mark.parametrize(
    ("field", "change", "reason"),
    [
        ("spec.script", {"script": b""}, "FIELD_REQUIRED"),
        ("spec.script", {"script": b"a\0b"}, "FIELD_MALFORMED"),
        ("spec.script", {"script": b"\xff"}, "FIELD_MALFORMED"),
        ("spec.script", {"script": b"#" * ((1 << 20) + 1)}, "FIELD_OUT_OF_RANGE"),
        ("spec.launch", {"launch": 0}, "FIELD_REQUIRED"),
        ("spec.launch", {"launch": 9}, "FIELD_MALFORMED"),
        ("spec.node_count", {"node_count": 2}, "FIELD_MALFORMED"),
        ("spec.env[A-B]", {"env": {"A-B": "x"}}, "FIELD_MALFORMED"),
        ("spec.env[A]", {"env": {"A": "x\0"}}, "FIELD_MALFORMED"),
        ("spec.env[A]", {"env": {"A": "x" * 131_071}}, "FIELD_OUT_OF_RANGE"),
        ("spec.stdin_path", {"stdin_path": "/etc/passwd"}, "PATH_INVALID"),
        ("spec.site_options[qos]", {"site_options": {"qos": "high"}}, "FIELD_MALFORMED"),
        ("spec.manifest_sha256", {"manifest_sha256": b"short"}, "FIELD_MALFORMED"),
    ],
)
async def test_a_malformed_spec_is_refused_with_its_field(
    gate: Gate, field: str, change: dict[str, object], reason: str
) -> None:
    request = await _staged(gate)
    for name in change:
        request.spec.ClearField(name)  # type: ignore[arg-type]
    request.spec.MergeFrom(job_pb2.JobSpec(**change))  # type: ignore[arg-type]
    found = await refused(gate.jobs.StartJob(request), reason, grpc.StatusCode.INVALID_ARGUMENT)
    assert field in {violation.field for violation in found.violations}


async def test_a_gpu_that_the_node_lacks_is_refused(gate: Gate) -> None:
    request = await _staged(gate)
    request.allocations[0].gpu_ids.append("7")
    found = await refused(gate.jobs.StartJob(request), "FIELD_MALFORMED")
    assert found.violations[0].field == "allocations[0].gpu_ids"


async def test_a_workdir_lies_below_a_root_that_the_site_allows(gate: Gate) -> None:
    for workdir in ("/etc", "/tmp/../etc/x", "relative", "/tmp"):
        request = await _staged(gate)
        request.spec.workdir = workdir
        await refused(gate.jobs.StartJob(request), "WORKDIR_NOT_ALLOWED")


async def test_an_interpreter_that_is_not_there_is_a_failed_start(gate: Gate) -> None:
    ref, _ = await gate.start_job("#!/no/such/program\n")
    end = await gate.ended(ref)
    assert end.failure.reason == "START_FAILED"


async def test_the_interpreter_of_the_first_line_runs_the_script(gate: Gate) -> None:
    ref, _ = await gate.start_job("#!/usr/bin/awk -f\nBEGIN { print 6 * 7 }\n")
    await gate.ended(ref)
    assert await gate.output(ref) == b"42\n"


async def test_two_callers_with_a_deadline_start_once(gate: Gate) -> None:
    request = await _staged(gate)
    gate.faults({"kind": "delay", "method": "StartJob", "when": "inside", "seconds": 2.0})
    for _ in range(2):
        late = await problem(gate.jobs.StartJob(request, timeout=0.2))
        assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await gate.running(request.ref)
    await eventually(lambda: _starts(gate, request), "the script runs")
    await gate.cancel(request.ref, 0)
    assert _starts(gate, request) == 1


async def test_a_user_without_an_account_is_refused_before_anything_is_looked_up(
    make_gate: MakeGate,
) -> None:
    gate = await make_gate(**STATIC, users={"ann": "u_ann"})
    ref, _ = await gate.start_job('echo "$USER"')
    await gate.ended(ref)
    assert await gate.output(ref) == b"u_ann\n"
    bob = make_ref("bobs-job", owner="bob", partition="no-such-partition")
    for call in (
        gate.jobs.StartJob(start_request(bob, "true")),
        gate.jobs.GetJob(job_pb2.GetJobRequest(ref=bob)),
        gate.jobs.CancelJob(job_pb2.CancelJobRequest(ref=bob)),
        gate.jobs.RemoveJob(job_pb2.RemoveJobRequest(ref=bob)),
    ):
        await refused(call, "USER_NOT_MAPPED", grpc.StatusCode.PERMISSION_DENIED)
