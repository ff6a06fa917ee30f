"""What a job needs of a place, taken out of its specification once."""

from __future__ import annotations

import dataclasses
from decimal import Decimal

from swm_core.domain.job import Direction, JobSpec, Port
from swm_core.domain.money import Money
from swm_core.domain.partition import Setup

_NOTHING = Decimal(0)


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """What each of `nodes` nodes has to give, and where. Zero or empty: nothing is asked."""

    site: str
    partition: str
    flavor: str
    cloud_image: str
    spot: bool
    cap: Money | None
    """The most that the job may still cost; None: no limit of its own."""
    nodes: int
    cpus: int
    mem_bytes: int
    gpus: int
    disk_bytes: int
    time_limit_s: int
    ports: tuple[Port, ...]
    options: tuple[str, ...]
    """Names of options of sites, with their prefixes."""
    capabilities: tuple[str, ...]
    """Names of Gate API capabilities, without their prefix."""
    fixed_ports: tuple[int, ...]
    free_ports: int
    """How many ports it wants out of a node's range."""
    excluded_nodes: frozenset[tuple[str, str, str]] = frozenset()
    """By site, partition and name: nodes that are left out for it."""

    @property
    def signature(self) -> str:
        """The same for demands that are alike."""
        ports = ",".join(f"{port.number}{port.name}" for port in self.ports)
        return (
            f"{self.site}\n{self.partition}\n{self.flavor}\n{self.cloud_image}\n{self.nodes}\n"
            f"{self.spot}\n{self.cap}\n"
            f"{self.cpus}\n{self.mem_bytes}\n{self.gpus}\n{self.disk_bytes}\n"
            f"{self.time_limit_s}\n{ports}\n{self.capabilities}\n{self.options}"
        )


def storage_capability(name: str) -> str:
    """What a site can do that offers a storage: beside names of the contract, which have no `:`."""
    return f"STORAGE:{name}"


def setup_of(spec: JobSpec, option_prefix: str) -> Setup:
    """What nodes for a job of this specification are set up with.

    Args:
        spec: The specification.
        option_prefix: Of the options that their site takes.
    """
    return Setup(
        image=spec.cloud_image,
        containers=bool(spec.container_image),
        storage=tuple(sorted(spec.storage)),
        site_options=tuple(sorted(spec.options_of(option_prefix).items())),
        spot=spec.spot,
    )


def demand_of(spec: JobSpec, last_site: str = "", spent: Decimal = _NOTHING) -> Demand:
    """What a job of this specification needs.

    Args:
        spec: The specification.
        last_site: Where it stays if it must.
        spent: What it has cost so far, in the currency of its cap.
    """
    needed = []
    if spec.spot:
        needed.append("SPOT")
    if spec.container_image:
        needed.append("CONTAINERS")
    if spec.nodes > 1:
        needed.append("MULTI_NODE")
    if any(port.direction is Direction.IN for port in spec.ports):
        needed.append("TUNNELS")
    if any(port.direction is Direction.OUT for port in spec.ports):
        needed.append("REVERSE_TUNNELS")
    if spec.storage:
        needed += ["STORAGE", *map(storage_capability, spec.storage)]
    fixed = tuple(port.number for port in spec.ports if port.number)
    resources = spec.resources
    return Demand(
        site=spec.site or ("" if spec.relocatable else last_site),
        partition=spec.partition,
        flavor=spec.flavor,
        cloud_image=spec.cloud_image,
        spot=spec.spot,
        cap=spec.max_cost
        and Money(max(_NOTHING, spec.max_cost.amount - spent), spec.max_cost.currency),
        nodes=spec.nodes,
        cpus=resources.cpus,
        mem_bytes=resources.mem_bytes,
        gpus=resources.gpus,
        disk_bytes=resources.disk_bytes,
        time_limit_s=spec.time_limit_s,
        ports=spec.ports,
        options=tuple(sorted(spec.site_options)),
        capabilities=tuple(needed),
        fixed_ports=fixed,
        free_ports=len(spec.ports) - len(fixed),
    )
