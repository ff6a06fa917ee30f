"""Runs scripts in containers on hosts, and sees that none of them stays."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import weakref
from collections.abc import Mapping, Sequence
from importlib import resources

from gate_kit import errors
from gate_kit.ssh.answers import HostRefused
from gate_kit.ssh.host import Facts, Host
from gate_kit.ssh.images import ContainerSettings, Image, Images, Login, Told
from gate_kit.ssh.layout import AttemptKey
from gate_kit.ssh.runner import Runner

_NAME_CHARS = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Volume:
    """A folder of hosts that jobs may ask for."""

    path: str
    is_writable: bool = False

    def __str__(self) -> str:
        return f"{self.path}:{'rw' if self.is_writable else 'ro'}"


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What a container may use."""

    cpus: int
    memory_bytes: int
    """0: no limit."""
    gpu_ids: Sequence[str]
    grace: str
    """Between TERM and KILL, as runners take it."""


class Containers:
    """Containers on all hosts of a site.

    Args:
        settings: How it runs them.
    """

    def __init__(self, settings: ContainerSettings) -> None:
        self._settings = settings
        self._images = Images(settings)
        self._installed: weakref.WeakKeyDictionary[Host, str] = weakref.WeakKeyDictionary()

    async def image(
        self, host: Host, reference: str, logins: Mapping[str, Login], told: Told
    ) -> Image:
        """Have an image on a host; see `Images.have`."""
        return await self._images.have(host, reference, logins, told)

    async def command(
        self,
        host: Host,
        key: AttemptKey,
        image: Image,
        limits: Limits,
        *,
        node: str,
        work: str,
        stdin: str,
        volumes: Sequence[Volume],
        program: Sequence[str],
    ) -> list[str]:
        """What runner.sh starts in place of the script's own program.

        Args:
            host: Where; it gets the scripts that are needed there.
            key: Which attempt.
            image: What was pulled.
            limits: What it may use.
            node: What stands for the node in names of files; empty where a queue chooses it, and
                the devices: then the job finds that out by itself.
            work: Its work folder, absolute.
            stdin: The file for its standard input, absolute.
            volumes: What it gets besides.
            program: What runs the script.

        Raises:
            Refusal: As `Host.ask`.
        """
        facts = await host.open()
        await self._install(host, facts)
        return [
            "/bin/sh",
            f"{facts.root}/{_script('container').name}",
            image.runtime,
            self._settings.socket,
            container_name(key, node),
            image.id,
            image.digest,
            work,
            stdin,
            node,
            key.mark(node),
            key.path,
            facts.root_uid,
            str(limits.cpus),
            str(limits.memory_bytes),
            ",".join(limits.gpu_ids),
            limits.grace,
            facts.home.rstrip("/") or "/",
            f"{facts.root}/{_script('inside').name}",
            *(str(volume) for volume in volumes),
            "--",
            *program,
        ]

    async def remove(self, host: Host, key: AttemptKey) -> None:
        """Remove the container of an attempt, if it has one; nothing of it runs then.

        Raises:
            Refusal: NODE_UNREACHABLE: it can't be removed now.
        """
        told = await _answer(host, "attempt", key.path)
        failed = [line for line in told if line.startswith("=failed ")]
        if failed:
            why = failed[0].partition(" ")[2]
            raise errors.node_unreachable(
                host.node, f"the container on {host.node} can't be removed: {why}"
            )

    async def sweep(self, host: Host) -> Sequence[str]:
        """Remove the containers in an account whose attempts are over or gone; returns their names.

        Raises:
            Refusal: As `Host.run`.
        """
        facts = await host.open()
        settings = self._settings
        told = await _answer(host, "strays", settings.runtime, settings.socket, facts.root_uid)
        return [line.partition(" ")[2] for line in told if line.startswith("=gone ")]

    async def _install(self, host: Host, facts: Facts) -> None:
        if self._installed.get(host) == facts.root_uid:
            return
        for script in (_script("container"), _script("inside")):
            try:
                await host.ask("install", script.name, data=script.text)
            except HostRefused as error:
                raise errors.node_unreachable(host.node, str(error)) from error
        self._installed[host] = facts.root_uid


def container_name(key: AttemptKey, node: str) -> str:
    """What the container of an attempt is called."""
    readable = f"swm-{key.job_id}-{key.attempt}-{node}"[:_NAME_CHARS]
    digest = hashlib.sha256(f"{key.installation}/{key.mark(node)}".encode()).hexdigest()[:12]
    return f"{readable}-{digest}"


async def _answer(host: Host, *words: str) -> list[str]:
    process = await host.run("uncontain", *words)
    lines: list[str] = []
    try:
        process.stdin.write_eof()
        while line := await process.stdout.readline():
            lines.append(line.decode(errors="replace").strip())
    except OSError as error:
        raise errors.node_unreachable(host.node, f"the link to {host.node} was lost") from error
    finally:
        process.close()
    return lines


@functools.cache
def _script(name: str) -> Runner:
    text = resources.files(__package__).joinpath("scripts", f"{name}.sh").read_bytes()
    return Runner(text, f"{name}-{hashlib.sha256(text).hexdigest()[:12]}.sh")
