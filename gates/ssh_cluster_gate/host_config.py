"""Hosts in the configuration: which there are, and how each is reached.

A setting of a host may stand in the file as a whole, in its partition, or in a `[host."PATTERN"]`;
the narrower place wins, and of two patterns the later one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gate_kit.config_rules import Wrong, check_path
from gates.ssh_cluster_gate import ranges
from rpc_kit.units import Bytes

LOCAL = "local"
"""The partition that is this machine."""
LOCAL_NODE = "localhost"
"""Its node: a name under which programs that start others find it."""
DEFAULT_PARTITION = "default"

# Names become parts of paths at the site and none begins with a dot; a node's is also part of names
# of files that have more before and behind it.
PARTITION = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", re.ASCII)
_NODE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,62}", re.ASCII)
LOGIN = re.compile(r"[^\s\x00-\x1f\x7f:-][^\s\x00-\x1f\x7f:]{0,127}")
_ADDRESS = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9._:%-]{0,252}", re.ASCII)
LETTERS = "letters, digits, '.', '_' and '-' serve, and no '.' at the beginning"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a host is reached and what it has. What is left out comes from ssh or from the host."""

    user: str | None = None
    """The account to log in as, where owners share one."""
    port: int | None = None
    identity: str | None = None
    """A private key; `%r` in it stands for the account, `%h` for the host."""
    flavor: str | None = None
    """The class of the host."""
    cpus: int | None = None
    memory: Bytes | None = None
    gpus: int | None = None
    """How many; their ids count from 0."""
    gpu_model: str | None = None
    first_port: int | None = None
    """Jobs that ask for a free port get one from here,"""
    last_port: int | None = None
    """to here."""
    labels: dict[str, str] = dataclasses.field(default_factory=dict)

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Wrong:
        for key, least, most in (
            ("port", 1, 65_535),
            ("first_port", 1, 65_535),
            ("last_port", 1, 65_535),
            ("cpus", 1, 1 << 20),
            ("gpus", 0, 1_024),
        ):
            value = table.get(key)
            if type(value) is int and not least <= value <= most:
                yield (key,), f"is {value}; {least} to {most} serve"
        first, last = table.get("first_port"), table.get("last_port")
        if type(first) is int and type(last) is int and last < first:
            yield ("last_port",), f"is {last}, below first_port; swap them"
        if table.get("memory") in {0, "0"}:
            yield ("memory",), 'is nothing; write it as "64G", or leave it out to have it found'
        if isinstance(user := table.get("user"), str) and user and not LOGIN.fullmatch(user):
            yield ("user",), f'"{user}" is not an account; write a login name'
        flavor = table.get("flavor")
        if isinstance(flavor, str) and flavor and not _NODE.fullmatch(flavor):
            yield ("flavor",), f'"{flavor}" is not a name; {LETTERS}'
        yield from _identity(table)
        labels = table.get("labels")
        for key, value in labels.items() if isinstance(labels, dict) else ():
            if not _LABEL.fullmatch(key):
                yield ("labels", key), "is not a label; 1 to 63 letters, digits, '.', '_', '-', '/'"
            if isinstance(value, str) and (len(value) > 256 or not value.isprintable()):
                yield ("labels", key), "has a value that is not one line of at most 256 letters"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig(Settings):
    """What is said of some hosts: `[host."gpu[01-04]"]`."""

    address: str | None = None
    """Where the host is reached: a name of ~/.ssh/config, a host name or an address; the host's own
    name if it is left out."""

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Wrong:
        yield from Settings.rules(table)
        address = table.get("address")
        if isinstance(address, str) and address and not _ADDRESS.fullmatch(address):
            yield ("address",), f'"{address}" is not a host name or address'


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PartitionConfig(Settings):
    """Hosts that the core chooses from: `[partitions.NAME]`."""

    hosts: tuple[str, ...]
    """Names, with ranges."""

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Wrong:
        yield from Settings.rules(table)
        yield from check_hosts(table.get("hosts"))


def _partition_hosts(table: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str, Any]]:
    """The lists of hosts of a raw file, each with where it stands and its partition's name."""
    if table.get("hosts"):
        yield ("hosts",), str(table.get("partition", DEFAULT_PARTITION)), table["hosts"]
    partitions = table.get("partitions")
    for name, partition in partitions.items() if isinstance(partitions, dict) else ():
        if isinstance(partition, dict):
            yield ("partitions", name, "hosts"), name, partition.get("hosts")


def check_places(table: Mapping[str, Any]) -> Wrong:
    """Partitions have names, each host is in one of them, and no settings are for none."""
    partitions = table.get("partitions")
    named = set(partitions) if isinstance(partitions, dict) else set()
    is_local = table.get("local") is True
    seen = {LOCAL_NODE: LOCAL} if is_local else {}
    for at, partition, hosts in _partition_hosts(table):
        field: tuple[str | int, ...] = at[:-1] or (
            "partition" if "partition" in table else "hosts",
        )
        if not PARTITION.fullmatch(partition):
            yield field, f'"{partition}" is not the name of a partition; {LETTERS}'
        if partition == LOCAL and is_local:
            yield field, f'"{LOCAL}" is this machine, by local = true; choose another name'
        if at == ("hosts",) and partition in named:
            yield field, f'"{partition}" is in [partitions] as well; name it otherwise'
        for index, name in host_names(hosts):
            before = seen.setdefault(name, partition)
            if before != partition:
                why = f"{name} is in partition {before} already, and would be given out twice"
                yield (*at, index), f"{why}; keep it in one"
                break
    settings = table.get("host")
    for pattern in settings if isinstance(settings, dict) else ():
        wrong = list(_pattern(pattern))
        yield from ((("host", pattern), why) for why in wrong)
        known = {name for _, name in host_names([pattern])} & seen.keys()
        if not wrong and not known:
            yield ("host", pattern), "names no host of any partition; add it to hosts"


def check_hosts(hosts: object) -> Wrong:
    """What is wrong with one list of hosts by itself."""
    if not isinstance(hosts, list):
        return
    if not hosts:
        yield ("hosts",), 'is empty; name hosts, as ["node[1-8]"]'
    for index, pattern in enumerate(hosts):
        if isinstance(pattern, str):
            yield from ((("hosts", index), why) for why in _pattern(pattern))


def _pattern(pattern: str) -> Iterator[str]:
    try:
        names = ranges.expand(pattern)
    except ValueError as error:
        yield f'"{pattern}" {error}; write it as "node[1-8]" or "gpu[01-04,07]"'
        return
    wrong = next((name for name in names if not _NODE.fullmatch(name)), None)
    if wrong is not None:
        yield f'"{wrong}" is not the name of a host; {LETTERS}'


def host_names(hosts: object) -> Iterator[tuple[int, str]]:
    """The hosts of a raw list, as far as it can be read, each with the index of its pattern."""
    for index, pattern in enumerate(hosts if isinstance(hosts, list) else ()):
        if isinstance(pattern, str):
            try:
                yield from ((index, name) for name in ranges.expand(pattern))
            except ValueError:
                continue


def _identity(table: Mapping[str, Any]) -> Wrong:
    path = table.get("identity")
    if not isinstance(path, str) or not path:
        return
    wrong = list(check_path(table, "identity"))
    yield from wrong
    if not wrong and "%" not in path and not Path(path).expanduser().is_file():
        make = f"ssh-keygen -t ed25519 -f {path}"
        yield ("identity",), f'"{path}" is not there; make a key by `{make}`, or mend the path'
