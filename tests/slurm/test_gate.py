"""Jobs go their way through a real Slurm: started, watched, read, cancelled, removed."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from pathlib import Path

from gate_kit.verdicts import State
from gates.ssh_cluster_gate.slurm import check as slurm_check
from skyport.gate.v1 import inventory_pb2, job_pb2
from tests.fake_gate.harness import Tree, make_ref, refused, start_request
from tests.slurm.harness import SlurmGate, check
from tests.testbed.slurm import Slurm

WAITS = "until [ -e ../go ]; do sleep 0.05; done"


async def test_what_sinfo_says_is_what_there_is(gate: SlurmGate) -> None:
    answer = await gate.inventory.ListFlavors(inventory_pb2.ListFlavorsRequest())
    (flavor,) = answer.flavors
    assert (flavor.cpus, flavor.memory_bytes >> 20) == (16, 2000)
    assert list(flavor.partition_ids) == ["debug", "urgent"]
    nodes = await gate.nodes("debug")
    assert {name: node.state for name, node in nodes.items()} == {
        "n1": inventory_pb2.NODE_STATE_UP,
        "n2": inventory_pb2.NODE_STATE_UP,
    }
    await refused(gate.inventory.ListNodes(inventory_pb2.ListNodesRequest(partition_id="no")),
                  "PARTITION_NOT_FOUND")  # fmt: skip


async def test_a_job_has_its_files_its_environment_and_its_secrets(
    gate: SlurmGate, slurm: Slurm
) -> None:
    ref = make_ref("job-1", partition="debug")
    tree = Tree(files={"in": b"input\n"})
    await gate.stage(ref, tree)
    request = start_request(
        ref,
        "#!/bin/sh\n#SBATCH -N 7 --exclusive\n#SBATCH --mail-type=NONE\n"
        'cat in; echo "$TOKEN|$SWM_NODES|$SWM_NODE_IPS|$SWM_NODE_RANK/$SWM_NUM_NODES"; pwd\n'
        "cat $SWM_HOSTFILE; echo $SWM_PORT_WEB $SWM_PORT_8123 $SWM_CPUS ${SLURM_JOB_ID:+slurm}\n"
        "cat <<. >made\nresult\n.\nexit 3\n",
        manifest_sha256=tree.digest,
        secret_env={"TOKEN": "a b\n*"},
    )
    request.spec.ports.add(name="WEB")
    request.spec.ports.add(number=8123)
    answer = await gate.jobs.StartJob(request)
    (warning,) = answer.status.warnings
    assert warning.startswith("#SBATCH -N 7: not used")
    assert answer.status.handle
    end = await gate.ended(ref)
    assert end.exit_code == 3
    status = await gate.status(ref)
    (given,) = status.allocations
    ports = {port.name: port.port for port in given.ports}
    assert ports[""] == 8123
    folder = f"/home/{slurm.user}/{gate.site.name}/jobs/debug/{ref.installation}/job-1.1"
    address = slurm.node(given.node).address
    assert (await gate.output(ref)).decode() == (
        f"input\na b\n*|{given.node}|{address}|0/1\n{folder}/work\n{given.node}\n"
        f"{ports['WEB']} 8123 1 slurm\n"
    )
    assert (gate.attempt_folder(ref) / "work" / "made").read_text() == "result\n"
    assert not list(gate.attempt_folder(ref).glob("private*"))
    told = slurm.ask(f"scontrol show job {status.handle}")
    assert "a b" not in told
    # --exclusive was passed on: without it the job has one processor of sixteen.
    assert "NumCPUs=16" in told
    await gate.remove(ref)
    assert not gate.attempt_folder(ref).exists()


async def test_the_same_start_again_starts_nothing(gate: SlurmGate, slurm: Slurm) -> None:
    ref, _ = await gate.submit("job-1", f"echo ran >>../ran; {WAITS}")
    await gate.running(ref)
    for _ in range(2):
        answer = await gate.jobs.StartJob(start_request(ref, f"echo ran >>../ran; {WAITS}"))
        assert answer.status.state == job_pb2.JOB_STATE_RUNNING
    await refused(gate.jobs.StartJob(start_request(ref, "another")), "JOB_DIFFERS")
    (gate.attempt_folder(ref) / "go").touch()
    assert (await gate.ended(ref)).exit_code == 0
    assert (gate.attempt_folder(ref) / "ran").read_text() == "ran\n"


async def test_of_two_submissions_of_an_attempt_one_runs(gate: SlurmGate, slurm: Slurm) -> None:
    slurm.replace("sbatch", '/usr/bin/sbatch "$@" >/dev/null; exec /usr/bin/sbatch "$@"')
    try:
        ref, _ = await gate.submit("job-1", "echo $SLURM_JOB_ID >>../ran; sleep 0.3")
    finally:
        slurm.restore("sbatch")
    assert sum(gate.site_uid() in row for row in slurm.jobs("%k")) == 2
    assert (await gate.ended(ref)).exit_code == 0
    await asyncio.to_thread(slurm.until_over)
    ran = (gate.attempt_folder(ref) / "ran").read_text()
    assert (gate.attempt_folder(ref) / "given").read_text().startswith(f"slurm {ran}")


async def test_output_is_there_while_it_is_written(gate: SlurmGate) -> None:
    ref, _ = await gate.submit("job-1", f"echo one; {WAITS}; echo two")
    await gate.printed(ref, b"one\n")
    (gate.attempt_folder(ref) / "go").touch()
    assert await gate.output(ref) == b"one\ntwo\n"


async def test_a_job_on_two_nodes_runs_as_under_slurm(gate: SlurmGate) -> None:
    first, _ = await gate.submit("first", "srun hostname | sort; echo $SWM_NODES", node_count=2)
    every, _ = await gate.submit(
        "every", "echo $(hostname) $SWM_NODE_RANK; exit $SWM_NODE_RANK", node_count=2, every=True
    )
    assert (await gate.ended(first)).exit_code == 0
    assert await gate.output(first) == b"n1\nn2\nn1,n2\n"
    end = await gate.ended(every)
    assert [(node.node, node.exit_code) for node in end.nodes] == [("n1", 0), ("n2", 1)]
    assert end.exit_code == 1
    request = job_pb2.ReadOutputRequest(ref=every, follow=True)
    request.cursors.add(kind=job_pb2.OUTPUT_KIND_STDOUT, node="n2")
    data = b""
    async for answer in gate.jobs.ReadOutput(request):
        data += b"".join(piece.data for piece in answer.pieces)
    assert data == b"n2 1\n"
    request.cursors[0].node = "n3"
    await refused(gate.jobs.ReadOutput(request).read(), "FIELD_MALFORMED")


async def test_why_a_job_waits_is_told(gate: SlurmGate) -> None:
    holder, _ = await gate.submit("holder", WAITS, node_count=2, site_options={"exclusive": ""})
    await gate.running(holder)
    waiting, status = await gate.submit("waiting", "true", node_count=2)
    assert status.state == job_pb2.JOB_STATE_QUEUED_AT_SITE
    assert not status.allocations
    told = await gate.queued(waiting, "Resources")
    assert told.text == "queued: Resources (waits for nodes to become free)"
    answer = await gate.cancel(waiting)
    assert answer.status.end.failure.reason == "CANCELLED"
    assert not answer.status.end.HasField("start_time")
    (gate.attempt_folder(holder) / "go").touch()
    assert (await gate.ended(holder)).exit_code == 0


async def test_a_cancel_reaches_all_processes_and_waits_for_slurms_word(
    gate: SlurmGate, slurm: Slurm
) -> None:
    deaf = "setsid sh -c \"trap '' TERM; sleep 3601\" &"
    ref, _ = await gate.submit(
        "job-1", f"{deaf} trap 'echo term; exit 0' TERM; echo up; sleep 3601 & wait"
    )
    await gate.printed(ref, b"up\n")
    node = (await gate.status(ref)).allocations[0].node
    answer = await gate.cancel(ref, 1)
    assert answer.status.end.failure.reason == "CANCELLED"
    assert await gate.output(ref) == b"up\nterm\n"
    assert "sleep 3601" not in slurm.node(node).run("ps -e -o args")
    assert not slurm.ask(f"squeue -h -j {answer.status.handle} -t R,CG,PD -o %i || true").strip()


async def test_a_cancel_reaches_all_nodes(gate: SlurmGate, slurm: Slurm) -> None:
    script = "echo up; sleep 3603 & wait"
    ref, _ = await gate.submit("job-1", script, node_count=2, every=True)
    await gate.printed(ref, b"up\n")
    # Nobody waits for the grace time who ends before.
    answer = await asyncio.wait_for(gate.cancel(ref, 60), 30)
    assert answer.status.end.failure.reason == "CANCELLED"
    for node in ("n1", "n2"):
        assert "sleep 3603" not in slurm.node(node).run("ps -e -o args")


async def test_what_slurm_refuses_is_told_with_its_words(gate: SlurmGate) -> None:
    ref = make_ref("job-1", partition="debug")
    await gate.stage(ref)
    bad = start_request(ref, "true", site_options={"constraint": "nothing"})
    found = await refused(gate.jobs.StartJob(bad), "FIELD_MALFORMED")
    assert "Invalid feature specification" in found.message
    unknown = start_request(ref, "true", site_options={"output": "x"})
    await refused(gate.jobs.StartJob(unknown), "FIELD_MALFORMED")
    too_much = start_request(ref, "true", cpus=99)
    await refused(gate.jobs.StartJob(too_much), "FIELD_OUT_OF_RANGE")
    urgent = make_ref("job-2", partition="urgent")
    await gate.stage(urgent)
    too_long = start_request(urgent, "true", time_limit_s=601)
    await refused(gate.jobs.StartJob(too_long), "FIELD_OUT_OF_RANGE")


async def test_a_check_of_the_site_says_what_there_is(gate: SlurmGate, slurm: Slurm) -> None:
    found = await check(gate)
    assert [found[name].state for name in slurm_check.CHECKS] == [State.OK] * 6
    assert (found["accounting"].value, found["partitions"].value) == ("none", "2")
    assert found["node_ssh"].value == "yes"
    # The login node runs no jobs.
    assert found["limits"].state is State.OK
    assert found["containers"].value == "none"
    slurm.replace("sinfo", "echo sinfo: no such cluster >&2; exit 1")
    try:
        found = await check(gate)
    finally:
        slurm.restore("sinfo")
    assert found["slurm"].state is State.FAILED
    assert "no such cluster" in found["slurm"].text


async def test_each_owner_runs_as_an_account_of_its_own(slurm: Slurm) -> None:
    folder = Path(tempfile.mkdtemp(prefix="gate"))
    gate = SlurmGate(folder, slurm, "mapped")
    for name in ("user", "shared_account"):
        del gate.config[name]
    gate.config |= {
        "users": {"ann": "alice", "bo": "bob"},
        "identity": str(slurm.bed.key("alice").with_name("%r")),
    }
    try:
        await gate.start()
        await gate.ready()
        refs = {}
        for owner in ("ann", "bo"):
            refs[owner] = make_ref(f"job-{owner}", partition="debug", owner=owner)
            await gate.stage(refs[owner])
            await gate.jobs.StartJob(start_request(refs[owner], "id -un; pwd"))
        for owner, account in (("ann", "alice"), ("bo", "bob")):
            assert (await gate.ended(refs[owner])).exit_code == 0
            told = (await gate.output(refs[owner])).decode().split()
            assert told[0] == account
            assert told[1].startswith(f"/home/{account}/mapped/jobs/")
        stranger = make_ref("job-x", partition="debug", owner="eve")
        await refused(gate.stage(stranger), "USER_NOT_MAPPED")
    finally:
        await gate.close()
        shutil.rmtree(folder, ignore_errors=True)


async def test_submits_are_no_faster_than_the_site_wants(slurm: Slurm) -> None:
    folder = Path(tempfile.mkdtemp(prefix="gate"))
    gate = SlurmGate(folder, slurm, "slowly", slurm={"submits_per_s": 2})
    try:
        await gate.start()
        await gate.ready()
        refs = [make_ref(f"job-{number}", partition="debug") for number in range(5)]
        for ref in refs:
            await gate.stage(ref)
        began = time.monotonic()
        await asyncio.gather(*(gate.jobs.StartJob(start_request(ref, "true")) for ref in refs))
        # Four pauses: a slow machine makes them longer, and nothing shorter.
        assert time.monotonic() - began >= 4 / 2
        for ref in refs:
            assert (await gate.ended(ref)).exit_code == 0
    finally:
        await gate.close()
        shutil.rmtree(folder, ignore_errors=True)
