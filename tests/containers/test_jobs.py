"""Jobs in containers, by a real Docker engine on a real host."""

from __future__ import annotations

from typing import Any

import pytest

from skyport.gate.v1 import job_pb2
from tests.containers.conftest import ROOT, USER, Lab, lab_ref, start
from tests.fake_gate.harness import eventually, start_request
from tests.ssh_gate.harness import Gate

SECRET = "only-the-job-sees-this"


def running(lab: Lab) -> list[str]:
    """The containers of jobs, those that have stopped included."""
    return [name for name in lab.engine.containers() if name.startswith("swm-")]


async def test_a_script_runs_inside_as_the_account_in_its_work_folder(lab: Lab, gate: Gate) -> None:
    ref = lab_ref("inside")
    script = """
id -u; id -g; pwd; echo "$HOME"; echo "$SWM_JOB_ID"; echo "$WORD"; echo "$SECRET"
touch "$HOME/mine" && echo home
[ -f /etc/debian_version ] || echo image
cat /proc/1/comm
echo out >result
n=0; while [ $n -lt 100000 ]; do n=$((n + 1)); done
exit 7
"""
    await start(
        gate, ref, script, lab.busybox, env={"WORD": "a b\nc"}, secret_env={"SECRET": SECRET}
    )
    end = await gate.ended(ref)
    lines = (await gate.output(ref)).decode().splitlines()
    uid = str(lab.bed.uid(USER))
    work = f"{ROOT}/jobs/lab/{ref.installation}/inside.1/work"
    assert end.exit_code == 7, (await gate.output(ref, 2), end)
    assert lines == [
        uid, uid, work, f"/home/{USER}", "inside", "a b", "c", SECRET, "home", "image", "sh",
    ]  # fmt: skip
    assert lab.host.run(f"cat {work}/result", user=USER) == "out\n"
    # Which one, is looked at where it comes from a registry.
    assert (await gate.status(ref)).image_digest.startswith("sha256:")
    assert end.usage.cpu_time.ToNanoseconds() > 0
    assert not running(lab)
    assert SECRET not in lab.engine.log.read_text()
    await gate.remove(ref)
    assert lab.host.run(f"find {ROOT}/jobs -name 'inside*'", user=USER) == ""


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ("kill -KILL $$", {"signal": 9}),
        ("kill -TERM $$", {"signal": 15}),
        ("exit 137", {"exit_code": 137}),
        ("#!/bin/no-such-program\n", {"failure": "START_FAILED"}),
    ],
)
async def test_an_end_is_told_as_without_a_container(
    lab: Lab, gate: Gate, script: str, outcome: dict[str, Any]
) -> None:
    ref = lab_ref("end")
    await start(gate, ref, script, lab.busybox)
    end = await gate.ended(ref)
    kind = end.WhichOneof("outcome")
    assert kind in outcome
    told = end.failure.reason if kind == "failure" else getattr(end, str(kind))
    assert told == outcome[kind], end
    assert not running(lab)


async def test_an_image_without_a_shell_says_so(lab: Lab, gate: Gate) -> None:
    ref = lab_ref("no-shell")
    await start(gate, ref, "true", lab.no_shell)
    failure = (await gate.ended(ref)).failure
    assert (failure.reason, failure.message) == (
        "START_FAILED",
        "the image has no /bin/sh, which jobs are run with",
    )
    assert not running(lab)


async def test_limits_hold_and_what_exceeds_its_memory_is_told_so(lab: Lab, gate: Gate) -> None:
    ref = lab_ref("greedy")
    # It has one of several cores: 100 ms in each 100 ms, told by either generation of cgroups.
    script = """
cd /sys/fs/cgroup
[ -e cpu.max ] && read -r quota period <cpu.max || {
    read -r quota <cpu/cpu.cfs_quota_us && read -r period <cpu/cpu.cfs_period_us
}
echo $quota $period
a=0123456789abcdef
while :; do a=$a$a; done
"""
    await gate.stage(ref)
    request = start_request(ref, script, container_image=lab.busybox)
    request.allocations[0].memory_bytes = 32 << 20
    await gate.jobs.StartJob(request)
    assert (await gate.ended(ref)).failure.reason == "OUT_OF_MEMORY"
    assert await gate.output(ref) == b"100000 100000\n"
    assert not running(lab)


