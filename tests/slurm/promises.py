"""What holds while parts of a cluster die, whether it has accounting or not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from skyport.gate.v1 import job_pb2, types_pb2
from tests.fake_gate.harness import start_request
from tests.slurm.harness import SlurmGate
from tests.testbed.slurm import Slurm

WAITS = "echo ran >>../ran; echo up; until [ -e ../go ]; do sleep 0.05; done"
LATER = {"begin": "now+1hour"}
"""The site options of a job that waits."""


def go(gate: SlurmGate, *refs: types_pb2.JobRef) -> None:
    """Let jobs of `WAITS` end."""
    for ref in refs:
        (gate.attempt_folder(ref) / "go").touch()


def ran(gate: SlurmGate, ref: types_pb2.JobRef) -> str:
    """Has a line for each time that the job ran."""
    return (gate.attempt_folder(ref) / "ran").read_text()


async def running(gate: SlurmGate, job_id: str = "job-1") -> types_pb2.JobRef:
    """A job that runs."""
    ref, _ = await gate.submit(job_id, WAITS)
    await gate.printed(ref, b"up\n")
    return ref


async def running_and_waiting(
    gate: SlurmGate, slurm: Slurm
) -> tuple[types_pb2.JobRef, types_pb2.JobRef]:
    """A job that has all nodes, and one that waits for them."""
    count, everything = len(slurm.names), {"exclusive": ""}
    first, _ = await gate.submit("running", WAITS, node_count=count, site_options=everything)
    await gate.printed(first, b"up\n")
    second, _ = await gate.submit("waiting", WAITS, node_count=count, site_options=everything)
    await gate.queued(second, "queued: ")
    return first, second


async def the_queue_forgets_what_it_had_acknowledged(gate: SlurmGate, slurm: Slurm) -> None:
    """The controller dies with all that it knew."""
    first, waiting = await running_and_waiting(gate, slurm)
    others = [(await gate.submit(f"later-{n}", WAITS, site_options=LATER))[0] for n in range(3)]
    seen = len(slurm.calls)
    slurm.forget()
    # What waited was never started, and may be submitted again under its claim.
    for ref in (waiting, *others):
        again = await gate.until(ref, lambda told: told.state == job_pb2.JOB_STATE_STAGED)
        assert not again.HasField("end")
    # One squeue has told it of all.
    assert not [call for call in slurm.calls[seen:] if " -j " in call]
    request = start_request(
        waiting, WAITS, node_count=len(slurm.names), site_options={"exclusive": ""}
    )
    request.spec.resources.memory_bytes = 64 << 20
    await gate.jobs.StartJob(request)
    # What ran is ended by the nodes, when the controller does not know it.
    ended = await gate.ended(first)
    assert ended.WhichOneof("outcome") == "failure" or ended.exit_code == 0
    go(gate, waiting, first)
    assert (await gate.ended(waiting)).exit_code == 0
    assert ran(gate, waiting) == "ran\n"


async def a_slurmd_dies_and_comes_back(gate: SlurmGate, slurm: Slurm) -> None:
    """What runs there goes on."""
    ref = await running(gate)
    (given,) = (await gate.status(ref)).allocations
    slurm.kill_node(given.node)
    go(gate, ref)
    assert (await gate.ended(ref)).exit_code == 0
    slurm.start_node(given.node)
    assert ran(gate, ref) == "ran\n"


async def a_node_dies_with_the_record_of_its_job(gate: SlurmGate, slurm: Slurm) -> None:
    """Nothing is left that tells how it ended."""
    ref = await running(gate)
    (given,) = (await gate.status(ref)).allocations
    slurm.crash_node(given.node)
    slurm.forget()
    end = await gate.ended(ref)
    assert end.failure.reason == "END_UNKNOWN"
    assert end.HasField("start_time")


async def the_gate_dies_while_a_job_runs_and_ends(gate: SlurmGate, slurm: Slurm) -> None:
    """And meanwhile the record has aged out."""
    ref = await running(gate)
    await gate.restart()
    assert (await gate.running(ref)).allocations
    gate.kill()
    go(gate, ref)
    await asyncio.to_thread(slurm.until_over)
    slurm.forget()
    await gate.start()
    await gate.ready()
    assert (await gate.status(ref)).end.exit_code == 0
    assert (await gate.ended(ref)).exit_code == 0


Promise = Callable[[SlurmGate, Slurm], Awaitable[None]]
PROMISES: tuple[Promise, ...] = (
    the_queue_forgets_what_it_had_acknowledged,
    a_slurmd_dies_and_comes_back,
    a_node_dies_with_the_record_of_its_job,
    the_gate_dies_while_a_job_runs_and_ends,
)
