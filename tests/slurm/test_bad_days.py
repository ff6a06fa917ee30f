"""Daemons, the gate and the link die while jobs wait and run: none is lost, none runs twice."""

from __future__ import annotations

import asyncio
import contextlib

from skyport.gate.v1 import job_pb2, types_pb2
from tests.fake_gate.harness import make_ref, refused, start_request
from tests.slurm.harness import SlurmGate, replaced
from tests.testbed.slurm import Slurm

WAITS = "echo ran >>../ran; echo up; until [ -e ../go ]; do sleep 0.05; done"
STATE_S = 6.0
"""slurmctld saves what it knows at least so often."""


def _go(gate: SlurmGate, *refs: types_pb2.JobRef) -> None:
    for ref in refs:
        (gate.attempt_folder(ref) / "go").touch()


def _ran(gate: SlurmGate, ref: types_pb2.JobRef) -> str:
    return (gate.attempt_folder(ref) / "ran").read_text()


async def _running_and_waiting(
    gate: SlurmGate,
) -> tuple[types_pb2.JobRef, types_pb2.JobRef]:
    """A job that has all nodes, and one that waits for them."""
    everything = {"exclusive": ""}
    running, _ = await gate.submit("running", WAITS, node_count=2, site_options=everything)
    await gate.printed(running, b"up\n")
    waiting, _ = await gate.submit("waiting", WAITS, node_count=2, site_options=everything)
    await gate.queued(waiting, "queued: ")
    return running, waiting


async def test_the_controller_dies_and_comes_back(gate: SlurmGate, slurm: Slurm) -> None:
    running, waiting = await _running_and_waiting(gate)
    unwanted, _ = await gate.submit("unwanted", WAITS, site_options={"begin": "now+1hour"})
    await asyncio.sleep(STATE_S)  # what it has not saved yet it forgets: that is another test
    late = make_ref("late", partition="debug")
    await gate.stage(late)
    # As the programs themselves do, only sooner.
    with contextlib.ExitStack() as impatient:
        for name in ("squeue", "sbatch"):
            script = f'exec timeout 1 /usr/bin/{name} "$@"'
            impatient.enter_context(replaced(slurm, name, script))
        slurm.kill_controller()
        # What needs no queue is known; of nothing it is said that it is gone.
        assert (await gate.status(running)).state == job_pb2.JOB_STATE_RUNNING
        assert (await gate.status(waiting)).state == job_pb2.JOB_STATE_QUEUED_AT_SITE
        await refused(gate.jobs.StartJob(start_request(late, WAITS)), "SITE_UNREACHABLE")
        # A cancel is not confirmed before the queue has said so.
        await refused(gate.cancel(unwanted), "SITE_UNREACHABLE")
    # The end comes from the job itself, whether the queue answers or not.
    _go(gate, running)
    assert (await gate.until(running, lambda told: told.text == "ends")).HasField("start_time")
    await gate.restart()
    slurm.start_controller()
    answer = await gate.cancel(unwanted)
    assert answer.status.end.failure.reason == "CANCELLED"
    assert (await gate.ended(running)).exit_code == 0
    _go(gate, waiting)
    assert (await gate.ended(waiting)).exit_code == 0
    _go(gate, late)
    await gate.jobs.StartJob(start_request(late, WAITS))
    assert (await gate.ended(late)).exit_code == 0
    assert [_ran(gate, ref) for ref in (running, waiting, late)] == ["ran\n"] * 3


async def test_the_queue_forgets_what_it_had_acknowledged(gate: SlurmGate, slurm: Slurm) -> None:
    running, waiting = await _running_and_waiting(gate)
    slurm.forget()
    # What waited was never started, and may be submitted again under its claim.
    again = await gate.until(waiting, lambda told: told.state == job_pb2.JOB_STATE_STAGED)
    assert not again.HasField("end")
    everything = {"exclusive": ""}
    request = start_request(waiting, WAITS, node_count=2, site_options=everything)
    await gate.jobs.StartJob(request)
    # What ran is ended by the nodes, when the controller does not know it.
    ended = await gate.ended(running)
    assert ended.WhichOneof("outcome") == "failure" or ended.exit_code == 0
    _go(gate, waiting, running)
    assert (await gate.ended(waiting)).exit_code == 0
    assert _ran(gate, waiting) == "ran\n"


