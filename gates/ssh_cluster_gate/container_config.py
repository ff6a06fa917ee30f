"""Containers in the configuration: what runs them, and when images are asked for."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from typing import Any

from gate_kit.config_rules import Wrong

_SOCKET = re.compile(r"(unix:///|tcp://|ssh://)[!-~]{1,200}", re.ASCII)


class Runtime(enum.StrEnum):
    """What runs containers on hosts."""

    AUTO = "auto"
    """The first of the others that a host has."""
    DOCKER = "docker"
    PODMAN = "podman"
    APPTAINER = "apptainer"
    NONE = "none"
    """Jobs in containers are not taken."""


class PullPolicy(enum.StrEnum):
    """When an image is asked for at its registry."""

    MISSING = "missing"
    """Where a host has none of that name."""
    ALWAYS = "always"
    """Before each job, unless it is named by its digest."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ContainersConfig:
    """How jobs in containers are run: `[containers]`."""

    runtime: Runtime = Runtime.AUTO
    socket: str = ""
    """Where the engine listens on hosts, as `unix:///run/docker.sock`; empty: as usual."""
    pull: PullPolicy = PullPolicy.MISSING

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Wrong:
        socket = table.get("socket")
        if isinstance(socket, str) and socket and not _SOCKET.fullmatch(socket):
            yield ("socket",), f'"{socket}" is no socket; write it as "unix:///run/docker.sock"'


_NOT_IN_QUEUES = {
    "docker": "its containers are none of Slurm's: limits, accounting and scancel don't reach them",
    "podman": "it keeps images on each node's own disk, and nothing would pull them there",
}
_MEND = 'write runtime = "apptainer"'


def check_queue(table: Mapping[str, Any]) -> Wrong:
    """What a Slurm site runs images with; what does nothing there is not taken."""
    containers = table.get("containers", {})
    if not isinstance(containers, dict):
        return
    runtime, socket = containers.get("runtime", "auto"), containers.get("socket")
    if not isinstance(runtime, str):
        return
    at = ("containers", "runtime") if "runtime" in containers else ("containers",)
    if runtime in _NOT_IN_QUEUES:
        yield at, f'"{runtime}" is not for Slurm: {_NOT_IN_QUEUES[runtime]}; {_MEND}'
    elif containers and runtime == "auto":
        yield at, f"does not say what runs images on Slurm's nodes; {_MEND}"
    if socket:
        yield ("containers", "socket"), "is for engines, and apptainer has none; remove it"
    if table.get("registry") and (runtime == "none" or not containers):
        yield ("registry",), f"is for images, which this site does not run; {_MEND} in [containers]"
