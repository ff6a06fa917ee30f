"""How a job ended, as Slurm knows it: told apart, with and without accounting."""

from __future__ import annotations

import asyncio
from typing import Any

from skyport.gate.v1 import types_pb2
from tests.fake_gate.harness import make_ref, refused, start_request
from tests.slurm.apptainer import IMAGE, on_all_nodes
from tests.slurm.harness import SlurmGate
from tests.testbed.slurm import Slurm

FOREVER = "echo up; sleep 3602"
# The sleep may be the first that hears a TERM: the script does not end by that.
_WAIT = "sleep 3604 & while :; do wait; done"


async def _up(gate: SlurmGate, job_id: str, **spec: Any) -> tuple[types_pb2.JobRef, str, str]:
    """A job that runs; also the id that Slurm gave it, and its node."""
    ref, status = await gate.submit(job_id, FOREVER, **spec)
    running = await gate.running(ref)
    await gate.printed(ref, b"up\n")
    return ref, status.handle, running.allocations[0].node


async def test_a_signal_of_its_own_is_told_as_such(gate: SlurmGate) -> None:
    ref, _ = await gate.submit("job-1", "kill -SEGV $$")
    assert (await gate.ended(ref)).signal == 11


async def test_its_own_time_limit_ends_it_with_time_to_end(gate: SlurmGate) -> None:
    ref, _ = await gate.submit("job-1", f"trap 'echo bye; exit' TERM; {_WAIT}", time_limit_s=0.5)
    assert (await gate.ended(ref)).failure.reason == "TIME_LIMIT"
    assert await gate.output(ref) == b"bye\n"


async def test_slurms_own_time_limit_ends_it(gate: SlurmGate, slurm: Slurm) -> None:
    script = f"#!/bin/sh\n#SBATCH --time=5\ntrap 'echo bye; exit' TERM; echo up; {_WAIT}"
    ref, status = await gate.submit("job-1", script)
    await gate.printed(ref, b"up\n")
    assert "TimeLimit=00:05:00" in slurm.ask(f"scontrol show job {status.handle}")
    # A minute is the least that it takes, and every half minute it looks.
    slurm.controller.run(f"scontrol update JobId={status.handle} EndTime=now+1")
    assert (await gate.ended(ref)).failure.reason == "TIME_LIMIT"
    assert await gate.output(ref) == b"up\nbye\n"


async def test_somebody_else_cancels_it(gate: SlurmGate, slurm: Slurm) -> None:
    ref, handle, _ = await _up(gate, "job-1")
    slurm.ask(f"scancel {handle}")
    end = await gate.ended(ref)
    assert end.failure.reason == "CANCELLED"
    assert end.HasField("start_time")
    waiting, status = await gate.submit("job-2", "true", site_options={"begin": "now+1hour"})
    await gate.queued(waiting, "BeginTime")
    slurm.ask(f"scancel {status.handle}")
    end = await gate.ended(waiting)
    assert end.failure.reason == "CANCELLED"
    assert not end.HasField("start_time")


async def test_the_queue_says_that_its_node_failed(gate: SlurmGate, slurm: Slurm) -> None:
    ref, _, node = await _up(gate, "job-1")
    try:
        slurm.controller.run(f"scontrol update NodeName={node} State=DOWN Reason=test")
        end = await gate.ended(ref)
    finally:
        slurm.controller.run(f"scontrol update NodeName={node} State=RESUME || true")
    assert end.failure.reason == "NODE_FAIL"
    assert end.failure.retryable
    # It is written down: the record ages out, the end stays.
    slurm.forget()
    await gate.restart()
    await gate.ready()
    assert (await gate.status(ref)).end.failure.reason == "NODE_FAIL"


async def test_a_job_with_a_higher_priority_takes_its_place(gate: SlurmGate) -> None:
    ref, _, _ = await _up(gate, "job-1", node_count=2, site_options={"exclusive": ""})
    urgent, _ = await gate.submit(
        "job-2", "true", partition="urgent", node_count=2, site_options={"exclusive": ""}
    )
    end = await gate.ended(ref)
    assert (end.failure.reason, end.failure.retryable) == ("PREEMPTED", True)
    assert (await gate.ended(urgent)).exit_code == 0


