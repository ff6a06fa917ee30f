"""Jobs in images, and with storage, through a real Slurm; apptainer is a program in its place."""

from __future__ import annotations

from gate_kit.verdicts import State
from skyport.gate.v1 import job_pb2
from tests.fake_gate.harness import make_ref, start_request
from tests.slurm.apptainer import DIGEST, IMAGE, MISSING, SLOW, Apptainer
from tests.slurm.harness import SlurmGate, check
from tests.testbed.slurm import Slurm


async def test_a_job_runs_in_an_image_with_what_the_queue_gave_it(
    image_gate: SlurmGate, slurm: Slurm, apptainer: Apptainer
) -> None:
    gate = image_gate
    script = (
        "#!/bin/sh -e\n"
        'echo "$IN|$TOKEN|$SWM_STORAGE_BIG_DATA|$SWM_NODE_RANK/$SWM_NUM_NODES|$SWM_HOSTFILE"\n'
        'echo "$SLURM_JOB_ID|$HOME|$SWM_PORT_WEB|$LANG$SSH_CONNECTION"; pwd; exit 3\n'
    )
    ref = make_ref("job-1", partition="debug")
    await gate.stage(ref)
    request = start_request(
        ref,
        script,
        container_image=IMAGE,
        storage=["big-data"],
        secret_env={"TOKEN": "a b\n*"},
    )
    request.spec.ports.add(name="WEB")
    handle = (await gate.jobs.StartJob(request)).status.handle
    assert (await gate.ended(ref)).exit_code == 3
    status = await gate.status(ref)
    assert status.image_digest == DIGEST
    (given,) = status.allocations
    folder = f"/home/{slurm.user}/{gate.site.name}/jobs/debug/{ref.installation}/job-1.1"
    assert (await gate.output(ref)).decode() == (
        f"image|a b\n*|/srv/data|0/1|{folder}/hosts\n"
        f"{handle}|/home/{slurm.user}|{given.ports[0].port}|\n{folder}/work\n"
    )
    assert not list(gate.attempt_folder(ref).glob("private*"))
    (words,) = apptainer.calls("exec")
    assert words[words.index("/srv/data:/srv/data:ro") - 1] == "--bind"
    assert "--nv" not in words
    # The same on each node; and what is there isn't pulled again.
    every = "echo $(hostname) $IN $SWM_NODE_RANK $SLURM_PROCID; exit $SWM_NODE_RANK"
    ref, _ = await gate.submit("job-2", every, container_image=IMAGE, node_count=2, every=True)
    end = await gate.ended(ref)
    assert [(node.node, node.exit_code) for node in end.nodes] == [("n1", 0), ("n2", 1)]
    assert (gate.attempt_folder(ref) / "stdout.1").read_text() == "n2 image 1 1\n"
    assert len(apptainer.calls("--debug")) == 1
    # Storage is there without an image as well.
    ref, _ = await gate.submit("job-3", "echo $SWM_STORAGE_BIG_DATA$IN", storage=["big-data"])
    assert (await gate.ended(ref)).exit_code == 0
    assert await gate.output(ref) == b"/srv/data\n"


async def test_cancel_and_time_limit_reach_a_script_in_an_image(
    image_gate: SlurmGate, slurm: Slurm
) -> None:
    gate = image_gate
    script = "trap 'echo term; exit 0' TERM; echo up; sleep 3605 & while :; do wait; done"
    ref, _ = await gate.submit("job-1", script, container_image=IMAGE)
    await gate.printed(ref, b"up\n")
    node = (await gate.status(ref)).allocations[0].node
    answer = await gate.cancel(ref, 20)
    assert answer.status.end.failure.reason == "CANCELLED"
    assert await gate.output(ref) == b"up\nterm\n"
    assert "sleep 3605" not in slurm.node(node).run("ps -e -o args")
    ref, _ = await gate.submit("job-2", script, container_image=IMAGE, time_limit_s=0.5)
    assert (await gate.ended(ref)).failure.reason == "TIME_LIMIT"
    # Slurm's own word goes to everything in the job: the script ends as it likes.
    ref, status = await gate.submit("job-3", script, container_image=IMAGE)
    await gate.printed(ref, b"up\n")
    slurm.ask(f"scancel --signal=TERM --full {status.handle}")
    assert (await gate.ended(ref)).exit_code == 0
    assert await gate.output(ref) == b"up\nterm\n"


async def test_an_image_is_there_before_the_queue_has_the_job(
    image_gate: SlurmGate, slurm: Slurm, apptainer: Apptainer
) -> None:
    gate = image_gate
    missing, _ = await gate.submit("job-1", "true", container_image=MISSING)
    end = await gate.ended(missing)
    assert end.failure.reason == "IMAGE_NOT_FOUND"
    assert end.failure.message == (
        f"registry.example has no image {MISSING}: reading manifest: manifest unknown"
    )
    assert not end.HasField("start_time")
    cancelled, status = await gate.submit("job-2", "true", container_image=SLOW)
    assert status.state == job_pb2.JOB_STATE_STARTING
    told = await gate.until(cancelled, lambda status: "1 layers" in status.text)
    assert told.text == f"pulling {SLOW}: 1 layers"
    end = (await gate.cancel(cancelled)).status.end
    assert end.failure.reason == "CANCELLED"
    assert not end.HasField("start_time")
    assert not any(gate.site_uid() in row for row in slurm.jobs("%k"))


async def test_a_check_says_where_apptainer_is(
    image_gate: SlurmGate, slurm: Slurm, apptainer: Apptainer
) -> None:
    found = (await check(image_gate))["containers"]
    assert (found.state, found.value) == (State.OK, "apptainer 1.3.4")
    for name in slurm.names:
        slurm.node(name).run("umount /usr/local/bin")
    found = (await check(image_gate))["containers"]
    assert found.state is State.FAILED
    assert found.text.startswith("a compute node has no apptainer")
    ref, _ = await image_gate.submit("job-1", "true", container_image=IMAGE)
    failure = (await image_gate.ended(ref)).failure
    assert failure.reason == "START_FAILED"
    assert failure.message in {
        f"{name} has no apptainer, which containers need" for name in slurm.names
    }
