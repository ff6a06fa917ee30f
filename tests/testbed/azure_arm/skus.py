"""Sizes of VMs, what they cost, and how many may be used.

The sizes and prices are of Azure's kind, not of any day's Azure; with the oddities that the real
lists have: numbers that are strings, capabilities that are missing, sizes that this subscription
may not have, that are for some zones alone, or that have no price.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.testbed.azure_arm.calls import IN_SUBSCRIPTION, Answer, Call, Routes
from tests.testbed.azure_arm.cloud import Cloud
from tests.testbed.azure_arm.errors import invalid

__all__ = ["LOCATIONS", "SIZES", "Size", "find", "routes", "used"]

routes = Routes()

# By the name of a region: what the price API calls it.
LOCATIONS = {
    "westeurope": "EU West",
    "northeurope": "EU North",
    "germanywestcentral": "DE West Central",
    "eastus": "US East",
    "westus": "US West",
}


@dataclass(frozen=True)
class Size:
    """A size of VMs.

    Attributes:
        name: As "Standard_D4s_v3".
        family: As usages name it.
        cpus: vCPUs.
        memory: GB, as the list spells it.
        gpus: How many.
        disk_mb: The temporary disk's.
        architecture: "x64" or "Arm64"; "" is not told.
        spot: Whether it may be a spot VM.
        price: Of an hour in the first region, in USD; None is in no price list.
        spot_price: The same of a spot VM.
        series: As the price list calls it.
        forbidden: Regions where this subscription may not have it.
        zones: Zones that this subscription may not have it in.
    """

    name: str
    family: str
    cpus: int
    memory: str
    gpus: int = 0
    disk_mb: int = 0
    architecture: str = "x64"
    spot: bool = True
    price: float | None = None
    spot_price: float | None = None
    series: str = ""
    forbidden: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()


def _read() -> Iterator[Size]:
    with Path(__file__).with_name("sizes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            yield Size(
                name=row["name"],
                family=row["family"],
                cpus=int(row["cpus"]),
                memory=row["memory"],
                gpus=int(row["gpus"]),
                disk_mb=int(row["disk_mb"]),
                architecture=row["architecture"],
                spot=row["spot"] == "yes",
                price=float(row["price"]) if row["price"] else None,
                spot_price=float(row["spot_price"]) if row["spot_price"] else None,
                series=row["series"],
                forbidden=tuple(row["forbidden"].split()),
                zones=tuple(row["zones"].split()),
            )


SIZES = tuple(_read())


def find(name: str) -> Size | None:
    """A size by its name."""
    return next((it for it in SIZES if it.name.lower() == name.lower()), None)


def used(cloud: Cloud) -> tuple[int, int, dict[str, int], int]:
    """Cores in all (but spot), cores of spot VMs, cores by family, and VMs."""
    cores, spot, families, count = 0, 0, dict[str, int](), 0
    for vm in cloud.of_kind("Microsoft.Compute/virtualMachines"):
        size: Size = vm.notes["size"]
        count += 1
        if vm.notes["power"] == "deallocated" or vm.notes["failed"]:
            continue
        if vm.notes["spot"]:
            spot += size.cpus
        else:
            cores += size.cpus
            families[size.family] = families.get(size.family, 0) + size.cpus
    return cores, spot, families, count


@routes.add("GET", IN_SUBSCRIPTION + "/providers/Microsoft.Compute/skus", "Microsoft.Compute/skus")
async def list_(call: Call) -> Answer:
    """Tell of all SKUs of compute: sizes of VMs, and others."""
    wanted = call.query.get("$filter", "")
    places = list(LOCATIONS)
    if wanted:
        found = re.fullmatch(r"\s*location\s+eq\s+'([^']*)'\s*", wanted, re.IGNORECASE)
        if found is None:
            raise invalid(f"The filter '{wanted}' is not supported.", "InvalidFilter")
        places = [it for it in places if it == found[1].lower()]
    return Answer(200, {"value": [sku for place in places for sku in _skus(place)]})


def _skus(place: str) -> Iterator[dict[str, Any]]:
    info = [{"location": place, "zones": ["2", "3", "1"], "zoneDetails": []}]
    yield {
        "resourceType": "availabilitySets",
        "name": "Aligned",
        "locations": [place],
        "locationInfo": [{"location": place, "zones": [], "zoneDetails": []}],
        "capabilities": [{"name": "MaximumPlatformFaultDomainCount", "value": "3"}],
        "restrictions": [],
    }
    yield {
        "resourceType": "disks",
        "name": "Premium_LRS",
        "tier": "Premium",
        "size": "P4",
        "locations": [place],
        "locationInfo": info,
        "capabilities": [{"name": "MaxSizeGiB", "value": "32"}],
        "restrictions": [],
    }
    for size in SIZES:
        tier, _, name = size.name.partition("_")
        yield {
            "resourceType": "virtualMachines",
            "name": size.name,
            "tier": tier,
            "size": name,
            "family": size.family,
            "kind": None,
            "capacity": None,
            "locations": [place],
            "locationInfo": info,
            "apiVersions": None,
            "costs": None,
            "capabilities": [{"name": key, "value": value} for key, value in _capabilities(size)],
            "restrictions": list(_restrictions(size, place)),
        }


def _capabilities(size: Size) -> Iterator[tuple[str, str]]:
    yield "MaxResourceVolumeMB", str(size.disk_mb)
    yield "OSVhdSizeMB", "1047552"
    yield "vCPUs", str(size.cpus)
    yield "HyperVGenerations", "V1,V2"
    yield "MemoryGB", size.memory
    yield "MaxDataDiskCount", str(size.cpus * 2)
    if size.architecture:
        yield "CpuArchitectureType", size.architecture
    yield "LowPriorityCapable", str(size.spot)
    yield "PremiumIO", str("s" in size.name.rpartition("_")[0])
    yield "VMDeploymentTypes", "IaaS"
    yield "vCPUsAvailable", str(size.cpus)
    if size.gpus:
        yield "GPUs", str(size.gpus)
    yield "vCPUsPerCore", "1"
    yield "EphemeralOSDiskSupported", "False"
    yield "EncryptionAtHostSupported", "True"
    yield "CapacityReservationSupported", "False"
    yield "AcceleratedNetworkingEnabled", str(size.cpus >= 2)
    yield "RdmaEnabled", str("r" in size.name.rpartition("_")[0].lower() and size.cpus >= 96)
    yield "MaxNetworkInterfaces", "2"


def _restrictions(size: Size, place: str) -> Iterator[dict[str, Any]]:
    for kind, are, zones in (
        ("Location", place in size.forbidden, ()),
        ("Zone", bool(size.zones), size.zones),
    ):
        if are:
            where: dict[str, Any] = {"locations": [place]}
            if zones:
                where["zones"] = list(zones)
            yield {
                "type": kind,
                "values": [place],
                "restrictionInfo": where,
                "reasonCode": "NotAvailableForSubscription",
            }


@routes.add(
    "GET",
    IN_SUBSCRIPTION + "/providers/Microsoft.Compute/locations/{location}/usages",
    "Microsoft.Compute/locations/usages",
)
async def usages(call: Call) -> Answer:
    """Tell how much of what may be used is used."""
    cloud = call.cloud
    cores, spot, families, count = used(cloud)
    limits = cloud.settings
    rows = [
        ("availabilitySets", "Availability Sets", 0, 2500),
        ("cores", "Total Regional vCPUs", cores, limits.cores),
        ("virtualMachines", "Virtual Machines", count, 25000),
        ("lowPriorityCores", "Total Regional Low-priority vCPUs", spot, limits.spot_cores),
    ]
    rows += [
        (family, f"{family} vCPUs", families.get(family, 0), limits.cores)
        for family in dict.fromkeys(it.family for it in SIZES)
    ]
    value = [
        {
            "unit": "Count",
            "currentValue": current,
            "limit": limit,
            "name": {"value": name, "localizedValue": text},
        }
        for name, text, current, limit in rows
    ]
    return Answer(200, {"value": value})
