"""ListFlavors, ListImages and ListNodes of a subscription, by the real clients of Azure."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from gate_kit import GateInfo, Listen, Service, node_lists, start
from gate_kit.errors import partition_not_found
from gates.azure_gate import config as configuration
from gates.azure_gate.inventory_service import InventoryService
from gates.azure_gate.sdk import Sdk
from gates.azure_gate.sources import catalog_of
from rpc_kit.endpoint import Endpoint
from rpc_kit.errors import Problem
from skyport.gate.v1 import inventory_pb2, inventory_pb2_grpc, partition_pb2
from tests.azure_gate.site import DEBIAN, site_file
from tests.testbed.azure_arm import AzureArm, Fault
from tests.testbed.azure_arm.faults import PRICES

SKUS = "Microsoft.Compute/skus"
WITHIN_S = 30.0
Stub = Any
"""One of grpc.aio: its generated types are those of the other one."""


class OnePartition:
    """A partition with two nodes."""

    def get(self, partition_id: str) -> partition_pb2.Partition:
        if partition_id != "p1":
            raise partition_not_found(partition_id)
        nodes = [
            inventory_pb2.Node(
                name=name, partition_id="p1", state=inventory_pb2.NODE_STATE_UP, cpus=2
            )
            for name in ("n0", "n1")
        ]
        return partition_pb2.Partition(partition_id="p1", nodes=nodes)

    def all(self) -> list[partition_pb2.Partition]:
        return [self.get("p1")]


class KnownNodes:
    """Its nodes, as a page."""

    async def listed(
        self, request: inventory_pb2.ListNodesRequest
    ) -> inventory_pb2.ListNodesResponse:
        return node_lists.list_nodes(request, OnePartition())


@contextlib.asynccontextmanager
async def served(file: Path, tmp_path: Path) -> AsyncIterator[Stub]:
    """The service of a site, over a socket."""
    config = configuration.load(file)
    sdk = Sdk(config)
    catalog = catalog_of(config, sdk)
    catalog.open()
    service = InventoryService(catalog, (config.image, *config.images), KnownNodes())
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700, exist_ok=True)
    listen = Listen(Endpoint.parse(f"unix://{folder}/gate.sock"))
    register = inventory_pb2_grpc.add_InventoryServiceServicer_to_server
    server = await start(
        listen, GateInfo("azure", "1", "", frozenset()), [Service(register, service)]
    )
    try:
        async with grpc.aio.insecure_channel(f"unix://{folder}/gate.sock") as channel:
            yield inventory_pb2_grpc.InventoryServiceStub(channel)
    finally:
        # A connection that is cut while it is made is told of as a leak by Python 3.11.
        await catalog.settled(WITHIN_S)
        await server.stop(0)
        await catalog.close()
        await sdk.close()


async def flavors(stub: Stub, **asked: str) -> dict[tuple[str, str], inventory_pb2.Flavor]:
    """All pages, small ones."""
    found: list[inventory_pb2.Flavor] = []
    token = ""
    while True:
        answer = await stub.ListFlavors(
            inventory_pb2.ListFlavorsRequest(page_size=7, page_token=token, **asked)
        )
        found += answer.flavors
        token = answer.next_page_token
        if not token:
            break
    keys = [(each.location, each.name) for each in found]
    assert keys == sorted(set(keys))
    return dict(zip(keys, found, strict=True))


async def priced_flavors(stub: Stub) -> dict[tuple[str, str], inventory_pb2.Flavor]:
    """The same, once prices are known in all locations."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            found = await flavors(stub)
            known = {place for place, _ in found}
            priced = {place for (place, _), each in found.items() if each.HasField("spot_price")}
            if priced == known:
                # They may have come between two pages.
                return await flavors(stub)
            await asyncio.sleep(0.02)


async def test_a_subscription_has_sizes_with_prices_in_its_locations(
    azure_arm: AzureArm, tmp_path: Path
) -> None:
    azure_arm.set(prices_page=50, page=10)
    before = Timestamp()
    before.GetCurrentTime()
    file = site_file(azure_arm, tmp_path, locations=["westeurope", "eastus"])
    async with served(file, tmp_path) as stub:
        found = await priced_flavors(stub)
        four = found["westeurope", "Standard_D4s_v3"]
        assert (four.cpus, four.memory_bytes, four.architecture) == (4, 16 << 30, "x86_64")
        assert (four.gpus, four.disk_bytes) == (0, 32 << 30)
        amount = four.on_demand_price.amount
        assert (amount.currency_code, amount.units, amount.nanos) == ("USD", 0, 240_000_000)
        assert four.spot_price.amount.nanos == 50_600_000
        assert four.on_demand_price.as_of.ToNanoseconds() >= before.ToNanoseconds()
        # Elsewhere it costs more.
        there = found["eastus", "Standard_D4s_v3"].on_demand_price.amount
        assert there.nanos > amount.nanos

        gpus = found["westeurope", "Standard_NC24s_v3"]
        assert (gpus.gpus, gpus.gpu_model) == (4, "NVIDIA V100")
        assert (gpus.on_demand_price.amount.units, gpus.spot_price.amount.units) == (15, 3)
        assert found["westeurope", "Standard_D2ps_v5"].architecture == "aarch64"
        assert found["westeurope", "Standard_A0"].memory_bytes == 768 << 20
        # One zone is closed: the size is not.
        assert ("westeurope", "Standard_E4s_v3") in found
        # This subscription may not have it there, and nobody tells its price elsewhere.
        assert ("westeurope", "Standard_ND96asr_v4") not in found
        assert not found["eastus", "Standard_ND96asr_v4"].HasField("on_demand_price")
        # Not to be had as a spot machine.
        assert not found["westeurope", "Standard_B2s"].HasField("spot_price")

        here = await flavors(stub, location="eastus")
        assert set(here) == {key for key in found if key[0] == "eastus"}
        assert await flavors(stub, location="mars") == {}

    # A gate that starts again asks nobody.
    count = len(azure_arm.calls())
    async with served(file, tmp_path) as stub:
        assert await priced_flavors(stub) == found
    assert len(azure_arm.calls()) == count


