"""The core and the gates of a world, each with fail points, and started again after a kill."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tomlkit

from rpc_kit.failpoints import VARIABLE
from tests.azure_gate.site import AzureSite
from tests.crash.world import AGAIN_S, World
from tests.crash.world import SITES as USUAL_SITES
from tests.system.harness.sites import Site
from tests.system.harness.waiting import eventually
from tests.testbed import images
from tests.testbed.azure_arm.client import AzureArm
from tests.testbed.docker import Engine
from tests.testbed.hosts import is_possible

CORE = "core"
SITES = (*USUAL_SITES, "azure")
_TICK_S = 0.02


@dataclasses.dataclass(frozen=True)
class Order:
    """What is to happen at a fail point.

    Attributes:
        part: Who passes by: `core`, or the name of a site for its gate.
        point: The point's name.
        marker: A file that tells that it has happened.
        delay_s: How long to wait there.
        kill: Parts that are killed there.
    """

    part: str
    point: str
    marker: Path
    delay_s: float = 0.0
    kill: tuple[str, ...] = ()


class MatrixWorld(World):
    """A world in which every transition can be had.

    Beside what others have: a queue of one slot, partitions that stop when their time is over, a
    stand-in for Azure with its gate, and, where this process may start one, a Docker engine for the
    host.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        with contextlib.ExitStack() as undo:
            self.engine = undo.enter_context(Engine()) if is_possible() else None
            if self.engine is not None:
                images.busybox(self.engine)
            self.arm = undo.enter_context(AzureArm(folder / "arm"))
            super().__init__(folder, **settings)
            # Machines see these, and jobs there have an account of their own.
            folder.chmod(0o711)
            self.facts.chmod(0o666)
            self._undo = undo.pop_all()

    def close(self) -> None:
        super().close()
        self._undo.close()

    def containers(self) -> list[str]:
        """Those that there are."""
        return [] if self.engine is None else self.engine.containers()

    def _sites(self) -> Iterator[Site]:
        for site in super()._sites():
            file = site.folder / "gate.toml"
            table = tomlkit.parse(file.read_text()).unwrap()
            _extend(site.name, table)
            if site.name == "lab" and self.engine is not None:
                table["containers"] = {"runtime": "docker", "socket": self.engine.host}
                table["volumes"] = {"world": f"{self.folder}:rw"}
            file.write_text(tomlkit.dumps(table))
            yield site
        yield AzureSite.of(
            self.arm,
            "azure",
            self.folder / "azure",
            endpoint=self._endpoint("azure"),
            vm_sizes=["Standard_D2s_v3", "Standard_D4s_v3"],
        )


def _extend(name: str, table: dict[str, Any]) -> None:
    if name == "batch":
        table["partitions"]["narrow"] = {"kind": "queue", "slots": 1}
    if name == "cloud":
        table["dynamic"]["expiry"] = "deallocate"


class Parts:
    """Keeps everything running.

    Args:
        world: Whose core and gates; nothing of it has been started yet.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._folder = world.folder / "plans"
        self._folder.mkdir()
        self._closing = threading.Event()
        self._down: set[str] = set()
        self._unused = set(SITES)
        self._locks = {part: threading.Lock() for part in (CORE, *SITES)}
        self._keepers: list[threading.Thread] = []

    def start(self) -> None:
        """Start the core; a gate is started when its site is first needed."""
        self.arm([])
        self._start(CORE)
        for part in self._locks:
            keeper = threading.Thread(target=self._keep, args=(part,), daemon=True)
            keeper.start()
            self._keepers.append(keeper)

    def close(self) -> None:
        """Start nothing any more."""
        self._closing.set()
        for keeper in self._keepers:
            keeper.join()

    # ---- fail points ----

    def arm(self, orders: Sequence[Order], *, trace: bool = False) -> None:
        """Have these orders in force, and no others.

        Args:
            orders: What is to happen.
            trace: Whether points that are reached are written down, for `traced`.
        """
        for part in self._locks:
            plan: dict[str, Any] = {
                "trace": str(self._trace(part)) if trace else "",
                "orders": [
                    {
                        "point": order.point,
                        "marker": str(order.marker),
                        "delay_s": order.delay_s,
                        "kill": [self._name(part, victim) for victim in order.kill],
                    }
                    for order in orders
                    if order.part == part
                ],
            }
            fresh = self._folder / f"{part}.new"
            fresh.write_text(json.dumps(plan))
            fresh.replace(self._plan(part))

    def traced(self, part: str) -> set[str]:
        """The points that a part has reached since it was asked last."""
        try:
            text = self._trace(part).read_text()
        except FileNotFoundError:
            return set()
        self._trace(part).unlink()
        return set(text.splitlines())

    def _plan(self, part: str) -> Path:
        return self._folder / f"{part}.json"

    def _trace(self, part: str) -> Path:
        return self._folder / f"{part}.trace"

    def _name(self, part: str, victim: str) -> str:
        return "self" if victim == part else str(self._folder / f"{victim}.pid")

    # ---- processes ----

    def kill(self, part: str) -> None:
        """Have a part gone at once; it comes back."""
        pid = self._pid(part)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)

    @contextlib.contextmanager
    def without(self, part: str) -> Iterator[None]:
        """Have a part gone while the context lasts."""
        with self.staying_away(part):
            with self._locks[part]:  # whoever starts it now has finished
                self.kill(part)
            eventually(lambda: not self.is_running(part), f"{part} is gone")
            yield

    @contextlib.contextmanager
    def staying_away(self, part: str) -> Iterator[None]:
        """Have a part not started again while the context lasts."""
        self._down.add(part)
        try:
            yield
        finally:
            self._down.discard(part)

    def ready(self, site: str) -> None:
        """Wait until a site takes jobs."""
        self._unused.discard(site)
        eventually(lambda: self.is_running(CORE), "the core runs", within_s=AGAIN_S)
        eventually(self._sees(site), f"site {site} is ready", within_s=AGAIN_S)

    def _sees(self, site: str) -> Callable[[], bool]:
        def is_ready() -> bool:
            with contextlib.suppress(Exception):
                self._world.core.wait_ready(site, within_s=1.0)
                return True
            return False

        return is_ready

    def _keep(self, part: str) -> None:
        while not self._closing.wait(_TICK_S):
            with self._locks[part]:
                if part in self._down | self._unused or self.is_running(part):
                    continue
                # A part that is killed while it starts is started once more.
                with contextlib.suppress(AssertionError):
                    self._start(part)

    def _start(self, part: str) -> None:
        environment = {VARIABLE: str(self._plan(part))}
        if part == CORE:
            self._world.start_core(**environment)
        else:
            self._world.start_gate(part, **environment)
        fresh = self._folder / f"{part}.pid.new"
        fresh.write_text(str(self._pid(part)))
        fresh.replace(self._folder / f"{part}.pid")

    def _pid(self, part: str) -> int:
        return self._world.core.pid if part == CORE else self._world.gates[part].pid

    def is_running(self, part: str) -> bool:
        """Whether the process of a part is there."""
        whose = self._world.core if part == CORE else self._world.gates[part]
        return whose.is_running


@contextlib.contextmanager
def running_parts(folder: Path) -> Iterator[tuple[MatrixWorld, Parts]]:
    """A world whose parts are kept running; all of it ends with the context.

    Args:
        folder: For all of it; short, since sockets lie there.
    """
    world = MatrixWorld(folder)
    with world.cluster.running():
        parts = Parts(world)
        try:
            parts.start()
            yield world, parts
        finally:
            parts.close()
            world.close()
