"""Whatever terminals send, the core answers in its own words, and takes jobs afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from rpc_kit.tls import channel_credentials, channel_options, core_name
from skyport.terminal.v1 import (
    account_pb2,
    admin_pb2,
    catalog_pb2,
    file_pb2,
    job_pb2,
    server_pb2,
    tunnel_pb2,
)
from tests.fuzz.calls import Caller, batches, methods
from tests.fuzz.known import files_of, scripts
from tests.system.harness.core import Core, free_port, running, serves
from tests.system.harness.jobs import RUNNING, STDOUT, SUCCEEDED
from tests.system.harness.refusals import DOMAIN, refused
from tests.system.harness.sites import node, static

NOT_FOUND = grpc.StatusCode.NOT_FOUND
METHODS = methods((account_pb2, admin_pb2, catalog_pb2, file_pb2, job_pb2, server_pb2, tunnel_pb2))
OTHERS = {"user": ["eve"], "name": ["eve"], "site": ["nowhere"], "partition_id": ["hosts"]}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    # Small nodes, so that not all that comes runs at once.
    sites = {"lab": static(node("n1", cpus=2, gpus=["0"]))}
    with running(tmp_path_factory.mktemp("calls"), sites, spool={"max_size": "64M"}) as core:
        yield core
        core.end_all()


@pytest.fixture(scope="module")
def known(core: Core) -> dict[str, list[Any]]:
    """Values that mean something to this core: jobs that run, have ended, are another's."""
    bo = core.user("bo")
    contents, manifest = files_of(bo)
    ended = bo.submit("#SWM output *.txt\necho said; echo kept > out.txt")
    ended.until(SUCCEEDED)
    out = free_port()
    runs = bo.submit(f"#SWM ports 0/tcp/in WEB,{out}/tcp/out\nsleep 1000")
    runs.until(RUNNING)
    other = core.user("cy").submit("sleep 1000")
    jobs = [ended.job_id, runs.job_id, other.job_id]
    port = next(port.number for port in runs.get().nodes[0].ports if port.name == "WEB")
    return {
        "job_id": jobs,
        "job_ids": jobs,
        "job_id_prefix": [jobs[0][:4]],
        "site": ["lab"],
        "site_name": ["lab"],
        "partition_id": ["hosts"],
        "node": ["n1"],
        "user": ["bo", "*", "nobody"],
        "owner": ["bo", "cy", "ann"],
        "name": ["lab", "bo", "a-name"],
        "port_name": ["WEB"],
        "port": [port, out],
        "path": ["out.txt", "a.txt"],
        "patterns": ["*.txt", "**", "out.txt"],
        "sha256": contents,
        "manifest_sha256": [b"", manifest],
        "script": scripts(),
        "request_id": [f"fuzz-{number}" for number in range(40)],
        "attempt": [0, 1, 2],
        "offset": [0, 1, 5],
    }


@pytest.mark.parametrize("name", METHODS)
def test_any_request_is_answered_in_the_core_s_own_words(
    core: Core, known: dict[str, list[Any]], name: str
) -> None:
    # A smaller seed is no simpler one: nothing is to be shrunk.
    @settings(max_examples=batches(), phases=[Phase.explicit, Phase.generate])
    @given(seed=st.integers(0, 2**64), user=st.sampled_from(["bo", "ann"]))
    def all_are_answered(seed: int, user: str) -> None:
        # What administers must not shut out those who call here.
        meant = OTHERS if name.startswith("AdminService") else known
        wrong = asyncio.run(_batch(core, user, meant, name, seed))
        assert not wrong, "\n".join(wrong[:5])

    all_are_answered()
    assert core.is_running
    assert "incident" not in core.log()


async def _batch(
    core: Core, user: str, known: dict[str, list[Any]], name: str, seed: int
) -> list[str]:
    async with grpc.aio.secure_channel(
        core.endpoint.target,
        channel_credentials(core.user(user).keys),
        options=channel_options(core_name(core.installation)),
    ) as channel:
        return await Caller(channel, DOMAIN, known).batch(METHODS[name], seed)


def test_the_core_takes_a_job_its_whole_way_afterwards(core: Core) -> None:
    core.end_all()
    core.restart()
    core.wait_ready()
    serves(core)
    assert "Traceback" not in core.log()


def test_a_node_that_an_earlier_attempt_did_not_have_is_not_found(core: Core) -> None:
    user = core.user("bo")
    job = user.submit("echo said", site="lab")
    job.until(SUCCEEDED)
    job.requeue()
    job.until(SUCCEEDED)
    for attempt in (1, 2):
        for node_name in ("n7", "x" * 5_000):
            request = job_pb2.ReadOutputRequest(
                job_id=job.job_id, attempt=attempt, node=node_name, kind=STDOUT
            )
            refused(user.jobs.ReadOutput, request, NOT_FOUND, "NODE_NOT_FOUND")
        assert job.output(attempt=attempt, node="n1") == b"said\n"
