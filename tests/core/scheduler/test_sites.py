"""Which site and which flavor a job goes to, and what can never be."""

import dataclasses
import re
from decimal import Decimal
from typing import Any

import pytest

from swm_core.domain.failures import FailureReason
from swm_core.domain.job import JobSpec
from swm_core.domain.partition import Setup
from swm_core.domain.states import PartitionState
from swm_core.scheduler import (
    Candidate,
    Create,
    Exclusion,
    FlavorCatalog,
    FlavorView,
    PartitionKind,
    PartitionLimits,
    PartitionView,
    Place,
    Policy,
    Reject,
    SiteView,
    candidates,
    feasible,
    schedule,
)
from tests.core.scheduler.builders import (
    CLOUD_CAPABILITIES,
    GIB,
    HOST_CAPABILITIES,
    NOW,
    cloud,
    decide,
    flavor,
    hosts,
    job,
    lab,
    node,
    queue,
    slurm,
    spec,
    told,
)

SMALL, BIG = flavor("small", 2, 8, "0.10"), flavor("big", 8, 32, "0.40")
GPU = flavor("gpu", 8, 32, "0.90", gpus=1)
UNPRICED = flavor("odd", 4, 16, None)
AZURE = cloud(GPU, BIG, UNPRICED, SMALL, name="azure")


def goes(what: JobSpec, *sites: SiteView, **fields: object) -> str:
    return told(decide([job("a", what, **fields)], *sites)["a"])


@pytest.mark.parametrize(
    ("what", "where"),
    [
        (spec(1), "new azure/small"),
        (spec(4), "new azure/big"),
        (spec(1, 16), "new azure/big"),
        (spec(1, 0, 1), "new azure/gpu"),
        (spec(4, nodes=3), "new azure/big x3"),
        (spec(1, flavor="odd"), "new azure/odd"),
        (spec(1, cloud_image="ubuntu"), "new azure/small"),
        (spec(1, container_image="ubuntu:24.04"), "new azure/small"),
    ],
)
def test_the_cheapest_flavor_that_satisfies_is_created(what: JobSpec, where: str) -> None:
    assert goes(what, AZURE) == where


def test_a_create_tells_all_that_the_partition_needs() -> None:
    site = cloud(flavor("s", 4, 8, "0.25", location="west", currency="EUR"))
    assert decide([job("a", spec(nodes=2))], site)["a"] == Create(
        "a", "cloud", "west", "s", 2, Decimal("0.25"), "EUR"
    )


def test_an_unknown_price_is_not_zero_and_comes_last() -> None:
    assert goes(spec(3), cloud(UNPRICED, BIG)) == "new cloud/big"
    assert goes(spec(3), cloud(UNPRICED)) == "new cloud/odd"
    assert goes(spec(3), cloud(UNPRICED), cloud(BIG, name="dear")) == "new dear/big"


def test_at_one_price_a_flavor_without_gpus_and_with_fewer_cpus_is_taken() -> None:
    same = [flavor("g", 2, 8, "1", gpus=1), flavor("l", 8, 8, "1"), flavor("m", 4, 8, "1")]
    assert goes(spec(1), cloud(*same)) == "new cloud/m"


def test_the_cheapest_site_is_taken_when_none_is_named() -> None:
    dear, cheap = cloud(flavor("s", 4, 8, "2"), name="a"), cloud(flavor("s", 4, 8, "1"), name="b")
    assert goes(spec(1), dear, cheap) == "new b/s"
    assert goes(spec(1, site="a"), dear, cheap) == "new a/s"


def test_after_a_failure_the_next_place_is_tried() -> None:
    west = flavor("s", 4, 8, "0.3", location="west")
    north = flavor("s", 4, 8, "0.3", location="north")
    site = cloud(west, north, BIG)
    no_north = Exclusion("cloud", "north", "s")
    assert decide([job("a", spec(3))], site)["a"].location == "north"  # type: ignore[union-attr]
    decided = decide([job("a", spec(3), excluded=(no_north,))], site)["a"]
    assert decided.location == "west"  # type: ignore[union-attr]
    no_s = Exclusion("cloud", flavor="s")
    assert goes(spec(3), site, excluded=(no_s,)) == "new cloud/big"


