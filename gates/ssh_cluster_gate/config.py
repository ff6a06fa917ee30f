"""The configuration of the SSH gate as its file has it; `plan` makes of it what is worked with."""

# ruff: noqa: RUF009 - what a NewType is called with is a constant still

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gate_kit.config_rules import (
    RegistryConfig,
    Wrong,
    check_description,
    check_names,
    check_path,
    check_registries,
)
from gates.ssh_cluster_gate.container_config import ContainersConfig, check_queue
from gates.ssh_cluster_gate.host_config import (
    DEFAULT_PARTITION,
    LETTERS,
    LOGIN,
    PARTITION,
    HostConfig,
    PartitionConfig,
    Settings,
    check_hosts,
    check_places,
    host_names,
)
from rpc_kit import config_file
from rpc_kit.units import Bytes

_OWNER = re.compile(r"[a-z0-9._-]{1,32}", re.ASCII)


class Scheduler(enum.Enum):
    """Who places jobs at the site."""

    HOSTS = "hosts"
    """The core, on hosts that the file names."""
    SLURM = "slurm"
    """The site's own queue; the file names its login node."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SlurmConfig:
    """How a Slurm site is used: `[slurm]`."""

    partitions: tuple[str, ...] = ()
    """Those that jobs may go to; empty: all that sinfo shows."""
    compute_ssh: bool = False
    """Whether compute nodes let the account in by SSH, from the login node: then jobs reach ports
    at the user's side, and ports that a job opens for itself alone can be reached."""
    submits_per_s: float = 0.0
    """At most so many sbatch a second; 0: as fast as they come."""
    max_jobs: int = 0
    """At most so many jobs of an account in the queue; 0: as many as Slurm takes."""
    slowest_squeue_s: float = 60.0
    """How old the queue's word may be while nothing changes."""
    fuse_cache_s: float = 1.5
    """How long the login node may show a file as it was before a compute node wrote to it, where
    the work root is on a file system in user space. Others ask when a file is opened."""

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Wrong:
        names = table.get("partitions")
        for index, name in enumerate(names if isinstance(names, list) else ()):
            if isinstance(name, str) and not PARTITION.fullmatch(name):
                yield ("partitions", index), f'"{name}" is not the name of a partition; {LETTERS}'
        for key, least, most in (
            ("submits_per_s", 0, 1_000),
            ("max_jobs", 0, 1_000_000),
            ("slowest_squeue_s", 1, 3_600),
            ("fuse_cache_s", 0, 600),
        ):
            value = table.get(key)
            if isinstance(value, int | float) and not least <= value <= most:
                yield (key,), f"is {value}; {least} to {most} serve"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """The file as a whole; its own settings are those of every host."""

    description: str = ""
    """Of the site, for people; one line."""
    scheduler: Scheduler = Scheduler.HOSTS
    """Who places jobs there."""
    slurm: SlurmConfig = dataclasses.field(default_factory=SlurmConfig)
    hosts: tuple[str, ...] = ()
    """The short form for a site of one partition, whose name is `partition`."""
    partition: str = DEFAULT_PARTITION
    partitions: dict[str, PartitionConfig] = dataclasses.field(default_factory=dict)
    host: dict[str, HostConfig] = dataclasses.field(default_factory=dict)
    """By name or pattern."""
    local: bool = False
    """Whether this machine is a partition, `local`: the gate's own account, without SSH."""
    loopback: str = "127.0.0.1"
    """The address that plays the loopback of this machine for jobs."""
    work_root: str = "~/.skyport"
    """The folder at the site, in each account, under which everything is kept."""
    shared_filesystem: bool = False
    """Whether an account's work_root is the same folder on all hosts of a partition."""
    users: dict[str, str] = dataclasses.field(default_factory=dict)
    """From owner to account at the site."""
    shared_account: bool = False
    """Whether the jobs of all owners run as one account, and can read each other's files."""
    workdir_roots: tuple[str, ...] = ("~", "/tmp")  # noqa: S108 - what sites allow by default  # nosec B108
    """Folders below which a job may ask to work; `~` is the account's home."""
    containers: ContainersConfig = dataclasses.field(default_factory=ContainersConfig)
    registry: dict[str, RegistryConfig] = dataclasses.field(default_factory=dict)
    """Logins by registry: host and port."""
    volumes: dict[str, str] = dataclasses.field(default_factory=dict)
    """Folders of hosts that jobs may ask for, as "/srv/data:ro" or "/srv/scratch:rw"."""
    cache_bytes: Bytes = Bytes(10 << 30)
    """Most bytes of input contents that are kept on a host for each account."""
    ssh_config: str = "~/.ssh/config"
    """Honoured as ssh does; empty: none is read."""
    known_hosts: str = ""
    """Host keys that are trusted; empty: as ssh is configured, else ~/.ssh/known_hosts."""
    use_agent: bool = True
    """Whether keys of the ssh agent are offered."""

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Wrong:
        yield from Settings.rules(table)
        yield from _texts(table)
        yield from check_places(table)
        yield from _owners(table)
        yield from _queue(table)
        yield from check_registries(table)
        yield from _volumes(table)
        if "hosts" in table:
            yield from check_hosts(table["hosts"])
        if not table.get("hosts") and not table.get("partitions") and not table.get("local"):
            yield (), 'names no hosts; add hosts = ["node[1-8]"], or local = true for this machine'


