"""A partition whose jobs the site's own queue places."""

from __future__ import annotations

import itertools
import os

import grpc

from skyport.gate.v1 import job_pb2, types_pb2
from tests.fake_gate.conftest import MakeGate
from tests.fake_gate.harness import Gate, Tree, make_ref, refused, start_request

_QUEUE = {"partitions": {"batch": {"kind": "queue", "slots": 1, "max_queue": 2}}}


async def _gate(make_gate: MakeGate, slots: int = 1) -> Gate:
    table = {**_QUEUE["partitions"]["batch"], "slots": slots}
    return await make_gate(partitions={"batch": table})


async def _submit(
    gate: Gate, job_id: str, script: str = "read -r line < ../go", **spec: object
) -> types_pb2.JobRef:
    """A script that waits for a line in a named pipe."""
    ref = make_ref(job_id, partition="batch")
    await gate.stage(ref)
    os.mkfifo(gate.attempt_folder(ref) / "go")
    await gate.jobs.StartJob(start_request(ref, script, **spec))  # type: ignore[arg-type]
    return ref


def _go(gate: Gate, ref: types_pb2.JobRef) -> None:
    with (gate.attempt_folder(ref) / "go").open("w") as pipe:
        pipe.write("\n")


async def test_jobs_run_in_the_order_in_which_they_came(make_gate: MakeGate) -> None:
    gate = await _gate(make_gate)
    refs = [await _submit(gate, f"job-{number}") for number in (3, 1, 2)]
    running = await gate.running(refs[0])
    assert [allocation.node for allocation in running.allocations] == ["batch-1"]
    for ref in refs[1:]:
        waiting = await gate.status(ref)
        assert waiting.state == job_pb2.JOB_STATE_QUEUED_AT_SITE
        assert waiting.text
        assert not waiting.allocations
    for before, after in itertools.pairwise(refs):
        _go(gate, before)
        await gate.ended(before)
        await gate.running(after)
    _go(gate, refs[-1])
    starts = [(await gate.ended(ref)).start_time.ToNanoseconds() for ref in refs]
    assert starts == sorted(starts)


async def test_a_full_queue_takes_no_more_and_the_start_may_be_repeated(
    make_gate: MakeGate,
) -> None:
    gate = await _gate(make_gate)
    refs = [await _submit(gate, f"job-{number}") for number in range(3)]
    await gate.running(refs[0])
    late = make_ref("late", partition="batch")
    await gate.stage(late)
    found = await refused(
        gate.jobs.StartJob(start_request(late, "true")),
        "SITE_QUEUE_FULL",
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )
    assert found.retry_after_s
    _go(gate, refs[0])
    await gate.running(refs[1])
    await gate.jobs.StartJob(start_request(late, "true"))
    for ref in refs[1:]:
        await gate.cancel(ref, 0)
    assert (await gate.ended(late)).exit_code == 0


async def test_a_waiting_job_is_cancelled_and_never_runs(make_gate: MakeGate) -> None:
    gate = await _gate(make_gate)
    first = await _submit(gate, "first")
    second = await _submit(gate, "second", "echo ran > ../ran")
    answer = await gate.cancel(second)
    assert answer.status.end.failure.reason == "CANCELLED"
    assert not answer.status.end.HasField("start_time")
    _go(gate, first)
    await gate.ended(first)
    third = await _submit(gate, "third", "true")
    await gate.ended(third)
    assert not (gate.attempt_folder(second) / "ran").exists()


async def test_the_queue_goes_on_after_a_restart_with_its_secrets(make_gate: MakeGate) -> None:
    gate = await _gate(make_gate)
    first = await _submit(gate, "first")
    second = await _submit(gate, "second", 'printf "$TOKEN"', secret_env={"TOKEN": "two\nlines"})
    await gate.running(first)
    kept = gate.attempt_folder(second) / "private"
    assert kept.stat().st_mode & 0o777 == 0o600
    await gate.restart()
    _go(gate, first)
    await gate.ended(second)
    assert await gate.output(second) == b"two\nlines"
    assert not list(gate.attempt_folder(second).glob("private*"))


async def test_cancel_removes_the_secrets_of_a_job_that_waits(make_gate: MakeGate) -> None:
    gate = await _gate(make_gate)
    await _submit(gate, "first")
    second = await _submit(gate, "second", "true", secret_env={"TOKEN": "x"})
    assert list(gate.attempt_folder(second).glob("private*"))
    await gate.cancel(second)
    assert not list(gate.attempt_folder(second).glob("private*"))


async def test_a_job_on_several_nodes_waits_until_all_are_free(make_gate: MakeGate) -> None:
    gate = await _gate(make_gate, slots=2)
    one = await _submit(gate, "one")
    await gate.running(one)
    both = make_ref("both", partition="batch")
    await gate.stage(both)
    await gate.jobs.StartJob(
        start_request(both, 'echo "$SWM_NODE_RANK of $SWM_NODES"', node_count=2, every=True)
    )
    assert (await gate.status(both)).state == job_pb2.JOB_STATE_QUEUED_AT_SITE
    _go(gate, one)
    end = await gate.ended(both)
    assert [node.node for node in end.nodes] == ["batch-1", "batch-2"]
    assert await gate.output(both) == b"0 of batch-1,batch-2\n"


async def test_ports_and_gpus_come_back_with_the_job(make_gate: MakeGate) -> None:
    gate = await _gate(make_gate)
    ref = make_ref("job-1", partition="batch")
    await gate.stage(ref)
    request = start_request(ref, 'echo "$SWM_PORT_WEB $SWM_PORT_8888 $SWM_GPUS"')
    request.spec.ports.add(name="WEB")
    request.spec.ports.add(number=8888)
    request.spec.resources.gpus = 2
    await gate.jobs.StartJob(request)
    await gate.ended(ref)
    (given,) = (await gate.status(ref)).allocations
    ports = {port.name: port.port for port in given.ports}
    assert ports[""] == 8888
    assert given.gpu_ids == ["0", "1"]
    assert await gate.output(ref) == f"{ports['WEB']} 8888 0,1\n".encode()


async def test_what_a_queue_is_not_asked_is_refused(make_gate: MakeGate) -> None:
    gate = await _gate(make_gate)
    ref = make_ref("job-1", partition="batch")
    await gate.stage(ref)
    allocated = start_request(ref, "true")
    allocated.allocations.add(node="batch-1", cpus=1)
    await refused(gate.jobs.StartJob(allocated), "FIELD_MALFORMED")
    await refused(
        gate.jobs.StartJob(start_request(ref, "true", node_count=2)), "FIELD_OUT_OF_RANGE"
    )
    nameless = start_request(ref, "true")
    nameless.spec.ports.add()
    await refused(gate.jobs.StartJob(nameless), "FIELD_REQUIRED")
    with_nodes = make_ref("job-2", "batch-1", partition="batch")
    await refused(gate.stage(with_nodes), "FIELD_MALFORMED")


async def test_inputs_are_there_on_whichever_node(make_gate: MakeGate) -> None:
    gate = await _gate(make_gate)
    ref = make_ref("job-1", partition="batch")
    tree = Tree(files={"a": b"input"})
    await gate.stage(ref, tree)
    await gate.start_job("cat a", ref, manifest_sha256=tree.digest)
    assert await gate.output(ref) == b"input"