def test_hosts_come_before_a_queue_and_a_queue_before_what_costs_money() -> None:
    free, full = lab(node("n1", 1)), lab(node("n1", 1, used=[(1, 0)]))
    hpc = slurm(queue("hpc-main"))
    assert goes(spec(1), AZURE, hpc, free) == "n1"
    assert goes(spec(1), AZURE, hpc, full) == "queue hpc-main"
    assert goes(spec(1), AZURE, full) == "new azure/small"
    assert goes(spec(1, site="lab"), AZURE, hpc, full).startswith("waits for 1 cpu on site lab")


def test_the_emptiest_of_several_free_sites_is_taken() -> None:
    sites = [lab(node("n1", 8, used=[(6, 0)])), lab(node("m1", 4), name="other")]
    assert goes(spec(1), *sites) == "m1"
    jobs = [job(f"j{n}") for n in range(6)]
    decided = decide(jobs, *sites)
    assert sorted(told(d) for d in decided.values()) == ["m1"] * 4 + ["n1"] * 2


def test_a_named_partition_is_the_only_one() -> None:
    parts = (hosts(node("n1"), partition_id="p1"), hosts(node("n2", 64), partition_id="p2"))
    site = lab(partitions=parts)
    assert goes(spec(1), site) == "n2"
    assert goes(spec(1, partition="p1"), site) == "n1"
    assert goes(spec(1, partition="long"), slurm(queue("short"), queue("long"))) == "queue long"


def test_a_job_that_may_not_be_moved_stays_at_its_site() -> None:
    home = lab(node("n1", 1, used=[(1, 0)]))
    other = lab(node("m1", 64), name="other")
    stay = spec(1, relocatable=False)
    assert goes(stay, home, other) == "m1"
    assert goes(stay, home, other, last_site="lab").startswith("waits for 1 cpu on site lab")
    assert goes(spec(1), home, other, last_site="lab") == "m1"


def test_the_number_of_partitions_is_kept() -> None:
    site = cloud(SMALL, max_partitions=3, partitions_in_use=1)
    decided = decide([job(f"j{n}") for n in range(5)], site)
    assert [told(decided[f"j{n}"]).split()[0] for n in range(5)] == ["new"] * 2 + ["waits"] * 3


def made(job_id: str, state: PartitionState = PartitionState.READY, owner: str = "ann"):  # type: ignore[no-untyped-def]
    return PartitionView(
        "p1", PartitionKind.DYNAMIC, state, owner, job_id, flavor="small", nodes=(node("v1", 2),)
    )


def idle_partition(disk: int = 0, node_disk: int = 0, **setup: Any) -> SiteView:
    part = dataclasses.replace(
        made(""),
        setup=Setup(**setup),
        disk_bytes=disk * GIB,
        nodes=(node("v1", 2, disk_bytes=node_disk * GIB),),
    )
    capabilities = CLOUD_CAPABILITIES | {"STORAGE", "STORAGE:data", "SPOT"}
    return dataclasses.replace(with_partition(part), capabilities=capabilities, option_prefix="az")


@pytest.mark.parametrize(
    ("asked", "made_with"),
    [
        ({"container_image": "x"}, {"containers": True}),
        ({"cloud_image": "debian"}, {"image": "debian"}),
        ({"storage": ("data",)}, {"storage": ("data",)}),
        ({"site_options": {"az.zone": "1"}}, {"site_options": (("zone", "1"),)}),
    ],
)
def test_an_idle_partition_serves_only_who_asks_for_what_it_was_set_up_with(
    asked: dict[str, Any], made_with: dict[str, Any]
) -> None:
    assert goes(spec(1, **asked), idle_partition(**made_with)) == "v1"
    assert goes(spec(1, **asked), idle_partition()) == "new cloud/small"
    assert goes(spec(1), idle_partition(**made_with)) == "new cloud/small"


def test_options_of_other_sites_do_not_matter_to_an_idle_partition() -> None:
    assert goes(spec(1, site_options={"slurm.qos": "high"}), idle_partition()) == "v1"


def test_an_idle_partition_has_to_have_the_disk() -> None:
    assert goes(spec(1, disk=10), idle_partition(disk=10)) == "v1"
    assert goes(spec(1, disk=10), idle_partition(node_disk=10)) == "v1"
    assert goes(spec(1, disk=11), idle_partition(disk=10)) == "new cloud/small"
    assert goes(spec(1, disk=1), idle_partition()) == "new cloud/small"


