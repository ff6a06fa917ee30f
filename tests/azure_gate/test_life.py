"""From nothing to nodes that are up, and back to nothing."""

from __future__ import annotations

from skyport.gate.v1 import inventory_pb2
from tests.azure_gate.harness import READY, Gate, new_id, refused


async def test_two_nodes_come_and_go_and_leave_nothing(gate: Gate) -> None:
    name = new_id()
    made = await gate.create(name, nodes=2)
    assert made.partition_id == name
    ready = await gate.until_state(name, READY)
    assert [node.name for node in ready.nodes] == ["n0", "n1"]
    assert {node.state for node in ready.nodes} == {inventory_pb2.NODE_STATE_UP}
    await gate.delete_for_good(name)
    late = await refused(gate.create(name, nodes=2))
    assert late.reason == "PARTITION_DELETED"
