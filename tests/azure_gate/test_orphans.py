"""Machines that the core does not know: told, and given back, as the books say, to the last."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.azure_arm.sdk import LOCATION, connect
from tests.azure_gate.harness import FLAVOR
from tests.azure_gate.whole import AGAIN_S, Cloud, empty, running_cloud
from tests.cli.conftest import environment
from tests.cli.terminal import Swm
from tests.system.harness.jobs import SUCCEEDED
from tests.system.harness.orphans import PARTITION, orphans, told, until_text
from tests.system.harness.strays import Strays
from tests.system.harness.waiting import eventually
from tests.testbed.azure_arm import AzureArm
from tests.testbed.azure_arm.faults import GROUP, VM, Fault

pytestmark = pytest.mark.timeout(300)

SOON = {"every": 1, "grace": 1}
LATER = {"every": 1, "grace": 3600}
ELSE = "somebodyelse"
LOST = "0123456789abcdef"
"""A generation of the store that this one does not know."""
MACHINE = ["address", "disk", "vm"]
"""What costs something of one."""
LOCKED = Fault(
    "DELETE",
    GROUP,
    times=0,
    status=409,
    code="ScopeLocked",
    message="The scope cannot perform delete operation because it is locked.",
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    folder = tmp_path_factory.mktemp("strays")
    settings = {"reconciliation": SOON}
    with running_cloud(folder, core_settings=settings, vm_sizes=[FLAVOR]) as cloud:
        yield cloud


@pytest.fixture
def cloud(running: Cloud) -> Iterator[Cloud]:
    with empty(running) as cloud:
        yield cloud
        leave(cloud, SOON)


@pytest.fixture
def strays(cloud: Cloud) -> Strays:
    return Strays(cloud.core, cloud.site.name)


@pytest.fixture
def swm(running: Cloud, tmp_path: Path) -> Swm:
    """The command, for the administrator."""
    return Swm(environment(running.core.home.path), tmp_path)


def leave(cloud: Cloud, reconciliation: dict[str, int]) -> None:
    """Have another core go on, which leaves orphans for another time."""
    if cloud.core.settings["reconciliation"] != reconciliation:
        cloud.core.configure(reconciliation=reconciliation)
        cloud.core.kill()
        cloud.start()


def billed(cloud: Cloud, part: str) -> list[str]:
    """What costs something, of the groups with `part` in their names."""
    return sorted(it.kind for it in cloud.arm.books().live if part in it.resource)


def until_billed(cloud: Cloud, part: str) -> None:
    eventually(lambda: billed(cloud, part) == MACHINE, f"{part} has a machine", within_s=AGAIN_S)


def is_gone(cloud: Cloud, part: str) -> None:
    """Wait until there is no group with `part` in its name."""
    eventually(
        lambda: not [it for it in cloud.site.partitions() if part in it],
        f"{part} is given back",
        within_s=AGAIN_S,
    )
    assert not billed(cloud, part)


def add_address(arm: AzureArm, group: str, *, is_new: bool = False) -> None:
    """Have somebody make a public address, in a group of his own or in one that is there."""
    body: Any = {
        "location": LOCATION,
        "sku": {"name": "Standard"},
        "properties": {"publicIPAllocationMethod": "Static"},
    }

    async def add() -> None:
        async with connect(arm) as sdk:
            if is_new:
                await sdk.make_group(group)
            addresses = sdk.network.public_ip_addresses
            await (await addresses.begin_create_or_update(group, "n0-ip", body)).result()

    asyncio.run(add())


def test_machines_that_the_core_does_not_know_are_told_at_once_and_given_back_after_the_grace_time(
    cloud: Cloud, strays: Strays, swm: Swm
) -> None:
    leave(cloud, LATER)
    name = strays.partition(flavor=FLAVOR)
    (orphan,) = told(cloud.core, name, within_s=AGAIN_S)
    assert (orphan.site, orphan.kind) == (cloud.site.name, PARTITION)
    assert orphan.delete_time.seconds - orphan.seen_time.seconds == LATER["grace"]
    until_billed(cloud, name)
    (line,) = swm.ok("orphans").splitlines()[1:]
    assert line.split()[:3] == [name, cloud.site.name, "partition"]
    assert f"site {cloud.site.name} has 1 orphan; see `swm orphans`" in swm.ok("status")
    # The next core knows since when, and that it is long enough.
    leave(cloud, SOON)
    cloud.site.given_back(within_s=AGAIN_S)
    cloud.arm.books().require_nothing_left()
    eventually(lambda: not orphans(cloud.core), "it is told of no more", within_s=AGAIN_S)


def test_what_is_of_others_is_neither_told_nor_deleted(
    cloud: Cloud, strays: Strays, swm: Swm
) -> None:
    other = strays.partition(installation=ELSE, flavor=FLAVOR)
    # Without a tag of ours; one has a name such as ours have.
    strangers = ["rg-production", f"swm-{cloud.core.installation}-p0"]
    for group in strangers:
        add_address(cloud.arm, group, is_new=True)
    until_billed(cloud, other)
    try:
        # Once this one is gone, the site was compared and cleaned.
        stray = strays.partition(flavor=FLAVOR)
        eventually(
            lambda: f"partition {stray} is no orphan any more: " in cloud.core.log(),
            "it is deleted",
            within_s=AGAIN_S,
        )
        is_gone(cloud, stray)
        assert not orphans(cloud.core)
        assert not [name for name in (other, *strangers) if name in cloud.core.log()]
        refused = swm("orphans", "--delete", "--yes", other)
        assert f'there is no orphan "{other}"' in refused.err
        assert billed(cloud, other) == MACHINE
        for group in strangers:
            assert billed(cloud, group) == ["address"]
    finally:
        strays.end(partition_id=other, installation=ELSE)
        for group in strangers:
            cloud.arm.remove_group(group)


def test_a_half_made_partition_is_found_without_its_machine(cloud: Cloud, strays: Strays) -> None:
    cloud.core.kill()
    number = cloud.arm.faults.add(Fault("PUT", VM, does="cut", times=0))
    name = strays.partition(flavor=FLAVOR)
    eventually(lambda: cloud.arm.faults.hits(number), "it is being made", within_s=AGAIN_S)
    cloud.gate.kill()
    (group,) = (it for it in cloud.site.partitions() if name in it)
    add_address(cloud.arm, group)
    cloud.arm.faults.clear()
    assert not cloud.site.machines(name)
    assert billed(cloud, name) == ["address"]
    cloud.start()
    cloud.site.given_back(within_s=AGAIN_S)
    cloud.arm.books().require_nothing_left()
    assert f"has partition {name}, which this core does not know" in cloud.core.log()


def test_a_delete_that_fails_is_seen_and_tried_until_it_is_done(
    cloud: Cloud, strays: Strays, swm: Swm
) -> None:
    number = cloud.arm.faults.add(LOCKED)
    job = cloud.submit("true")
    own = job.until(SUCCEEDED, within_s=AGAIN_S).partition_id
    stray = strays.partition(flavor=FLAVOR)
    until_text(cloud.core, stray, "ScopeLocked", within_s=AGAIN_S)
    # Also while it is the gate that asks again.
    until_text(cloud.core, stray, "is being deleted; ScopeLocked", within_s=AGAIN_S)
    hits, status = cloud.arm.faults.hits(number), ""

    def is_seen() -> bool:
        nonlocal status
        status = swm.ok("status")
        lines = [line for line in status.splitlines() if line.startswith(f"  partition {own}, ")]
        return any("is being deleted; ScopeLocked" in line for line in lines)

    eventually(is_seen, "it is seen, and asked for again", within_s=AGAIN_S)
    assert f"1 to be removed at site {cloud.site.name}; asked in vain" in status
    assert f"site {cloud.site.name} has 1 orphan; see `swm orphans`" in status
    for name in (own, stray):
        assert billed(cloud, name) == MACHINE
    eventually(lambda: cloud.arm.faults.hits(number) > hits, "Azure is asked", within_s=AGAIN_S)
    cloud.arm.faults.clear()
    # It would be asked for again within half a minute; the next gate does so at once.
    cloud.gate.kill()
    cloud.start()
    cloud.site.given_back(within_s=AGAIN_S)
    cloud.arm.books().require_nothing_left()
    eventually(lambda: "orphan" not in swm.ok("status"), "nothing is told", within_s=AGAIN_S)


def test_what_another_store_generation_made_is_only_told_and_deleted_by_hand(
    cloud: Cloud, strays: Strays, swm: Swm
) -> None:
    name = strays.partition(generation=LOST, flavor=FLAVOR)
    (orphan,) = told(cloud.core, name, within_s=AGAIN_S)
    assert not orphan.HasField("delete_time")
    assert "backup" in orphan.message
    until_billed(cloud, name)
    is_gone(cloud, strays.partition(flavor=FLAVOR))
    eventually(lambda: list(orphans(cloud.core)) == [name], "it is told of still")
    assert billed(cloud, name) == MACHINE
    (line,) = swm.ok("orphans").splitlines()[1:]
    assert " never " in line
    said = swm.ok("orphans", "--delete", "--yes", name)
    assert said == f"{name}  to be deleted at site {cloud.site.name}\n"
    cloud.site.given_back(within_s=AGAIN_S)
    cloud.arm.books().require_nothing_left()
