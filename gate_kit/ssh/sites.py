"""What a gate whose site is reached by SSH gives to what is shared: which hosts there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gate_kit.ssh.host import Host
from skyport.gate.v1 import types_pb2


class Sites(Protocol):
    """The accounts on hosts that a gate looks after."""

    on_made: list[Callable[[Host], None]]
    """Called with each account on a host when it is first wanted."""

    @property
    def is_shared(self) -> bool:
        """Whether an account has one work root for all nodes of a partition."""
        ...

    def hosts(self, ref: types_pb2.JobRef) -> list[Host]:
        """The owner's account on each of `ref.nodes`, in their order.

        Raises:
            Refusal: USER_NOT_MAPPED, PARTITION_NOT_FOUND, NODE_UNREACHABLE.
        """
        ...

    def everywhere(self, partition_id: str = "") -> list[Host]:
        """All accounts on all hosts, of one partition or of all."""
        ...

    def addresses(self, partition_id: str) -> dict[str, str]:
        """An address of each node of a partition, as far as it is known."""
        ...
