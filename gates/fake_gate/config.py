"""The configuration of the fake gate, and the values that the rest of it works with."""

# ruff: noqa: RUF009 - what a NewType is called with is a constant still

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gates.fake_gate.faults import Fault
from rpc_kit import config_file
from rpc_kit.units import Bytes, Seconds
from skyport.gate.v1 import types_pb2

Wrong = Iterator[tuple[tuple[str, ...], str]]

LOOPBACK = "127.0.0.1"

_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)


class Kind(enum.StrEnum):
    """How a partition that is always there has its jobs placed."""

    STATIC = "static"
    QUEUE = "queue"


class ImageUse(enum.StrEnum):
    """What an image is for."""

    NODE = "node"
    CONTAINER = "container"


class ExpiryChoice(enum.StrEnum):
    """What happens to a partition at its expire_time; NONE: it has none."""

    NONE = "none"
    DELETE = "delete"
    DEALLOCATE = "deallocate"


class Capability(enum.StrEnum):
    """Those that can be left out, so that an older gate is played."""

    STATIC_PARTITIONS = "STATIC_PARTITIONS"
    DYNAMIC_PARTITIONS = "DYNAMIC_PARTITIONS"
    SITE_QUEUE = "SITE_QUEUE"
    CONTAINERS = "CONTAINERS"
    MULTI_NODE = "MULTI_NODE"
    SPOT = "SPOT"
    PRICES = "PRICES"
    TUNNELS = "TUNNELS"
    REVERSE_TUNNELS = "REVERSE_TUNNELS"
    EXPIRY = "EXPIRY"
    USER_MAPPING = "USER_MAPPING"
    SHARED_FILESYSTEM = "SHARED_FILESYSTEM"
    STORAGE = "STORAGE"
    SHARED_ACCOUNT = "SHARED_ACCOUNT"

    @property
    def number(self) -> types_pb2.Capability.ValueType:
        return types_pb2.Capability.Value(f"CAPABILITY_{self.value}")


@dataclasses.dataclass(frozen=True, slots=True)
class NodeConfig:
    """A node of a static partition. It is this machine, whatever its numbers say."""

    name: str
    cpus: int = 1
    memory: Bytes = Bytes(1 << 30)
    gpus: tuple[str, ...] = ()
    """Ids of its GPUs."""
    flavor: str = ""
    first_port: int = 20_000
    last_port: int = 29_999

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Wrong:
        if not _NAME.fullmatch(str(table.get("name", ""))):
            yield ("name",), "is not a node's name; letters, digits, '.', '_' and '-' serve"


@dataclasses.dataclass(frozen=True, slots=True)
class PartitionConfig:
    """A partition that is always there."""

    kind: Kind
    nodes: tuple[NodeConfig, ...] = ()
    """Of a static partition."""
    slots: int = 1
    """Of a queue: nodes, each of which runs one job at a time."""
    max_queue: int = 100
    """Of a queue: how many jobs may wait; more are SITE_QUEUE_FULL."""

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Wrong:
        if table.get("kind") == "static" and not table.get("nodes"):
            yield ("kind",), "is static, but there are no nodes; add [[partitions.NAME.nodes]]"


@dataclasses.dataclass(frozen=True, slots=True)
class FlavorConfig:
    """A kind of node that can be had on demand. Prices are for one hour; empty: unknown."""

    name: str
    location: str = ""
    cpus: int = 1
    memory: Bytes = Bytes(1 << 30)
    gpus: int = 0
    gpu_model: str = ""
    disk: Bytes = Bytes(0)
    price: str = ""
    spot_price: str = ""
    currency: str = "USD"
    as_of: str = ""
    """When the prices were confirmed, as 2026-01-31T12:00:00Z; empty: when the gate started."""
    capacity: int = 1_000
    """Nodes that exist of it; asking for more is CAPACITY."""

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Wrong:
        for key in ("price", "spot_price"):
            if table.get(key):
                try:
                    decimal.Decimal(str(table[key]))
                except decimal.InvalidOperation:
                    yield (key,), 'is not an amount; write it as "1.75"'
        if table.get("as_of"):
            try:
                datetime.datetime.fromisoformat(str(table["as_of"]))
            except ValueError:
                yield ("as_of",), 'is not a time; write it as "2026-01-31T12:00:00Z"'


@dataclasses.dataclass(frozen=True, slots=True)
class DynamicConfig:
    """How partitions are made on demand."""

    flavors: tuple[FlavorConfig, ...] = ()
    boot_s: float = 0.2
    """Seconds from create to READY."""
    delete_s: float = 0.0
    """Seconds from delete to gone."""
    quota_nodes: int = 100
    """Nodes of all partitions together; asking for more is QUOTA."""
    expiry: ExpiryChoice = ExpiryChoice.DELETE
    longest_expiry: Seconds = Seconds(7 * 86_400)


