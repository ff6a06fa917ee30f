"""What the gate works with: each host with all that holds for it, made of the file's layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from gate_kit.config_rules import secret
from gate_kit.ssh.containers import Volume
from gate_kit.ssh.images import ContainerSettings, Login
from gate_kit.ssh.target import SshTarget
from gates.ssh_cluster_gate import ranges
from gates.ssh_cluster_gate.config import Config, Scheduler
from gates.ssh_cluster_gate.container_config import Runtime
from gates.ssh_cluster_gate.host_config import LOCAL, LOCAL_NODE, Settings
from skyport.gate.v1 import types_pb2

T = TypeVar("T")

_PORTS = (20_000, 29_999)


@dataclasses.dataclass(frozen=True, slots=True)
class NodePlan:
    """A host as it is configured. What is None is found on the host."""

    name: str
    partition_id: str
    is_local: bool
    """Whether it is this machine, and reached without SSH."""
    address: str
    """As `ssh` takes it; empty for this machine."""
    user: str
    """Empty: as ssh is configured. Not used where owners have accounts of their own."""
    port: int
    """0: as ssh is configured."""
    identity: str
    flavor: str
    cpus: int | None
    memory_bytes: int | None
    gpus: int | None
    gpu_model: str
    first_port: int
    last_port: int
    labels: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class SitePlan:
    """The site as it is configured."""

    config: Config
    partitions: Mapping[str, Mapping[str, NodePlan]]
    """By id, and in them by name, in the order of the file."""

    @property
    def nodes(self) -> Mapping[str, NodePlan]:
        """All hosts; a name is in one partition only."""
        return {name: node for nodes in self.partitions.values() for name, node in nodes.items()}

    @property
    def has_mapping(self) -> bool:
        """Whether owners have accounts of their own."""
        return bool(self.config.users)

    @property
    def logins(self) -> tuple[str, ...]:
        """The accounts at the site, each once; one empty one where all owners share it."""
        return tuple(self.config.users.values()) or ("",)

    def login(self, owner: str) -> str | None:
        """The account that the jobs of `owner` run as: None if there is none, empty if shared."""
        return self.config.users.get(owner) if self.has_mapping else ""

    def target(self, node: NodePlan, login: str) -> SshTarget:
        """How `login` (empty: the shared account) is reached on `node`."""
        config = self.config
        user = login or node.user
        identity = node.identity.replace("%r", user).replace("%h", node.address)
        return SshTarget(
            host=node.address,
            user=user,
            port=node.port,
            config=Path(config.ssh_config).expanduser() if config.ssh_config else None,
            known_hosts=Path(config.known_hosts).expanduser() if config.known_hosts else None,
            identities=(Path(identity).expanduser(),) if identity else (),
            use_agent=config.use_agent,
        )

    @property
    def capabilities(self) -> frozenset[types_pb2.Capability.ValueType]:
        """What the gate says that it can do."""
        if self.has_queue:
            return self._of_queue
        given = {
            types_pb2.CAPABILITY_STATIC_PARTITIONS: True,
            types_pb2.CAPABILITY_MULTI_NODE: True,
            types_pb2.CAPABILITY_TUNNELS: True,
            types_pb2.CAPABILITY_REVERSE_TUNNELS: True,
            types_pb2.CAPABILITY_USER_MAPPING: self.has_mapping,
            types_pb2.CAPABILITY_SHARED_ACCOUNT: self.config.shared_account,
            types_pb2.CAPABILITY_SHARED_FILESYSTEM: self.config.shared_filesystem,
            types_pb2.CAPABILITY_CONTAINERS: self.has_containers,
            types_pb2.CAPABILITY_STORAGE: bool(self.config.volumes),
        }
        return frozenset(capability for capability, has in given.items() if has)

    @property
    def has_queue(self) -> bool:
        """Whether the site's own queue places jobs."""
        return self.config.scheduler is Scheduler.SLURM

    @property
    def _of_queue(self) -> frozenset[types_pb2.Capability.ValueType]:
        given = {
            types_pb2.CAPABILITY_SITE_QUEUE: True,
            types_pb2.CAPABILITY_MULTI_NODE: True,
            types_pb2.CAPABILITY_TUNNELS: True,
            types_pb2.CAPABILITY_REVERSE_TUNNELS: self.config.slurm.compute_ssh,
            types_pb2.CAPABILITY_USER_MAPPING: self.has_mapping,
            types_pb2.CAPABILITY_SHARED_ACCOUNT: self.config.shared_account,
            types_pb2.CAPABILITY_SHARED_FILESYSTEM: True,
            types_pb2.CAPABILITY_CONTAINERS: self.has_containers,
            types_pb2.CAPABILITY_STORAGE: bool(self.config.volumes),
        }
        return frozenset(capability for capability, has in given.items() if has)

    @property
    def has_containers(self) -> bool:
        """Whether jobs in containers are taken."""
        runtime = self.config.containers.runtime
        return runtime is Runtime.APPTAINER if self.has_queue else runtime is not Runtime.NONE

    @property
    def containers(self) -> ContainerSettings:
        """How containers are run, with the logins at registries."""
        config = self.config
        return ContainerSettings(
            runtime=config.containers.runtime.value,
            socket=config.containers.socket,
            pull=config.containers.pull.value,
            logins={
                name: Login(login.username, secret(login.password_file))
                for name, login in config.registry.items()
            },
        )

    @property
    def volumes(self) -> Mapping[str, Volume]:
        """What jobs may ask for."""
        parts = {name: value.rpartition(":") for name, value in self.config.volumes.items()}
        return {name: Volume(path, mode == "rw") for name, (path, _, mode) in parts.items()}


