"""Daemons, the gate and the link die while jobs wait and run: none is lost, none runs twice."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from skyport.gate.v1 import job_pb2
from tests.fake_gate.harness import make_ref, refused, start_request
from tests.slurm.harness import SlurmGate, replaced
from tests.slurm.promises import (
    LATER,
    PROMISES,
    WAITS,
    Promise,
    go,
    ran,
    running,
    running_and_waiting,
)
from tests.testbed.slurm import Slurm

STATE_S = 6.0
"""slurmctld saves what it knows at least so often."""


@pytest.mark.parametrize("promise", PROMISES)
async def test_it_holds_without_accounting(gate: SlurmGate, slurm: Slurm, promise: Promise) -> None:
    await promise(gate, slurm)


async def test_the_controller_dies_and_comes_back(gate: SlurmGate, slurm: Slurm) -> None:
    first, waiting = await running_and_waiting(gate, slurm)
    unwanted, _ = await gate.submit("unwanted", WAITS, site_options=LATER)
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
        assert (await gate.status(first)).state == job_pb2.JOB_STATE_RUNNING
        assert (await gate.status(waiting)).state == job_pb2.JOB_STATE_QUEUED_AT_SITE
        await refused(gate.jobs.StartJob(start_request(late, WAITS)), "SITE_UNREACHABLE")
        # A cancel is not confirmed before the queue has said so.
        await refused(gate.cancel(unwanted), "SITE_UNREACHABLE")
    # The end comes from the job itself, whether the queue answers or not.
    go(gate, first)
    assert (await gate.until(first, lambda told: told.text == "ends")).HasField("start_time")
    await gate.restart()
    slurm.start_controller()
    answer = await gate.cancel(unwanted)
    assert answer.status.end.failure.reason == "CANCELLED"
    assert (await gate.ended(first)).exit_code == 0
    go(gate, waiting)
    assert (await gate.ended(waiting)).exit_code == 0
    go(gate, late)
    await gate.jobs.StartJob(start_request(late, WAITS))
    assert (await gate.ended(late)).exit_code == 0
    assert [ran(gate, ref) for ref in (first, waiting, late)] == ["ran\n"] * 3


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
    go(gate, ref)
    assert (await gate.ended(ref)).exit_code == 0
    assert ran(gate, ref) == "ran\n"


async def test_the_link_to_the_login_node_is_cut(gate: SlurmGate, slurm: Slurm) -> None:
    ref = await running(gate)
    with slurm.login.cut():
        go(gate, ref)
        await asyncio.to_thread(slurm.until_over)
    assert (await gate.ended(ref)).exit_code == 0


async def test_a_row_that_is_missing_says_nothing(gate: SlurmGate, slurm: Slurm) -> None:
    *kept, unwanted = [await running(gate, f"job-{number}") for number in range(4)]
    waiting, _ = await gate.submit("waiting", WAITS, site_options=LATER)
    dropping = f'echo "$@" >>{slurm.counted}; /usr/bin/squeue "$@" | sed /swm-/d'
    with replaced(slurm, "squeue", dropping):
        seen = len(slurm.calls)
        await asyncio.to_thread(slurm.until_asked, 3)
        for ref in (*kept, unwanted):
            assert (await gate.status(ref)).state == job_pb2.JOB_STATE_RUNNING
        assert (await gate.status(waiting)).state == job_pb2.JOB_STATE_QUEUED_AT_SITE
        # However many rows are missing, one job is asked for by its id with each question for all.
        calls = slurm.calls[seen:]
        alone = [call for call in calls if " -j " in call]
        assert 0 < len(alone) <= len(calls) - len(alone), calls
        # Nor does it say that nothing runs any more.
        await refused(gate.cancel(unwanted, 0), "SITE_UNREACHABLE")
    assert (await gate.cancel(unwanted, 0)).status.end.failure.reason == "CANCELLED"
    go(gate, *kept)
    for ref in kept:
        assert (await gate.ended(ref)).exit_code == 0
        assert ran(gate, ref) == "ran\n"
