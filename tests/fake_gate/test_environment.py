"""What a script finds in its environment, and what nobody else does."""

from __future__ import annotations

import os
from pathlib import Path

from skyport.gate.v1 import job_pb2
from tests.fake_gate.conftest import MakeGate
from tests.fake_gate.harness import STATIC, Gate, claimed_pid, make_ref, start_request

_SECRET = "s3cr3t-välue\nwith two lines\n"


async def _environment(gate: Gate, request: job_pb2.StartJobRequest) -> dict[str, str]:
    await gate.jobs.StartJob(request)
    await gate.ended(request.ref)
    text = (await gate.output(request.ref)).decode()
    return dict(item.split("=", 1) for item in text.split("\0") if item)


async def test_the_contract_names_the_environment(gate: Gate) -> None:
    ref = make_ref("job-7", "n1", "n2", attempt=3)
    await gate.stage(ref)
    request = start_request(ref, "env -0", name="my job", cpus=2, ports={"WEB": 20_001, "": 8_888})
    request.allocations[0].memory_bytes = 1 << 30
    request.allocations[0].gpu_ids.append("1")
    found = await _environment(gate, request)
    work = gate.attempt_folder(ref) / "work.n1"
    expected = {
        "SWM_JOB_ID": "job-7",
        "SWM_JOBID": "job-7",
        "SWM_JOB_NAME": "my job",
        "SWM_ATTEMPT": "3",
        "SWM_NODES": "n1,n2",
        "SWM_NODE_IPS": "127.0.0.1,127.0.0.1",
        "SWM_NODE_RANK": "0",
        "SWM_NUM_NODES": "2",
        "SWM_CPUS": "2",
        "SWM_MEM": str(1 << 30),
        "SWM_GPUS": "1",
        "CUDA_VISIBLE_DEVICES": "1",
        "SWM_PORT_WEB": "20001",
        "SWM_PORT_8888": "8888",
        "SWM_WORKDIR": str(work),
    }
    assert {name: found[name] for name in expected} == expected
    assert Path(found["SWM_HOSTFILE"]).read_text() == "n1\nn2\n"
    assert not Path(found["SWM_HOSTFILE"]).is_relative_to(work)
    assert {"HOME", "USER", "LOGNAME", "SHELL", "PATH"} <= found.keys()


async def test_a_job_sets_what_it_likes_but_the_names_of_the_contract(gate: Gate) -> None:
    ref = make_ref()
    await gate.stage(ref)
    env = {
        "PATH": "/usr/bin:/bin:/mine",
        "HOME": "/elsewhere",
        "SWM_NODES": "forged",
        "MULTI": "a\nb'\"$(c)\\",
        "EMPTY": "",
        "work": "mine",
        "LD_LIBRARY_PATH": "/nowhere",
        "BOTH": "plain",
    }
    secret = {"TOKEN": _SECRET, "BOTH": "secret", "SWM_CPUS": "999"}
    request = start_request(ref, "env -0", env=env, secret_env=secret)
    found = await _environment(gate, request)
    for name in ("PATH", "HOME", "MULTI", "EMPTY", "work", "LD_LIBRARY_PATH"):
        assert found[name] == env[name]
    assert found["TOKEN"] == _SECRET
    assert found["BOTH"] == "secret"
    assert (found["SWM_NODES"], found["SWM_CPUS"]) == ("n1", "1")
    status = await gate.status(ref)
    assert ["SWM_NODES" in warning for warning in status.warnings] == [True]


async def test_the_gates_own_environment_does_not_reach_a_job(gate: Gate) -> None:
    assert os.environ.get("PYTEST_CURRENT_TEST")
    ref = make_ref()
    await gate.stage(ref)
    found = await _environment(gate, start_request(ref, "env -0"))
    assert "PYTEST_CURRENT_TEST" not in found
    # What a shell and our runner make of themselves is theirs; nothing of the gate's is there.
    assert {name for name in found if not name.startswith("SWM_")} <= {
        "HOME", "USER", "LOGNAME", "SHELL", "PATH", "CUDA_VISIBLE_DEVICES", "PWD", "OLDPWD", "_",
        "SHLVL",
    }  # fmt: skip


async def test_a_job_has_the_usual_limit_of_open_files(gate: Gate) -> None:
    ref, _ = await gate.start_job("ulimit -S -n")
    await gate.ended(ref)
    assert await gate.output(ref) == b"1024\n"


async def test_secrets_are_in_no_file_argument_or_other_environment(gate: Gate) -> None:
    ref, _ = await gate.start_job(
        'echo "${#TOKEN}"; sleep 60', secret_env={"TOKEN": "s3cr3t-value"}, env={"LD_X": "open"}
    )
    await gate.printed(ref, b"12\n")  # it has arrived
    found = b"s3cr3t-value"
    for path in gate.folder.rglob("*"):
        if path.is_file():
            assert found not in path.read_bytes(), path
    runner = claimed_pid(gate, ref)
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                assert found not in (folder / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
    assert found not in Path(f"/proc/{runner}/environ").read_bytes()
    await gate.cancel(ref, 0)
    assert found not in gate.log.read_bytes()


async def test_every_node_has_its_rank(gate: Gate) -> None:
    ref = make_ref("job-1", "n2", "n1")
    await gate.stage(ref)
    await gate.start_job('echo "$SWM_NODE_RANK $SWM_NODES"; pwd', ref, every=True)
    end = await gate.ended(ref)
    assert [node.node for node in end.nodes] == ["n2", "n1"]
    for rank, node in enumerate(("n2", "n1")):
        request = job_pb2.ReadOutputRequest(ref=ref, follow=True)
        request.cursors.add(kind=job_pb2.OUTPUT_KIND_STDOUT, node=node)
        data = b"".join(
            [p.data async for answer in gate.jobs.ReadOutput(request) for p in answer.pieces]
        )
        assert data.splitlines()[0] == f"{rank} n2,n1".encode()
        assert data.splitlines()[1].endswith(f"work.{node}".encode())


async def test_nodes_of_a_shared_file_system_see_one_work_folder(make_gate: MakeGate) -> None:
    gate = await make_gate(**STATIC, shared_filesystem=True)
    ref = make_ref("job-1", "n1", "n2")
    await gate.stage(ref)
    script = 'echo > "rank$SWM_NODE_RANK"; while [ ! -e rank0 ] || [ ! -e rank1 ]; do :; done'
    await gate.start_job(script, ref, every=True)
    end = await gate.ended(ref)
    assert end.WhichOneof("outcome") == "exit_code"
    assert end.exit_code == 0


async def test_the_outcome_over_several_nodes_is_the_first_that_is_not_zero_by_rank(
    gate: Gate,
) -> None:
    ref = make_ref("job-1", "n1", "n2")
    await gate.stage(ref)
    await gate.start_job("exit $((SWM_NODE_RANK * 5))", ref, every=True)
    end = await gate.ended(ref)
    assert end.exit_code == 5
    assert [node.exit_code for node in end.nodes] == [0, 5]