async def test_its_runner_is_killed_and_tells_nothing(gate: SlurmGate, slurm: Slurm) -> None:
    ref, _, node = await _up(gate, "job-1")
    pid = (gate.attempt_folder(ref) / "claim.0").read_text().split()[1]
    batch = "grep -l slurm_scrip[t] /proc/[0-9]*/cmdline | cut -d/ -f3"
    # One of them may have ended by the death of another before its turn comes.
    slurm.node(node).run(f"kill -9 $({batch}) {pid} || :")
    end = await gate.ended(ref)
    assert end.failure.reason == "NODE_FAIL"
    assert end.HasField("start_time")


async def test_a_script_that_cannot_begin_never_ran(gate: SlurmGate) -> None:
    ref, _ = await gate.submit("job-1", "#!/no/such/program\ntrue")
    assert (await gate.ended(ref)).failure.reason == "START_FAILED"


async def test_it_used_more_memory_than_it_may(accounted_gate: SlurmGate) -> None:
    gate = accounted_gate
    ref = make_ref("job-1", partition="debug")
    await gate.stage(ref)
    hungry = "x = b'1' * (200 << 20); import time; time.sleep(60)"
    request = start_request(ref, f'exec /usr/bin/env python3 -c "{hungry}"')
    request.spec.resources.memory_bytes = 64 << 20
    await gate.jobs.StartJob(request)
    assert (await gate.ended(ref)).failure.reason == "OUT_OF_MEMORY"


async def test_gpus_are_asked_for_and_told(accounted_gate: SlurmGate, accounted: Slurm) -> None:
    gate = accounted_gate
    ref = make_ref("job-1", partition="debug")
    await gate.stage(ref)
    request = start_request(ref, 'echo "$SWM_GPUS $CUDA_VISIBLE_DEVICES"; sleep 0.5')
    request.spec.resources.gpus = 1
    handle = (await gate.jobs.StartJob(request)).status.handle
    other = make_ref("job-2", partition="debug")
    await gate.stage(other)
    by_gres = start_request(other, "true", site_options={"gres": "gpu:2"})
    second = (await gate.jobs.StartJob(by_gres)).status.handle
    for number, count in ((handle, 1), (second, 2)):
        told = accounted.ask(f"scontrol show job {number}")
        assert f"TresPerNode=gres:gpu:{count}" in told
    assert (await gate.ended(ref)).exit_code == 0
    (allocation,) = (await gate.status(ref)).allocations
    (gpu,) = allocation.gpu_ids
    assert await gate.output(ref) == f"{gpu} 0\n".encode()
    assert (await gate.ended(other)).exit_code == 0
    with on_all_nodes(accounted) as apptainer:
        contained = make_ref("job-3", partition="debug")
        await gate.stage(contained)
        request = start_request(contained, "echo $CUDA_VISIBLE_DEVICES", container_image=IMAGE)
        request.spec.resources.gpus = 1
        await gate.jobs.StartJob(request)
        assert (await gate.ended(contained)).exit_code == 0
        # Devices are shown, and Slurm's number for the one that was given.
        assert await gate.output(contained) == b"0\n"
        assert "--nv" in apptainer.calls("exec")[0]


async def test_accounts_know_what_the_queue_has_forgotten(
    accounted_gate: SlurmGate, accounted: Slurm
) -> None:
    gate = accounted_gate
    ref, handle, _ = await _up(gate, "job-1")
    gate.kill()
    accounted.ask(f"scancel {handle}")
    await asyncio.to_thread(accounted.until_over)
    for name in ("end.0", "slurm.log"):
        (gate.attempt_folder(ref) / name).unlink(missing_ok=True)
    accounted.forget()
    await gate.start()
    assert (await gate.ended(ref)).failure.reason == "CANCELLED"


async def test_the_queue_is_full_until_a_job_has_ended(
    accounted_gate: SlurmGate, accounted: Slurm
) -> None:
    gate = accounted_gate
    accounted.manage(f"modify user {accounted.user} set MaxSubmitJobs=1")
    try:
        ref, _, _ = await _up(gate, "job-1")
        late = make_ref("job-2", partition="debug")
        await gate.stage(late)
        found = await refused(gate.jobs.StartJob(start_request(late, "true")), "SITE_QUEUE_FULL")
        assert found.retry_after_s
        await gate.cancel(ref, 0)
        await gate.jobs.StartJob(start_request(late, "true"))
        assert (await gate.ended(late)).exit_code == 0
    finally:
        accounted.manage(f"modify user {accounted.user} set MaxSubmitJobs=-1")