async def test_the_time_limit_ends_all_that_is_inside(lab: Lab, gate: Gate) -> None:
    ref = lab_ref("long")
    script = "trap 'echo bye; exit 3' TERM; (trap '' TERM; sleep 300) & sleep 300 & wait"
    await start(gate, ref, script, lab.busybox, time_limit_s=5.0, grace_s=0.5)
    assert (await gate.ended(ref)).failure.reason == "TIME_LIMIT"
    assert await gate.output(ref) == b"bye\n"
    assert not running(lab)


async def test_cancel_ends_it_gently_and_confirms(lab: Lab, gate: Gate) -> None:
    ref = lab_ref("cancelled")
    script = "trap 'echo bye; exit 3' TERM; echo ready; sleep 300 & wait"
    await start(gate, ref, script, lab.busybox)
    await gate.printed(ref, b"ready\n")
    answer = await gate.cancel(ref, 5.0)
    assert answer.status.end.failure.reason == "CANCELLED"
    assert await gate.output(ref) == b"ready\nbye\n"
    assert not running(lab)
    await gate.remove(ref)


async def test_one_that_ignores_term_is_killed(lab: Lab, gate: Gate) -> None:
    ref = lab_ref("stubborn")
    await start(gate, ref, "trap '' TERM; echo ready; while :; do sleep 1; done", lab.busybox)
    await gate.printed(ref, b"ready\n")
    assert (await gate.cancel(ref, 0.2)).status.end.failure.reason == "CANCELLED"
    assert not running(lab)


async def test_a_gate_that_is_killed_finds_it_again(lab: Lab, gate: Gate) -> None:
    ref = lab_ref("lasting")
    script = "echo one; while [ ! -e go ]; do sleep 0.1; done; echo two; exit 5"
    await start(gate, ref, script, lab.busybox)
    await gate.printed(ref, b"one\n")
    await gate.restart()
    await gate.up("h1")
    status = await gate.status(ref)
    assert status.state == job_pb2.JOB_STATE_RUNNING
    assert status.image_digest
    lab.host.run(f"touch {ROOT}/jobs/lab/{ref.installation}/lasting.1/work/go", user=USER)
    assert (await gate.ended(ref)).exit_code == 5
    assert await gate.output(ref) == b"one\ntwo\n"


async def test_an_engine_that_is_killed_costs_no_end(lab: Lab, gate: Gate) -> None:
    """The container goes on without its engine, and its true end is found."""
    ref = lab_ref("orphaned")
    script = "echo one; while [ ! -e go ]; do sleep 0.1; done; echo two; exit 6"
    await start(gate, ref, script, lab.busybox)
    await gate.printed(ref, b"one\n")
    lab.engine.kill()
    lab.host.run(f"touch {ROOT}/jobs/lab/{ref.installation}/orphaned.1/work/go", user=USER)
    end = await gate.ended(ref)
    assert end.exit_code == 6, end
    lab.engine.start()
    await gate.remove(ref)
    assert not running(lab)


async def test_a_runner_that_is_killed_leaves_no_container(lab: Lab, gate: Gate) -> None:
    ref = lab_ref("unguarded")
    await start(gate, ref, "echo one; sleep 1; echo two", lab.busybox)
    await gate.printed(ref, b"one\n")
    folder = f"{ROOT}/jobs/lab/{ref.installation}/unguarded.1"
    lab.host.run(f"kill -9 $(cut -d ' ' -f 2 {folder}/claim.h1)", user=USER)
    assert (await gate.ended(ref)).failure.reason == "NODE_FAIL"
    await gate.remove(ref)
    assert not running(lab)


async def test_a_container_without_an_attempt_is_removed(lab: Lab, gate: Gate) -> None:
    """The job has deleted its folder, and its runner was killed."""
    ref = lab_ref("stray")
    await start(gate, ref, "echo one; sleep 300", lab.busybox)
    await gate.printed(ref, b"one\n")
    folder = f"{ROOT}/jobs/lab/{ref.installation}/stray.1"
    lab.host.run(f"pid=$(cut -d ' ' -f 2 {folder}/claim.h1); kill -9 $pid; rm -rf {folder}")
    other = ("run", "--detach", "--name", "not-ours", "--network", "host", lab.busybox)
    lab.engine.docker(*other, "sleep", "300")
    assert running(lab)
    await gate.restart()
    await eventually(lambda: not running(lab), "the container is removed")
    assert "not-ours" in lab.engine.containers(everything=False)
