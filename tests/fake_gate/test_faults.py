"""Scripted faults: what is told to go wrong does, as often as told, and nothing else."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest

from skyport.gate.v1 import identity_pb2, job_pb2
from tests.fake_gate.conftest import MakeGate
from tests.fake_gate.harness import (
    STATIC,
    Gate,
    Tree,
    make_ref,
    problem,
    processes_of,
    refused,
    start_request,
)


async def test_any_call_fails_with_any_reason_as_often_as_told(gate: Gate) -> None:
    gate.faults(
        {
            "kind": "fail",
            "method": "GetJob",
            "code": "RESOURCE_EXHAUSTED",
            "reason": "CAPACITY",
            "message": "as scripted",
            "retry_after_s": 2.5,
            "skip": 1,
            "times": 2,
        }
    )
    ref = make_ref()
    await gate.stage(ref)
    await gate.status(ref)
    for _ in range(2):
        found = await refused(
            gate.jobs.GetJob(job_pb2.GetJobRequest(ref=ref)),
            "CAPACITY",
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        )
        assert (found.message, found.retry_after_s) == ("as scripted", 2.5)
    await gate.status(ref)


async def test_strikes_are_counted_across_restarts(gate: Gate) -> None:
    gate.faults({"kind": "die", "method": "Probe", "when": "before", "times": 2})
    for _ in range(2):
        assert (await problem(gate.identity.Probe(identity_pb2.ProbeRequest()))).reason is None
        await gate.died()
        await gate.start()
    await gate.identity.Probe(identity_pb2.ProbeRequest())


async def test_faults_befall_jobs_by_name_or_id(gate: Gate) -> None:
    refs = [make_ref(f"job-{number}") for number in range(3)]
    for ref in refs:
        await gate.stage(ref)
    gate.faults(
        {"kind": "fail", "job": "bad*", "code": "ABORTED", "reason": "BUSY"},
        {"kind": "fail", "job": "job-1", "code": "ABORTED", "reason": "CAPACITY"},
    )
    await refused(gate.jobs.StartJob(start_request(refs[0], "true", name="bad one")), "BUSY")
    await refused(gate.jobs.GetJob(job_pb2.GetJobRequest(ref=refs[1])), "CAPACITY")
    await gate.start_job("true", refs[2], name="good")


async def test_slow_and_never(gate: Gate) -> None:
    ref = make_ref()
    await gate.stage(ref)
    gate.faults({"kind": "delay", "method": "GetJob", "seconds": 0.3, "times": 1})
    began = time.monotonic()
    await gate.status(ref)
    assert time.monotonic() - began >= 0.3
    gate.faults({"kind": "never", "method": "GetJob"})
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await gate.jobs.GetJob(job_pb2.GetJobRequest(ref=ref), timeout=0.3)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    gate.faults()
    await gate.status(ref)


async def test_a_stream_is_cut_where_told(gate: Gate) -> None:
    ref = make_ref()
    tree = Tree(files={"a": b"a", "b": b"b"})
    # Each time, not once: `stage` tries again where the client itself does not see how it ended.
    gate.faults({"kind": "lose", "method": "PutFiles", "after_requests": 3})
    assert (await problem(gate.stage(ref, tree))).reason is None
    gate.faults()
    await gate.stage(ref, tree)
    await gate.start_job("echo out", ref, manifest_sha256=tree.digest)
    await gate.ended(ref)
    gate.faults({"kind": "lose", "method": "ReadOutput", "after_responses": 1, "times": 1})
    with pytest.raises(grpc.aio.AioRpcError):
        await gate.output(ref)
    assert await gate.output(ref) == b"out\n"


@pytest.mark.parametrize("reason", ["PREEMPTED", "NODE_FAIL", "OUT_OF_MEMORY", "END_UNKNOWN"])
async def test_a_site_ends_a_job_with_a_reason(gate: Gate, reason: str) -> None:
    gate.faults({"kind": "end_job", "job": "job-*", "reason": reason, "seconds": 0.1})
    ref, _ = await gate.start_job("sleep 60")
    end = await gate.ended(ref)
    assert end.failure.reason == reason
    assert not processes_of(ref)


async def test_configured_faults_are_there_from_the_start(make_gate: MakeGate) -> None:
    fault = {"kind": "fail", "method": "Probe", "code": "UNAVAILABLE", "reason": "SITE_UNREACHABLE"}
    gate = await make_gate(**STATIC, faults=[fault])
    await refused(gate.identity.Probe(identity_pb2.ProbeRequest()), "SITE_UNREACHABLE")


async def test_a_control_file_that_cannot_be_used_changes_nothing(gate: Gate) -> None:
    gate.faults({"kind": "fail", "method": "Probe", "code": "ABORTED", "reason": "BUSY"})
    await refused(gate.identity.Probe(identity_pb2.ProbeRequest()), "BUSY")
    (gate.folder / "control.new").write_text("nonsense = [")
    (gate.folder / "control.new").replace(gate.folder / "control.toml")
    await refused(gate.identity.Probe(identity_pb2.ProbeRequest()), "BUSY")
    assert "control file" in gate.log.read_text()
    (gate.folder / "control.toml").unlink()
    async with asyncio.timeout(5):
        await gate.identity.Probe(identity_pb2.ProbeRequest())
