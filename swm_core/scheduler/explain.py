"""Why a site can never take a job, in words that say what to change."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Sequence

from rpc_kit.units import format_duration, format_size
from swm_core.scheduler.capacity import count_able
from swm_core.scheduler.catalog import USUAL_ARCHITECTURES, satisfies
from swm_core.scheduler.demand import Demand
from swm_core.scheduler.values import NodeClass, PartitionKind, PartitionView, SiteView

_CAPABILITIES = {
    "CONTAINERS": ("container-image", "runs no container images; leave container-image out"),
    "SPOT": ("spot", "has no nodes that may be taken away; leave spot out"),
    "MULTI_NODE": ("nodes", "runs a job on one node only; ask for one"),
    "TUNNELS": ("ports", "does not forward ports to a job; leave in ports out"),
    "STORAGE": ("storage", "offers no storage; copy what the job needs with input-files"),
    "REVERSE_TUNNELS": ("ports", "does not let a job reach ports of yours; leave out ports out"),
}


def _storage_of(site: SiteView) -> str:
    return ", ".join(sorted(name for each in site.capabilities if (name := each.partition(":")[2])))


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Why a job can never have a place. `reason` is contract; `directive` is to blame, if any."""

    reason: str
    message: str
    directive: str = ""
    site: str = ""
    known: tuple[str, ...] = ()
    """The names that there are, where one is missing."""


def site_missing(demand: Demand, sites: Sequence[SiteView]) -> Problem | None:
    """The problem that the site asked for, or any site, is not there."""
    names = [site.name for site in sites]
    if not names:
        message = "no site is configured; add one to the core's swm.toml, and start it anew"
        return Problem("SITE_NOT_FOUND", message, "site", demand.site)
    if demand.site and demand.site not in names:
        message = f'there is no site "{demand.site}"{_nearest(demand.site, names)}'
        return Problem("SITE_NOT_FOUND", message, "site", demand.site)
    return None


def explain_capabilities(demand: Demand, site: SiteView) -> list[Problem]:
    """What the job needs and the site cannot do, and what it asks that nobody can."""
    problems = []
    for capability in demand.capabilities:
        if capability not in site.capabilities:
            kind, _, name = capability.partition(":")
            if name and kind not in site.capabilities:
                continue  # that it has none at all is told
            directive, text = _CAPABILITIES[kind]
            if name:
                text = f'has no storage "{name}"; it has {_storage_of(site)}'
            message = f"site {site.name} {text}, or choose another site"
            problems.append(Problem("CAPABILITY_MISSING", message, directive, site.name))
    if unknown := site.unknown_options(demand.options):
        named = f"{site.option_prefix}.{unknown[0]}"
        known = [f"{site.option_prefix}.{name}" for name in sorted(site.options or ())]
        message = f'site {site.name} has no option "{named}"{_nearest(named, known)}'
        problems.append(Problem("OPTION_INVALID", message, "site-option", site.name))
    return problems


def explain_account(site: SiteView) -> Problem:
    """Why the nodes of a site with one account for all are for administrators only."""
    message = (
        f"site {site.name} has one account for all jobs, which only administrators may use; one of "
        "them has to map users to accounts there, or to set shared_account = true"
    )
    return Problem("ACCOUNT_NOT_SHARED", message, "site", site.name)


def explain(demand: Demand, site: SiteView, partitions: Sequence[PartitionView]) -> Problem:
    """Why none of these partitions can hold the job, and no new one either."""
    missing = _missing_name(demand, site, partitions)
    if missing:
        reason, kind, name, known = missing
        where = f"site {site.name}"
        if demand.partition and kind != "partition":
            where = f"partition {demand.partition} of {where}"
        message = f'{where} has no {kind} "{name}"{_nearest(name, sorted(known))}'
        directive = kind
        return Problem(reason, message, directive, site.name, tuple(known))
    if _creates(site) and not demand.partition and not site.boots(demand.cloud_image):
        message = f'site {site.name} has no image "{demand.cloud_image}"; write {site.image_form}'
        return Problem("IMAGE_NOT_FOUND", message, "cloud-image", site.name)
    if demand.cloud_image and (demand.partition or not _creates(site)):
        message = f"site {site.name} boots no images; leave cloud-image out"
        return Problem("CAPABILITY_MISSING", message, "cloud-image", site.name)
    directive, message = _resource_problem(demand, site, partitions)
    return Problem("RESOURCES_UNSATISFIABLE", message, directive, site.name)


