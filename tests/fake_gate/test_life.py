"""An attempt from its first file to its tombstone."""

from __future__ import annotations

from skyport.gate.v1 import job_pb2
from tests.fake_gate.harness import Gate, Tree, make_ref


async def test_a_script_runs_in_its_work_folder_with_its_inputs(gate: Gate) -> None:
    ref = make_ref()
    tree = Tree(files={"in/data.txt": b"hello\n"})
    await gate.stage(ref, tree)
    await gate.start_job("cat in/data.txt; pwd", ref, manifest_sha256=tree.digest)
    end = await gate.ended(ref)
    assert end.exit_code == 0
    assert end.WhichOneof("outcome") == "exit_code"
    work = gate.attempt_folder(ref) / "work.n1"
    assert await gate.output(ref) == f"hello\n{work}\n".encode()


async def test_a_removed_attempt_leaves_an_empty_tombstone_and_nothing_else(gate: Gate) -> None:
    ref, _ = await gate.start_job("true")
    await gate.ended(ref)
    await gate.remove(ref)
    left = list(gate.site.rglob("*job-1*"))
    assert [(path.is_file(), path.stat().st_size) for path in left] == [(True, 0)]


async def test_exit_codes_and_signals_are_told_apart(gate: Gate) -> None:
    for number, (script, kind, value) in enumerate(
        [
            ("exit 7", "exit_code", 7),
            ("exit 137", "exit_code", 137),
            ("kill -9 $$", "signal", 9),
            ("kill -15 $$", "signal", 15),
            ("exit 0", "exit_code", 0),
        ]
    ):
        ref, _ = await gate.start_job(script, make_ref(f"job-{number}"))
        end = await gate.ended(ref)
        assert end.WhichOneof("outcome") == kind, script
        assert getattr(end, kind) == value


async def test_start_answers_before_the_end_and_the_watch_tells_running(gate: Gate) -> None:
    ref, status = await gate.start_job("read -r line < /dev/zero | sleep 60")
    assert status.state in {job_pb2.JOB_STATE_STARTING, job_pb2.JOB_STATE_RUNNING}
    running = await gate.running(ref)
    assert running.start_time.seconds
    await gate.cancel(ref, 0)
