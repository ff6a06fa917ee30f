"""How a job ended, as Slurm knows it: told apart, with and without accounting."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from skyport.gate.v1 import job_pb2, types_pb2
from swm_core.jobscript import parser
from tests.fake_gate.harness import make_ref, refused, start_request
from tests.slurm.apptainer import IMAGE, on_all_nodes
from tests.slurm.harness import SlurmGate
from tests.slurm.promises import PROMISES, Promise, go, running
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


async def test_slurms_own_time_limit_ends_it(
    gate: SlurmGate, slurm: Slurm, accounted_gate: SlurmGate, accounted: Slurm
) -> None:
    script = f"#!/bin/sh\n#SBATCH --time=5\ntrap 'echo bye; exit' TERM; echo up; {_WAIT}"
    sites = ((gate, slurm), (accounted_gate, accounted))
    started = [(each, cluster, *await each.submit("job-1", script)) for each, cluster in sites]
    for each, cluster, ref, status in started:
        await each.printed(ref, b"up\n")
        assert "TimeLimit=00:05:00" in cluster.ask(f"scontrol show job {status.handle}")
        # A minute is the least that it takes, and every half minute it looks.
        cluster.controller.run(f"scontrol update JobId={status.handle} EndTime=now+1")
    for each, _, ref, _ in started:
        assert (await each.ended(ref)).failure.reason == "TIME_LIMIT"
        assert await each.output(ref) == b"up\nbye\n"


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
        request.spec.resources.memory_bytes = 256 << 20  # it is watched, and runs Python
        await gate.jobs.StartJob(request)
        assert (await gate.ended(contained)).exit_code == 0
        # Devices are shown, and Slurm's number for the one that was given.
        assert await gate.output(contained) == b"0\n"
        assert "--nv" in apptainer.calls("exec")[0]


@pytest.mark.parametrize("promise", PROMISES)
async def test_it_holds_with_accounting(
    accounted_gate: SlurmGate, accounted: Slurm, promise: Promise
) -> None:
    await promise(accounted_gate, accounted)


@pytest.mark.timeout(300)
async def test_accounts_know_what_the_queue_has_forgotten(
    accounted_gate: SlurmGate, accounted: Slurm
) -> None:
    gate = accounted_gate

    async def up(job_id: str, **spec: Any) -> tuple[types_pb2.JobRef, str, str]:
        found = await _up(gate, job_id, **spec)
        # Of what has ended before they have heard that it began accounts never know the name.
        await asyncio.to_thread(accounted.until_accounted, [found[1]], ["RUNNING"])
        return found

    preempted, first, _ = await up("preempted", cpus=12)
    urgent, _ = await gate.submit("urgent", "true", partition="urgent", cpus=8)
    assert (await gate.ended(preempted)).failure.reason == "PREEMPTED"
    assert (await gate.ended(urgent)).exit_code == 0
    cancelled, second, _ = await up("cancelled")
    accounted.ask(f"scancel {second}")
    assert (await gate.ended(cancelled)).failure.reason == "CANCELLED"
    failed, third, node = await up("failed")
    try:
        accounted.controller.run(f"scontrol update NodeName={node} State=DOWN Reason=test")
        assert (await gate.ended(failed)).failure.reason == "NODE_FAIL"
    finally:
        accounted.controller.run(f"scontrol update NodeName={node} State=RESUME || true")
    reasons = {"PREEMPTED": preempted, "CANCELLED": cancelled, "NODE_FAIL": failed}
    ids = [first, second, third]
    await asyncio.to_thread(accounted.until_accounted, ids, list(reasons))
    well = await running(gate, "well")
    gate.kill()
    accounted.kill_accounting()
    go(gate, well)
    await asyncio.to_thread(accounted.until_over)
    # A controller does not begin without them.
    accounted.start_accounting()
    accounted.forget()
    await asyncio.to_thread(accounted.until_idle)
    # Nothing is left that tells of the others but what accounts say, and those are away.
    for ref in reasons.values():
        for name in ("final", "end.0", "slurm.log"):
            (gate.attempt_folder(ref) / name).unlink(missing_ok=True)
    accounted.kill_accounting()
    seen = len(accounted.calls)
    await gate.start()
    await gate.ready()
    assert (await gate.ended(well)).exit_code == 0
    await asyncio.to_thread(accounted.until_asked, 3)
    for ref in reasons.values():
        assert (await gate.status(ref)).state == job_pb2.JOB_STATE_RUNNING
    assert not [call for call in accounted.calls[seen:] if " -j " in call]
    accounted.start_accounting()
    for reason, ref in reasons.items():
        assert (await gate.ended(ref)).failure.reason == reason


async def test_what_a_project_may_have_is_asked_of_slurm(
    accounted_gate: SlurmGate, accounted: Slurm
) -> None:
    gate, user = accounted_gate, accounted.user
    for words in (
        "add account project Cluster=skytest",
        f"add user {user} account=project",
        "add qos high",
        f"modify user {user} set qos+=high",
    ):
        accounted.manage(words)
    accounted.controller.run(
        "scontrol create reservation ReservationName=booked StartTime=now Duration=30 "
        "Nodes=n1 Accounts=project Flags=IGNORE_JOBS"
    )
    script = (
        "#!/bin/sh\n#SWM account project\n#SWM site-option slurm.qos high\n"
        "#SWM site-option slurm.reservation booked\n#SWM site-option slurm.constraint fast\n"
        "scontrol show job $SLURM_JOB_ID"
    )
    asked = parser.parse(script.encode()).spec
    options = asked.options_of("slurm")
    try:
        # One without a limit does not fit into what is booked.
        ref, _ = await gate.submit(
            "job-1", script, account=asked.account, site_options=options, time_limit_s=60
        )
        assert (await gate.ended(ref)).exit_code == 0
        told = (await gate.output(ref)).decode()
        for part in ("Account=project", "QOS=high", "Reservation=booked", "Features=fast"):
            assert part in told, told
        options["account"] = asked.account
        for name, why in {
            "account": "Invalid account",
            "qos": "Invalid qos",
            "reservation": "reservation is invalid",
        }.items():
            wrong = make_ref(f"wrong-{name}", partition="debug")
            await gate.stage(wrong)
            request = start_request(wrong, "true", site_options=options | {name: "nobodys"})
            found = await refused(gate.jobs.StartJob(request), "FIELD_MALFORMED")
            assert why in found.message
    finally:
        accounted.controller.run("scontrol delete ReservationName=booked")


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
