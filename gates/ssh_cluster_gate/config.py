"""The configuration of the SSH gate as its file has it; `plan` makes of it what is worked with.

A setting of a host may stand in the file as a whole, in its partition, or in a `[host."PATTERN"]`;
the narrower place wins, and of two patterns the later one.
"""

# ruff: noqa: RUF009 - what a NewType is called with is a constant still

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gates.ssh_cluster_gate import ranges
from rpc_kit import config_file
from rpc_kit.units import Bytes

Wrong = Iterator[tuple[tuple[str | int, ...], str]]

LOCAL = "local"
"""The partition that is this machine."""
LOCAL_NODE = "localhost"
"""Its node: a name under which programs that start others find it."""
DEFAULT_PARTITION = "default"

# Names become parts of paths at the site and none begins with a dot; a node's is also part of names
# of files that have more before and behind it.
_PARTITION = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", re.ASCII)
_NODE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,62}", re.ASCII)
_OWNER = re.compile(r"[a-z0-9._-]{1,32}", re.ASCII)
_LOGIN = re.compile(r"[^\s\x00-\x1f\x7f:-][^\s\x00-\x1f\x7f:]{0,127}")
_ADDRESS = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9._:%-]{0,252}", re.ASCII)
_SOCKET = re.compile(r"(unix:///|tcp://|ssh://)[!-~]{1,200}", re.ASCII)
_USERNAME = re.compile(r"[!-9;-~]{1,128}", re.ASCII)
_REGISTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}(:[0-9]{1,5})?", re.ASCII)
_VOLUME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", re.ASCII)
_LETTERS = "letters, digits, '.', '_' and '-' serve, and no '.' at the beginning"


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
        if isinstance(user := table.get("user"), str) and user and not _LOGIN.fullmatch(user):
            yield ("user",), f'"{user}" is not an account; write a login name'
        flavor = table.get("flavor")
        if isinstance(flavor, str) and flavor and not _NODE.fullmatch(flavor):
            yield ("flavor",), f'"{flavor}" is not a name; {_LETTERS}'
        yield from _identity(table.get("identity"))
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
        yield from _hosts(table.get("hosts"))


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

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Wrong:
        names = table.get("partitions")
        for index, name in enumerate(names if isinstance(names, list) else ()):
            if isinstance(name, str) and not _PARTITION.fullmatch(name):
                yield ("partitions", index), f'"{name}" is not the name of a partition; {_LETTERS}'
        for key, least, most in (
            ("submits_per_s", 0, 1_000),
            ("max_jobs", 0, 1_000_000),
            ("slowest_squeue_s", 1, 3_600),
        ):
            value = table.get(key)
            if isinstance(value, int | float) and not least <= value <= most:
                yield (key,), f"is {value}; {least} to {most} serve"


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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    """The site's own login at a registry: `[registry."ghcr.io"]`."""

    username: str
    password_file: str
    """A file with the password or token, for nobody but the gate's account to read."""

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Wrong:
        username = table.get("username")
        if isinstance(username, str) and not _USERNAME.fullmatch(username):
            yield ("username",), "is not a login; one word without ':' serves"
        path = table.get("password_file")
        if isinstance(path, str):
            yield from ((("password_file",), why) for why in _password_file(path))


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
        yield from _places(table)
        yield from _owners(table)
        yield from _queue(table)
        yield from _containers(table)
        if "hosts" in table:
            yield from _hosts(table["hosts"])
        if not table.get("hosts") and not table.get("partitions") and not table.get("local"):
            yield (), 'names no hosts; add hosts = ["node[1-8]"], or local = true for this machine'


def _queue(table: Mapping[str, Any]) -> Wrong:
    """A site with a queue has one login node; one without has no settings of a queue."""
    if table.get("scheduler") != "slurm":
        if "slurm" in table:
            yield ("slurm",), 'is for a site with scheduler = "slurm"; add that, or remove it'
        return
    names = [name for _, name in _names(table.get("hosts"))]
    count = len(names) + (table.get("local") is True)
    if count != 1:
        yield ("scheduler",), f'needs one host, its login node, as hosts = ["login"]; got {count}'
    if table.get("partitions"):
        yield ("partitions",), "are for hosts; a Slurm site tells its own, see [slurm] partitions"


def load(path: Path) -> Config:
    """The configuration in `path`.

    Raises:
        rpc_kit.config_file.ConfigError: It can't be used; the text names line, field and mend.
    """
    return config_file.load(path, Config)


def partition_hosts(table: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str, Any]]:
    """The lists of hosts of a raw file, each with where it stands and its partition's name."""
    if table.get("hosts"):
        yield ("hosts",), str(table.get("partition", DEFAULT_PARTITION)), table["hosts"]
    partitions = table.get("partitions")
    for name, partition in partitions.items() if isinstance(partitions, dict) else ():
        if isinstance(partition, dict):
            yield ("partitions", name, "hosts"), name, partition.get("hosts")


def _hosts(hosts: object) -> Wrong:
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
        yield f'"{wrong}" is not the name of a host; {_LETTERS}'


