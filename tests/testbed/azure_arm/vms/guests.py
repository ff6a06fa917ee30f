"""What VMs of both kinds have in common: one thing at a time is done with each, in a thread."""

from __future__ import annotations

import abc
import asyncio
from collections import defaultdict
from collections.abc import Callable

from tests.testbed.azure_arm.vms.backend import Machine
from tests.testbed.azure_arm.vms.fabric import Fabric

__all__ = ["Guest", "Guests"]


class Guest(abc.ABC):
    """One VM. Each of these may take a while."""

    later: asyncio.Task[None] | None = None

    @abc.abstractmethod
    def make(self) -> None:
        """Make it what it is, and do not start it."""

    @abc.abstractmethod
    def boot(self) -> None:
        """Start it, if it does not run."""

    @abc.abstractmethod
    def crash(self) -> None:
        """Have all that runs there end. Its disk stays."""

    @abc.abstractmethod
    def remove(self) -> None:
        """End it, and leave nothing of it."""

    @abc.abstractmethod
    def filter(self) -> None:
        """Let in what its rules say now."""

    @abc.abstractmethod
    def run(self, line: str) -> tuple[int, str]:
        """What a line of sh ends with and says there."""

    def load_image(self, archive: str) -> None:
        """Load a `docker save` into its engine."""
        raise AssertionError("these VMs have no engine")


class Guests(abc.ABC):
    """Makes VMs of one kind; see Backend."""

    def __init__(self) -> None:
        self.fabric = Fabric()
        self._guests: dict[str, Guest] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def gateway(self) -> str:
        return self.fabric.gateway

    async def open(self) -> None:
        await asyncio.to_thread(self.fabric.open)

    async def close(self) -> None:
        for guest in list(self._guests.values()):
            await self._end_later(guest)
            await asyncio.to_thread(guest.remove)
        self._guests.clear()
        await asyncio.to_thread(self.fabric.close)

    def reserve(self, network: str) -> str:
        return self.fabric.reserve(network)

    def release(self, address: str) -> None:
        self.fabric.release(address)

    async def create(self, machine: Machine) -> None:
        began = asyncio.get_running_loop().time()
        guest = self._guests[machine.id.lower()] = self.new(machine)
        await self.do(machine, guest.make)
        await self.boot(machine, guest, began)

    async def start(self, machine: Machine) -> None:
        began = asyncio.get_running_loop().time()
        await self.boot(machine, self._guests[machine.id.lower()], began)

    async def stop(self, machine: Machine) -> None:
        guest = self._guests.get(machine.id.lower())
        if guest is not None:
            await self._end_later(guest)
            await self.do(machine, guest.crash)

    async def destroy(self, machine: Machine) -> None:
        guest = self._guests.get(machine.id.lower())
        if guest is not None:
            await self._end_later(guest)
            await self.do(machine, guest.remove)
            self._guests.pop(machine.id.lower(), None)
            self._locks.pop(machine.id.lower(), None)

    async def filter(self, machine: Machine) -> None:
        guest = self._guests.get(machine.id.lower())
        if guest is not None:
            await self.do(machine, guest.filter)

    async def run(self, machine: Machine, line: str) -> tuple[int, str]:
        return await asyncio.to_thread(self._guests[machine.id.lower()].run, line)

    async def load_image(self, machine: Machine, archive: str) -> None:
        await asyncio.to_thread(self._guests[machine.id.lower()].load_image, archive)

    async def move_gateway(self) -> str:
        return await asyncio.to_thread(self.fabric.move_gateway)

    @abc.abstractmethod
    def live(self) -> list[str]:
        """Names of all that runs or lies here for VMs."""

    @abc.abstractmethod
    def new(self, machine: Machine) -> Guest:
        """One that is not made yet."""

    @abc.abstractmethod
    async def boot(self, machine: Machine, guest: Guest, began: float) -> None:
        """Switch one on, as was begun at a time of the loop; return when it says that it is up."""

    async def do(self, machine: Machine, what: Callable[[], None]) -> None:
        """Do something with a VM, and nothing else with it at the same time, also if cancelled."""

        async def alone() -> None:
            async with self._locks[machine.id.lower()]:
                await asyncio.to_thread(what)

        task = asyncio.ensure_future(alone())
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise

    async def _end_later(self, guest: Guest) -> None:
        later, guest.later = guest.later, None
        if later is not None:
            later.cancel()
            await asyncio.wait([later])
