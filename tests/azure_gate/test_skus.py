"""What Azure lists of sizes becomes flavors that a core can choose from."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from gates.azure_gate import skus
from gates.azure_gate.skus import FlavorPrices, Sku
from skyport.common.v1 import money_pb2


def listed(name: str = "Standard_D4s_v5", *, location: str = "eastus", **told: Any) -> Any:
    """An item as the API has it. `told` are capabilities; one that is None is left out."""
    capabilities = {
        "MaxResourceVolumeMB": "0",
        "vCPUs": "4",
        "vCPUsAvailable": "4",
        "MemoryGB": "16",
        "HyperVGenerations": "V1,V2",
        "CpuArchitectureType": "x64",
        "LowPriorityCapable": "True",
        "PremiumIO": "True",
        "VMDeploymentTypes": "IaaS",
        "AcceleratedNetworkingEnabled": "True",
        **told,
    }
    return {
        "resourceType": "virtualMachines",
        "name": name,
        "tier": "Standard",
        "size": name.partition("_")[2],
        "family": "standardDSv5Family",
        "kind": None,
        "capacity": None,
        "locations": [location],
        "locationInfo": [{"location": location, "zoneDetails": [], "zones": ["2", "3", "1"]}],
        "apiVersions": None,
        "costs": None,
        "capabilities": [
            {"name": name, "value": value}
            for name, value in capabilities.items()
            if value is not None
        ],
        "restrictions": [],
    }


def restricted(kind: str, *, location: str = "eastus", zones: tuple[str, ...] = ()) -> Any:
    info: dict[str, Any] = {"locations": [location]}
    if zones:
        info["zones"] = list(zones)
    return {
        "type": kind,
        "values": [location],
        "restrictionInfo": info,
        "reasonCode": "NotAvailableForSubscription",
    }


def one(**told: Any) -> Sku:
    (sku,) = skus.read([listed(**told)], "eastus")
    return sku


def test_texts_become_numbers() -> None:
    sku = one(MemoryGB="0.75", MaxResourceVolumeMB="32768", vCPUs="2", vCPUsAvailable="2")
    assert (sku.cpus, sku.memory_bytes, sku.disk_bytes) == (2, 768 << 20, 32 << 30)
    assert (sku.gpus, sku.gpu_model) == (0, "")
    assert sku.spot
    assert sku.premium_disks
    assert sku.accelerated_network
    assert sku.generations == (1, 2)
    assert sku.zones == ("1", "2", "3")
    assert sku.family == "standardDSv5Family"


def test_of_a_size_with_constrained_cores_those_that_work_count() -> None:
    assert one(name="Standard_E8-2s_v5", vCPUs="8", vCPUsAvailable="2").cpus == 2
    assert one(vCPUs="8", vCPUsAvailable=None).cpus == 8


@pytest.mark.parametrize(
    ("told", "architecture"),
    [("x64", "x86_64"), ("Arm64", "aarch64"), (None, "x86_64"), ("riscv", "riscv")],
)
def test_the_architecture_is_that_of_uname(told: str | None, architecture: str) -> None:
    assert one(CpuArchitectureType=told).architecture == architecture


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("Standard_NC6", "NVIDIA K80"),
        ("Standard_NC24r", "NVIDIA K80"),
        ("Standard_NC6_Promo", "NVIDIA K80"),
        ("Standard_NC12s_v2", "NVIDIA P100"),
        ("Standard_NC24rs_v3", "NVIDIA V100"),
        ("Standard_NC4as_T4_v3", "NVIDIA T4"),
        ("Standard_NC24ads_A100_v4", "NVIDIA A100"),
        ("Standard_NC40ads_H100_v5", "NVIDIA H100"),
        ("Standard_NCC40ads_H100_v5", "NVIDIA H100"),
        ("Standard_ND6s", "NVIDIA P40"),
        ("Standard_ND40rs_v2", "NVIDIA V100"),
        ("Standard_ND96asr_v4", "NVIDIA A100"),
        ("Standard_ND96amsr_A100_v4", "NVIDIA A100"),
        ("Standard_ND96isr_H200_v5", "NVIDIA H200"),
        ("Standard_ND96isr_MI300X_v5", "AMD MI300X"),
        ("Standard_ND128isr_NDR_GB200_v6", "NVIDIA GB200"),
        ("Standard_NV6", "NVIDIA M60"),
        ("Standard_NV12s_v3", "NVIDIA M60"),
        ("Standard_NV4as_v4", "AMD Radeon Instinct MI25"),
        ("Standard_NV6ads_A10_v5", "NVIDIA A10"),
        ("Standard_NV4ads_V710_v5", "AMD Radeon PRO V710"),
        ("Standard_NG8ads_V620_v1", "AMD Radeon PRO V620"),
        ("Standard_NX9s_v9", ""),
        ("no size at all", ""),
    ],
)
def test_the_gpu_follows_from_the_name(name: str, model: str) -> None:
    assert skus.gpu_model(name) == model


def test_gpus_are_counted_and_a_part_of_one_is_one() -> None:
    whole = one(name="Standard_NC48ads_A100_v4", GPUs="2")
    assert (whole.gpus, whole.gpu_model) == (2, "NVIDIA A100")
    assert one(name="Standard_NV6ads_A10_v5", GPUs="0.167").gpus == 1
    # Without a GPU the name says nothing.
    assert one(name="Standard_NV6").gpu_model == ""


def test_what_the_subscription_may_not_have_is_left_out() -> None:
    here = {**listed(), "restrictions": [restricted("Location")]}
    elsewhere = {
        **listed("Standard_D8s_v5"),
        "restrictions": [restricted("Location", location="westus")],
    }
    assert [sku.name for sku in skus.read([here, elsewhere], "eastus")] == ["Standard_D8s_v5"]


def test_a_zone_that_is_closed_leaves_the_others_and_the_size() -> None:
    some = {**listed("Standard_A"), "restrictions": [restricted("Zone", zones=("1", "3"))]}
    every = {**listed("Standard_B"), "restrictions": [restricted("Zone", zones=("1", "2", "3"))]}
    found = skus.read([some, every], "eastus")
    assert [sku.zones for sku in found] == [("2",), ()]


def test_only_machines_that_can_be_made_there_are_read() -> None:
    disk = {**listed(), "resourceType": "disks"}
    afar = listed(location="westus")
    of_services = listed(VMDeploymentTypes="PaaS")
    shouted = listed("Standard_D2s_v5", location="EastUS")
    assert [s.name for s in skus.read([disk, afar, of_services, shouted], "eastus")] == [
        "Standard_D2s_v5"
    ]


@pytest.mark.parametrize("key", ["locations", "locationInfo", "capabilities", "restrictions"])
def test_what_is_missing_or_null_breaks_nothing(key: str) -> None:
    for item in (listed(), listed()):
        broken = copy.deepcopy(item)
        broken[key] = None
        skus.read([broken], "eastus")
        del broken[key]
        skus.read([broken], "eastus")


@pytest.mark.parametrize("text", ["many", "", "NaN", "Infinity", "-4", "1e99", None])
def test_a_number_that_is_none_leaves_its_size_out(text: str | None) -> None:
    assert skus.read([listed(vCPUs=text, vCPUsAvailable=text)], "eastus") == []
    assert skus.read([listed(MemoryGB=text)], "eastus") == []
    assert one(GPUs=text, MaxResourceVolumeMB=text).gpus == 0


def test_patterns_choose_among_sizes() -> None:
    assert skus.is_offered("Standard_D4s_v5", ())
    assert skus.is_offered("Standard_D4s_v5", ("standard_d*S_v5",))
    assert not skus.is_offered("Standard_E4s_v5", ("Standard_D*",))


def test_a_flavor_tells_all_of_it_and_no_price_that_is_unknown() -> None:
    price = money_pb2.HourlyPrice(amount=money_pb2.Money(currency_code="USD", units=1))
    told = skus.flavor(one(GPUs="1"), FlavorPrices(on_demand=price, spot=price))
    assert (told.name, told.location, told.cpus) == ("Standard_D4s_v5", "eastus", 4)
    assert (told.memory_bytes, told.gpus, told.architecture) == (16 << 30, 1, "x86_64")
    assert told.on_demand_price == told.spot_price == price
    bare = skus.flavor(one())
    assert not bare.HasField("on_demand_price")
    assert not bare.HasField("spot_price")
    # A price for what can't be had is none.
    fixed = skus.flavor(one(LowPriorityCapable="False"), FlavorPrices(on_demand=price, spot=price))
    assert not fixed.HasField("spot_price")
