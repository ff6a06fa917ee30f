"""What the stand-in asks of whatever its VMs are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from tests.testbed.azure_arm.faults import GuestFault

__all__ = ["Backend", "Machine", "Rule"]


@dataclass(frozen=True)
class Rule:
    """One inbound rule of a network security group.

    Attributes:
        priority: The lowest comes first.
        allow: Or deny.
        protocol: "tcp", "udp", "icmp" or "*".
        source: An address, a prefix, or "*".
        ports: Single ones or ranges, as "22" or "8000-8010"; "*" is all.
    """

    priority: int
    allow: bool
    protocol: str
    source: str
    ports: tuple[str, ...]


@dataclass
class Machine:
    """A VM, as its maker wants it.

    Attributes:
        id: Its id in ARM.
        name: Its host name.
        instance: Changes with each VM that is made, not with each boot.
        address: Its address.
        user_data: What cloud-init gets.
        admin: The account that Azure makes; user-data may say that there shall be none.
        keys: Who may log in as it.
        size: The name of its SKU.
        location: Where it is.
        resource_group: The name of its group.
        faults: What goes wrong within it.
        rules: What is let in from outside its network: the first that fits decides. Else nothing.
        disk: Whether it has been booted, so that there is a disk of it.
    """

    id: str
    name: str
    instance: str
    address: str
    user_data: str
    admin: str = ""
    keys: tuple[str, ...] = ()
    size: str = ""
    location: str = ""
    resource_group: str = ""
    faults: list[GuestFault] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    disk: bool = False

    def suffers(self, what: str) -> GuestFault | None:
        """The fault of that kind that befalls it."""
        return next((it for it in self.faults if it.does == what), None)


class Backend(Protocol):
    """Makes VMs, and ends them."""

    @property
    def gateway(self) -> str:
        """This machine, as VMs see it: where a connection to them comes from."""

    async def open(self) -> None:
        """Be able to make VMs."""

    async def close(self) -> None:
        """End all VMs and leave nothing."""

    def reserve(self, network: str) -> str:
        """An address that nothing has yet, in the block of a virtual network."""

    def release(self, address: str) -> None:
        """It is not needed any more."""

    async def create(self, machine: Machine) -> None:
        """Make a VM and switch it on; return when its guest has said that it is up."""

    async def start(self, machine: Machine) -> None:
        """Switch it on again, with the disk that it had; return when it is up."""

    async def stop(self, machine: Machine) -> None:
        """Cut its power; its disk stays."""

    async def destroy(self, machine: Machine) -> None:
        """End it, and its disk with it. Does nothing if there is none."""

    async def filter(self, machine: Machine) -> None:
        """Have it heed its rules as they are now."""

    async def run(self, machine: Machine, line: str) -> tuple[int, str]:
        """What a line of sh ends with and says, as root on it."""

    async def load_image(self, machine: Machine, archive: str) -> None:
        """Load a `docker save` into the engine that runs on it."""

    async def move_gateway(self) -> str:
        """Have connections from this machine come from another address; which one."""

    def live(self) -> list[str]:
        """Names of all that runs or lies here for VMs."""
