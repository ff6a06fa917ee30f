"""What Azure says of sizes of machines, read into what a core chooses from. Pure.

Capabilities are texts, any of them may be missing, and a size that a subscription may not use is
listed with a restriction: https://learn.microsoft.com/rest/api/compute/resource-skus/list.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from skyport.common.v1 import money_pb2
from skyport.gate.v1 import inventory_pb2

_GIB = 1 << 30
_MIB = 1 << 20
_MACHINES = "virtualMachines"
_ARCHITECTURES = {"x64": "x86_64", "arm64": "aarch64"}
_DEFAULT_ARCHITECTURE = "x86_64"
"""Where Azure does not say: sizes that are older than its first ARM ones."""

# The kind of GPU is in no capability. New sizes have it in their name, after their features:
# https://learn.microsoft.com/azure/virtual-machines/vm-naming-conventions. Old ones follow from
# their series: https://learn.microsoft.com/azure/virtual-machines/sizes/overview (GPU accelerated).
_NAMED_GPUS = {
    "A10": "NVIDIA A10",
    "A100": "NVIDIA A100",
    "GB200": "NVIDIA GB200",
    "GB300": "NVIDIA GB300",
    "H100": "NVIDIA H100",
    "H200": "NVIDIA H200",
    "MI300X": "AMD MI300X",
    "T4": "NVIDIA T4",
    "V620": "AMD Radeon PRO V620",
    "V710": "AMD Radeon PRO V710",
}
_GPUS_OF_SERIES = {
    ("NC", 1): "NVIDIA K80",
    ("NC", 2): "NVIDIA P100",
    ("NC", 3): "NVIDIA V100",
    ("ND", 1): "NVIDIA P40",
    ("ND", 2): "NVIDIA V100",
    ("ND", 4): "NVIDIA A100",
    ("NG", 1): "AMD Radeon PRO V620",
    ("NV", 1): "NVIDIA M60",
    ("NV", 2): "NVIDIA M60",
    ("NV", 3): "NVIDIA M60",
    ("NV", 4): "AMD Radeon Instinct MI25",
}
_NAME = re.compile(
    r"(?:Standard|Basic)_(?P<series>[A-Z]+)\d+(?:-\d+)?[a-z]*"
    r"(?P<rest>(?:_[A-Za-z0-9]+)*)",
    re.ASCII,
)
_VERSION = re.compile(r"v(\d+)", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sku:
    """A size of machines that can be had in a location."""

    name: str
    """As Azure spells it, for example "Standard_D4s_v5"."""
    location: str
    family: str
    """What quotas are counted by."""
    cpus: int
    memory_bytes: int
    gpus: int = 0
    gpu_model: str = ""
    disk_bytes: int = 0
    """Of the temporary disk that comes with it; many have none."""
    architecture: str = _DEFAULT_ARCHITECTURE
    spot: bool = False
    """Whether it can be had at the price of the moment, until it is taken away."""
    zones: tuple[str, ...] = ()
    """Where this subscription may have it when a zone is named. Without one Azure chooses."""
    generations: tuple[int, ...] = (1,)
    """Of images that it boots: 1, 2 or both."""
    premium_disks: bool = False
    accelerated_network: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FlavorPrices:
    """What an hour costs; None: not known, or not to be had so."""

    on_demand: money_pb2.HourlyPrice | None = None
    spot: money_pb2.HourlyPrice | None = None


UNKNOWN = FlavorPrices()


def read(listed: Iterable[Mapping[str, Any]], location: str) -> list[Sku]:
    """The machines of `location` that the subscription may use.

    Args:
        listed: Items of the answer, as JSON has them. What can't be read is left out, as is what
            is no machine.
        location: Names of locations are compared without case.
    """
    return ordered(read_one(item, location) for item in listed)


def read_one(item: Mapping[str, Any], location: str) -> Sku | None:
    """As `read`, of one item; None: it is left out."""
    try:
        return _read(item, location)
    except (AttributeError, TypeError):  # a list where a table belongs, and the like
        return None


def _read(item: Mapping[str, Any], location: str) -> Sku | None:
    if item.get("resourceType") != _MACHINES or not item.get("name"):
        return None
    here = location.casefold()
    if here not in {str(each).casefold() for each in item.get("locations") or ()}:
        return None
    restricted = _Restrictions(item.get("restrictions") or (), here)
    if restricted.is_closed:
        return None
    told = {
        str(each.get("name")): str(each.get("value")) for each in item.get("capabilities") or ()
    }
    if "IaaS" not in told.get("VMDeploymentTypes", "IaaS").split(","):
        return None
    # Of a size with constrained cores a part can be used, and all of them are told as vCPUs.
    cpus = _number(told.get("vCPUsAvailable")) or _number(told.get("vCPUs"))
    memory_bytes = int(_decimal(told.get("MemoryGB")) * _GIB)
    architecture = told.get("CpuArchitectureType", "")
    if not cpus or not memory_bytes:
        return None
    name = str(item["name"])
    # Some sizes have a part of a GPU: whoever asks for one gets it.
    gpus = _number(told.get("GPUs"), is_any_one=True)
    return Sku(
        name=name,
        location=location,
        family=str(item.get("family") or ""),
        cpus=cpus,
        memory_bytes=memory_bytes,
        gpus=gpus,
        gpu_model=gpu_model(name) if gpus else "",
        disk_bytes=_number(told.get("MaxResourceVolumeMB")) * _MIB,
        architecture=_ARCHITECTURES.get(architecture.casefold(), architecture)
        or _DEFAULT_ARCHITECTURE,
        spot=_is_true(told.get("LowPriorityCapable")),
        zones=restricted.left_of(_zones(item, here)),
        generations=_generations(told.get("HyperVGenerations", "V1")),
        premium_disks=_is_true(told.get("PremiumIO")),
        accelerated_network=_is_true(told.get("AcceleratedNetworkingEnabled")),
    )


def ordered(found: Iterable[Sku | None]) -> list[Sku]:
    """What was found, by name."""
    return sorted((sku for sku in found if sku is not None), key=lambda sku: sku.name)


def is_offered(name: str, patterns: Sequence[str]) -> bool:
    """Whether a size is one of those that the configuration offers; no patterns: all are."""
    folded = name.casefold()
    return not patterns or any(
        fnmatch.fnmatchcase(folded, pattern.casefold()) for pattern in patterns
    )


def flavor(sku: Sku, prices: FlavorPrices = UNKNOWN) -> inventory_pb2.Flavor:
    """The message that tells of a size."""
    return inventory_pb2.Flavor(
        name=sku.name,
        location=sku.location,
        cpus=sku.cpus,
        memory_bytes=sku.memory_bytes,
        gpus=sku.gpus,
        gpu_model=sku.gpu_model,
        disk_bytes=sku.disk_bytes,
        architecture=sku.architecture,
        on_demand_price=prices.on_demand,
        spot_price=prices.spot if sku.spot else None,
    )


def gpu_model(name: str) -> str:
    """The GPU of a size, by its name; empty if that does not tell."""
    found = _NAME.fullmatch(name)
    if not found:
        return ""
    version = 1
    for word in found["rest"].split("_"):
        if word.upper() in _NAMED_GPUS:
            return _NAMED_GPUS[word.upper()]
        if numbered := _VERSION.fullmatch(word):
            version = int(numbered[1])
    return _GPUS_OF_SERIES.get((found["series"][:2], version), "")


class _Restrictions:
    """What a subscription may not have of a size, in a location."""

    def __init__(self, restrictions: Iterable[Mapping[str, Any]], here: str) -> None:
        self.is_closed = False
        self._zones: set[str] = set()
        for each in restrictions:
            info = each.get("restrictionInfo") or {}
            named = info.get("locations") or each.get("values") or ()
            if here not in {str(name).casefold() for name in named}:
                continue
            if each.get("type") == "Location":
                self.is_closed = True
            elif each.get("type") == "Zone":
                self._zones.update(str(zone) for zone in info.get("zones") or ())

    def left_of(self, zones: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(set(zones) - self._zones))


def _zones(item: Mapping[str, Any], here: str) -> list[str]:
    return [
        str(zone)
        for info in item.get("locationInfo") or ()
        if str(info.get("location")).casefold() == here
        for zone in info.get("zones") or ()
    ]


def _decimal(text: str | None) -> Decimal:
    """A number that is not negative; zero if it is none."""
    try:
        value = Decimal(text or "0")
    except InvalidOperation:
        return Decimal(0)
    return value if value.is_finite() and 0 <= value < 1 << 40 else Decimal(0)


def _number(text: str | None, *, is_any_one: bool = False) -> int:
    value = _decimal(text)
    return max(int(value), 1) if is_any_one and value else int(value)


def _is_true(text: str | None) -> bool:
    return (text or "").casefold() == "true"


def _generations(text: str) -> tuple[int, ...]:
    found = re.findall(r"V([12])", text, re.ASCII)
    return tuple(sorted({int(number) for number in found})) or (1,)
