"""Images from a real registry that asks for a login."""

from __future__ import annotations

import re

import pytest

from skyport.gate.v1 import job_pb2
from tests.containers.conftest import ROOT, USER, Lab, MakeGate, lab_ref, start
from tests.fake_gate.harness import eventually, start_request
from tests.ssh_gate.harness import Gate


@pytest.fixture
def image(lab: Lab) -> str:
    """An image that only the registry has."""
    name = lab.registry.push(lab.engine, lab.busybox, "some/tool:1")
    lab.engine.attempt("rmi", name)
    return name


def manifests_asked(lab: Lab) -> int:
    """How often somebody has asked the registry for the image."""
    return lab.registry.log.read_text().count(" /v2/some/tool/manifests/")


async def failure_of(gate: Gate, name: str, image: str) -> tuple[str, str]:
    ref = lab_ref(name)
    await start(gate, ref, "true", image)
    status = await gate.until(ref, lambda status: status.HasField("end"))
    assert not status.HasField("start_time"), "nothing was claimed"
    failure = status.end.failure
    return failure.reason, failure.message


async def test_the_site_logs_in_and_many_jobs_wait_for_one_pull(
    lab: Lab, make_gate: MakeGate, image: str
) -> None:
    gate = await make_gate(**lab.login())
    before = manifests_asked(lab)
    refs = [lab_ref(f"job-{index}") for index in range(5)]
    for ref in refs:
        status = await start(gate, ref, "echo out", image)
        assert status.state == job_pb2.JOB_STATE_STARTING
        assert image in status.text
    for ref in refs:
        assert (await gate.ended(ref)).exit_code == 0
        assert (await gate.status(ref)).image_digest == lab.registry.digest(image)
    # A pull asks which one it is, and what makes it up where the engine has not got it by another
    # name; five would ask five times at the least.
    await eventually(lambda: manifests_asked(lab) > before, "the registry's log tells of a pull")
    assert manifests_asked(lab) - before < len(refs)
    # Nothing of the login stays on the host.
    for secret in (lab.registry.password, "auths"):
        found = f"grep -rlF -e '{secret}' /home/{USER} /tmp 2>/dev/null || true"
        assert lab.host.run(found) == ""
    assert lab.host.run(f"ls -d {ROOT}/login.* 2>/dev/null || true") == ""


async def test_a_users_login_comes_with_the_job_and_serves_nobody_else(
    lab: Lab, gate: Gate, image: str
) -> None:
    ref = lab_ref("with-login")
    await gate.stage(ref)
    request = start_request(ref, "echo out", container_image=image)
    login = request.registry_logins.add(registry=lab.registry.address)
    login.username, login.password = lab.registry.user, lab.registry.password
    await gate.jobs.StartJob(request)
    assert (await gate.ended(ref)).exit_code == 0
    lab.engine.docker("rmi", image)
    reason, message = await failure_of(gate, "without-login", image)
    assert reason == "IMAGE_AUTH"
    assert message == (
        f"{lab.registry.address} does not let us have {image}: "
        f'Head "http://{lab.registry.address}/v2/some/tool/manifests/1": '
        "no basic auth credentials; "
        f'is a login of [registry."{lab.registry.address}"] at the site, and right?'
    )


async def test_what_is_missing_is_told_apart(lab: Lab, make_gate: MakeGate, image: str) -> None:
    gate = await make_gate(**lab.login())
    absent = f"{lab.registry.address}/some/other:1"
    reason, message = await failure_of(gate, "absent", absent)
    assert reason == "IMAGE_NOT_FOUND"
    assert re.match(rf"{lab.registry.address} has no image {absent}: manifest .*unknown", message)
    lab.registry.stop()
    try:
        reason, message = await failure_of(gate, "no-registry", image)
    finally:
        lab.registry.start()
    assert reason == "REGISTRY_UNREACHABLE"
    assert message.startswith(f"h1 can't reach {lab.registry.address} for {image}: ")
    assert "connection refused" in message


async def test_a_host_where_the_account_may_not_use_the_engine_says_what_to_do(
    lab: Lab, gate: Gate
) -> None:
    lab.engine.allow(0)
    try:
        told = await failure_of(gate, "forbidden", lab.busybox)
    finally:
        lab.engine.allow(lab.bed.uid(USER))
    assert told == (
        "START_FAILED",
        "h1 does not let jobs use docker; add the account to the group docker there",
    )


async def test_a_gate_that_is_killed_while_it_pulls_is_asked_again(
    lab: Lab, make_gate: MakeGate, image: str
) -> None:
    gate = await make_gate(**lab.login())
    ref = lab_ref("again")
    with lab.registry.frozen():
        await start(gate, ref, "echo out", image)
        await gate.restart()
        await gate.up("h1")
        status = await gate.status(ref)
        assert status.state == job_pb2.JOB_STATE_STAGED
    status = await start(gate, ref, "echo out", image)
    assert status.state == job_pb2.JOB_STATE_STARTING
    assert (await gate.ended(ref)).exit_code == 0
    assert await gate.output(ref) == b"out\n"


async def test_a_cancel_while_it_pulls_ends_it_at_once(
    lab: Lab, make_gate: MakeGate, image: str
) -> None:
    gate = await make_gate(**lab.login())
    ref = lab_ref("unwanted")
    with lab.registry.frozen():
        await start(gate, ref, "echo out", image)
        end = (await gate.cancel(ref)).status.end
        assert end.failure.reason == "CANCELLED"
        await gate.remove(ref)
