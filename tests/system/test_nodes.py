"""Jobs on several nodes, and what a script is told of where it runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.harness.core import Core, running
from tests.system.harness.files import File
from tests.system.harness.jobs import FAILED, STDERR, SUCCEEDED
from tests.system.harness.sites import node, static

GiB = 1 << 30


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    nodes = [node(name, cpus=2, gpus=["0", "1"]) for name in ("n1", "n2", "n3")]
    with running(tmp_path_factory.mktemp("nodes"), {"lab": static(*nodes)}) as core:
        yield core


def variables(output: bytes) -> dict[str, str]:
    pairs = (line.partition("=") for line in output.decode().splitlines())
    return {name: value for name, _, value in pairs}


def test_a_script_is_told_of_its_job(core: Core) -> None:
    job = core.user().submit(
        "#SWM name test job\n#SWM cpus 2\n#SWM mem 1G\n#SWM gpus 1\n#SWM ports 0/tcp/in web\n"
        "#SWM env GREETING='hello world'\n"
        'pwd > where; env; echo "HOSTS=$(cat "$SWM_HOSTFILE")"; echo "WHERE=$(cat where)"',
        env={"FROM_REQUEST": "yes"},
    )
    job.until(SUCCEEDED)
    (at,) = job.get().nodes
    told = variables(job.output())
    expected = {
        "SWM_JOB_ID": job.job_id,
        "SWM_JOBID": job.job_id,
        "SWM_JOB_NAME": "test job",
        "SWM_ATTEMPT": "1",
        "SWM_NODES": at.name,
        "SWM_NODE_RANK": "0",
        "SWM_NUM_NODES": "1",
        "SWM_CPUS": "2",
        "SWM_MEM": str(GiB),
        "SWM_GPUS": at.gpu_ids[0],
        "CUDA_VISIBLE_DEVICES": at.gpu_ids[0],
        "SWM_PORT_web": str(at.ports[0].number),
        "GREETING": "hello world",
        "FROM_REQUEST": "yes",
        "HOSTS": at.name,
    }
    assert {name: told.get(name) for name in expected} == expected
    assert told["SWM_WORKDIR"] == told["WHERE"]
    assert all(told[name] for name in ("HOME", "USER", "PATH", "SWM_NODE_IPS"))


def test_nothing_of_core_or_gate_is_in_a_script_s_environment(core: Core) -> None:
    job = core.user().submit("env")
    job.until(SUCCEEDED)
    told = variables(job.output())
    assert "SWM_HOME" not in told
    assert "SKYPORT_SUPERVISED" not in told
    assert not [name for name in told if name.startswith(("PYTEST", "VIRTUAL_ENV", "_swm"))]


def test_launch_first_runs_once_and_knows_the_others(core: Core) -> None:
    job = core.user().submit(
        '#SWM nodes 3\necho "$SWM_NODE_RANK $SWM_NUM_NODES $SWM_NODES"; cat "$SWM_HOSTFILE"'
    )
    ended = job.until(SUCCEEDED)
    names = [each.name for each in ended.nodes]
    assert sorted(names) == ["n1", "n2", "n3"]
    told = job.output().decode().splitlines()
    assert told == [f"0 3 {','.join(names)}", *names]


def test_launch_every_runs_on_each_node_with_its_rank(core: Core) -> None:
    job = core.user().submit(
        "#SWM nodes 2\n#SWM launch every\n#SWM output r.txt\n"
        'echo "rank $SWM_NODE_RANK" | tee r.txt; echo "err $SWM_NODE_RANK" >&2',
        inputs={"in.txt": b"same on both"},
    )
    ended = job.until(SUCCEEDED)
    first, second = [each.name for each in ended.nodes]
    assert job.output() == job.output(node=first) == b"rank 0\n"
    assert job.output(node=second) == b"rank 1\n"
    assert job.output(STDERR, node=second) == b"err 1\n"
    assert job.outputs() == {"r.txt": File(b"rank 0\n"), f"{second}/r.txt": File(b"rank 1\n")}
    core.site("lab").cleared(job.job_id)


def test_with_launch_every_one_node_that_fails_fails_the_job(core: Core) -> None:
    job = core.user().submit(
        "#SWM nodes 2\n#SWM launch every\n#SWM output r.txt\necho r > r.txt; exit $SWM_NODE_RANK"
    )
    ended = job.until(FAILED)
    assert (ended.failure.reason, ended.exit_code) == ("EXIT_CODE", 1)
    assert len(job.outputs()) == 2


def test_as_many_nodes_as_asked_are_allocated(core: Core) -> None:
    ended = core.user().submit("#SWM nodes 2\n#SWM cpus 2\ntrue").until(SUCCEEDED)
    assert len({each.name for each in ended.nodes}) == 2
    assert [each.cpus for each in ended.nodes] == [2, 2]