def with_partition(partition: PartitionView, **fields: object) -> SiteView:
    return SiteView(
        "cloud",
        capabilities=CLOUD_CAPABILITIES,
        flavors=FlavorCatalog([SMALL]),
        partitions=(partition,),
        **fields,  # type: ignore[arg-type]
    )


def test_a_job_goes_to_the_partition_that_was_made_for_it() -> None:
    assert goes(spec(1), with_partition(made("a"))) == "v1"
    coming = with_partition(made("a", PartitionState.CREATING))
    assert goes(spec(1), coming) == "waits for its partition p1 on site cloud"
    away = with_partition(made("a"), ready=False)
    assert goes(spec(1), away) == "waits for site cloud, which does not answer"
    going = with_partition(made("a", PartitionState.DELETING))
    assert goes(spec(1), going) == "new cloud/small"
    assert goes(spec(1), with_partition(made("other"))) == "new cloud/small"


def test_an_idle_partition_is_used_again_by_its_owner_only() -> None:
    idle = with_partition(made(""))
    assert goes(spec(1), idle) == "v1"
    assert goes(spec(1), idle, owner="ben") == "new cloud/small"
    assert goes(spec(1, flavor="small"), idle) == "v1"
    left_out = Exclusion("cloud", partition_id="p1")
    assert goes(spec(1), idle, excluded=(left_out,)) == "new cloud/small"
    assert goes(spec(1, cloud_image="debian"), idle) == "new cloud/small"
    assert goes(spec(1), with_partition(made(""), drained=True)).startswith("waits for site cloud")
    decided = decide([job("a", spec(2)), job("b", spec(1)), job("c", owner="ben")], idle)
    assert [told(decided[name]) for name in "abc"] == ["v1", "new cloud/small", "new cloud/small"]


LAB = lab(node("n1", 16, 64, 1, flavor="fat"), node("n2", 8, 128, flavor="wide"))
HPC = slurm(
    queue("hpc-short", limits=PartitionLimits(max_nodes=4, max_time_s=3600)),
    queue("hpc-gpu"),
    flavors=FlavorCatalog(
        [FlavorView("v100", cpus=32, mem_bytes=256 * GIB, gpus=4, partition_ids=("hpc-gpu",))]
    ),
)


FEW = slurm(
    queue("q", nodes=(node("n1", 4, 8), node("n2", 4, 8))),
    flavors=FlavorCatalog([FlavorView("4c", cpus=4, mem_bytes=8 * GIB, partition_ids=("q",))]),
)
"""A queue that tells its nodes, and the flavors of them."""


