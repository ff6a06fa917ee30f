"""The table of directives: what each is called, how its value is read and where it goes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from swm_core.jobscript import paths, values
from swm_core.jobscript.draft import Draft


@dataclasses.dataclass(frozen=True, slots=True)
class Single:
    """A directive that a script gives once. `read` makes the value of the spec's `field`."""

    name: str
    field: str
    read: Callable[[str], object]
    _: dataclasses.KW_ONLY
    resource: bool = False
    """Whether the field is one of Resources, not of JobSpec itself."""
    without_value: str = ""
    """What the directive means when no value follows; empty: a value must follow."""


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """A directive that may be repeated: each line adds to those before."""

    name: str
    add: Callable[[Draft, str], None]


_DIRECTIVES: tuple[Single | Listed, ...] = (
    Single("name", "name", values.text(128)),
    Single("comment", "comment", values.text(1024)),
    Single("account", "account", values.word),
    Single("site", "site", values.word),
    Single("partition", "partition", values.word),
    Single("flavor", "flavor", values.word),
    Single("nodes", "nodes", values.integer(1, 10_000)),
    Single("cpus", "cpus", values.integer(1, 100_000), resource=True),
    Single("mem", "mem_bytes", values.size, resource=True),
    Single("gpus", "gpus", values.integer(0, 1_000), resource=True),
    Single("disk", "disk_bytes", values.size, resource=True),
    Single("launch", "launch", values.launch),
    Single("time", "time_limit_s", values.duration),
    Single("priority", "priority", values.integer(-1_000, 1_000)),
    Single("spot", "spot", values.yes_no, without_value="true"),
    Single("max-cost", "max_cost", values.money),
    Single("retries", "retries", values.integer(0, 100)),
    Single("relocatable", "relocatable", values.yes_no, without_value="true"),
    Single("cloud-image", "cloud_image", values.word),
    Single("container-image", "container_image", values.image),
    Listed("ports", Draft.add_ports),
    Single("submission-address", "submission_address", values.address),
    Listed("input-files", Draft.add_inputs),
    Listed("output-files", Draft.add_outputs),
    Single("workdir", "workdir", paths.absolute_path),
    Single("stdin", "stdin", paths.file_name),
    Single("stdout", "stdout", paths.file_name),
    Single("stderr", "stderr", paths.file_name),
    Listed("env", Draft.add_variables),
    Listed("site-option", Draft.add_options),
    Listed("storage", Draft.add_storage),
)

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "account_id": "account",
        # The original work's `image` was what the job runs in; the node's image got a name of its
        # own later.
        "image": "container-image",
        "input": "input-files",
        "output": "output-files",
    }
)
"""Other names that users of the original work know."""

NOT_SERVED: Mapping[str, str] = MappingProxyType(
    {
        "array": "submit one job for each element",
        "depends": "submit the later job once the earlier one has ended (swm wait)",
    }
)
"""Directives that are known by name and not served yet, with what to do instead."""

TABLE: Final[Mapping[str, Single | Listed]] = {
    **{directive.name: directive for directive in _DIRECTIVES},
    **{
        alias: directive
        for alias, name in ALIASES.items()
        for directive in _DIRECTIVES
        if directive.name == name
    },
}
"""All served directives by every name they have."""

KNOWN_NAMES: tuple[str, ...] = (*TABLE, *NOT_SERVED)
"""All names that the parser knows, aliases and those not yet served included."""
