"""`swm-azure-gate sweep`: removes everything of an installation, where no core is left to do it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gate_kit import command_line
from gates.azure_gate import config as configuration
from gates.azure_gate.answers import Group
from gates.azure_gate.cloud import Cloud
from gates.azure_gate.sdk import AzureProblem, Sdk

_INSTALLATION = re.compile(r"[a-z0-9]{1,40}", re.ASCII)
_LOOK_S = (0.5, 5.0)
"""Between two looks at what goes: at first, and at most."""
_AGAIN_S = 30.0
"""What is still there, and not going, is asked for again after so long."""


def main(words: Sequence[str]) -> int:
    """Do it; the exit status: 0 when nothing is left, 1 when something is.

    Args:
        words: Of the command line, without the command's own.

    Raises:
        rpc_kit.config_file.ConfigError: The configuration can't be used.
    """
    parser = command_line.Parser(
        prog="swm-azure-gate sweep",
        description="Delete every resource group that carries the tag of an installation, with all "
        "that is in it. Stop the installation's core first: it would make what it misses anew.",
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--installation", required=True, metavar="ID", help="as `swm whoami` tells it"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="tell it as JSON, one object a line")
    given = parser.parse_args(words)
    if not _INSTALLATION.fullmatch(given.installation):
        parser.error("an installation is 1 to 40 of a-z and 0-9")
    if given.json and not given.yes:
        parser.error("--json needs --yes: nobody could be asked")
    config = configuration.load(given.config)
    return asyncio.run(_sweep(config, given.installation, given.yes, given.json))


async def _sweep(config: configuration.Config, installation: str, sure: bool, as_json: bool) -> int:
    sdk = Sdk(config)
    told = _Told(as_json)
    try:
        cloud = Cloud(config, sdk)
        groups = await _found(cloud, installation)
        if not groups:
            told.nothing(installation)
            return 0
        if not sure and not _agreed(groups, installation):
            sys.stderr.write("nothing was deleted\n")
            return 1
        left = await asyncio.gather(*(_remove(cloud, group, told) for group in groups))
        # What was on its way when we looked has arrived meanwhile.
        late = await _found(cloud, installation)
        left += await asyncio.gather(*(_remove(cloud, group, told) for group in late))
        return 1 if any(left) else 0
    except AzureProblem as problem:
        sys.stderr.write(f"swm-azure-gate sweep: {problem}\n")
        return 1
    finally:
        await sdk.close()


async def _found(cloud: Cloud, installation: str) -> list[Group]:
    return [one for one in await cloud.groups() if one.installation == installation]


def _agreed(groups: Sequence[Group], installation: str) -> bool:
    for group in groups:
        sys.stdout.write(f"{group.name} in {group.location}: {_what(group)}\n")
    are = "group" if len(groups) == 1 else f"{len(groups)} groups"
    sys.stdout.write(f"Delete this {are} of installation {installation}, for good? [y/N] ")
    sys.stdout.flush()
    answer = sys.stdin.readline()
    if not sys.stdin.isatty():
        sys.stdout.write("\n")  # nobody has typed one
    if not answer:
        sys.stderr.write("nobody answers here; --yes deletes without asking\n")
    return answer.strip().lower() in {"y", "yes"}


def _what(group: Group) -> str:
    tags = group.tags
    if tags is None:
        return "not made by a gate, but with its tag"
    nodes = "1 node" if tags.spec.node_count == 1 else f"{tags.spec.node_count} nodes"
    return f"{nodes} {tags.spec.flavor} of {tags.owner}"


async def _remove(cloud: Cloud, group: Group, told: _Told) -> bool:
    """Delete one group, and follow it to the end; whether something is left."""
    began = time.monotonic()
    try:
        is_there = await cloud.delete_group(group.name)
        pause_s, asked_at = _LOOK_S[0], began
        while is_there:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.3, _LOOK_S[1])
            now = await cloud.group(group.name)
            is_there = now is not None
            if now is not None and not now.is_deleting and time.monotonic() - asked_at > _AGAIN_S:
                asked_at = time.monotonic()
                is_there = await cloud.delete_group(group.name)
    except AzureProblem as problem:
        told.left(group, problem.problem.text)
        return True
    told.removed(group, time.monotonic() - began)
    return False


class _Told:
    """What is said of each group.

    Args:
        as_json: For programs.
    """

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def nothing(self, installation: str) -> None:
        """There was nothing to delete."""
        if not self._as_json:
            sys.stdout.write(f"there is nothing of installation {installation}\n")

    def removed(self, group: Group, seconds: float) -> None:
        """It is gone."""
        self._say(group, "removed", f"{seconds:.0f} s")

    def left(self, group: Group, why: str) -> None:
        """It could not be deleted."""
        self._say(group, "left", why)

    def _say(self, group: Group, what: str, text: str) -> None:
        if self._as_json:
            partition = group.tags.partition_id if group.tags else ""
            line = json.dumps(
                {"group": group.name, "partition": partition, "outcome": what, "text": text}
            )
        else:
            line = f"{what} {group.name} ({text})"
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
