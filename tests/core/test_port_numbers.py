"""Which port of which node a job may be reached at."""

from __future__ import annotations

import pytest

from rpc_kit.errors import Refusal
from skyport.terminal.v1 import tunnel_pb2
from swm_core.domain.job import Allocation, Direction, Job, JobSpec, Port
from swm_core.domain.states import JobState
from swm_core.terminal.tunnels import _port

JOB = Job(
    "j1",
    "ann",
    JobSpec(nodes=2, ports=(Port(0, Direction.IN, "WEB"), Port(8888, Direction.IN))),
    "",
    JobState.RUNNING,
    1.0,
    1.0,
    allocations=(
        Allocation("n1", cpus=1, mem_bytes=0, ports={"WEB": 20_001, "8888": 8888}),
        Allocation("n2", cpus=1, mem_bytes=0, ports={"WEB": 20_002, "8888": 8888}),
    ),
)


@pytest.mark.parametrize(
    ("node", "asked", "number"),
    [
        ("", "WEB", 20_001),
        ("n1", "WEB", 20_001),
        ("n2", "WEB", 20_002),
        ("", 20_001, 20_001),
        ("n2", 20_002, 20_002),
        ("n2", 8888, 8888),
    ],
)
def test_each_node_has_ports_of_its_own(node: str, asked: str | int, number: int) -> None:
    assert _port(JOB, _opening(node, asked)) == number


@pytest.mark.parametrize(
    ("node", "asked"), [("n2", 20_001), ("", 20_002), ("n3", "WEB"), ("n3", 20_001)]
)
def test_a_number_that_is_the_job_s_on_another_node_is_refused(node: str, asked: str | int) -> None:
    # There it may be a port of somebody else's.
    with pytest.raises(Refusal) as caught:
        _port(JOB, _opening(node, asked))
    assert caught.value.reason == "PORT_NOT_FOUND"


def _opening(node: str, asked: str | int) -> tunnel_pb2.ConnectOpen:
    if isinstance(asked, int):
        return tunnel_pb2.ConnectOpen(job_id="j1", node=node, port=asked)
    return tunnel_pb2.ConnectOpen(job_id="j1", node=node, port_name=asked)
