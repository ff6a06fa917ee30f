"""Clouds as users meet them: prices, spot nodes, caps, budgets, machines that are used again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest

from skyport.common.v1 import money_pb2
from skyport.gate.v1 import partition_pb2
from skyport.terminal.v1 import account_pb2, admin_pb2, catalog_pb2, job_pb2
from tests.system.harness.core import ADMIN, Core, running
from tests.system.harness.files import File
from tests.system.harness.jobs import FAILED, PROVISIONING, QUEUED, RUNNING, SUCCEEDED, JobHandle
from tests.system.harness.latch import Latch
from tests.system.harness.refusals import refused
from tests.system.harness.sites import Site, dynamic
from tests.system.harness.users import submission
from tests.system.harness.waiting import eventually

MakeLatch = Callable[[], Latch]

DAY_S = 86_400

FLAVORS: list[dict[str, Any]] = [
    {"name": "dear", "cpus": 4, "memory": "8G", "price": "4.00", "spot_price": "0.10"},
    {"name": "cheap", "cpus": 4, "memory": "8G", "price": "0.25", "spot_price": "0.20"},
    {"name": "unsaid", "cpus": 4, "memory": "8G"},
    {"name": "euro", "cpus": 16, "memory": "8G", "price": "0.25", "currency": "EUR"},
    {"name": "free", "cpus": 1, "memory": "8G", "price": "0"},
    {"name": "gold", "cpus": 32, "memory": "8G", "price": "36000"},
]
REGIONS: list[dict[str, Any]] = [
    {"name": "small", "location": "north", "cpus": 2, "memory": "8G", "price": "0.10"},
    {"name": "large", "location": "north", "cpus": 4, "memory": "8G", "price": "0.20"},
    {"name": "small", "location": "south", "cpus": 2, "memory": "8G", "price": "0.30"},
    {"name": "large", "location": "south", "cpus": 4, "memory": "8G", "price": "0.40"},
]
KEPT: list[dict[str, Any]] = [{"name": "kept", "cpus": 4, "memory": "8G", "price": "1.00"}]

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    images = {"images": [{"name": "box", "kind": "container"}]}
    sites: dict[str, Any] = {
        "cloud": dynamic(*FLAVORS, longest_expiry="2d", expiry="deallocate"),
        "regions": dynamic(*REGIONS),
        "reuse": dynamic(*KEPT) | images | {"swm": {"idle_time": "1h", "max_partitions": 2}},
        "brief": dynamic(*KEPT) | {"swm": {"idle_time": "1s", "monthly_budget": "1000 USD"}},
    }
    budgets = {"users": {"cy": "30 USD", ADMIN: "80 USD"}}
    with running(tmp_path_factory.mktemp("clouds"), sites, budgets=budgets) as core:
        yield core
        core.kill()


@pytest.fixture
def cloud(core: Core) -> Site:
    return core.site("cloud")


def amount(money: money_pb2.Money) -> Decimal:
    return money.units + Decimal(money.nanos).scaleb(-9)


def check(
    core: Core, script: str, user: str = "bo", site: str = "cloud"
) -> job_pb2.CheckJobResponse:
    asked = submission(script, request_id="x", site=site)
    request = job_pb2.CheckJobRequest(script=asked.script, overrides=asked.overrides)
    return core.user(user).jobs.CheckJob(request, timeout=20)


def submit(core: Core, script: str, site: str = "cloud", user: str = "bo") -> JobHandle:
    return core.user(user).submit(script, site=site)


# Choice.


def test_an_image_is_asked_for_once_in_each_location(core: Core) -> None:
    refusal = {"kind": "fail", "method": "CreatePartition", "code": "NOT_FOUND"}
    core.site("regions").faults(refusal | {"reason": "IMAGE_NOT_FOUND", "message": "no debain"})
    job = submit(core, "#SWM cloud-image debain\ntrue", site="regions")
    ended = job.until(FAILED)
    assert ended.failure.reason == "IMAGE_UNAVAILABLE"
    assert ended.attempt == len({flavor["location"] for flavor in REGIONS})


def test_a_dry_run_tells_places_by_price_and_how_long_a_job_may_run_there(core: Core) -> None:
    told = check(core, "true")
    found = [
        (each.flavor, amount(each.price.amount), each.price.amount.currency_code)
        for each in told.candidates
    ]
    assert found == [
        ("euro", Decimal("0.25"), "EUR"),
        ("free", Decimal(0), "USD"),
        ("cheap", Decimal("0.25"), "USD"),
        ("dear", Decimal(4), "USD"),
        ("gold", Decimal(36_000), "USD"),
        ("unsaid", Decimal(0), ""),
    ]
    limits = {each.flavor: each.time_limit.seconds for each in told.candidates}
    assert limits == dict.fromkeys(limits, DAY_S) | {"free": 0}
    told = check(core, "#SWM time 1h\n#SWM spot\ntrue")
    spot = [(each.flavor, amount(each.price.amount), each.spot) for each in told.candidates]
    assert spot == [("dear", Decimal("0.1"), True), ("cheap", Decimal("0.2"), True)]
    assert not any(each.HasField("time_limit") for each in told.candidates)


def test_what_was_tried_and_why_it_failed_is_in_the_history(core: Core, cloud: Site) -> None:
    refusal = {"kind": "fail", "method": "CreatePartition", "code": "RESOURCE_EXHAUSTED"}
    cloud.faults(refusal | {"reason": "QUOTA", "message": "no cores left for you", "times": 1})
    job = submit(core, "#SWM cpus 4\n#SWM mem 8G\n#SWM max-cost 100 USD\ntrue")
    ended = job.until(SUCCEEDED)
    assert [each.flavor for each in ended.attempts] == ["cheap", "dear"]
    answer = core.user().jobs.GetJob(job_pb2.GetJobRequest(job_id=job.job_id), timeout=20)
    again = JobHandle(core.user(), job.job_id, answer.watch_token)
    tried = again.until_text("no cores left for you")
    assert (tried.reason, tried.to_state) == ("NO_CAPACITY", QUEUED)
    assert "cheap at site cloud" in tried.message
    placed = again.until_text("creating dear at site cloud")
    assert "4.00 USD/h" in placed.message
    assert "may run for 1d there" in placed.message


def test_a_job_without_time_is_limited_on_nodes_that_cost_money_only(
    core: Core, cloud: Site, latch: MakeLatch
) -> None:
    hold = latch()
    job = submit(core, f"#SWM flavor cheap\n{hold.wait}")
    attempt = job.until(RUNNING).attempts[0]
    assert attempt.time_limit.seconds == DAY_S
    assert amount(attempt.price.amount) == Decimal("0.25")
    hold.release()
    job.until(SUCCEEDED)
    free = submit(core, "#SWM flavor free\ntrue").until(SUCCEEDED)
    assert not free.attempts[0].HasField("time_limit")


def test_submit_warns_of_an_end_that_nodes_have_of_their_own(core: Core) -> None:
    told = check(core, "#SWM time 3d\ntrue")
    assert "away for 2d" in told.warnings[-1].message
    assert not [
        each for each in check(core, "#SWM time 2d\ntrue").warnings if "away" in each.message
    ]


def test_what_a_partition_is_doing_reaches_its_job(core: Core, cloud: Site) -> None:
    cloud.faults({"kind": "boot_slow", "seconds": 1.0})
    job = submit(core, "true")
    told = job.until_text("booting 1 nodes")
    assert told.to_state == PROVISIONING
    job.until(SUCCEEDED)


# Spot.


def test_spot_nodes_are_asked_for_and_paid_as_such_and_an_eviction_is_retried_elsewhere(
    core: Core, cloud: Site, latch: MakeLatch
) -> None:
    hold = latch()
    job = submit(
        core, f"#SWM spot\n#SWM retries 1\n#SWM max-cost 10\n#SWM time 10h\necho up; {hold.wait}"
    )
    job.written(b"up\n")
    first = job.get()
    assert (first.attempts[0].flavor, first.attempts[0].spot) == ("dear", True)
    assert amount(first.attempts[0].price.amount) == Decimal("0.1")
    folder = cloud.root / "partitions" / first.partition_id
    asked = partition_pb2.CreatePartitionRequest.FromString((folder / "request").read_bytes())
    assert asked.spec.spot
    # 10 USD over 10 hours.
    assert amount(asked.spec.spot_price_limit) == 1
    cloud.lost(**{first.nodes[0].name: "PREEMPTED"})
    eventually(lambda: job.get().attempt == 2, "it is tried again")
    hold.release()
    ended = job.until(SUCCEEDED)
    assert [each.flavor for each in ended.attempts] == ["dear", "cheap"]
    assert ended.attempts[0].failure.reason == "PREEMPTED"
    assert job.output(attempt=1) == b"up\n"


def test_an_eviction_without_retries_fails_the_job(
    core: Core, cloud: Site, latch: MakeLatch
) -> None:
    job = submit(core, f"#SWM spot\necho up; {latch().wait}")
    job.written(b"up\n")
    cloud.lost(**{job.get().nodes[0].name: "PREEMPTED"})
    assert job.until(FAILED).failure.reason == "PREEMPTED"


# Caps and budgets.


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("#SWM flavor cheap\n#SWM max-cost 5.99\ntrue", "can cost 6.00 USD, more than max-cost"),
        ("#SWM flavor euro\n#SWM max-cost 5\ntrue", "paid in EUR"),
        ("#SWM cpus 32\n#SWM time 1h\n#SWM max-cost 35999 USD\ntrue", "36000.00 USD"),
    ],
)
def test_what_may_cost_too_much_is_refused_at_submit(core: Core, script: str, says: str) -> None:
    told = check(core, script)
    assert [each.reason for each in told.obstacles] == ["BUDGET"]
    assert says in told.obstacles[0].message
    request = submission(script, request_id="dear", site="cloud")
    refused(
        core.user().jobs.SubmitJob, request, grpc.StatusCode.INVALID_ARGUMENT, "BUDGET", says=says
    )


def test_under_a_cap_an_unknown_price_is_taken_only_if_its_flavor_was_named(core: Core) -> None:
    told = check(core, "#SWM cpus 4\n#SWM max-cost 1000\ntrue")
    assert [each.flavor for each in told.candidates] == ["cheap", "dear"]
    told = check(core, "#SWM flavor unsaid\n#SWM max-cost 1\ntrue")
    assert [each.flavor for each in told.candidates] == ["unsaid"]


def test_a_job_that_reaches_its_cap_or_budget_is_warned_and_ended_and_keeps_its_results(
    core: Core, cloud: Site
) -> None:
    # Ten dollars a second. What may be spent covers the time limit, and not the boot beside it.
    cloud.faults({"kind": "boot_slow", "seconds": 3.0})
    script = (
        "#SWM cpus 32\n#SWM time 7\n#SWM retries 3\n#SWM output r.txt\n"
        "echo r > r.txt; echo up; sleep 600"
    )
    capped = submit(core, f"#SWM max-cost 80\n{script}")
    others = submit(core, script, user=ADMIN)
    for job, whose in ((capped, "max-cost"), (others, f"the budget of {ADMIN}")):
        job.written(b"up\n")
        warned = job.until_text("warning:")
        assert warned.reason == "BUDGET"
        assert whose in warned.message
        if job is capped:
            # What is decided is done, whoever is killed meanwhile.
            job.until_text("ended, since")
            core.kill()
            core.start()
            core.wait_ready()
        ended = job.until(FAILED)
        assert ended.failure.reason == "BUDGET"
        assert f"80.00 USD that {whose}" in ended.failure.message
        assert len(ended.attempts) == 1
        assert job.output() == b"up\n"
        assert job.outputs() == {"r.txt": File(b"r\n")}
        assert ended.cost.currency_code == "USD"
        assert amount(ended.cost) >= 80
        assert not ended.other_costs


def budgets(core: Core, user: str) -> dict[str, account_pb2.Budget]:
    answer = core.user(user).account.GetQuotas(account_pb2.GetQuotasRequest(), timeout=20)
    return {each.site: each for each in answer.budgets}


def test_a_monthly_budget_holds_back_what_it_does_not_cover(
    core: Core, cloud: Site, latch: MakeLatch
) -> None:
    told = check(core, "#SWM flavor dear\ntrue", user="cy")
    assert "monthly budget of cy" in told.obstacles[0].message
    assert not check(core, "#SWM flavor dear\ntrue").obstacles
    hold = latch()
    first = submit(core, f"#SWM flavor dear\n#SWM time 6h\n{hold.wait}", user="cy")
    first.until(RUNNING)
    own = budgets(core, "cy")[""]
    assert amount(own.limit) == 30
    assert Decimal(23) < amount(own.promised) <= 24
    second = submit(core, "#SWM flavor dear\n#SWM time 3h\ntrue", user="cy")
    eventually(lambda: "more budget" in second.get().text, "it waits for money")
    assert second.get().state == QUEUED
    hold.release()
    first.until(SUCCEEDED)
    # What was promised, and not spent, is free again.
    second.until(SUCCEEDED)
    assert list(budgets(core, "bo")) == ["brief"]


# Machines that are used again.


def partitions(core: Core, site: str) -> list[catalog_pb2.Partition]:
    request = catalog_pb2.ListPartitionsRequest(site=site)
    return list(core.user().catalog.ListPartitions(request, timeout=10).partitions)


def test_idle_machines_serve_the_next_fitting_job_of_their_owner_also_after_a_restart(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = submit(core, "#SWM cpus 2\ntrue", site="reuse").until(SUCCEEDED)
    (idle,) = eventually(
        lambda: [each for each in partitions(core, "reuse") if "idle" in each.text], "it waits"
    )
    assert idle.partition_id == first.partition_id
    core.kill()
    core.start()
    core.wait_ready()
    second = submit(core, "#SWM cpus 2\necho again", site="reuse").until(SUCCEEDED)
    assert second.partition_id == first.partition_id
    assert second.attempts[0].time_limit.seconds == DAY_S
    # Of another owner: on machines of its own. In a container: neither of the two that there may
    # be will do.
    other = submit(core, "#SWM time 1h\ntrue", site="reuse", user="cy").until(SUCCEEDED)
    assert other.partition_id != first.partition_id
    boxed = submit(core, "#SWM container-image box\ntrue", site="reuse")
    eventually(lambda: "all in use" in boxed.get().text, "it waits for its turn")
    boxed.cancel()
    boxed.end()
    (site,) = [
        each
        for each in core.user().catalog.ListSites(catalog_pb2.ListSitesRequest(), timeout=9).sites
        if each.name == "reuse"
    ]
    assert (site.partitions, site.max_partitions, site.idle_time.seconds) == (2, 2, 3600)
    # The two jobs have paid for all of it, the idle time too.
    request = account_pb2.GetUsageRequest(group=account_pb2.USAGE_GROUP_JOB)
    rows = {row.key: row for row in core.user().account.GetUsage(request, timeout=10).rows}
    paid = [amount(rows[job.job_id].costs[0]) for job in (first, second)]
    assert all(paid)
    # Who wants none kept any more, has none kept.
    monkeypatch.delitem(core.site("reuse").more, "idle_time")
    core.configure()
    core.restart()
    core.wait_ready()
    core.site("reuse").given_back()


def test_machines_that_nobody_wants_are_given_back(core: Core) -> None:
    submit(core, "true", site="brief").until(SUCCEEDED)
    eventually(lambda: "idle" in str(partitions(core, "brief")), "it waits")
    core.site("brief").given_back()
    # A job that fails for a reason of its nodes, or counts its money, leaves nothing waiting.
    submit(core, "#SWM max-cost 100\ntrue", site="brief").until(SUCCEEDED)
    assert not [each for each in partitions(core, "brief") if "idle" in each.text]


def drain(core: Core, site: str, *, drained: bool = True) -> None:
    request = admin_pb2.DrainSiteRequest(site=site, drained=drained)
    core.admin.admin.DrainSite(request, timeout=20)


def idle(core: Core, site: str) -> list[str]:
    """The partitions that wait for a next job."""
    return [each.partition_id for each in partitions(core, site) if "idle" in each.text]


def test_machines_that_wait_are_given_back_when_their_site_is_drained(
    core: Core, latch: MakeLatch
) -> None:
    site, hold = core.site("reuse"), latch()
    # Others may have had it keep nothing.
    core.configure()
    core.restart()
    core.wait_ready()
    waits = submit(core, "true", site="reuse").until(SUCCEEDED).partition_id
    eventually(lambda: idle(core, "reuse") == [waits], "it waits")
    # In a container: on machines of its own.
    runs = submit(core, f"#SWM container-image box\n{hold.wait}", site="reuse")
    runs.until(RUNNING)
    assert sorted(site.partitions()) == sorted([waits, runs.get().partition_id])
    drain(core, "reuse")
    try:
        eventually(lambda: waits not in site.partitions(), "what waits is given back")
        # What runs there runs to its end, and its machines do not wait afterwards.
        assert runs.get().state == RUNNING
        assert site.partitions() == [runs.get().partition_id]
        queued = submit(core, "true", site="reuse")
        eventually(lambda: "drained" in queued.get().text, "it is told why it waits")
        hold.release()
        runs.until(SUCCEEDED)
        site.given_back()
        eventually(lambda: not partitions(core, "reuse"), "the core has forgotten them")
        assert queued.get().state == QUEUED
    finally:
        drain(core, "reuse", drained=False)
    again = queued.until(SUCCEEDED).partition_id
    eventually(lambda: idle(core, "reuse") == [again], "from now on they wait again")
    # Not only while somebody looks: a core that comes back finds it drained, too.
    core.kill()
    core.start()
    core.wait_ready()
    assert idle(core, "reuse") == [again]
    drain(core, "reuse")
    core.restart()
    try:
        site.given_back()
    finally:
        drain(core, "reuse", drained=False)
    core.wait_ready()


# Usage.


def test_usage_tells_costs_by_user_site_and_month_and_what_it_does_not_know(core: Core) -> None:
    submit(core, "#SWM flavor unsaid\ntrue").until(SUCCEEDED)
    submit(core, "#SWM flavor euro\ntrue").until(SUCCEEDED)
    core.site("cloud").given_back()
    account = core.user().account

    def rows(group: account_pb2.UsageGroup.ValueType) -> dict[str, account_pb2.UsageRow]:
        answer = account.GetUsage(account_pb2.GetUsageRequest(group=group), timeout=20)
        return {row.key: row for row in answer.rows}

    for group, key in (
        (account_pb2.USAGE_GROUP_SITE, "cloud"),
        (account_pb2.USAGE_GROUP_USER, "bo"),
    ):
        row = rows(group)[key]
        assert {each.currency_code for each in row.costs} >= {"EUR"}
        assert row.unpriced_partitions >= 1
    assert sum(row.jobs for row in rows(account_pb2.USAGE_GROUP_MONTH).values())


# Nodes that ended by themselves.


def working_in(root: Path) -> list[int]:
    """The processes whose folder is an attempt's at a site."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(root / "jobs"):
                found.append(int(process.name))
    return found


def test_what_a_job_left_on_nodes_that_expired_is_collected(
    core: Core, cloud: Site, latch: MakeLatch
) -> None:
    job = submit(core, f"#SWM output r.txt\necho r > r.txt; echo up; {latch().wait}")
    job.written(b"up\n")
    partition_id = job.get().partition_id
    core.kill()
    # Its time has passed, as the site sees it; the gate notices when it is started again.
    (cloud.root / "partitions" / partition_id / "expire").write_text("1")
    core.start()
    core.wait_ready()
    ended = job.until(FAILED)
    assert ended.failure.reason == "NODE_FAIL"
    assert "expired" in ended.failure.message
    # Neither does what watched its time limit.
    eventually(lambda: not working_in(cloud.root), "nothing runs there any more")
    assert job.outputs() == {"r.txt": File(b"r\n")}
