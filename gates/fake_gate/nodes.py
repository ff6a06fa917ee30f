"""Nodes of the pretended site, as the contract has them. All of them are this machine."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterable, Mapping

from gate_kit.job_status import failure, timestamp
from gates.fake_gate.config import Config, FlavorConfig, Kind, PartitionConfig
from skyport.common.v1 import money_pb2
from skyport.gate.v1 import inventory_pb2, partition_pb2, types_pb2

_PORTS = (20_000, 29_999)
_ARCHITECTURE = "x86_64"


def configured_nodes(
    partition_id: str, config: PartitionConfig, down: Iterable[str]
) -> list[inventory_pb2.Node]:
    """The nodes of a partition that is always there, in order of their names."""
    if config.kind is Kind.QUEUE:
        names = queue_nodes(partition_id, config)
        nodes = [inventory_pb2.Node(name=name, partition_id=partition_id) for name in names]
    else:
        nodes = [
            inventory_pb2.Node(
                name=node.name,
                partition_id=partition_id,
                flavor=node.flavor,
                cpus=node.cpus,
                memory_bytes=node.memory,
                gpu_ids=node.gpus,
                ports=inventory_pb2.PortRange(first=node.first_port, last=node.last_port),
                addresses=["127.0.0.1"],
            )
            for node in config.nodes
        ]
    return sorted(_with_state(nodes, down), key=lambda node: node.name)


def queue_nodes(partition_id: str, config: PartitionConfig) -> list[str]:
    """The names of a queue's nodes, one for each slot."""
    return [f"{partition_id}-{number}" for number in range(1, config.slots + 1)]


def created_nodes(
    request: partition_pb2.CreatePartitionRequest,
    flavor: FlavorConfig,
    down: Iterable[str],
    lost: Mapping[str, str],
) -> list[inventory_pb2.Node]:
    """The nodes of a dynamic partition; `lost` has why, for those that are gone for good."""
    nodes = [
        inventory_pb2.Node(
            name=f"{request.partition_id}-{number}",
            partition_id=request.partition_id,
            flavor=flavor.name,
            cpus=flavor.cpus,
            memory_bytes=flavor.memory,
            gpu_ids=[str(index) for index in range(flavor.gpus)],
            disk_bytes=request.spec.disk_bytes or flavor.disk,
            ports=inventory_pb2.PortRange(first=_PORTS[0], last=_PORTS[1]),
            addresses=["127.0.0.1"],
        )
        for number in range(1, request.spec.node_count + 1)
    ]
    for node in _with_state(nodes, down):
        if reason := lost.get(node.name):
            node.state = inventory_pb2.NODE_STATE_LOST
            node.failure.CopyFrom(failure(reason))
            node.message = node.failure.message
    return sorted(nodes, key=lambda node: node.name)


def flavor_message(config: Config, flavor: FlavorConfig, started_ns: int) -> inventory_pb2.Flavor:
    """A flavor that partitions can be made of."""
    told = inventory_pb2.Flavor(
        name=flavor.name,
        location=flavor.location,
        cpus=flavor.cpus,
        memory_bytes=flavor.memory,
        gpus=flavor.gpus,
        gpu_model=flavor.gpu_model,
        disk_bytes=flavor.disk,
        architecture=_ARCHITECTURE,
    )
    has = config.capabilities
    if flavor.price and types_pb2.CAPABILITY_PRICES in has:
        told.on_demand_price.CopyFrom(price(flavor, flavor.price, started_ns))
    if flavor.spot_price and {types_pb2.CAPABILITY_PRICES, types_pb2.CAPABILITY_SPOT} <= has:
        told.spot_price.CopyFrom(price(flavor, flavor.spot_price, started_ns))
    return told


def price(flavor: FlavorConfig, amount: str, started_ns: int) -> money_pb2.HourlyPrice:
    """The price of one hour, confirmed when the configuration says, or when the gate started."""
    told = money_pb2.HourlyPrice(as_of=timestamp(started_ns))
    told.amount.CopyFrom(money(amount, flavor.currency))
    if flavor.as_of:
        told.as_of.FromDatetime(
            datetime.datetime.fromisoformat(flavor.as_of).astimezone(datetime.UTC)
        )
    return told


def money(amount: str, currency: str) -> money_pb2.Money:
    """An amount as text, as the contract has it."""
    exact = decimal.Decimal(amount)
    units = int(exact)
    return money_pb2.Money(
        currency_code=currency, units=units, nanos=int((exact - units) * 1_000_000_000)
    )


def _with_state(
    nodes: Iterable[inventory_pb2.Node], down: Iterable[str]
) -> list[inventory_pb2.Node]:
    away = set(down)
    told = []
    for node in nodes:
        node.state = inventory_pb2.NODE_STATE_UP
        if node.name in away:
            node.state = inventory_pb2.NODE_STATE_DOWN
            node.message = "it does not answer"
        told.append(node)
    return told