@pytest.mark.parametrize(
    ("what", "sites", "reason", "part"),
    [
        (spec(), [], "SITE_NOT_FOUND", "no site is configured"),
        (spec(site="lap"), [LAB], "SITE_NOT_FOUND", 'did you mean "lab"?'),
        (spec(site="lab", partition="x"), [LAB], "PARTITION_NOT_FOUND", "there is lab-hosts"),
        (spec(partition="x"), [LAB, HPC], "PARTITION_NOT_FOUND", 'no site has a partition "x"'),
        (spec(flavor="fatt"), [LAB], "FLAVOR_NOT_FOUND", 'did you mean "fat"?'),
        (spec(flavor="x"), [LAB, AZURE], "FLAVOR_NOT_FOUND", 'no site has a flavor "x"'),
        (spec(flavor="fat", partition="hpc-gpu"), [HPC], "FLAVOR_NOT_FOUND", "there is v100"),
        (spec(17), [LAB], "RESOURCES_UNSATISFIABLE", "17 cpus a node"),
        (spec(17, 500), [LAB], "RESOURCES_UNSATISFIABLE", "at most 16 cpus and 128G of memory"),
        (spec(9, 100), [LAB], "RESOURCES_UNSATISFIABLE", "at once"),
        (spec(1, 0, 2), [LAB], "RESOURCES_UNSATISFIABLE", "at most 1 gpu; ask"),
        (
            spec(site_options={"slurm.array": "1-3"}),
            [slurm(queue("q"), option_prefix="slurm", options=frozenset({"priority", "a"}))],
            "OPTION_INVALID",
            "there is slurm.a, slurm.priority",
        ),
        (spec(1, nodes=3), [LAB], "RESOURCES_UNSATISFIABLE", "has 2 that can give"),
        (spec(9, nodes=2), [LAB], "RESOURCES_UNSATISFIABLE", "has 1 that can give"),
        (spec(9, flavor="wide"), [LAB], "RESOURCES_UNSATISFIABLE", "flavor wide of site lab"),
        (spec(9, flavor="big"), [AZURE], "RESOURCES_UNSATISFIABLE", "at most 8 cpus"),
        (
            spec(nodes=5, partition="hpc-short"),
            [HPC],
            "RESOURCES_UNSATISFIABLE",
            "partition hpc-short",
        ),
        (
            spec(time_limit_s=7200, partition="hpc-short"),
            [HPC],
            "RESOURCES_UNSATISFIABLE",
            "at most 1h",
        ),
        (
            spec(nodes=3),
            [FEW],
            "RESOURCES_UNSATISFIABLE",
            "3 nodes are asked for, and site hpc has 2",
        ),
        (spec(33, partition="hpc-gpu"), [HPC], "RESOURCES_UNSATISFIABLE", "at most 32 cpus"),
        (
            spec(ports="A"),
            [lab(node("n", port_first=0, port_last=0))],
            "RESOURCES_UNSATISFIABLE",
            "name fixed ones",
        ),
        (spec(container_image="x"), [LAB], "CAPABILITY_MISSING", "container-image"),
        (spec(cloud_image="x"), [LAB], "CAPABILITY_MISSING", "cloud-image"),
        (spec(storage=("data",)), [LAB], "CAPABILITY_MISSING", "offers no storage"),
        (
            spec(storage=("data",)),
            [lab(capabilities=frozenset({"STORAGE", "STORAGE:home", "STORAGE:big"}))],
            "CAPABILITY_MISSING",
            'has no storage "data"; it has big, home',
        ),
        (spec(nodes=2), [lab(capabilities=frozenset())], "CAPABILITY_MISSING", "one node"),
        (spec(ports="80"), [HPC], "CAPABILITY_MISSING", "in ports"),
        (spec(ports="out:80"), [HPC], "CAPABILITY_MISSING", "out ports"),
        (
            spec(cloud_image="x"),
            [cloud(SMALL, image_pattern=re.compile("a:.*"), image_form="a:NAME")],
            "IMAGE_NOT_FOUND",
            'has no image "x"; write a:NAME',
        ),
        (
            spec(site_options={"az.zne": "1", "slurm.qos": "high"}),
            [cloud(SMALL, option_prefix="az", options=frozenset({"zone"}))],
            "OPTION_INVALID",
            'no option "az.zne"; there is az.zone; did you mean "az.zone"?',
        ),
        (
            spec(site_options={"az.zone": "1"}),
            [cloud(SMALL, option_prefix="az", options=frozenset())],
            "OPTION_INVALID",
            'no option "az.zone"; it has none',
        ),
        (spec(), [lab()], "RESOURCES_UNSATISFIABLE", "no nodes"),
        # Where one site has what was named, others do not matter.
        (spec(17, flavor="fat"), [AZURE, LAB], "RESOURCES_UNSATISFIABLE", "site lab"),
    ],
)
def test_what_can_never_be_is_refused_with_the_reason(
    what: JobSpec, sites: list[SiteView], reason: str, part: str
) -> None:
    problems = feasible(what, sites)
    assert [problem.reason for problem in problems] == [reason]
    assert part in problems[0].message
    if sites:
        decision = decide([job("a", what)], *sites)["a"]
        assert told(decision).startswith("never ")
        assert part in decision.message  # type: ignore[union-attr]


def test_several_capabilities_and_sites_are_told_together() -> None:
    got = feasible(spec(container_image="x", ports="80"), [slurm(queue("q"))])
    assert [problem.directive for problem in got] == ["container-image", "ports"]
    got = feasible(spec(99), [LAB, AZURE])
    assert [problem.site for problem in got] == ["lab", "azure"]