def _names(hosts: object) -> Iterator[tuple[int, str]]:
    """The hosts of a raw list, as far as it can be read, each with the index of its pattern."""
    for index, pattern in enumerate(hosts if isinstance(hosts, list) else ()):
        if isinstance(pattern, str):
            try:
                yield from ((index, name) for name in ranges.expand(pattern))
            except ValueError:
                continue


def _places(table: Mapping[str, Any]) -> Wrong:
    """Partitions have names, each host is in one of them, and no settings are for none."""
    partitions = table.get("partitions")
    named = set(partitions) if isinstance(partitions, dict) else set()
    is_local = table.get("local") is True
    seen = {LOCAL_NODE: LOCAL} if is_local else {}
    for at, partition, hosts in partition_hosts(table):
        field: tuple[str | int, ...] = at[:-1] or (
            "partition" if "partition" in table else "hosts",
        )
        if not _PARTITION.fullmatch(partition):
            yield field, f'"{partition}" is not the name of a partition; {_LETTERS}'
        if partition == LOCAL and is_local:
            yield field, f'"{LOCAL}" is this machine, by local = true; choose another name'
        if at == ("hosts",) and partition in named:
            yield field, f'"{partition}" is in [partitions] as well; name it otherwise'
        for index, name in _names(hosts):
            before = seen.setdefault(name, partition)
            if before != partition:
                why = f"{name} is in partition {before} already, and would be given out twice"
                yield (*at, index), f"{why}; keep it in one"
                break
    settings = table.get("host")
    for pattern in settings if isinstance(settings, dict) else ():
        wrong = list(_pattern(pattern))
        yield from ((("host", pattern), why) for why in wrong)
        known = {name for _, name in _names([pattern])} & seen.keys()
        if not wrong and not known:
            yield ("host", pattern), "names no host of any partition; add it to hosts"


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
            if not _LOGIN.fullmatch(login):
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


def _containers(table: Mapping[str, Any]) -> Wrong:
    """Which registries and volumes there are."""
    registries = table.get("registry")
    for name in registries if isinstance(registries, dict) else ():
        if not _REGISTRY.fullmatch(name):
            yield ("registry", name), 'is not a registry; write its host and port, as "ghcr.io"'
    volumes = table.get("volumes")
    for name, value in volumes.items() if isinstance(volumes, dict) else ():
        if not _VOLUME.fullmatch(name):
            yield (
                ("volumes", name),
                "is not a name; 1 to 64 letters, digits, '.', '_' and '-' serve",
            )
        path, _, mode = value.rpartition(":") if isinstance(value, str) else ("", "", "")
        is_fine = path != "/" and _is_folder(path, home=False) and path.startswith("/")
        if isinstance(value, str) and (mode not in {"ro", "rw"} or ":" in path or not is_fine):
            yield ("volumes", name), f'"{value}" is no volume; write it as "/srv/data:ro"'


def _password_file(path: str) -> Iterator[str]:
    if not path.startswith(("/", "~/")):
        yield f'"{path}" depends on where the gate starts; begin it with / or ~/'
        return
    try:
        file = Path(path).expanduser()
        mode = file.stat().st_mode
        text = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        yield f'"{path}" can\'t be read: {getattr(error, "strerror", None) or "it is no text"}'
        return
    if mode & 0o077:
        yield f'"{path}" can be read by others; run `chmod 600 {path}`'
    if not text or not text.isprintable():
        yield f'"{path}" does not hold one line with a password'


def _texts(table: Mapping[str, Any]) -> Wrong:
    """Folders and files, and what is told to people."""
    description = table.get("description")
    if isinstance(description, str) and (len(description) > 500 or not description.isprintable()):
        yield ("description",), "is not one line of at most 500 letters"
    root = table.get("work_root")
    if isinstance(root, str) and not _is_folder(root, home=False):
        yield ("work_root",), f'"{root}" is not a folder at the site; write /… or ~/…'
    roots = table.get("workdir_roots")
    for index, folder in enumerate(roots if isinstance(roots, list) else ()):
        if isinstance(folder, str) and not _is_folder(folder, home=True):
            yield ("workdir_roots", index), f'"{folder}" is not a folder; write ~, ~/… or /…'
    for key in ("ssh_config", "known_hosts"):
        path = table.get(key)
        if isinstance(path, str) and path and not path.startswith(("/", "~/")):
            yield (key,), f'"{path}" depends on where the gate starts; begin it with / or ~/'


def _is_folder(path: str, *, home: bool) -> bool:
    """Whether `path` is absolute or below the home folder, without anything odd in it."""
    if home and path == "~":
        return True
    parts = path.rstrip("/").split("/")
    fine = parts[0] in {"", "~"} and len(parts) > 1 and not {"", ".", ".."} & set(parts[1:])
    return (fine or (home and path == "/")) and path.isprintable()


def _identity(path: object) -> Wrong:
    if not isinstance(path, str) or not path:
        return
    if not path.startswith(("/", "~/")):
        yield ("identity",), f'"{path}" depends on where the gate starts; begin it with / or ~/'
    elif "%" not in path and not Path(path).expanduser().is_file():
        make = f"ssh-keygen -t ed25519 -f {path}"
        yield ("identity",), f'"{path}" is not there; make a key by `{make}`, or mend the path'