def make(config: Config) -> SitePlan:
    """The site that a configuration means. The file has been checked already."""
    partitions: dict[str, dict[str, NodePlan]] = {}
    patterns = [(set(ranges.expand(pattern)), said) for pattern, said in config.host.items()]

    def add(partition_id: str, names: list[str], *layers: Settings) -> None:
        nodes = partitions.setdefault(partition_id, {})
        for name in names:
            closer = [said for hosts, said in patterns if name in hosts]
            address = next((said.address for said in reversed(closer) if said.address), name)
            nodes[name] = _node(name, partition_id, address, (config, *layers, *closer))

    if config.local:
        add(LOCAL, [LOCAL_NODE])
    if config.hosts:
        add(config.partition, _names(config.hosts))
    for partition_id, partition in config.partitions.items():
        add(partition_id, _names(partition.hosts), partition)
    return SitePlan(config, partitions)


def _names(hosts: tuple[str, ...]) -> list[str]:
    return [name for pattern in hosts for name in ranges.expand(pattern)]


def _node(name: str, partition_id: str, address: str, layers: tuple[Settings, ...]) -> NodePlan:
    def pick(values: list[T | None]) -> T | None:
        """The narrowest that was said."""
        return next((value for value in reversed(values) if value is not None), None)

    is_local = partition_id == LOCAL and name == LOCAL_NODE
    return NodePlan(
        name=name,
        partition_id=partition_id,
        is_local=is_local,
        address="" if is_local else address,
        user=pick([layer.user for layer in layers]) or "",
        port=pick([layer.port for layer in layers]) or 0,
        identity=pick([layer.identity for layer in layers]) or "",
        flavor=pick([layer.flavor for layer in layers]) or "",
        cpus=pick([layer.cpus for layer in layers]),
        memory_bytes=pick([layer.memory for layer in layers]),
        gpus=pick([layer.gpus for layer in layers]),
        gpu_model=pick([layer.gpu_model for layer in layers]) or "",
        first_port=pick([layer.first_port for layer in layers]) or _PORTS[0],
        last_port=pick([layer.last_port for layer in layers]) or _PORTS[1],
        labels={key: value for layer in layers for key, value in layer.labels.items()},
    )