def weigh(demand: Demand, problems: Sequence[Problem]) -> list[Problem]:
    """The problems of several sites, without those of sites that were hardly meant.

    Where one site has the partition, flavor or image that was named, it does not matter that
    others lack it.
    """
    names = {
        "PARTITION_NOT_FOUND": ("a partition", demand.partition),
        "FLAVOR_NOT_FOUND": ("a flavor", demand.flavor),
        "IMAGE_NOT_FOUND": ("an image", demand.cloud_image),
    }
    meant = [problem for problem in problems if problem.reason not in names]
    if meant:
        return meant
    if len(problems) > 1 and len({problem.reason for problem in problems}) == 1:
        first = problems[0]
        kind, name = names[first.reason]
        known = sorted({each for problem in problems for each in problem.known})
        message = f'no site has {kind} "{name}"{_nearest(name, known)}'
        return [Problem(first.reason, message, first.directive)]
    return list(problems)


def _missing_name(
    demand: Demand, site: SiteView, partitions: Sequence[PartitionView]
) -> tuple[str, str, str, Iterable[str]] | None:
    """A name that the site does not have: reason, kind, the name, and those that it has."""
    if demand.partition and not partitions:
        known = [p.partition_id for p in site.partitions if p.kind is not PartitionKind.DYNAMIC]
        return "PARTITION_NOT_FOUND", "partition", demand.partition, known
    if demand.flavor:
        flavors = _flavor_names(demand, site, partitions)
        if demand.flavor not in flavors:
            return "FLAVOR_NOT_FOUND", "flavor", demand.flavor, flavors
    return None


def _flavor_names(demand: Demand, site: SiteView, partitions: Iterable[PartitionView]) -> set[str]:
    names: set[str] = set()
    if not demand.partition and _creates(site):
        names.update(flavor.name for flavor in site.flavors.all_creatable())
    for part in partitions:
        names.update(flavor.name for flavor in site.flavors.of_partition(part.partition_id))
        names.update(kind.flavor for kind, _ in part.classes if kind.flavor)
    return names


def _resource_problem(
    demand: Demand, site: SiteView, partitions: Sequence[PartitionView]
) -> tuple[str, str]:
    """The directive to blame, and the message."""
    where = f"site {site.name}"
    if demand.partition:
        where = f"partition {demand.partition} of {where}"
    if demand.flavor:
        where = f"flavor {demand.flavor} of {where}"
    kinds = _offers(demand, site, partitions)
    if kinds and (too_much := _too_much(demand, kinds, where)):
        return too_much
    for part in partitions:
        longest = part.limits.max_time_s
        if longest and demand.time_limit_s > longest:
            place = f"partition {part.partition_id} of site {site.name}"
            return (
                "time",
                f"{place} runs a job for at most {format_duration(longest)}; ask for less",
            )
    if not kinds and not any(part.limits.max_nodes for part in partitions):
        return "", f"{where} has no nodes; choose another site"
    able = max(
        (_most_nodes(part, demand) for part in partitions),
        default=0,
    )
    if able:
        text = f"{demand.nodes} nodes are asked for, and {where} has {able} that can give"
        return "nodes", f"{text} what each needs; ask for fewer"
    if demand.free_ports and any(kind.ports < demand.free_ports for kind in kinds):
        return "ports", f"{where} has no {demand.free_ports} ports to choose from; name fixed ones"
    unusual = {
        flavor.architecture
        for flavor in site.flavors.all_creatable()
        if _creates(site) and satisfies(flavor, demand)
    } - USUAL_ARCHITECTURES
    if unusual and not demand.partition:
        found = ", ".join(sorted(unusual))
        return "flavor", f"{where} has such nodes for {found} only; name the flavor to have one"
    text = f"no node of {where} has {demand.cpus} cpus"
    if demand.mem_bytes:
        text += f", {format_size(demand.mem_bytes)} of memory"
    if demand.gpus:
        text += f", {demand.gpus} gpus"
    return "", f"{text} at once; ask for less of one of them"


