"""Partitions that are made for a job and given back after it: nothing is ever left to pay for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from skyport.gate.v1 import (
    identity_pb2,
    identity_pb2_grpc,
    partition_pb2,
    partition_pb2_grpc,
)
from skyport.terminal.v1 import account_pb2, catalog_pb2
from tests.system.harness.core import Core, running
from tests.system.harness.files import File
from tests.system.harness.jobs import (
    CANCELLED,
    FAILED,
    PROVISIONING,
    QUEUED,
    RUNNING,
    SUCCEEDED,
)
from tests.system.harness.latch import Latch
from tests.system.harness.refusals import refused
from tests.system.harness.sites import Site, dynamic
from tests.system.harness.waiting import eventually

FLAVORS: list[dict[str, Any]] = [
    {"name": "dear", "cpus": 4, "memory": "8G", "price": "4.00"},
    {"name": "cheap", "cpus": 4, "memory": "8G", "price": "0.25"},
    {"name": "middle", "cpus": 4, "memory": "8G", "price": "1.00"},
    {"name": "tiny", "cpus": 1, "memory": "1G", "price": "0.01"},
    {"name": "gpu", "cpus": 4, "memory": "8G", "gpus": 2, "price": "9.00"},
]


pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    images = [{"name": "debian", "kind": "node"}, {"name": "box", "kind": "container"}]
    more = {"images": images, "storage": ["data"], "option_prefix": "fake", "options": ["zone"]}
    with running(tmp_path_factory.mktemp("dynamic"), {"cloud": dynamic(*FLAVORS) | more}) as core:
        yield core


@pytest.fixture
def cloud(core: Core) -> Site:
    return core.site("cloud")


def test_a_partition_is_made_for_the_job_and_deleted_after_it(core: Core, cloud: Site) -> None:
    job = core.user().submit(
        "#SWM cpus 2\n#SWM output r.txt\ncat in.txt > r.txt; echo said", inputs={"in.txt": b"in"}
    )
    ended = job.until(SUCCEEDED)
    assert PROVISIONING in job.states
    assert ended.partition_id
    # On top of the time that the site itself takes, which is next to nothing here.
    assert ended.start_time.ToNanoseconds() - ended.submit_time.ToNanoseconds() < 5e9
    cloud.given_back()
    # What it gave is the core's, and outlives the machines.
    assert job.outputs() == {"r.txt": File(b"in")}
    assert job.output() == b"said\n"
    eventually(lambda: not partitions(core), "the core has forgotten the partition")


def partitions(core: Core) -> list[catalog_pb2.Partition]:
    request = catalog_pb2.ListPartitionsRequest(site="cloud")
    return list(core.user().catalog.ListPartitions(request, timeout=10).partitions)


def test_while_it_lasts_a_partition_is_told_with_its_price(
    core: Core, cloud: Site, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    job = core.user().submit(f"#SWM cpus 2\n{hold.wait}")
    job.until(RUNNING)
    (told,) = partitions(core)
    assert (told.kind, told.state) == (
        catalog_pb2.PARTITION_KIND_DYNAMIC, catalog_pb2.PARTITION_STATE_READY
    )  # fmt: skip
    assert (told.flavor, told.owner, told.job_id) == ("cheap", "bo", job.job_id)
    assert told.price.amount.nanos == 250_000_000
    hold.release()
    job.until(SUCCEEDED)
    request = account_pb2.GetUsageRequest(group=account_pb2.USAGE_GROUP_JOB)
    rows = {row.key: row for row in core.user().account.GetUsage(request, timeout=10).rows}
    assert rows[job.job_id].attempts == 1
    assert rows[job.job_id].costs[0].currency_code == "USD"


def test_flavors_are_told_in_pages_with_their_prices(core: Core) -> None:
    request = catalog_pb2.ListFlavorsRequest(site="cloud", page_size=2)
    prices: dict[str, float] = {}
    for _ in range(3):
        page = core.user().catalog.ListFlavors(request, timeout=10)
        for flavor in page.flavors:
            amount = flavor.on_demand_price.amount
            prices[flavor.name] = amount.units + amount.nanos / 1e9
        request.page_token = page.next_page_token
    assert not request.page_token
    assert prices == {flavor["name"]: float(flavor["price"]) for flavor in FLAVORS}
    refused(
        core.user().catalog.ListFlavors,
        catalog_pb2.ListFlavorsRequest(site="mars"),
        grpc.StatusCode.NOT_FOUND,
        "SITE_NOT_FOUND",
        says="cloud",
    )


@pytest.mark.parametrize(
    ("script", "flavor"),
    [
        ("true", "tiny"),
        ("#SWM cpus 2\ntrue", "cheap"),
        ("#SWM gpus 0\n#SWM cpus 2\ntrue", "cheap"),
        ("#SWM gpus 1\ntrue", "gpu"),
        ("#SWM flavor dear\ntrue", "dear"),
    ],
)
def test_the_cheapest_flavor_that_satisfies_is_taken(
    core: Core, cloud: Site, script: str, flavor: str
) -> None:
    ended = core.user().submit(script).until(SUCCEEDED)
    assert ended.attempts[0].flavor == flavor


@pytest.mark.parametrize(
    ("code", "reason"), [("RESOURCE_EXHAUSTED", "CAPACITY"), ("RESOURCE_EXHAUSTED", "QUOTA")]
)
def test_where_there_is_no_room_the_next_flavor_is_tried(
    core: Core, cloud: Site, code: str, reason: str
) -> None:
    refusal = {"kind": "fail", "method": "CreatePartition", "code": code, "reason": reason}
    cloud.faults(refusal | {"times": 2})
    job = core.user().submit("#SWM cpus 2\ntrue")
    ended = job.until(SUCCEEDED)
    assert [attempt.flavor for attempt in ended.attempts] == ["cheap", "middle", "dear"]
    assert [attempt.failure.reason for attempt in ended.attempts] == [
        "NO_CAPACITY", "NO_CAPACITY", ""
    ]  # fmt: skip


def test_a_boot_that_fails_for_want_of_room_goes_on_with_the_next_flavor(
    core: Core, cloud: Site
) -> None:
    cloud.faults({"kind": "boot_fails", "reason": "CAPACITY", "retryable": True, "times": 1})
    ended = core.user().submit("#SWM cpus 2\ntrue").until(SUCCEEDED)
    assert [attempt.flavor for attempt in ended.attempts] == ["cheap", "middle"]


def test_where_there_is_room_nowhere_the_job_waits_and_says_so(core: Core, cloud: Site) -> None:
    refusal = {"kind": "fail", "method": "CreatePartition", "code": "RESOURCE_EXHAUSTED"}
    cloud.faults(refusal | {"reason": "CAPACITY", "message": "nothing left here"})
    job = core.user().submit("#SWM flavor cheap\n#SWM cpus 2\ntrue")
    eventually(
        lambda: job.get().state == QUEUED and "nothing left here" in job.get().text,
        "it waits, and says for what",
    )
    cloud.given_back()
    job.cancel()
    job.until(CANCELLED)


def test_a_create_that_fails_for_good_fails_the_job_and_leaves_nothing(
    core: Core, cloud: Site
) -> None:
    cloud.faults({"kind": "boot_fails", "reason": "PROVISIONING_FAILED", "message": "disk broke"})
    job = core.user().submit("#SWM cpus 2\ntrue")
    ended = job.until(FAILED)
    assert ended.failure.reason == "PROVISIONING_FAILED"
    assert "disk broke" in ended.failure.message


def test_a_create_that_may_do_another_time_is_made_again(core: Core, cloud: Site) -> None:
    fault = {"kind": "boot_fails", "reason": "PROVISIONING_FAILED", "message": "try again"}
    cloud.faults(fault | {"retryable": True, "times": 1})
    job = core.user().submit("#SWM cpus 2\ntrue")
    first, _ = job.until(SUCCEEDED).attempts
    assert (first.failure.reason, first.failure.retryable) == ("PROVISIONING_FAILED", True)
    assert "try again" in first.failure.message


@pytest.mark.parametrize("is_final", [False, True])
def test_who_follows_an_attempt_that_never_began_is_told_its_end(
    core: Core, cloud: Site, is_final: bool
) -> None:
    fault = {"kind": "boot_fails", "reason": "PROVISIONING_FAILED", "retryable": not is_final}
    cloud.faults(fault | {"times": 1}, {"kind": "boot_slow", "seconds": 1.0, "times": 1})
    job = core.user().submit("#SWM cpus 2\necho second")
    job.until(PROVISIONING)
    answers = list(job.follow())
    assert (answers[0].attempt, answers[-1].end.size) == (1, 0)
    # And holds up nobody meanwhile.
    job.until(FAILED if is_final else SUCCEEDED)
    assert job.output() == (b"" if is_final else b"second\n")


def test_an_image_that_no_flavor_can_boot_fails_the_job(core: Core, cloud: Site) -> None:
    refusal = {"kind": "fail", "method": "CreatePartition", "code": "NOT_FOUND"}
    cloud.faults(refusal | {"reason": "IMAGE_NOT_FOUND", "message": "no image debain here"})
    job = core.user().submit("#SWM cloud-image debain\n#SWM flavor cheap\ntrue")
    ended = job.until(FAILED)
    assert ended.failure.reason == "IMAGE_UNAVAILABLE"
    assert "no image debain here" in ended.failure.message


def test_a_node_image_that_the_site_has_is_booted(core: Core, cloud: Site) -> None:
    job = core.user().submit("#SWM cloud-image debian\n#SWM cpus 2\ntrue")
    job.until(SUCCEEDED)


def test_a_partition_is_made_with_all_that_its_job_asks_for(
    core: Core, cloud: Site, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    job = core.user().submit(
        "#SWM cpus 2\n#SWM container-image box\n#SWM storage data\n#SWM disk 3G\n"
        f"#SWM site-option fake.zone 1 \n#SWM site-option slurm.qos high\n{hold.wait}"
    )
    job.until(RUNNING)
    (name,) = cloud.partitions()
    folder = cloud.root / "partitions" / name
    asked = partition_pb2.CreatePartitionRequest.FromString((folder / "request").read_bytes())
    assert asked.spec == partition_pb2.PartitionSpec(
        flavor="cheap", node_count=1, disk_bytes=3 << 30, containers=True, storage=["data"],
        site_options={"zone": "1"},
    )  # fmt: skip
    hold.release()
    job.until(SUCCEEDED)


def test_cancel_while_a_partition_is_being_created_leaves_nothing_behind(
    core: Core, cloud: Site
) -> None:
    cloud.faults({"kind": "boot_never"})
    job = core.user().submit("#SWM cpus 2\ntrue")
    job.until(PROVISIONING)
    eventually(cloud.partitions, "the site has begun to make it")
    job.cancel()
    job.until(CANCELLED)
    assert not job.get().start_time.seconds
    cloud.given_back()
    # Nothing was ever brought there, so there is nothing to fail in removing.
    assert f"attempt {job.job_id}/1 was not removed" not in core.log()


def test_cancel_before_the_create_was_answered_leaves_nothing_behind(
    core: Core, cloud: Site
) -> None:
    cloud.faults({"kind": "never", "method": "CreatePartition", "when": "after"})
    job = core.user().submit("#SWM cpus 2\ntrue")
    eventually(cloud.partitions, "the site has begun to make it")
    job.cancel()
    job.until(CANCELLED)


def test_a_delete_that_fails_is_repeated_until_the_site_says_that_it_is_gone(
    core: Core, cloud: Site
) -> None:
    cloud.faults(
        {
            "kind": "fail", "method": "DeletePartition", "code": "UNAVAILABLE",
            "reason": "SITE_UNREACHABLE", "message": "the cloud is away", "times": 3,
        }
    )  # fmt: skip
    job = core.user().submit("#SWM cpus 2\ntrue")
    job.until(SUCCEEDED)
    cloud.given_back()


def test_a_partition_is_there_until_outputs_are_safe(core: Core, cloud: Site) -> None:
    cloud.faults(
        {
            "kind": "fail", "method": "GetFiles", "code": "UNAVAILABLE",
            "reason": "NODE_UNREACHABLE", "times": 3,
        }
    )  # fmt: skip
    job = core.user().submit("#SWM cpus 2\n#SWM output r.txt\necho r > r.txt")
    job.until(SUCCEEDED)
    assert job.outputs() == {"r.txt": File(b"r\n")}


@pytest.mark.parametrize("method", ["PutFiles", "StartJob"])
def test_a_job_that_the_site_refuses_keeps_no_machine(core: Core, cloud: Site, method: str) -> None:
    refusal = {"kind": "fail", "method": method, "code": "RESOURCE_EXHAUSTED"}
    cloud.faults(refusal | {"reason": "DISK_FULL", "message": "no space left"})
    job = core.user().submit("#SWM cpus 2\ncat in.txt", inputs={"in.txt": b"in"})
    ended = job.until(FAILED)
    assert ended.failure.reason == "STAGING_FAILED"
    assert "no space left" in ended.failure.message


def test_several_nodes_are_made_together(core: Core, cloud: Site) -> None:
    job = core.user().submit('#SWM nodes 3\n#SWM cpus 2\necho "$SWM_NUM_NODES"')
    ended = job.until(SUCCEEDED)
    assert len(ended.nodes) == 3
    assert job.output() == b"3\n"


def test_two_jobs_at_once_get_a_partition_each(
    core: Core, cloud: Site, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    jobs = [core.user().submit(f"#SWM cpus 2\n{hold.wait}") for _ in range(2)]
    ids = {job.until(RUNNING).partition_id for job in jobs}
    assert len(ids) == 2
    hold.release(2)
    for job in jobs:
        job.until(SUCCEEDED)


def test_a_second_job_does_not_wait_for_ever_after_a_first_one(core: Core, cloud: Site) -> None:
    for _ in range(3):
        core.user().submit("#SWM cpus 2\ntrue").until(SUCCEEDED)


def test_a_partition_that_vanishes_under_a_job_ends_it_as_a_lost_node(
    core: Core, cloud: Site, latch: Callable[[], Latch]
) -> None:
    job = core.user().submit(f"#SWM cpus 2\necho up; {latch().wait}")
    job.written(b"up\n")
    partition_id = job.get().partition_id
    # Somebody deletes it at the site, behind our back.
    with grpc.insecure_channel(f"unix:{core.home.gate_socket('cloud')}") as channel:
        gate = identity_pb2_grpc.IdentityServiceStub(channel)
        info = gate.GetGateInfo(identity_pb2.GetGateInfoRequest(api_versions=["v1"]), timeout=20)
        stub = partition_pb2_grpc.PartitionServiceStub(channel)
        request = partition_pb2.DeletePartitionRequest(
            partition_id=partition_id, installation=core.installation, scope_uid=info.scope_uid
        )
        stub.DeletePartition(request, timeout=20)
    ended = job.until(FAILED)
    assert ended.failure.reason == "NODE_FAIL"
    assert job.output() == b"up\n"
