"""The gate as a process, what it says of itself, watches, lists, and nodes that are away."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gates.fake_gate.config import Capability
from skyport.gate.v1 import (
    identity_pb2,
    inventory_pb2,
    job_pb2,
    partition_pb2,
    tunnel_pb2,
    types_pb2,
)
from tests.fake_gate.conftest import MakeGate
from tests.fake_gate.harness import (
    INSTALLATION,
    STATIC,
    WITHIN_S,
    Gate,
    drained,
    make_ref,
    problem,
    refused,
    start_request,
)
from tests.fake_gate.test_partitions import create_request

_ALL: dict[str, Any] = {
    "partitions": {**STATIC["partitions"], "batch": {"kind": "queue"}},
    "dynamic": {"flavors": [{"name": "small", "price": "1", "spot_price": "0.5"}]},
    "images": [{"name": "box", "kind": "container"}],
    "users": {"ann": "u_ann"},
    "shared_filesystem": True,
    "storage": ["scratch"],
    "options": ["qos"],
    "option_prefix": "fake",
}


async def test_a_gate_says_what_it_is(make_gate: MakeGate) -> None:
    gate = await make_gate(**_ALL)
    info = await gate.identity.GetGateInfo(identity_pb2.GetGateInfoRequest(api_versions=["v1"]))
    assert (info.name, list(info.api_versions)) == ("fake", ["v1"])
    names = {types_pb2.Capability.Name(number) for number in info.capabilities}
    assert names == {f"CAPABILITY_{capability}" for capability in Capability}
    assert info.limits.expiry_action == identity_pb2.EXPIRY_ACTION_DELETE
    assert info.limits.longest_expiry.seconds == 7 * 86_400
    assert (info.option_prefix, list(info.storage)) == ("fake", ["scratch"])
    assert info.scope_uid
    assert info.vendor_version
    probe = await gate.identity.Probe(identity_pb2.ProbeRequest())
    assert (probe.ready, probe.incarnation) == (True, info.incarnation)
    none = identity_pb2.GetGateInfoRequest()
    await refused(gate.identity.GetGateInfo(none), "FIELD_REQUIRED")


async def test_health_and_reflection_are_served(gate: Gate) -> None:
    assert gate.channel is not None
    stub: Any = health_pb2_grpc.HealthStub(gate.channel)
    for service in ("", "skyport.gate.v1.JobService"):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def _tunnel(call: Any, opening: Any) -> None:
    await call.write(opening)
    await drained(call)


def _needing(gate: Gate, capability: str) -> list[Callable[[], Any]]:
    """Calls that need a capability."""
    ref, two = make_ref(), make_ref("two", "n1", "n2")
    for each in (ref, two):
        each.roots.add(root_uid=(gate.site / "root_uid").read_text())
    renew = partition_pb2.RenewPartitionRequest(partition_id="p")
    renew.expire_time.CopyFrom(create_request().expire_time)
    delete = partition_pb2.DeletePartitionRequest(partition_id="p", installation=INSTALLATION)
    connect = tunnel_pb2.ConnectRequest(open=tunnel_pb2.ConnectOpen(ref=ref, port=1))
    accept = tunnel_pb2.AcceptRequest(open=tunnel_pb2.AcceptOpen(connection_id="x"))
    listen = tunnel_pb2.ListenRequest(ref=ref, port=1)

    def create(**spec: Any) -> Callable[[], Any]:
        return lambda: gate.partitions.CreatePartition(create_request(location="", **spec))

    def start(each: types_pb2.JobRef = ref, **spec: Any) -> Callable[[], Any]:
        return lambda: gate.jobs.StartJob(start_request(each, "true", **spec))

    return {
        "DYNAMIC_PARTITIONS": [create(), lambda: gate.partitions.DeletePartition(delete)],
        "EXPIRY": [lambda: gate.partitions.RenewPartition(renew), create()],
        "SPOT": [create(spot=True)],
        "STORAGE": [create(storage=["scratch"]), start(storage=["scratch"])],
        "CONTAINERS": [create(containers=True), start(container_image="box")],
        "MULTI_NODE": [start(two)],
        "TUNNELS": [lambda: _tunnel(gate.tunnels.Connect(), connect)],
        "REVERSE_TUNNELS": [
            lambda: gate.tunnels.Listen(listen),
            lambda: _tunnel(gate.tunnels.Accept(), accept),
        ],
    }[capability]


@pytest.mark.parametrize(
    "capability",
    [
        "DYNAMIC_PARTITIONS", "EXPIRY", "SPOT", "STORAGE", "CONTAINERS", "MULTI_NODE", "TUNNELS",
        "REVERSE_TUNNELS",
    ],
)  # fmt: skip
async def test_what_a_missing_capability_covers_is_unimplemented(
    make_gate: MakeGate, capability: str
) -> None:
    gate = await make_gate(**_ALL, leave_out=[capability])
    await gate.stage(make_ref("first"))
    info = await gate.identity.GetGateInfo(identity_pb2.GetGateInfoRequest(api_versions=["v1"]))
    number = types_pb2.Capability.Value(f"CAPABILITY_{capability}")
    assert number not in info.capabilities
    for call in _needing(gate, capability):
        found = await refused(call(), "CAPABILITY_MISSING", grpc.StatusCode.UNIMPLEMENTED)
        assert found.metadata["capability"] == f"CAPABILITY_{capability}"


async def test_what_is_there_without_a_capability_is_left_out(make_gate: MakeGate) -> None:
    gate = await make_gate(
        **_ALL, leave_out=["STATIC_PARTITIONS", "SITE_QUEUE", "PRICES", "USER_MAPPING"]
    )
    listed = await gate.partitions.ListPartitions(partition_pb2.ListPartitionsRequest())
    assert not listed.partitions
    flavors = (await gate.inventory.ListFlavors(inventory_pb2.ListFlavorsRequest())).flavors
    assert not flavors[0].HasField("on_demand_price")
    await gate.partitions.CreatePartition(create_request(location=""))


async def test_a_known_option_and_storage_and_container_are_taken(make_gate: MakeGate) -> None:
    gate = await make_gate(**_ALL)
    ref = make_ref()
    await gate.start_job(
        "true", ref, storage=["scratch"], site_options={"qos": "high"}, container_image="box"
    )
    assert (await gate.ended(ref)).exit_code == 0
    other = make_ref("other")
    await gate.stage(other)
    unknown = start_request(other, "true", container_image="no")
    await refused(gate.jobs.StartJob(unknown), "IMAGE_NOT_FOUND")


# The process.


async def test_sigterm_ends_watches_and_the_process_with_status_0(gate: Gate) -> None:
    ref, _ = await gate.start_job("echo up; sleep 60")
    await gate.running(ref)
    watch = gate.jobs.WatchJobs(job_pb2.WatchJobsRequest(installation=INSTALLATION))
    assert (await watch.read()).events
    request = job_pb2.ReadOutputRequest(ref=ref, follow=True)
    request.cursors.add(kind=job_pb2.OUTPUT_KIND_STDOUT)
    follow = gate.jobs.ReadOutput(request)
    assert (await follow.read()).pieces
    ending = asyncio.create_task(gate.stop())
    await refused(drained(watch), "SHUTTING_DOWN", grpc.StatusCode.UNAVAILABLE)
    await refused(drained(follow), "SHUTTING_DOWN", grpc.StatusCode.UNAVAILABLE)
    assert await asyncio.wait_for(ending, 5) == 0
    assert not gate.socket.exists()
    await gate.start()
    assert (await gate.status(ref)).state == job_pb2.JOB_STATE_RUNNING
    await gate.cancel(ref, 0)


async def test_a_supervised_gate_ends_with_its_parent(tmp_path: Path) -> None:
    gate = Gate(tmp_path, STATIC)
    await gate.start(supervised=True)
    assert gate.process is not None
    assert gate.process.stdin is not None
    gate.process.stdin.close()
    assert await asyncio.to_thread(gate.process.wait, WITHIN_S) == 0
    await gate.close()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("state_dir = 1\n[partitions.a]\nkind = 'static'\n", "1: state_dir"),
        ("state_dir = 's'\n[partitions.a]\nkind = 'stat'\n", 'did you mean "static"'),
        ("state_dir = 's'\n", "add [partitions.NAME]"),
        ("state_dir = 's'\n[[faults]]\nkind = 'fail'\n[dynamic]\n", "code"),
        ("not toml", "is not TOML"),
    ],
)
def test_a_configuration_that_cannot_work_ends_with_2_and_says_what_to_mend(
    tmp_path: Path, config: str, told: str
) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(config)
    command = [sys.executable, "-m", "gates.fake_gate", "--config", str(path)]
    ended = subprocess.run(
        [*command, "--listen", f"unix://{tmp_path}/g.sock"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_living_gate_keeps_its_socket(gate: Gate) -> None:
    command = [sys.executable, "-m", "gates.fake_gate", "--config", str(gate.folder / "gate.toml")]
    other = await asyncio.create_subprocess_exec(
        *command, "--listen", f"unix://{gate.socket}", stderr=subprocess.PIPE
    )
    _, told = await other.communicate()
    assert other.returncode == 2
    assert b"served by another process" in told
    await gate.identity.Probe(identity_pb2.ProbeRequest())


async def test_a_site_that_is_not_there_is_told_by_probe_and_is_never_gone(gate: Gate) -> None:
    ref, _ = await gate.start_job("echo up; sleep 60")
    # RUNNING is told at the claim, when the runner has not yet gone to the work folder.
    await gate.printed(ref, b"up\n")
    aside = gate.folder / "aside"
    gate.site.rename(aside)
    await refused(gate.identity.Probe(identity_pb2.ProbeRequest()), "SITE_UNREACHABLE")
    await refused(gate.jobs.GetJob(job_pb2.GetJobRequest(ref=ref)), "SITE_UNREACHABLE")
    aside.rename(gate.site)
    assert (await gate.status(ref)).state == job_pb2.JOB_STATE_RUNNING
    await gate.cancel(ref, 0)


async def test_a_second_signal_does_not_wait_for_the_grace(gate: Gate) -> None:
    assert gate.process is not None
    gate.faults({"kind": "never", "method": "GetJob"})
    hanging = asyncio.create_task(problem(gate.jobs.GetJob(job_pb2.GetJobRequest(ref=make_ref()))))
    await gate.identity.Probe(identity_pb2.ProbeRequest())
    gate.process.send_signal(signal.SIGTERM)
    gate.process.send_signal(signal.SIGINT)  # two of one kind may arrive as one
    assert await asyncio.to_thread(gate.process.wait, 4) == 0
    assert (await hanging).reason is None


# Lists and watches.


async def test_attempts_are_listed_in_order_each_once_across_pages(gate: Gate) -> None:
    made = [("b", 1), ("a", 2), ("a", 10), ("a", 1), ("c", 1)]
    for job_id, attempt in made:
        await gate.stage(make_ref(job_id, attempt=attempt))
    other = make_ref("x")
    other.installation = "othercore"
    request = job_pb2.ListJobsRequest(installation=INSTALLATION, page_size=2)
    found = []
    while True:
        answer = await gate.jobs.ListJobs(request)
        found += [(job.ref.job_id, job.ref.attempt) for job in answer.jobs]
        assert not any(job.ref.roots for job in answer.jobs)
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert found == sorted(made)
    await refused(gate.jobs.ListJobs(job_pb2.ListJobsRequest()), "FIELD_REQUIRED")
    nowhere = job_pb2.ListJobsRequest(installation=INSTALLATION, partition_id="nowhere")
    await refused(gate.jobs.ListJobs(nowhere), "PARTITION_NOT_FOUND")
    bad = job_pb2.ListJobsRequest(installation=INSTALLATION, page_token="bad")
    await refused(gate.jobs.ListJobs(bad), "PAGE_TOKEN_INVALID")


async def test_an_installation_sees_only_its_own(gate: Gate) -> None:
    await gate.stage(make_ref("mine"))
    request = job_pb2.ListJobsRequest(installation="othercore")
    assert not (await gate.jobs.ListJobs(request)).jobs
    watch = gate.jobs.WatchJobs(job_pb2.WatchJobsRequest(installation="othercore"))
    first = await watch.read()
    assert [event.WhichOneof("event") for event in first.events] == ["snapshot_end"]
    watch.cancel()


async def test_a_silent_watch_has_a_heartbeat(make_gate: MakeGate) -> None:
    gate = await make_gate(**STATIC, heartbeat_s=0.1)
    watch = gate.jobs.WatchJobs(job_pb2.WatchJobsRequest(installation=INSTALLATION))
    boundary = (await watch.read()).events[0].snapshot_end
    beat = (await watch.read()).events[0].heartbeat
    assert beat.incarnation == boundary.incarnation
    assert beat.time.seconds
    watch.cancel()


async def test_ended_attempts_stay_in_the_snapshot_until_they_are_removed(gate: Gate) -> None:
    ref, _ = await gate.start_job("true")
    await gate.ended(ref)
    events = []
    async for event in gate.watch():
        events.append(event.WhichOneof("event"))
        if event.HasField("snapshot_end"):
            break
    assert events == ["status", "snapshot_end"]
    await gate.remove(ref)
    async for event in gate.watch():
        assert event.HasField("snapshot_end")
        break


# Nodes that are away.


async def test_a_node_that_is_away_makes_nothing_gone(gate: Gate) -> None:
    ref, _ = await gate.start_job("sleep 60")
    await gate.running(ref)
    watch = gate.jobs.WatchJobs(job_pb2.WatchJobsRequest(installation=INSTALLATION))
    kinds: list[str | None] = []

    async def until(kind: str) -> job_pb2.JobEvent:
        async with asyncio.timeout(WITHIN_S):
            while True:
                answer: job_pb2.WatchJobsResponse = await watch.read()
                for event in answer.events:
                    kinds.append(event.WhichOneof("event"))
                    if kinds[-1] == kind:
                        return event

    await until("snapshot_end")
    gate.faults(unreachable=["n1"])
    away = (await until("unreachable")).unreachable
    assert (away.name, away.partition_id) == ("n1", "local")
    found = await refused(
        gate.jobs.GetJob(job_pb2.GetJobRequest(ref=ref)),
        "NODE_UNREACHABLE",
        grpc.StatusCode.UNAVAILABLE,
    )
    assert found.metadata["node"] == "n1"
    listed = await gate.jobs.ListJobs(job_pb2.ListJobsRequest(installation=INSTALLATION))
    assert not listed.jobs
    assert [node.name for node in listed.unreachable] == ["n1"]
    nodes = (await gate.inventory.ListNodes(inventory_pb2.ListNodesRequest())).nodes
    assert [node.state for node in nodes] == [
        inventory_pb2.NODE_STATE_DOWN, inventory_pb2.NODE_STATE_UP
    ]  # fmt: skip
    async for event in gate.watch():
        assert [node.name for node in event.snapshot_end.unreachable] == ["n1"]
        break
    kinds.clear()
    gate.faults()
    back = (await until("reachable_node")).reachable_node
    assert (back.partition_id, back.node) == ("local", "n1")
    # Its attempts were told anew before it.
    assert kinds[0] == "status"
    await gate.cancel(ref, 0)


async def test_a_node_that_nobody_knows_is_not_reached(gate: Gate) -> None:
    request = job_pb2.GetJobRequest(ref=make_ref("job-1", "n9"))
    await refused(gate.jobs.GetJob(request), "NODE_UNREACHABLE", grpc.StatusCode.UNAVAILABLE)