def _most_nodes(part: PartitionView, demand: Demand) -> int:
    """How many nodes a job could have of the partition."""
    able = count_able(part, demand) if part.classes else demand.nodes
    return min(able, part.limits.max_nodes or demand.nodes)


def _too_much(demand: Demand, kinds: Sequence[NodeClass], where: str) -> tuple[str, str] | None:
    """What no single node has, whatever else is asked."""
    asked = (
        ("cpus", demand.cpus, max(kind.cpus for kind in kinds)),
        ("mem", demand.mem_bytes, max(kind.mem_bytes for kind in kinds)),
        ("gpus", demand.gpus, max(kind.gpus for kind in kinds)),
    )
    over = [(what, wanted, most) for what, wanted, most in asked if wanted > most]
    if not over:
        return None
    wants = " and ".join(_amount(what, wanted) for what, wanted, _ in over)
    most = " and ".join(_amount(what, number) for what, _, number in over)
    return over[0][0], f"{wants} a node are asked for, and {where} has at most {most}; ask for less"


def _amount(what: str, number: int) -> str:
    if what == "mem":
        return f"{format_size(number)} of memory"
    return f"{number or 'no'} {what.removesuffix('s') if number == 1 else what}"


def _offers(demand: Demand, site: SiteView, partitions: Sequence[PartitionView]) -> list[NodeClass]:
    """What single nodes of the site have at most, as far as the demand may use them."""
    offers: list[NodeClass] = []
    for part in partitions:
        limits = part.limits
        flavors = site.flavors.of_partition(part.partition_id)
        known = [kind for kind, _ in part.classes if kind.cpus]
        if part.kind is PartitionKind.QUEUE and flavors:
            known = [NodeClass(f.name, f.cpus, f.mem_bytes, f.gpus, 0) for f in flavors]
        offers += [
            NodeClass(
                kind.flavor,
                min(kind.cpus, limits.max_cpus or kind.cpus),
                min(kind.mem_bytes, limits.max_mem_bytes or kind.mem_bytes),
                min(kind.gpus, limits.max_gpus or kind.gpus),
                kind.ports,
            )
            for kind in known
        ]
    if not demand.partition and _creates(site):
        offers += [
            NodeClass(flavor.name, flavor.cpus, flavor.mem_bytes, flavor.gpus, demand.free_ports)
            for flavor in site.flavors.all_creatable()
        ]
    return [kind for kind in offers if not demand.flavor or kind.flavor == demand.flavor]


def _creates(site: SiteView) -> bool:
    return "DYNAMIC_PARTITIONS" in site.capabilities


def _nearest(name: str, known: Sequence[str]) -> str:
    """What may have been meant, or what there is."""
    if not known:
        return "; it has none"
    # What all begin with says nothing of which one was meant.
    start = f"{name.partition('.')[0]}." if "." in name else ""
    start = start if all(other.startswith(start) for other in known) else ""
    bare = [other.removeprefix(start) for other in known]
    near = [start + n for n in difflib.get_close_matches(name.removeprefix(start), bare, 1, 0.6)]
    shown = [*near, *(other for other in known if other not in near)][:5]
    there = f"; there is {', '.join(shown)}" + (" and others" if len(known) > 5 else "")
    return f'{there}; did you mean "{near[0]}"?' if near else there
