"""Makes what a partition is made of, and goes on where an earlier gate stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from gate_kit import Refusal
from gate_kit.config_rules import secret
from gates.azure_gate import bodies, errors
from gates.azure_gate.answers import Machine
from gates.azure_gate.boots import BootFailed, Boots
from gates.azure_gate.cloud import Cloud
from gates.azure_gate.cloud_init import Boot, mount
from gates.azure_gate.config import Config
from gates.azure_gate.egress import Egress
from gates.azure_gate.errors import PROVISIONING_FAILED, Kind
from gates.azure_gate.hosts import login
from gates.azure_gate.keys import Keys
from gates.azure_gate.observer import Observer
from gates.azure_gate.partitions import Known, Partitions
from gates.azure_gate.schedules import Schedules
from gates.azure_gate.sdk import AzureProblem, Operation
from skyport.gate.v1 import partition_pb2, types_pb2

log = logging.getLogger(__name__)

_BYTES_GIB = 1 << 30
_EGRESS_TRIES = 3


class Unmade(Exception):
    """A partition that can't be made; `failure` tells why."""

    def __init__(self, failure: types_pb2.Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Making:
    """Makes partitions whose groups are there.

    Args:
        config: Of what, and how long it may take.
        cloud: Where.
        keys: Who gets in, and what nodes show.
        egress: From where.
        observer: Sees what has come of it.
        partitions: Told how far it is.
        boots: Waits for nodes.
        schedules: Sets the end of nodes.
    """

    def __init__(
        self,
        config: Config,
        cloud: Cloud,
        keys: Keys,
        egress: Egress,
        observer: Observer,
        partitions: Partitions,
        boots: Boots,
        schedules: Schedules,
    ) -> None:
        self._config = config
        self._cloud = cloud
        self._keys = keys
        self._egress = egress
        self._observer = observer
        self._partitions = partitions
        self._boots = boots
        self._schedules = schedules

    async def make(self, known: Known) -> None:
        """Have all nodes of a partition up.

        Raises:
            Unmade: It can't be.
        """
        try:
            async with asyncio.timeout(self._config.boot_timeout):
                async with asyncio.TaskGroup() as tasks:
                    booted = {node: asyncio.Event() for node in known.tags.nodes}
                    for node, event in booted.items():
                        tasks.create_task(self._boot(known, node, event), name=f"boot of {node}")
                    await self._found(known)
                    machines = await self._there(known)
                    for node, event in booted.items():
                        work = self._machine(known, node, machines.get(node), event)
                        tasks.create_task(work, name=f"making {node} of {known.id}")
        except TimeoutError:
            waits = next((n for n in known.tags.nodes if not known.sight(n).is_booted), "a node")
            raise Unmade(
                _failure(
                    f"{waits} was not ready within {self._config.boot_timeout:.0f} s: "
                    f"{known.sight(waits).text or 'it did not boot'}"
                )
            ) from None
        except ExceptionGroup as group:
            raise _unmade(known, group) from group

    async def start(self, known: Known) -> None:
        """Start the nodes of a partition that Azure has deallocated.

        Raises:
            Unmade: They can't be.
        """
        self._say(known, "starting nodes")
        try:
            async with asyncio.timeout(self._config.boot_timeout):
                await self._let_in(known)
                async with asyncio.TaskGroup() as tasks:
                    for node in known.nodes:
                        known.sight(node).is_booted = False
                        tasks.create_task(self._start(known, node), name=f"starting {node}")
        except TimeoutError:
            raise Unmade(_failure("the nodes did not come up again")) from None
        except ExceptionGroup as group:
            raise _unmade(known, group) from group

    # Steps.

    async def _found(self, known: Known) -> None:
        """The network, and its rules."""
        self._say(known, "making the network")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._let_in(known))
            tasks.create_task(self._cloud.put_vnet(known.group.name, known.location))

    async def _let_in(self, known: Known) -> None:
        sources = await self._sources()
        await self._cloud.put_nsg(known.group.name, known.location, sources)

    async def _sources(self) -> Sequence[str]:
        for _ in range(_EGRESS_TRIES - 1):
            try:
                return await self._egress.sources()
            except Refusal:
                await asyncio.sleep(1.0)
        return await self._egress.sources()

    async def _there(self, known: Known) -> Mapping[str, Machine]:
        """The machines that an earlier gate has made already."""
        if not known.is_resumed:
            return {}
        found = await asyncio.gather(
            *(self._cloud.machine(known.group.name, node) for node in known.tags.nodes)
        )
        return {machine.name: machine for machine in found if machine is not None}

    async def _machine(
        self, known: Known, node: str, there: Machine | None, booted: asyncio.Event
    ) -> None:
        """One machine, until Azure says that it is there."""
        self._observer.hurry()
        operation = None
        if there is None or there.provisioning == "Failed":
            self._say(known, self._count(known))
            operation = await self._begun(known, node, booted)
        end_s = await self._early_end(known, node)
        if operation is not None:
            await self._cloud.finish_machine(node, operation)
        else:
            await self._settled(known, node, there)
        self._observer.hurry()
        # It may have been moved meanwhile, by who did not see this machine yet.
        while end_s != known.tags.expires_s:
            end_s = known.tags.expires_s
            await self._schedules.set(known, [node])
        await self._kept(known, node, booted)

    async def _kept(self, known: Known, node: str, booted: asyncio.Event) -> None:
        """Wait until a machine that has been made has booted, as long as it is there.

        One that is taken away meanwhile never does, and the others would cost until time is over.
        """
        was_there = False
        while not booted.is_set():
            is_there = node in known.content.machines
            if was_there and not is_there:
                with contextlib.suppress(AzureProblem):  # not known is not gone
                    if await self._cloud.machine(known.group.name, node) is None:
                        break
            was_there = was_there or is_there
            await known.pulse.wait()
        else:
            return
        raise AzureProblem(errors.gone(f"{node} was taken away"), f"making {node}")

    async def _begun(self, known: Known, node: str, booted: asyncio.Event) -> Operation[Any]:
        """Have Azure take a machine in, with a disk that is at least as large as was asked for."""
        group, timeout_s = known.group.name, float(self._config.boot_timeout)
        body = self._body(known, node)
        try:
            return await self._cloud.begin_machine(group, node, body, timeout_s, booted)
        except AzureProblem as problem:
            if not problem.problem.is_disk_too_small:
                raise
        return await self._cloud.begin_machine(
            group, node, bodies.with_disk_of_image(body), timeout_s, booted
        )

    async def _early_end(self, known: Known, node: str) -> int:
        """Set the end of a machine that is still being made; which has been set, 0: none.

        That takes minutes, and who is away before they are over must not find it running.
        """
        end_s = known.tags.expires_s
        try:
            await self._schedules.set(known, [node])
        except AzureProblem as problem:
            if problem.kind in {Kind.CREDENTIALS, Kind.PERMISSION}:
                raise
            log.info("%s of %s gets its end when it is made: %s", node, known.id, problem)
            return 0
        return end_s

    async def _settled(self, known: Known, node: str, machine: Machine | None) -> None:
        """Wait until a machine that is being made is made."""
        pause_s = 1.0
        while machine is not None and machine.provisioning not in {"Succeeded", "Failed"}:
            await known.pulse.wait(pause_s)
            pause_s = min(pause_s * 1.3, 10.0)
            machine = await self._cloud.machine(known.group.name, node)
        if machine is None:
            raise AzureProblem(errors.gone(f"{node} was taken away"), f"making {node}")
        if machine.failure is not None:
            raise AzureProblem(machine.failure, f"making {node}")

    async def _start(self, known: Known, node: str) -> None:
        await self._schedules.set(known, [node])
        await self._cloud.start_machine(known.group.name, node)
        self._observer.hurry()
        # Not before: what still goes down would be taken for what comes up.
        await self._boot(known, node, asyncio.Event())

    async def _boot(self, known: Known, node: str, booted: asyncio.Event) -> None:
        """Wait until cloud-init says that the node is ready; sets `booted` then."""
        sight = known.sight(node)

        def told(text: str) -> None:
            sight.text = text
            self._say(known, self._count(known))

        await self._boots.until_ready(known, node, told)
        sight.is_booted, sight.text = True, "is being connected to"
        booted.set()
        self._say(known, self._count(known))
        # Jobs may come as soon as it is ready.
        while not sight.is_up:
            await known.pulse.wait()

    def _body(self, known: Known, node: str) -> bodies.Body:
        spec = known.tags.spec
        return bodies.vm_body(
            location=known.location,
            group=self._cloud.group_id(known.group.name),
            node=node,
            size=spec.flavor,
            image=spec.image or self._config.image,
            custom_data=self._custom_data(known),
            admin_key=self._keys.public,
            has_address=node == known.tags.nodes[0],
            disk_gib=-(-spec.disk_bytes // _BYTES_GIB),
            spot_limit=_spot_limit(spec),
        )

    def _custom_data(self, known: Known) -> str:
        tags = known.tags
        host_key = self._keys.host_key(known.group.name.lower())
        if host_key.public != tags.host_key:
            raise Unmade(
                _failure("the gate's key is another one than when this partition was begun")
            )
        mounts = []
        for name in tags.spec.storage:
            has = self._config.storage[name]
            key = secret(has.key_file)
            # By the partition's time: a machine that is asked for once more has to be the same to
            # the letter, or Azure refuses it.
            at_s = tags.created_s
            mounts.append(mount(name, has.account, has.container, has.suffix, key, at_s))
        return Boot(
            login=login(tags),
            client_key=self._keys.public,
            host_key=host_key.private,
            host_key_public=host_key.public,
            containers=tags.spec.containers,
            mounts=mounts,
        ).render()

    def _count(self, known: Known) -> str:
        nodes = known.nodes
        waits = [node for node in nodes if not known.sight(node).is_booted]
        are = "1 node" if len(nodes) == 1 else f"{len(waits)} of {len(nodes)} nodes"
        texts = {known.sight(node).text for node in waits} - {"", "boots", "waits for an address"}
        what = f" ({min(texts)})" if texts else ""
        return f"booting {are}{what}" if waits else "connecting to the nodes, which have booted"

    def _say(self, known: Known, text: str) -> None:
        known.text = text
        self._partitions.changed(known)


def _spot_limit(spec: partition_pb2.PartitionSpec) -> float | None:
    if not spec.spot:
        return None
    if not spec.HasField("spot_price_limit"):
        return -1.0
    limit = spec.spot_price_limit
    return limit.units + limit.nanos / 1e9


def _failure(text: str, *, retryable: bool = True) -> types_pb2.Failure:
    return types_pb2.Failure(reason=PROVISIONING_FAILED, message=text, retryable=retryable)


def _unmade(known: Known, group: BaseExceptionGroup[BaseException]) -> Unmade:
    """The one of several reasons that tells most."""
    found: list[types_pb2.Failure] = []
    for error in _leaves(group):
        match error:
            case Unmade():
                found.append(error.failure)
            case BootFailed():
                found.append(_failure(f"the set-up of a node failed: {error}", retryable=False))
            case AzureProblem() if error.kind is Kind.GONE and known.tags.spec.spot:
                text = f"{error.doing}: Azure took the spot machine away while it was made"
                found.append(types_pb2.Failure(reason="PREEMPTED", message=text, retryable=True))
            case AzureProblem():
                found.append(errors.failure(error.problem, error.doing))
            case Refusal():
                found.append(_failure(error.message))
            case _:
                log.error("making of %s failed", known.id, exc_info=error)
                found.append(_failure(f"the gate failed: {error}"))
    found.sort(key=lambda failure: failure.reason == PROVISIONING_FAILED)
    return Unmade(found[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves
