"""Who goes first, who may pass, and what those who wait are told."""

import time
from collections.abc import Callable

import pytest

from swm_core.domain.failures import FailureReason
from swm_core.domain.job import Allocation
from swm_core.scheduler import Exclusion, Wait, schedule
from tests.core.scheduler.builders import (
    NOW,
    cloud,
    decide,
    flavor,
    job,
    lab,
    node,
    seeded,
    spec,
    told,
)


def test_jobs_are_served_by_priority_then_time_of_submit_then_id() -> None:
    jobs = [
        job("d", submit_time=2.0),
        job("c", submit_time=1.0),
        job("b", submit_time=1.0),
        job("a", submit_time=3.0, priority=1),
    ]
    decided = decide(jobs, lab(node("n1", 2)))
    assert [told(decided[name]) for name in "ab"] == ["n1", "n1"]
    assert told(decided["c"]) == "waits for 1 cpu on site lab (0 free)"
    assert told(decided["d"]) == "waits for its turn on site lab"


def test_a_small_job_does_not_take_what_a_big_one_waits_for() -> None:
    site = lab(node("n1", 8, used=[(4, 0)]), node("n2", 8, used=[(6, 0)]))
    decided = decide([job("a", spec(8)), job("b", spec(2)), job("c", spec(1))], site)
    # n1 lacks less and is kept; n2 is free for those behind.
    assert told(decided["a"]) == "waits for 8 cpus on site lab (4 free)"
    assert told(decided["b"]) == "n2"
    assert told(decided["c"]) == "waits for its turn on site lab"


def test_a_job_passes_where_it_takes_nothing_from_the_one_that_waits() -> None:
    site = lab(node("n1", 8, 64, 1, used=[(2, 0)]))
    busy = lab(node("n1", 8, 64, 1), name="lab")
    waiting_for_port = [job("a", spec(ports="80")), job("b", spec(4, ports="80"))]
    decided = decide([*waiting_for_port, job("c", spec(3)), job("d", spec(1))], busy)
    assert told(decided["b"]) == "waits for port 80 on site lab (another job has it)"
    assert told(decided["c"]) == "n1"  # 1 + 3 cpus are taken and 4 are kept for b
    assert told(decided["d"]) == "waits for its turn on site lab"
    decided = decide([job("a", spec(7, 0, 1)), job("b", spec(1))], site)
    assert told(decided["a"]) == "waits for 7 cpus on site lab (6 free)"
    assert told(decided["b"]) == "waits for its turn on site lab"


def test_the_nodes_that_lack_the_least_are_kept_whatever_they_lack() -> None:
    # n1 has more cpus left and no memory; n2 lacks a cpu of two only.
    site = lab(node("n1", 8, 8, used=[(1, 8)]), node("n2", 2, 8, used=[(1, 0)]))
    decided = decide([job("a", spec(2, 8)), job("b", spec(1))], site)
    assert told(decided["a"]) == "waits for 2 cpus on site lab (1 free)"
    assert told(decided["b"]) == "n1"


def test_of_equals_the_node_listed_first_is_kept() -> None:
    site = lab(node("n2", 4, used=[(1, 0)]), node("n1", 4, used=[(1, 0)]))
    decided = decide([job("a", spec(4)), job("b", spec(1))], site)
    assert told(decided["b"]) == "n1"


def test_a_job_passes_that_asks_for_nothing_of_what_is_lacking() -> None:
    site = lab(node("n1", 8, 16, 1, used=[(1, 8)]))
    decided = decide([job("a", spec(1, 16)), job("b", spec(1)), job("c", spec(1, 1))], site)
    assert told(decided["a"]) == "waits for 16G of memory on site lab (8G free)"
    assert told(decided["b"]) == "n1"
    assert told(decided["c"]) == "waits for its turn for 1 cpu and 1G of memory on site lab"


