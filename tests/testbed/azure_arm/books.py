"""What is billed: each VM while it is allocated, each disk and public address while it exists."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.testbed.azure_arm.clock import Clock

__all__ = ["Billed", "Books", "Booted", "Ledger"]


@dataclass(frozen=True)
class Billed:
    """One resource that costs something.

    Attributes:
        resource: Its id.
        kind: "vm", "disk" or "address".
        created: When it came to be, by the stand-in's clock.
        ended: When it ceased to be; None if it still is.
        price: Of an hour, in USD.
        billed_s: For how many seconds it has cost that much so far.
        running: Whether it costs something now: a VM that is deallocated does not.
    """

    resource: str
    kind: str
    created: float
    ended: float | None
    price: float
    billed_s: float
    running: bool

    @property
    def amount(self) -> float:
        """What it has cost, in USD."""
        return self.price * self.billed_s / 3600


@dataclass(frozen=True)
class Booted:
    """One boot of a VM, by the real clock, in seconds since 1970.

    Attributes:
        vm: Its id.
        began: When its making, or its start, was accepted.
        up: When it was up: of a VM that is a timer, when its sshd answered.
    """

    vm: str
    began: float
    up: float


@dataclass(frozen=True)
class Books:
    """What the stand-in knows of cost.

    Attributes:
        entries: All that was ever billed.
        resources: Ids of all that exists, billed or not, groups too.
        processes: What runs for VMs on this machine: names of containers or namespaces.
    """

    entries: tuple[Billed, ...]
    resources: tuple[str, ...] = ()
    processes: tuple[str, ...] = ()

    @property
    def created(self) -> int:
        """How many billed resources there have been."""
        return len(self.entries)

    @property
    def live(self) -> tuple[Billed, ...]:
        """Those that still are."""
        return tuple(it for it in self.entries if it.ended is None)

    @property
    def left(self) -> int:
        """How many of them still are."""
        return len(self.live)

    @property
    def billed(self) -> float:
        """What all has cost, in USD."""
        return sum(it.amount for it in self.entries)

    def __str__(self) -> str:
        return f"created {self.created}, left {self.left}, billed {self.billed:.4f} USD"

    def require_nothing_left(self) -> None:
        """Fail if anything is left: billed, not billed, or of a VM on this machine."""
        left = [it.resource for it in self.live]
        found = [*left, *self.resources, *self.processes]
        assert not found, (
            f"{self}; billed: {left}; there: {list(self.resources)}; of VMs: {list(self.processes)}"
        )


@dataclass
class _Entry:
    resource: str
    kind: str
    created: float
    price: float
    since: float | None
    ended: float | None = None
    billed_s: float = 0.0


@dataclass
class Ledger:
    """Writes the books."""

    clock: Clock
    _entries: list[_Entry] = field(default_factory=list)
    _open: dict[str, _Entry] = field(default_factory=dict)

    def begin(self, resource: str, kind: str, price: float) -> None:
        """A resource exists, and costs so much in an hour from now on."""
        key = resource.lower()
        assert key not in self._open, f"{resource} is billed twice"
        entry = _Entry(resource, kind, self.clock.now(), price, self.clock.now())
        self._entries.append(entry)
        self._open[key] = entry

    def pause(self, resource: str) -> None:
        """It costs nothing for now, if it did."""
        entry = self._open.get(resource.lower())
        if entry is not None and entry.since is not None:
            entry.billed_s += self.clock.now() - entry.since
            entry.since = None

    def resume(self, resource: str) -> None:
        """It costs again, if it is there and does not."""
        entry = self._open.get(resource.lower())
        if entry is not None and entry.since is None:
            entry.since = self.clock.now()

    def end(self, resource: str) -> None:
        """It does not exist any more."""
        self.pause(resource)
        entry = self._open.pop(resource.lower(), None)
        if entry is not None:
            entry.ended = self.clock.now()

    def forget(self) -> None:
        """Begin anew; only when nothing is open."""
        self._entries = list(self._open.values())

    def entries(self) -> tuple[Billed, ...]:
        """All of them, as of now."""
        now = self.clock.now()
        return tuple(
            Billed(
                resource=it.resource,
                kind=it.kind,
                created=it.created,
                ended=it.ended,
                price=it.price,
                billed_s=it.billed_s + (now - it.since if it.since is not None else 0),
                running=it.since is not None,
            )
            for it in self._entries
        )