def load(path: Path) -> Config:
    """The configuration in `path`.

    Raises:
        rpc_kit.config_file.ConfigError: It can't be used; the text names line, field and mend.
    """
    return config_file.load(path, Config)


def _queue(table: Mapping[str, Any]) -> Wrong:
    """A site with a queue has one login node; one without has no settings of a queue."""
    if table.get("scheduler") != "slurm":
        if "slurm" in table:
            yield ("slurm",), 'is for a site with scheduler = "slurm"; add that, or remove it'
        return
    names = [name for _, name in host_names(table.get("hosts"))]
    count = len(names) + (table.get("local") is True)
    if count != 1:
        yield ("scheduler",), f'needs one host, its login node, as hosts = ["login"]; got {count}'
    if table.get("partitions"):
        yield ("partitions",), "are for hosts; a Slurm site tells its own, see [slurm] partitions"
    yield from check_queue(table)


def _owners(table: Mapping[str, Any]) -> Wrong:
    """Who runs as which account."""
    users = table.get("users")
    users = users if isinstance(users, dict) else {}
    is_shared = table.get("shared_account") is True
    remote = bool(table.get("hosts") or table.get("partitions"))
    if users and is_shared:
        yield ("shared_account",), "stands beside [users]; keep one of the two"
    if users and table.get("local") is True:
        yield (
            ("local",),
            "runs as the gate's own account, which [users] can't map; keep one of both",
        )
    if remote and not users and not is_shared:
        mend = 'add [users] with owner = "account", or shared_account = true if all may share one'
        yield (), f"does not say who runs as which account; {mend}"
    if users:
        for at, scope in _scopes(table):
            if scope.get("user"):
                yield (*at, "user"), "is for a shared account, and [users] says it here; remove it"
    owners: dict[object, str] = {}
    for owner, login in users.items():
        if not _OWNER.fullmatch(owner):
            yield ("users", owner), "is not a user of Sky Port; 1 to 32 of a-z, 0-9, '.', '_', '-'"
        if isinstance(login, str):
            if not LOGIN.fullmatch(login):
                yield ("users", owner), f'"{login}" is not an account; write a login name'
            before = owners.setdefault(login, owner)
            if before != owner:
                why = f'"{login}" is the account of {before} as well'
                yield ("users", owner), f"{why}; give each an own one, or use shared_account = true"


def _scopes(table: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """The raw tables that settings of hosts may stand in."""
    yield (), table
    for name in ("partitions", "host"):
        tables = table.get(name)
        for key, inner in tables.items() if isinstance(tables, dict) else ():
            if isinstance(inner, dict):
                yield (name, key), inner


def _volumes(table: Mapping[str, Any]) -> Wrong:
    """Which folders of hosts jobs may ask for."""
    yield from check_names(table, "volumes")
    volumes = table.get("volumes")
    for name, value in volumes.items() if isinstance(volumes, dict) else ():
        path, _, mode = value.rpartition(":") if isinstance(value, str) else ("", "", "")
        is_fine = path != "/" and _is_folder(path, home=False) and path.startswith("/")
        if isinstance(value, str) and (mode not in {"ro", "rw"} or ":" in path or not is_fine):
            yield ("volumes", name), f'"{value}" is no volume; write it as "/srv/data:ro"'


def _texts(table: Mapping[str, Any]) -> Wrong:
    """Folders and files, and what is told to people."""
    yield from check_description(table)
    root = table.get("work_root")
    if isinstance(root, str) and not _is_folder(root, home=False):
        yield ("work_root",), f'"{root}" is not a folder at the site; write /… or ~/…'
    roots = table.get("workdir_roots")
    for index, folder in enumerate(roots if isinstance(roots, list) else ()):
        if isinstance(folder, str) and not _is_folder(folder, home=True):
            yield ("workdir_roots", index), f'"{folder}" is not a folder; write ~, ~/… or /…'
    for key in ("ssh_config", "known_hosts"):
        if table.get(key):
            yield from check_path(table, key)


def _is_folder(path: str, *, home: bool) -> bool:
    """Whether `path` is absolute or below the home folder, without anything odd in it."""
    if home and path == "~":
        return True
    parts = path.rstrip("/").split("/")
    fine = parts[0] in {"", "~"} and len(parts) > 1 and not {"", ".", ".."} & set(parts[1:])
    return (fine or (home and path == "/")) and path.isprintable()
