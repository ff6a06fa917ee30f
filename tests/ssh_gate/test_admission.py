"""What is refused before any host is asked, and by what words."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from skyport.gate.v1 import job_pb2, types_pb2
from tests.fake_gate.harness import refused, start_request
from tests.ssh_gate.conftest import MakeGate
from tests.ssh_gate.harness import Cluster, Gate, local_ref

_INVALID = grpc.StatusCode.INVALID_ARGUMENT


def _get(ref: types_pb2.JobRef) -> job_pb2.GetJobRequest:
    return job_pb2.GetJobRequest(ref=ref)


async def test_an_owner_without_an_account_learns_nothing_else(make_gate: MakeGate) -> None:
    gate = await make_gate(hosts=["n1"], users={"ann": "u_ann"})
    for partition in ("default", "no-such"):
        ref = local_ref(partition=partition, owner="bo")
        found = await refused(
            gate.jobs.GetJob(_get(ref)), "USER_NOT_MAPPED", grpc.StatusCode.PERMISSION_DENIED
        )
        assert "bo" in found.message
        await refused(gate.jobs.StartJob(start_request(ref, "true")), "USER_NOT_MAPPED")
    known = local_ref(partition="no-such", owner="ann")
    await refused(gate.jobs.GetJob(_get(known)), "PARTITION_NOT_FOUND", grpc.StatusCode.NOT_FOUND)


async def test_a_place_that_is_not_there_is_told_as_what_it_is(gate: Gate) -> None:
    ref = local_ref(partition="other")
    await refused(gate.jobs.GetJob(_get(ref)), "PARTITION_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
    ref = local_ref()
    ref.nodes[:] = ["n9"]
    found = await refused(gate.jobs.GetJob(_get(ref)), "NODE_UNREACHABLE")
    assert found.message == "local has no node n9"
    del ref.nodes[:]
    await refused(gate.jobs.GetJob(_get(ref)), "FIELD_REQUIRED", _INVALID)
    listed = job_pb2.ListJobsRequest(installation="x", partition_id="other")
    await refused(gate.jobs.ListJobs(listed), "PARTITION_NOT_FOUND")


async def test_a_node_that_is_down_is_unreachable_at_once(
    make_gate: MakeGate, cluster: Cluster
) -> None:
    cluster.hosts["n2"].stop()
    gate = await make_gate(**cluster.config())
    await gate.up("n1")
    ref = local_ref(partition="lab")
    ref.nodes[:] = ["n2"]
    call = gate.jobs.GetJob(_get(ref), timeout=5.0)
    found = await refused(call, "NODE_UNREACHABLE", grpc.StatusCode.UNAVAILABLE)
    assert "n2" in found.metadata.values()


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"container_image": "--privileged"}, "FIELD_MALFORMED"),
        ({"storage": ["home"]}, "CAPABILITY_MISSING"),
        ({"site_options": {"qos": "high"}}, "FIELD_MALFORMED"),
        ({"stdin_path": "../x"}, "PATH_INVALID"),
        ({"env": {"A B": "x"}}, "FIELD_MALFORMED"),
        ({"cpus": 0}, "FIELD_REQUIRED"),
        ({"time_limit_s": -1}, "FIELD_OUT_OF_RANGE"),
        ({"workdir": "/etc/x"}, "WORKDIR_NOT_ALLOWED"),
        ({"workdir": "relative"}, "WORKDIR_NOT_ALLOWED"),
    ],
)
async def test_a_start_that_cannot_be_is_refused(
    gate: Gate, spec: dict[str, Any], reason: str
) -> None:
    ref = local_ref()
    ref.roots.add(node="localhost", root_uid="whatever")
    await refused(gate.jobs.StartJob(start_request(ref, "true", **spec)), reason)


async def test_a_gpu_that_the_host_lacks_is_refused(gate: Gate) -> None:
    request = start_request(local_ref(), "true")
    request.allocations[0].gpu_ids.append("7")
    found = await refused(gate.jobs.StartJob(request), "FIELD_MALFORMED", _INVALID)
    assert "names 7, which the node lacks" in found.message
