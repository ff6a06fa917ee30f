"""Looks at attempts on a host, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gate_kit.ssh.answers import refused
from gate_kit.ssh.batches import Batch, PerHost
from gate_kit.ssh.host import Host


class _Asked(NamedTuple):
    path: str
    """Of the attempt's key."""
    root_uid: str
    """The root that is expected there."""


class Glance:
    """Looks at attempts on one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._batch = Batch(self._ask, f"glances at {host.node}")

    async def look(self, path: str, root_uid: str) -> list[str]:
        """What changes of an attempt, as the lines of `status`.

        Args:
            path: Of its key.
            root_uid: What the caller knows as the root; empty at a first contact.

        Raises:
            HostRefused: SITE_CHANGED.
            Refusal: As `Host.ask`.
        """
        return await self._batch.answer(_Asked(path, root_uid))

    async def _ask(self, asked: Sequence[_Asked]) -> dict[_Asked, list[str] | Exception]:
        words = [word for each in asked for word in each]
        told = _sections((await self._host.ask("glance", *words)).lines)
        return {each: self._of(lines) for each, lines in zip(asked, told, strict=True)}

    def _of(self, lines: list[str]) -> list[str] | Exception:
        if lines and lines[0].startswith("refused "):
            return refused(self._host.node, lines[0].removeprefix("refused "))
        return lines


def _sections(lines: Sequence[str]) -> list[list[str]]:
    """The lines of each attempt; the times of all come last."""
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        name, _, value = line.partition(" ")
        if name == "of":
            found.append((value, []))
        elif name == "at":
            file, _, stamp = value.rpartition(" ")
            path, _, name = file.rpartition("/")
            for of, told in found:
                if of == path:
                    told.append(f"at {name} {stamp}")
        else:
            found[-1][1].append(line)
    return [told for _, told in found]


class Glances(PerHost[Glance]):
    """That of each host."""

    def __init__(self) -> None:
        super().__init__(Glance)
