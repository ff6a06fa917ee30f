"""What Azure answers of groups and of what they hold, read into what partitions are made of. Pure.

The counterpart of `bodies`, which has what Azure is asked to make.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gates.azure_gate.errors import Problem
from gates.azure_gate.tags import INSTALLATION, Tags

_PATH = re.compile(
    r"/subscriptions/[^/]+/resourcegroups/(?P<group>[^/]+)(/providers/[^/]+/[^/]+/(?P<name>[^/]+))?"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """A resource group with our tags."""

    name: str
    location: str
    tags: Tags | None
    """None where they are not what a gate writes."""
    installation: str
    is_deleting: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """A machine, as lists tell it."""

    name: str
    provisioning: str
    """As "Creating", "Succeeded", "Failed", "Deleting"."""
    power: str
    """As "running", "deallocated"; empty: not told."""
    failure: Problem | None = None
    """Why it could not be made."""

    @property
    def is_stopped(self) -> bool:
        """Whether it has been deallocated, or is about to be."""
        return self.power in {"deallocated", "deallocating"}


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """What a group holds, as lists tell it: they may lag behind."""

    machines: Mapping[str, Machine] = dataclasses.field(default_factory=dict)
    private: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Private addresses by node."""
    public: Mapping[str, str] = dataclasses.field(default_factory=dict)


def group_of(told: Mapping[str, Any]) -> Group:
    """A resource group."""
    tags = told.get("tags") or {}
    installation = next((v for k, v in tags.items() if k.lower() == INSTALLATION), "")
    state = (told.get("properties") or {}).get("provisioningState", "")
    return Group(
        name=told["name"],
        location=told.get("location", ""),
        tags=Tags.decode(tags),
        installation=installation,
        is_deleting=state in {"Deleting", "Deprovisioning"},
    )


def machine_of(told: Mapping[str, Any]) -> Machine:
    """A machine, with its state as far as that was told."""
    properties = told.get("properties") or {}
    statuses = (properties.get("instanceView") or {}).get("statuses") or ()
    power, failure = "", None
    for status in statuses:
        # As "PowerState/running"; provisioning may have three parts, and be beside a power state.
        kind, _, rest = str(status.get("code", "")).partition("/")
        if kind.lower() == "powerstate":
            power = rest.lower()
        elif kind.lower() == "provisioningstate" and rest.lower().startswith("failed"):
            code = rest.partition("/")[2]
            failure = Problem(200, code, str(status.get("message", "")))
    provisioning = str(properties.get("provisioningState", ""))
    if provisioning == "Failed" and failure is None:
        failure = Problem(200, "", "Azure could not make it, and does not say why")
    return Machine(told["name"], provisioning, power, failure)


def contents_of(
    machines: Sequence[Mapping[str, Any]],
    interfaces: Sequence[Mapping[str, Any]],
    addresses: Sequence[Mapping[str, Any]],
) -> dict[str, Content]:
    """What groups hold, by their names in lower case, out of three lists of a subscription."""
    found: dict[str, tuple[dict[str, Machine], dict[str, str], dict[str, str]]] = {}

    def of(group: str) -> tuple[dict[str, Machine], dict[str, str], dict[str, str]]:
        return found.setdefault(group, ({}, {}, {}))

    for told in machines:
        group, name = _place(told["id"])
        of(group)[0][name] = machine_of(told)
    holders: dict[str, tuple[str, str]] = {}
    for told in interfaces:
        group, name = _place(told["id"])
        has = told.get("properties") or {}
        # What it belongs to tells more than its name, which may be more than what was asked for.
        _, node = _place(str((has.get("virtualMachine") or {}).get("id")))
        node = node or name.removesuffix("-nic")
        for at in has.get("ipConfigurations") or ():
            inner = at.get("properties") or {}
            if private := inner.get("privateIPAddress"):
                of(group)[1][node] = private
            if address := (inner.get("publicIPAddress") or {}).get("id"):
                holders[str(address).lower()] = (group, node)
    for told in addresses:
        group, name = holders.get(told["id"].lower()) or _place(told["id"])
        if public := (told.get("properties") or {}).get("ipAddress"):
            of(group)[2][name.removesuffix("-ip")] = public
    return {group: Content(*had) for group, had in found.items()}


def _place(resource_id: str) -> tuple[str, str]:
    """Group and name of what an id names, in lower case: Azure's ids have no fixed one."""
    found = _PATH.match(resource_id.lower())
    return (found["group"], found["name"] or "") if found else ("", "")
