"""A gate that dies in the middle of a cancel: the next one finishes it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.system.harness.core import Core
from tests.system.harness.jobs import CANCELLED, RUNNING
from tests.system.harness.latch import Latch
from tests.system.harness.sites import GateProcess, Site, node, processes_of
from tests.system.harness.waiting import eventually

# By site, the steps at which its gate dies, and by step the fault.
STEPS: dict[str, dict[str, dict[str, object]]] = {
    "four": {when: {"method": "CancelJob", "when": when} for when in ("before", "inside", "after")},
}


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
def test_in_a_cancel_the_next_gate_confirms_that_nothing_runs(
    core: Core, gates: dict[str, GateProcess], latch: Callable[[], Latch]
) -> None:
    jobs = [core.user().submit(f"#SWM partition {s}\n{latch().wait}") for s in STEPS["four"]]
    for job in jobs:
        job.until(RUNNING)
    for job in jobs:
        job.cancel()
    for job in jobs:
        job.until(CANCELLED)
        assert not processes_of(job.job_id)
    died(gates["four"], len(STEPS["four"]))


def died(gate: GateProcess, times: int) -> None:
    """Wait until all faults have struck: a test without them would prove nothing."""
    eventually(lambda: gate.starts == 1 + times, f"the gate has died {times} times")