async def test_a_slurmd_dies_and_comes_back(gate: SlurmGate, slurm: Slurm) -> None:
    ref, _ = await gate.submit("job-1", WAITS)
    await gate.printed(ref, b"up\n")
    (given,) = (await gate.status(ref)).allocations
    slurm.kill_node(given.node)
    _go(gate, ref)
    assert (await gate.ended(ref)).exit_code == 0
    slurm.start_node(given.node)
    assert _ran(gate, ref) == "ran\n"


async def test_a_node_dies_with_the_record_of_its_job(gate: SlurmGate, slurm: Slurm) -> None:
    ref, _ = await gate.submit("job-1", WAITS)
    await gate.printed(ref, b"up\n")
    (given,) = (await gate.status(ref)).allocations
    slurm.crash_node(given.node)
    slurm.forget()
    end = await gate.ended(ref)
    assert end.failure.reason == "END_UNKNOWN"
    assert end.HasField("start_time")


async def test_the_gate_dies_while_a_job_runs_and_ends(gate: SlurmGate, slurm: Slurm) -> None:
    ref, _ = await gate.submit("job-1", WAITS)
    await gate.printed(ref, b"up\n")
    await gate.restart()
    assert (await gate.running(ref)).allocations
    gate.kill()
    _go(gate, ref)
    await asyncio.to_thread(slurm.until_over)
    # The record has aged out meanwhile.
    slurm.forget()
    await gate.start()
    await gate.ready()
    assert (await gate.status(ref)).end.exit_code == 0
    assert (await gate.ended(ref)).exit_code == 0


async def test_the_answer_of_sbatch_is_lost(gate: SlurmGate, slurm: Slurm) -> None:
    ref = make_ref("job-1", partition="debug")
    await gate.stage(ref)
    request = start_request(ref, WAITS)
    lost = '/usr/bin/sbatch "$@" >/dev/null; echo "Unable to contact slurm controller" >&2; exit 1'
    with replaced(slurm, "sbatch", lost):
        await refused(gate.jobs.StartJob(request), "SITE_UNREACHABLE")
        with replaced(slurm, "sbatch", "echo must not be asked again >&2; exit 1"):
            await gate.restart()
            await gate.ready()
            answer = await gate.jobs.StartJob(request)
    assert answer.status.handle
    assert answer.status.state != job_pb2.JOB_STATE_STAGED
    await gate.printed(ref, b"up\n")
    _go(gate, ref)
    assert (await gate.ended(ref)).exit_code == 0
    assert _ran(gate, ref) == "ran\n"


async def test_the_link_to_the_login_node_is_cut(gate: SlurmGate, slurm: Slurm) -> None:
    ref, _ = await gate.submit("job-1", WAITS)
    await gate.printed(ref, b"up\n")
    with slurm.login.cut():
        _go(gate, ref)
        await asyncio.to_thread(slurm.until_over)
    assert (await gate.ended(ref)).exit_code == 0


async def test_a_row_that_is_missing_says_nothing(gate: SlurmGate, slurm: Slurm) -> None:
    running, waiting = await _running_and_waiting(gate)
    with replaced(slurm, "squeue", f'echo >>{slurm.counted}; /usr/bin/squeue "$@" | sed /swm-/d'):
        seen = len(slurm.counted.read_text())
        await asyncio.to_thread(slurm.until_asked, seen + 4)
        assert (await gate.status(running)).state == job_pb2.JOB_STATE_RUNNING
        assert (await gate.status(waiting)).state == job_pb2.JOB_STATE_QUEUED_AT_SITE
    _go(gate, running, waiting)
    for ref in (running, waiting):
        assert (await gate.ended(ref)).exit_code == 0
        assert _ran(gate, ref) == "ran\n"