@pytest.mark.parametrize(
    ("what", "sites"),
    [
        (spec(16), [LAB]),
        (spec(99), [LAB, lab(name="new", inventory_known=False)]),
        (spec(99), [lab(node("n1", 0, 0, available=False))]),  # it has not told what it has
        (spec(16), [lab(node("n1", 16, used=[(16, 0)], available=False))]),
        (spec(16), [lab(node("n1", 16), ready=False)]),
        (spec(ports="8888"), [lab(node("n", port_first=20_000, port_last=20_001))]),
        (spec(disk=500), [lab(node("n", disk_bytes=GIB))]),  # free now; it may become more
        (spec(1000, partition="hpc-short"), [HPC]),  # only the site knows
        (spec(cloud_image="x"), [cloud(SMALL)]),
    ],
)
def test_what_may_be_later_is_not_refused(what: JobSpec, sites: list[SiteView]) -> None:
    assert feasible(what, sites) == []
    assert not told(decide([job("a", what)], *sites)["a"]).startswith("never")


def test_reasons_of_rejections_are_those_of_the_domain() -> None:
    reasons = {
        told(decide([job("a", what)], LAB, cloud(SMALL, image_pattern=re.compile("a")))["a"])
        for what in (spec(99), spec(flavor="x"), spec(cloud_image="x", site="cloud"))
    }
    assert reasons == {
        f"never {reason}"
        for reason in (
            FailureReason.NO_CAPACITY,
            FailureReason.INVALID,
            FailureReason.IMAGE_UNAVAILABLE,
        )
    }


def test_candidates_are_listed_in_the_order_in_which_they_would_be_tried() -> None:
    home = lab(node("n1", 4, used=[(4, 0)], flavor="desk"))
    empty = lab(node("m1", 4), node("m2", 8), name="empty")
    got = candidates(spec(1), [AZURE, HPC, home, empty, lab(node("z"), name="off", ready=False)])
    assert got == [
        Candidate("empty", "lab-hosts", price_per_hour=Decimal(0)),
        Candidate("lab", "lab-hosts", flavor="desk", price_per_hour=Decimal(0)),
        Candidate("hpc", "hpc-short", price_per_hour=Decimal(0)),
        Candidate("hpc", "hpc-gpu", price_per_hour=Decimal(0)),
        Candidate("azure", "", "", "small", Decimal("0.10"), "USD"),
        Candidate("azure", "", "", "big", Decimal("0.40"), "USD"),
        Candidate("azure", "", "", "gpu", Decimal("0.90"), "USD"),
        Candidate("azure", "", "", "odd", None, "USD"),
    ]
    assert candidates(spec(1), [AZURE], limit=2) == got[4:6]
    assert candidates(spec(1, site="lab"), [AZURE, home]) == got[1:2]


def test_a_site_without_dynamic_partitions_creates_nothing() -> None:
    site = cloud(SMALL, capabilities=HOST_CAPABILITIES)
    assert told(decide([job("a")], site)["a"]).startswith("never")


def test_nodes_of_an_account_that_is_not_shared_are_for_administrators() -> None:
    policy = Policy(guests=frozenset({"bo"}))
    site = lab(node("n1"))
    jobs = [job("a", spec(), owner="ann"), job("b", spec(), owner="bo")]
    (placed, rejected) = schedule(jobs, [site], NOW, policy)
    assert isinstance(placed, Place)
    assert placed.job_id == "a"
    assert isinstance(rejected, Reject)
    assert "shared_account = true" in rejected.message
    (problem,) = feasible(spec(), [site], policy, "bo")
    assert (problem.reason, problem.site) == ("ACCOUNT_NOT_SHARED", "lab")
    assert candidates(spec(), [site], policy=policy, owner="bo") == []
    for said in ("SHARED_ACCOUNT", "USER_MAPPING"):
        shared = dataclasses.replace(site, capabilities=site.capabilities | {said})
        assert all(isinstance(each, Place) for each in schedule(jobs, [shared], NOW, policy))


def test_nodes_that_are_made_for_a_job_are_its_owner_s_alone() -> None:
    policy = Policy(guests=frozenset({"bo"}))
    (decision,) = schedule(
        [job("b", spec(), owner="bo")], [cloud(flavor("s", 2, 8, "0.1"))], NOW, policy
    )
    assert isinstance(decision, Create)
