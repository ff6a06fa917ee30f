"""Sizes of VMs, what they cost, and how many may be used.

The sizes and prices are of Azure's kind, not of any day's Azure; with the oddities that the real lists
have: numbers that are strings, capabilities that are missing, sizes that this subscription may not
have, that are for some zones alone, or that have no price.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
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


SIZES = (
    Size("Standard_B1ls", "standardBSFamily", 1, "0.5", 0, 4096, spot=False, price=0.0052, series="BS"),
    Size("Standard_B1s", "standardBSFamily", 1, "1", 0, 4096, spot=False, price=0.0104, series="BS"),
    Size("Standard_B2s", "standardBSFamily", 2, "4", 0, 8192, spot=False, price=0.048, series="BS"),
    Size("Standard_A0", "standardA0_A7Family", 1, "0.75", 0, 20480, "", False, 0.02, None, "A"),
    Size("Standard_D2_v2", "standardDv2Family", 2, "7", 0, 102400, price=0.136, spot_price=0.0299, series="Dv2"),
    Size("Standard_D2s_v3", "standardDSv3Family", 2, "8", 0, 16384, price=0.12, spot_price=0.0253, series="DSv3"),
    Size("Standard_D4s_v3", "standardDSv3Family", 4, "16", 0, 32768, price=0.24, spot_price=0.0506, series="DSv3"),
    Size("Standard_D8s_v3", "standardDSv3Family", 8, "32", 0, 65536, price=0.48, spot_price=0.1012, series="DSv3"),
    Size("Standard_D2ps_v5", "standardDPSv5Family", 2, "8", 0, 0, "Arm64", price=0.0832, spot_price=0.0158, series="Dpsv5"),
    Size("Standard_D4ps_v5", "standardDPSv5Family", 4, "16", 0, 0, "Arm64", price=0.1664, spot_price=0.0316, series="Dpsv5"),
    Size("Standard_D13_v2_Promo", "standardDv2PromoFamily", 8, "56", 0, 409600, "", False, price=0.58, series="Dv2 Promo", forbidden=("westeurope", "eastus")),
    Size("Standard_E4s_v3", "standardESv3Family", 4, "32", 0, 65536, price=0.32, spot_price=0.064, series="ESv3", zones=("1",)),
    Size("Standard_F2", "standardFFamily", 2, "4", 0, 32768, price=0.114, spot_price=0.0228, series="F"),
    Size("Standard_F4s_v2", "standardFSv2Family", 4, "8", 0, 32768, price=0.194, spot_price=0.0388, series="FSv2"),
    Size("Standard_HB120rs_v3", "standardHBrsv3Family", 120, "448", 0, 480000, price=4.32, spot_price=1.296, series="HBrsv3", forbidden=("germanywestcentral",)),
    Size("Standard_NC6", "standardNCFamily", 6, "56", 1, 389120, price=1.008, spot_price=0.2016, series="NC"),
    Size("Standard_NC6s_v3", "standardNCSv3Family", 6, "112", 1, 344064, price=3.823, spot_price=0.7646, series="NCsv3"),
    Size("Standard_NC24s_v3", "standardNCSv3Family", 24, "448", 4, 1376256, price=15.29, spot_price=3.058, series="NCsv3"),
    Size("Standard_NC4as_T4_v3", "standardNCASv3_T4Family", 4, "28", 1, 180224, price=0.656, spot_price=0.1312, series="NCasT4 v3"),
    Size("Standard_NC24ads_A100_v4", "StandardNCADSA100v4Family", 24, "220", 1, 65536, price=4.775, spot_price=None, series="NCads A100 v4"),
    Size("Standard_ND96asr_v4", "standardNDASv4_A100Family", 96, "900", 8, 2969600, price=None, spot=False, series="NDasr A100 v4", forbidden=("westeurope",)),
    Size("Standard_NV6", "standardNVFamily", 6, "56", 1, 389120, "", price=1.25, spot_price=None, series="NV"),
)  # fmt: skip


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
    for family in dict.fromkeys(it.family for it in SIZES):
        rows.append((family, f"{family} vCPUs", families.get(family, 0), limits.cores))
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
