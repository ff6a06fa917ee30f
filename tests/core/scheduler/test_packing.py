"""Nodes are shared without ever giving the same thing twice."""

import dataclasses

import pytest

from swm_core.domain.job import Allocation
from swm_core.scheduler import PartitionKind, PartitionView, Place, allocate
from tests.core.scheduler.builders import GIB, decide, hosts, job, lab, node, spec, told


def place(*args: object, **kwargs: object) -> Place:
    decision = decide(*args, **kwargs)["a"]  # type: ignore[arg-type]
    assert isinstance(decision, Place)
    return decision


def test_an_allocation_tells_all_that_the_job_has_of_the_node() -> None:
    decision = place([job("a", spec(2, 4, 1, ports="8888 WEB"))], lab(node("n1", gpus=2)))
    (part,) = decision.allocations
    assert (decision.site, decision.partition_id) == ("lab", "lab-hosts")
    assert (part.node, part.cpus, part.mem_bytes, part.gpu_ids) == ("n1", 2, 4 * GIB, ("n1-g0",))
    assert part.ports["8888"] == 8888
    assert 20_000 <= part.ports["WEB"] <= 29_999


@pytest.mark.parametrize(
    ("what", "nodes", "chosen"),
    [
        # best fit: what is left over is as little as possible
        (spec(2), [node("n1", 8), node("n2", 2), node("n3", 4)], "n2"),
        (spec(2), [node("n1", 8), node("n2", 4, used=[(2, 0)]), node("n3", 4)], "n2"),
        (spec(1, 8), [node("n1", 4, 64), node("n2", 4, 8)], "n2"),
        (spec(1, 0, 1), [node("n1", 4, gpus=4), node("n2", 8, gpus=1)], "n2"),
        # nodes with gpus are left to those who need them, and taken if there is nothing else
        (spec(2), [node("n1", 2, gpus=1), node("n2", 64)], "n2"),
        (spec(2), [node("n1", 2, gpus=1), node("n2", 1)], "n1"),
        # a flavor is a class of hosts
        (
            spec(flavor="big"),
            [node("n1", 1, flavor="small"), node("n2", 64, flavor="big")],
            "n2",
        ),
        # several nodes are several nodes
        (spec(2, nodes=2), [node("n1", 8), node("n2", 2), node("n3", 4)], "n2+n3"),
        (spec(1, nodes=2), [node("n1", gpus=1), node("n2")], "n1+n2"),
        # what takes no jobs is left out
        (spec(1), [node("n1", 1, available=False), node("n2", 8)], "n2"),
        (spec(1), [node("n1", 0), node("n2", 8)], "n2"),
        (spec(1, disk=10), [node("n1", 1, disk_bytes=GIB), node("n2", 8)], "n2"),
    ],
)
def test_a_job_goes_to_the_nodes_that_it_fits_best(what, nodes, chosen) -> None:  # type: ignore[no-untyped-def]
    assert told(decide([job("a", what)], lab(*nodes))["a"]) == chosen


def test_what_running_jobs_have_is_not_given_again() -> None:
    used = [Allocation("n1", 1, GIB, ("n1-g0",), {"WEB": 20_000, "8888": 8888})]
    site = lab(node("n1", 4, 4, 2, used=used, port_first=20_000, port_last=20_001))
    decision = place([job("a", spec(3, 3, 1, ports="8889 X"))], site)
    assert decision.allocations[0].gpu_ids == ("n1-g1",)
    assert decision.allocations[0].ports == {"8889": 8889, "X": 20_001}
    for what in (spec(4), spec(1, 4), spec(1, 0, 2), spec(1, ports="8888"), spec(1, ports="X Y")):
        assert told(decide([job("a", what)], site)["a"]).startswith("waits for ")


def test_jobs_of_one_call_share_what_is_there() -> None:
    jobs = [job(f"j{number}", spec(1, 1, 1)) for number in range(5)]
    decided = decide(jobs, lab(node("n1", 8, 64, 2), node("n2", 8, 64, 2)))
    placed = [d for d in decided.values() if isinstance(d, Place)]
    gpus = [gpu for decision in placed for gpu in decision.allocations[0].gpu_ids]
    assert sorted(gpus) == ["n1-g0", "n1-g1", "n2-g0", "n2-g1"]
    assert told(decided["j4"]) == "waits for 1 gpu on site lab (0 free)"