async def test_a_location_that_can_not_be_asked_is_named(
    azure_arm: AzureArm, tmp_path: Path
) -> None:
    file = site_file(azure_arm, tmp_path, locations=["westeurope", "eastus"])
    async with served(file, tmp_path) as stub:
        await priced_flavors(stub)
    (tmp_path / "state/cache/skus-eastus.json").write_text("half of")
    azure_arm.faults.add(Fault("GET", SKUS, status=403, code="AuthorizationFailed", times=0))
    async with served(file, tmp_path) as stub:
        answer = await stub.ListFlavors(inventory_pb2.ListFlavorsRequest())
        assert answer.unreachable_locations == ["eastus"]
        assert {each.location for each in answer.flavors} == {"westeurope"}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListFlavors(inventory_pb2.ListFlavorsRequest(location="eastus"))
        told = Problem.from_error(caught.value)
        assert told.reason == "PERMISSION_MISSING"
        assert "Contributor" in told.message


async def test_throttling_is_waited_out_and_prices_come_later(
    azure_arm: AzureArm, tmp_path: Path
) -> None:
    azure_arm.faults.add(
        Fault("GET", SKUS, status=429, code="TooManyRequests", times=2, retry_after=1)
    )
    no_prices = azure_arm.faults.add(Fault("GET", PRICES, status=503, times=0))
    async with served(site_file(azure_arm, tmp_path), tmp_path) as stub:
        found = await flavors(stub)
        assert len(found) > 10
        assert not any(each.HasField("on_demand_price") for each in found.values())
        azure_arm.faults.remove(no_prices)
        await priced_flavors(stub)


async def test_a_login_that_is_refused_is_told(azure_arm: AzureArm, tmp_path: Path) -> None:
    file = site_file(azure_arm, tmp_path, app_id="00000000-0000-0000-0000-000000000001")
    async with served(file, tmp_path) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListFlavors(inventory_pb2.ListFlavorsRequest())
        told = Problem.from_error(caught.value)
        assert (caught.value.code(), told.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "CREDENTIALS_INVALID",
        )
        assert "AADSTS700016" in told.message


async def test_images_are_those_of_the_configuration(azure_arm: AzureArm, tmp_path: Path) -> None:
    own = (
        "/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/g/providers/"
        "Microsoft.Compute/images/golden"
    )
    file = site_file(
        azure_arm,
        tmp_path,
        images=[own, "microsoft-dsvm:ubuntu-hpc:2204:22.04.2024050301", DEBIAN],
    )
    async with served(file, tmp_path) as stub:
        first = await stub.ListImages(inventory_pb2.ListImagesRequest(page_size=2))
        rest = await stub.ListImages(
            inventory_pb2.ListImagesRequest(page_size=2, page_token=first.next_page_token)
        )
    told = [*first.images, *rest.images]
    assert rest.next_page_token == ""
    assert [each.name for each in told] == [
        own,
        DEBIAN,
        "microsoft-dsvm:ubuntu-hpc:2204:22.04.2024050301",
    ]
    assert {each.kind for each in told} == {inventory_pb2.IMAGE_KIND_NODE}
    assert [each.description for each in told] == [
        "image golden of the subscription's own",
        "debian-12 12-gen2 of Debian",
        "ubuntu-hpc 2204 of microsoft-dsvm, version 22.04.2024050301",
    ]


async def test_nodes_are_those_of_the_partitions(azure_arm: AzureArm, tmp_path: Path) -> None:
    async with served(site_file(azure_arm, tmp_path), tmp_path) as stub:
        answer = await stub.ListNodes(inventory_pb2.ListNodesRequest())
        assert [each.name for each in answer.nodes] == ["n0", "n1"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListNodes(inventory_pb2.ListNodesRequest(partition_id="p2"))
        assert Problem.from_error(caught.value).reason == "PARTITION_NOT_FOUND"


_LIST = """
import asyncio, sys
from pathlib import Path
from gates.azure_gate import config as configuration
from gates.azure_gate.sdk import Sdk
from gates.azure_gate.sources import catalog_of

async def main():
    config = configuration.load(Path(sys.argv[1]))
    sdk = Sdk(config)
    catalog = catalog_of(config, sdk)
    catalog.open()
    print(len((await catalog.flavors())[0]))
    await catalog.close()
    await sdk.close()

asyncio.run(main())
print(*sorted(name for name in sys.modules if name.startswith("azure.mgmt.")))
"""


def test_flavors_are_listed_without_a_client_of_networks(
    azure_arm: AzureArm, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LIST, site_file(azure_arm, tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    count, modules = done.stdout.splitlines()
    assert int(count) > 10
    assert "azure.mgmt.compute" in modules
    assert "azure.mgmt.network" not in modules
    assert "azure.mgmt.resource" not in modules