@dataclasses.dataclass(frozen=True, slots=True)
class ImageConfig:
    """Something that nodes boot or jobs run in; nothing is done with either."""

    name: str
    kind: ImageUse = ImageUse.NODE
    description: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """The file as a whole."""

    state_dir: str
    """The folder that plays the site; relative to the file."""
    description: str = "a pretended site on this machine"
    partitions: dict[str, PartitionConfig] = dataclasses.field(default_factory=dict)
    dynamic: DynamicConfig | None = None
    images: tuple[ImageConfig, ...] = ()
    users: dict[str, str] = dataclasses.field(default_factory=dict)
    """From owner to account; empty: all owners share one."""
    workdir_roots: tuple[str, ...] = ("/tmp",)  # noqa: S108 - what sites allow by default  # nosec B108
    """Folders below which a job may ask to work."""
    cache_bytes: Bytes = Bytes(10 << 30)
    """Most bytes of input contents that are kept for each account."""
    shared_filesystem: bool = False
    """Whether all nodes of a job see one work folder."""
    leave_out: tuple[Capability, ...] = ()
    """Capabilities not to have, though the rest of the file gives them."""
    heartbeat_s: float = 15.0
    loopback: str = LOOPBACK
    """The address that plays the loopback of its nodes. With another one than the core's, what a
    job dials and what the core dials are apart, as on real sites."""
    option_prefix: str = ""
    """Of `#SWM site-option PREFIX.NAME`; needed for `options`."""
    options: tuple[str, ...] = ()
    """Names of options that jobs and partitions may be given; nothing is done with them."""
    storage: tuple[str, ...] = ()
    """Names of storage that they may ask for; nothing is mounted."""
    path: str = ""
    """PATH of jobs; empty: the usual one."""
    control: str = ""
    """A file of faults that is read again whenever it changes; relative to this one."""
    faults: tuple[Fault, ...] = ()

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Wrong:
        names = table.get("partitions")
        for name in names if isinstance(names, dict) else ():
            if not _ID.fullmatch(name):
                yield (
                    ("partitions", name),
                    "is not an id; 1 to 64 letters, digits, '.', '_' and '-' serve",
                )
        if not table.get("partitions") and not table.get("dynamic"):
            yield ("state_dir",), "is all there is; add [partitions.NAME] or [dynamic]"

    @property
    def capabilities(self) -> frozenset[types_pb2.Capability.ValueType]:
        """What the gate says that it can do."""
        kinds = {partition.kind for partition in self.partitions.values()}
        dynamic = self.dynamic
        flavors = dynamic.flavors if dynamic else ()
        given = {
            Capability.STATIC_PARTITIONS: Kind.STATIC in kinds,
            Capability.SITE_QUEUE: Kind.QUEUE in kinds,
            Capability.DYNAMIC_PARTITIONS: dynamic is not None,
            Capability.EXPIRY: dynamic is not None and dynamic.expiry is not ExpiryChoice.NONE,
            Capability.SPOT: any(flavor.spot_price for flavor in flavors),
            Capability.PRICES: any(flavor.price for flavor in flavors),
            Capability.CONTAINERS: any(image.kind is ImageUse.CONTAINER for image in self.images),
            Capability.USER_MAPPING: bool(self.users),
            Capability.STORAGE: bool(self.storage),
            Capability.SHARED_FILESYSTEM: self.shared_filesystem,
        }
        names = [name for name in Capability if given.get(name, True)]
        return frozenset(name.number for name in names if name not in self.leave_out)


def load(path: Path) -> tuple[Config, Path, Path | None]:
    """The configuration in `path`, its folder of truth, and its control file if it has one.

    Raises:
        rpc_kit.config_file.ConfigError: It can't be used; the text names line, field and mend.
    """
    config = config_file.load(path, Config)
    served = {
        name: partition
        for name, partition in config.partitions.items()
        if _KINDS[partition.kind] not in config.leave_out
    }
    dynamic = None if Capability.DYNAMIC_PARTITIONS in config.leave_out else config.dynamic
    config = dataclasses.replace(config, partitions=served, dynamic=dynamic)
    here = path.resolve().parent
    return config, here / config.state_dir, here / config.control if config.control else None


_KINDS = {Kind.STATIC: Capability.STATIC_PARTITIONS, Kind.QUEUE: Capability.SITE_QUEUE}