@pytest.mark.parametrize("second", ["8888", "out:8888"])
def test_the_second_of_two_jobs_with_one_fixed_port_waits_for_it(second: str) -> None:
    jobs = [job("a", spec(ports="8888")), job("b", spec(ports=second)), job("c")]
    decided = decide(jobs, lab(node("n1", 64)))
    assert told(decided["a"]) == "n1"
    assert told(decided["b"]) == "waits for port 8888 on site lab (another job has it)"
    assert told(decided["c"]) == "n1"


def test_one_fixed_port_is_free_on_another_node() -> None:
    jobs = [job("a", spec(ports="8888")), job("b", spec(ports="8888"))]
    decided = decide(jobs, lab(node("n1"), node("n2")))
    assert {told(decided["a"]), told(decided["b"])} == {"n1", "n2"}


def test_free_ports_differ_between_jobs_and_lie_in_the_range() -> None:
    site = lab(node("n1", 64, port_first=30_000, port_last=30_009))
    decided = decide([job(f"j{n}", spec(ports="A B")) for n in range(6)], site)
    given = [
        port
        for decision in decided.values()
        if isinstance(decision, Place)
        for port in decision.allocations[0].ports.values()
    ]
    assert sorted(given) == list(range(30_000, 30_010))
    assert told(decided["j5"]) == "waits for 2 free ports on site lab (0 free)"


def test_a_fixed_port_inside_the_range_is_not_given_as_a_free_one() -> None:
    site = lab(node("n1", port_first=30_000, port_last=30_001))
    assert place([job("a", spec(ports="30000 X"))], site).allocations[0].ports == {
        "30000": 30_000,
        "X": 30_001,
    }
    assert told(decide([job("a", spec(ports="30000 X Y"))], site)["a"]).startswith("waits")


def test_another_attempt_is_given_another_free_port() -> None:
    site = lab(node("n1"))
    first = place([job("a", spec(ports="X"))], site)
    second = place([job("a", spec(ports="X"), attempt=1)], site)
    assert first.allocations[0].ports != second.allocations[0].ports
    assert first == place([job("a", spec(ports="X"))], site)


def test_memory_that_was_not_asked_for_is_not_counted() -> None:
    site = lab(node("n1", 8, 4, used=[(1, 4)]))
    assert told(decide([job("a", spec(1))], site)["a"]) == "n1"


def test_a_partition_made_for_one_job_gives_it_all_that_its_nodes_have() -> None:
    partition = PartitionView(
        "p1",
        PartitionKind.DYNAMIC,
        owner="ann",
        job_id="a",
        nodes=(node("v1", 8, 31, 2), node("v2", 8, 31, 2)),
    )
    # The machine has a little less memory than its flavor says; the job has it all the same.
    given = allocate(job("a", spec(2, 32, 1, ports="8888 X", nodes=2)), partition)
    assert given is not None
    assert [(part.node, part.cpus, part.mem_bytes) for part in given] == [
        ("v1", 8, 31 * GIB),
        ("v2", 8, 31 * GIB),
    ]
    assert given[0].gpu_ids == ("v1-g0", "v1-g1")
    assert given[0].ports["8888"] == 8888
    assert allocate(job("a", spec(nodes=3)), partition) is None
    down = dataclasses.replace(partition, nodes=(node("v1", available=False),))
    assert allocate(job("a"), down) is None
    portless = dataclasses.replace(partition, nodes=(node("v1", port_first=0, port_last=0),))
    assert allocate(job("a", spec(ports="X")), portless) is None


def test_any_other_partition_gives_what_is_asked() -> None:
    given = allocate(job("a", spec(2, 3)), hosts(node("n1")))
    assert given == (Allocation("n1", 2, 3 * GIB),)
    assert allocate(job("a", spec(5)), hosts(node("n1"))) is None
