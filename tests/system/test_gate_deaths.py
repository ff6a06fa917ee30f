"""A gate that dies at any step of its work: the next one goes on, and nothing happens twice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.harness.core import Core
from tests.system.harness.files import File
from tests.system.harness.jobs import CANCELLED, RUNNING, SUCCEEDED
from tests.system.harness.latch import Latch
from tests.system.harness.sites import GateProcess, Site, node, processes_of
from tests.system.harness.waiting import eventually

# At which site: a core waits longer for a gate that has just died several times.
STEPS: dict[str, dict[str, dict[str, object]]] = {
    "one": {
        "put": {"method": "PutFiles", "after_responses": 1, "when": "before"},
        "half": {"method": "PutFiles", "after_requests": 3, "when": "before"},
        "list": {"method": "ListFiles", "when": "after"},
    },
    "two": {
        "start": {"method": "StartJob", "when": "before"},
        "spec": {"method": "StartJob", "when": "inside"},
        "runs": {"method": "StartJob", "when": "after"},
    },
    "three": {
        "read": {"method": "ReadOutput", "after_responses": 1, "when": "before"},
        "get": {"method": "GetFiles", "after_responses": 1, "when": "before"},
        "remove": {"method": "RemoveJob", "when": "after"},
    },
    "four": {when: {"method": "CancelJob", "when": when} for when in ("before", "inside", "after")},
}


WAYS = ("one", "two", "three")


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, GateProcess]]:
    """Gates that are started again at once when they have died."""
    folder = tmp_path_factory.mktemp("deaths")
    sites = [
        Site.make(
            name,
            folder / name,
            {"partitions": {s: {"kind": "static", "nodes": [node(f"{s}-1")]} for s in steps}},
            endpoint=f"unix://{folder}/s/{name}.sock",
        )
        for name, steps in STEPS.items()
    ]
    with contextlib.ExitStack() as stack:
        made = {
            site.name: stack.enter_context(contextlib.closing(GateProcess(site))) for site in sites
        }
        for gate in made.values():
            gate.keep_running()
        yield made


@pytest.fixture(scope="module")
def core(gates: dict[str, GateProcess], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    folder = tmp_path_factory.mktemp("core")
    sites = [gate.site for gate in gates.values()]
    with contextlib.closing(Core(folder / "home", sites)) as core:
        core.start()
        core.wait_ready()
        yield core


@pytest.fixture
def faults(core: Core) -> Iterator[None]:
    for name, steps in STEPS.items():
        core.site(name).faults(
            *({"kind": "die", "partition": each, "times": 1} | step for each, step in steps.items())
        )
    yield
    for site in core.sites.values():
        site.faults()
        site.cleared()


@pytest.mark.usefixtures("faults")
def test_at_every_step_of_a_job_s_way_it_runs_once_and_all_of_it_comes_home(
    core: Core, gates: dict[str, GateProcess], tmp_path: Path, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    # One death of a gate at a time, several gates at once: a death that comes while another fault
    # is about to strike would take its place.
    for count, steps in enumerate(zip(*(STEPS[name] for name in WAYS), strict=True), 1):
        jobs = {
            step: core.user().submit(script(step, tmp_path, hold), inputs=inputs(step))
            for step in steps
        }
        if "read" in jobs:
            jobs["read"].written(b"begun\n")
            hold.release()
        for step, job in jobs.items():
            ended = job.until(SUCCEEDED)
            assert ended.attempt == 1, step
            assert (tmp_path / step).read_text() == "1\n", step
            assert job.output() == b"begun\n2400004\n", step
            assert job.outputs() == {"r.txt": File(b"2400004\n")}, step
        for name in WAYS:
            died(gates[name], count)


def script(step: str, folder: Path, hold: Latch) -> str:
    # What it writes second is written when whoever reads has had the first.
    wait = hold.wait if step == "read" else "true"
    return (
        f"#SWM partition {step}\n#SWM output r.txt\n"
        f"echo $SWM_ATTEMPT >> {folder}/{step}\necho begun; {wait}\n"
        "cat *.bin | wc -c | tee r.txt"
    )


def inputs(step: str) -> dict[str, bytes]:
    """Files of the step's own, so that each upload has something to send."""
    return {f"{n}.bin": step.encode().ljust(8) * 75_000 + bytes([n]) for n in range(4)}


@pytest.mark.usefixtures("faults")
def test_in_a_cancel_the_next_gate_confirms_that_nothing_runs(
    core: Core, gates: dict[str, GateProcess], latch: Callable[[], Latch]
) -> None:
    for count, step in enumerate(STEPS["four"], 1):
        job = core.user().submit(f"#SWM partition {step}\n{latch().wait}")
        job.until(RUNNING)
        job.cancel()
        job.until(CANCELLED)
        assert not processes_of(job.job_id)
        died(gates["four"], count)


def died(gate: GateProcess, times: int) -> None:
    """Wait until so many faults have struck: without them nothing would be proved."""
    eventually(lambda: gate.starts == 1 + times, f"gate {gate.site.name} has died {times} times")