def test_ports_of_the_one_that_waits_are_kept_too() -> None:
    busy = Allocation("n1", 1, 0, ("n1-g0",))
    site = lab(node("n1", 8, gpus=1, used=[busy], port_first=30_000, port_last=30_001))
    jobs = [
        job("a", spec(1, 0, 1, ports="80 X")),
        job("b", spec(ports="80")),
        job("c", spec(ports="Y Z")),
        job("d", spec(ports="81 Y")),
    ]
    decided = decide(jobs, site)
    assert told(decided["a"]) == "waits for 1 gpu on site lab (0 free)"
    assert told(decided["b"]).startswith("waits")
    assert told(decided["c"]).startswith("waits")
    alone = decide([jobs[0], jobs[3]], site)
    assert told(alone["d"]) == "n1"


def test_places_are_kept_where_the_least_is_lacking_over_all_sites() -> None:
    far, near = lab(node("f1", 4, used=[(3, 0)])), lab(node("m1", 4, used=[(1, 0)]), name="near")
    for sites in ((far, near), (near, far)):
        decided = decide([job("a", spec(4)), job("b", spec(1))], *sites)
        assert told(decided["b"]) == "f1"


def test_a_call_costs_little_for_thousands_of_equal_jobs() -> None:
    site = lab(*(node(f"n{number}", 16, used=[(16, 0)]) for number in range(100)))
    jobs = [job(f"j{number:05}", spec(number % 7 + 1)) for number in range(10_000)]

    def only_look_at_each() -> None:
        groups: dict[str, list[str]] = {}
        for each in sorted(jobs, key=lambda each: each.rank):
            groups.setdefault(each.signature, []).append(each.job_id)

    def fastest(what: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            begin = time.process_time()
            what()
            times.append(time.process_time() - begin)
        return min(times)

    assert fastest(lambda: schedule(jobs, [site], NOW)) < 8 * fastest(only_look_at_each)


def test_a_job_that_waits_for_nodes_which_are_down_holds_up_nobody() -> None:
    site = lab(node("n1", 4), node("n2", 4, available=False))
    decided = decide([job("a", spec(1, nodes=2)), job("b", spec(4))], site)
    assert told(decided["a"]) == "waits for 2 nodes with 1 cpu each on site lab (1 free)"
    assert told(decided["b"]) == "n1"


def test_a_site_whose_nodes_are_all_down_is_told_so() -> None:
    decided = decide([job("a")], lab(node("n1", available=False)))
    assert told(decided["a"]) == "waits for a node of site lab to come up"


def test_a_job_that_is_put_off_waits_until_then_and_holds_up_nobody() -> None:
    decisions = schedule(
        [job("a", spec(4), not_before=NOW + 30), job("b", spec(4))], [lab(node("n1", 4))], NOW
    )
    assert told(decisions[0]) == "n1"
    assert decisions[1] == Wait(("a",), "waits a while before its next attempt", NOW + 30)
    assert told(decide([job("a", not_before=NOW)], lab(node("n1")))["a"]) == "n1"


def test_a_time_from_before_the_clock_was_set_back_is_not_waited_for() -> None:
    ahead = NOW + 3 * 3_600
    assert told(decide([job("a", not_before=ahead)], lab(node("n1")))["a"]) == "n1"
    excluded = (Exclusion("lab", partition_id="lab-hosts", until=ahead),)
    assert told(decide([job("a", excluded=excluded)], lab(node("n1")))["a"]) == "n1"


def test_waits_are_as_few_as_their_texts_and_in_order() -> None:
    decisions = schedule([job(f"j{n:03}") for n in range(500)], [lab(node("n1", 1))], NOW)
    assert len(decisions) == 3
    assert told(decisions[0]) == "n1"
    assert sorted(len(d.job_ids) for d in decisions if isinstance(d, Wait)) == [1, 498]
    behind = max((d for d in decisions if isinstance(d, Wait)), key=lambda d: len(d.job_ids))
    assert behind.job_ids == tuple(f"j{n:03}" for n in range(2, 500))


def test_texts_of_those_behind_stay_the_same_while_numbers_change() -> None:
    jobs = [job("a", spec(4)), *(job(f"b{n}", spec(2)) for n in range(40))]
    texts = []
    for busy in (4, 3, 2):
        decided = decide(jobs, lab(node("n1", 4, used=[(busy, 0)])))
        texts.append({told(decided[f"b{n}"]) for n in range(40)})
    assert texts == [{"waits for its turn on site lab"}] * 3


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_arguments_does_not_matter_and_answers_repeat(seed: int) -> None:
    rng = seeded(seed)
    jobs = [
        job(f"j{n}", spec(rng.randint(1, 4), gpus=rng.randint(0, 1)), submit_time=rng.random())
        for n in range(60)
    ]
    site = lab(*(node(f"n{n}", 8, gpus=2) for n in range(4)))
    first = schedule(jobs, [site], NOW)
    rng.shuffle(jobs)
    assert schedule(jobs, [site], NOW) == first


def test_nothing_queued_decides_nothing() -> None:
    assert schedule([], [lab(node("n1"))], NOW) == []


@pytest.mark.parametrize(
    ("site", "text"),
    [
        (lab(node("n1"), ready=False), "waits for site lab, which does not answer"),
        (
            lab(node("n1"), drained=True),
            "waits for site lab, which is drained and takes no new jobs",
        ),
        (lab(inventory_known=False), "waits for site lab to tell what it has"),
        (
            cloud(flavor("s", 4, 8, "1"), max_partitions=2, partitions_in_use=2),
            "waits for one of the partitions that site cloud may have, which are all in use",
        ),
    ],
)
def test_what_stands_in_the_way_is_told(site, text) -> None:  # type: ignore[no-untyped-def]
    decided = decide([job("a"), job("b")], site)
    assert told(decided["a"]) == told(decided["b"]) == text


def test_without_any_site_jobs_wait_for_one() -> None:
    assert told(decide([job("a")])["a"]) == "waits for a site; none is configured"


def test_all_that_stands_in_the_way_is_told_with_several_sites() -> None:
    text = told(decide([job("a")], lab(node("n1", 1, used=[(1, 0)])), lab(name="x", ready=False,
        partitions=lab(node("n1")).partitions))["a"])  # fmt: skip
    assert text == "waits for 1 cpu on site lab (0 free), or for site x, which does not answer"


def test_an_exclusion_that_ends_is_waited_for() -> None:
    site = cloud(flavor("s", 4, 8, "1", location="west"))
    excluded = (Exclusion("cloud", "west", "s", message="no capacity", until=NOW + 60),)
    decision = decide([job("a", excluded=excluded)], site)["a"]
    assert isinstance(decision, Wait)
    assert decision.until == NOW + 60
    assert decision.text == ("waits for site cloud (s in west), which has just failed: no capacity")
    assert told(decide([job("a", excluded=excluded)], site, now=NOW + 60)["a"]) == "new cloud/s"


def test_a_node_that_is_left_out_takes_other_jobs() -> None:
    left_out = Exclusion(
        "lab", partition_id="lab-hosts", node="n1", message="another root", until=NOW + 60
    )
    elsewhere = Exclusion("other", partition_id="lab-hosts", node="n2", until=NOW + 60)
    jobs = [job("a", excluded=(left_out, elsewhere)), job("b")]
    # The fullest node that has room is the best, as for the second.
    both = lab(node("n1", 2), node("n2", 4))
    assert {name: told(each) for name, each in decide(jobs, both).items()} == {"a": "n2", "b": "n1"}
    # Several nodes, and none but that one.
    wide = decide([job("a", spec(nodes=2), excluded=(left_out,))], both)["a"]
    assert isinstance(wide, Wait)
    assert wide.until == NOW + 60
    assert wide.text == (
        "waits for 2 nodes with 1 cpu each on site lab (1 free), or for node n1 of site lab,"
        " which takes nothing new: another root"
    )
    alone = told(decide([job("a", excluded=(left_out,))], lab(node("n1", 2)))["a"])
    assert alone == (
        "waits for a node of site lab to come up, or for node n1 of site lab,"
        " which takes nothing new: another root"
    )
    assert told(decide([job("a", excluded=(left_out,))], both, now=NOW + 60)["a"]) == "n2"


def test_exclusions_for_good_of_all_places_reject_the_job() -> None:
    excluded = (
        Exclusion("cloud", reason=FailureReason.PROVISIONING_FAILED, message="it did not boot"),
    )
    decision = decide([job("a", excluded=excluded)], cloud(flavor("s", 4, 8, "1")))["a"]
    assert decision.reason is FailureReason.PROVISIONING_FAILED  # type: ignore[union-attr]
    assert decision.message == "it did not boot"  # type: ignore[union-attr]
