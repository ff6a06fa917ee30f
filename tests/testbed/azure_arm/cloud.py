"""One subscription: what is in it, its time, its cost and what shall go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Coroutine
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tests.testbed.azure_arm.books import Books, Booted, Ledger
from tests.testbed.azure_arm.clock import Clock
from tests.testbed.azure_arm.errors import ArmError, no_group, no_resource
from tests.testbed.azure_arm.faults import Faults
from tests.testbed.azure_arm.operations import Operations
from tests.testbed.azure_arm.vms import Backend

__all__ = ["Cloud", "Group", "Resource", "Settings"]


@dataclass
class Settings:
    """How the stand-in behaves; each can be changed while it runs.

    Attributes:
        write_s: How long an operation of the network takes, in real seconds.
        allocate_s: How long a VM takes to get its place, before it boots.
        delete_s: How long a VM or a group takes to go.
        list_lag_s: How long what was just made is missing in lists.
        retry_after_s: What operations say how long to wait until the next look; None says nothing.
        token_s: For how long a token is good.
        provisioning_s: By when a guest must have said that it is up, by the stand-in's clock.
        page: How many items a page of a list of ARM has; 0 is all.
        max_tags: How many tags a resource group may have: 50, and 15 for some resources.
        cores: The limit of cores of the whole region and of each family.
        spot_cores: The limit of cores of spot VMs.
        prices_page: How many items a page of the retail prices has.
        boot_s: How long a VM that is a timer takes to boot, in real seconds.
    """

    write_s: float = 0.02
    allocate_s: float = 0.05
    delete_s: float = 0.05
    list_lag_s: float = 0.3
    retry_after_s: int | None = None
    token_s: int = 3599
    provisioning_s: float = 1200.0
    page: int = 0
    max_tags: int = 50
    cores: int = 400
    spot_cores: int = 400
    prices_page: int = 1000
    boot_s: float = 0.0


@dataclass
class Resource:
    """Something below a resource group.

    Attributes:
        id: As its maker spelled it.
        kind: As "Microsoft.Network/networkInterfaces".
        name: Its name.
        group: The name of its group.
        body: What ARM answers for it, but `etag`.
        visible_at: From when on lists have it.
        etag: Changes with each change of it.
        notes: What the stand-in keeps beside it.
    """

    id: str
    kind: str
    name: str
    group: str
    body: dict[str, Any]
    visible_at: float = 0.0
    etag: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def properties(self) -> dict[str, Any]:
        """`body["properties"]`."""
        found: dict[str, Any] = self.body["properties"]
        return found

    def touch(self) -> None:
        """It was changed."""
        self.etag = f'W/"{uuid.uuid4()}"'


@dataclass
class Group:
    """A resource group."""

    name: str
    location: str
    tags: dict[str, str] | None
    managed_by: str | None = None
    deleting: bool = False
    visible_at: float = 0.0


class Cloud:
    """All that the stand-in holds.

    Args:
        tenant: Whose it is.
        subscription: Its id.
        backend: What VMs are made of.
        settings: How it behaves.
    """

    def __init__(
        self, tenant: str, subscription: str, backend: Backend, settings: Settings
    ) -> None:
        self.tenant = tenant
        self.subscription = subscription
        self.backend = backend
        self.settings = settings
        self._initial = replace(settings)
        self.clock = Clock()
        self.faults = Faults()
        self.ledger = Ledger(self.clock)
        self.boots: list[Booted] = []
        self.operations = Operations(self.clock)
        self.groups: dict[str, Group] = {}
        self.resources: dict[str, Resource] = {}
        self.providers: dict[str, str] = {}
        self.permissions: list[dict[str, Any]] = []
        self._permit()
        self.base = ""
        self._tasks: set[asyncio.Task[None]] = set()

    def _permit(self) -> None:
        """All providers are registered, and all is permitted but what concerns permissions."""
        self.providers = dict.fromkeys(
            (
                "Microsoft.Compute",
                "Microsoft.Network",
                "Microsoft.DevTestLab",
                "Microsoft.Storage",
                "Microsoft.Resources",
                "Microsoft.Authorization",
            ),
            "Registered",
        )
        self.subscription_state = "Enabled"
        self.permissions = [
            {
                "actions": ["*"],
                "notActions": [
                    "Microsoft.Authorization/*/Delete",
                    "Microsoft.Authorization/*/Write",
                    "Microsoft.Authorization/elevateAccess/Action",
                ],
            }
        ]

    def reset(self) -> None:
        """Be as at first. What was in it is gone already."""
        for key, value in asdict(self._initial).items():
            setattr(self.settings, key, value)
        self._permit()
        self.faults.clear()
        self.groups.clear()
        self.boots.clear()
        self.ledger.forget()

    # What there is.

    def group(self, name: str) -> Group:
        """A group by its name; an error if there is none."""
        found = self.groups.get(name.lower())
        if found is None:
            raise no_group(name)
        return found

    def group_for_writing(self, name: str) -> Group:
        """A group that something is put into; an error if it is being deleted."""
        found = self.group(name)
        if found.deleting:
            raise ArmError(
                409,
                "ResourceGroupBeingDeleted",
                f"The resource group '{found.name}' is in deprovisioning state and cannot perform "
                "this operation.",
            )
        return found

    def id_of(self, group: str, kind: str, *names: str) -> str:
        """The id that a resource has or would have."""
        provider, *types = kind.split("/")
        path = "/".join(f"{one}/{name}" for one, name in zip(types, names, strict=True))
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/{group}/providers/{provider}/{path}"
        )

    def find(self, resource_id: str) -> Resource | None:
        """A resource by its id, if it exists."""
        return self.resources.get(resource_id.lower())

    def resource(self, group: str, kind: str, name: str) -> Resource:
        """A resource; an error if there is none."""
        self.group(group)
        found = self.find(self.id_of(group, kind, name))
        if found is None:
            raise no_resource(kind, name, group)
        return found

    def of_kind(self, kind: str, group: str | None = None) -> list[Resource]:
        """All resources of a kind, of one group or of all."""
        return [
            it
            for it in self.resources.values()
            if it.kind == kind and (group is None or it.group.lower() == group.lower())
        ]

    def listed(self, kind: str, group: str | None = None) -> list[Resource]:
        """As lists tell it, which lag behind."""
        if group is not None:
            self.group(group)
        now = self.clock.now()
        return [it for it in self.of_kind(kind, group) if it.visible_at <= now]

    def add(self, resource: Resource) -> None:
        """It exists from now on."""
        resource.touch()
        resource.visible_at = self.clock.now() + self.settings.list_lag_s
        self.resources[resource.id.lower()] = resource

    def remove(self, resource: Resource) -> None:
        """It does not exist any more."""
        self.resources.pop(resource.id.lower(), None)
        self.ledger.end(resource.id)

    def free_address(self, resource: Resource) -> None:
        """A resource that goes has its address no more."""
        address = resource.notes.pop("address", None)
        if address is not None:
            self.backend.release(address)

    def books(self) -> Books:
        """What it has cost, and what is there."""
        groups = [
            f"/subscriptions/{self.subscription}/resourceGroups/{it.name}"
            for it in self.groups.values()
        ]
        resources = [it.id for it in self.resources.values()]
        return Books(self.ledger.entries(), (*groups, *resources), tuple(self.backend.live()))

    # What goes on.

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something go on beside what is answered."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.operations.broken.append(repr(error))
            context = {"message": "a task of the stand-in failed", "exception": error, "task": task}
            task.get_loop().call_exception_handler(context)

    async def close(self) -> None:
        """End what goes on."""
        for task in list(self._tasks):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
