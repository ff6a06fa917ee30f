"""The whole way to a cloud: a core, the Azure gate, and the stand-in with its machines."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from rpc_kit.failpoints import VARIABLE
from skyport.terminal.v1 import catalog_pb2
from tests.azure_gate.site import AzureSite
from tests.crash.gates import GateRun
from tests.system.harness.core import Core, end_jobs
from tests.system.harness.jobs import JobHandle
from tests.system.harness.waiting import eventually
from tests.testbed.azure_arm.client import AzureArm
from tests.testbed.fixtures import need_root
from tests.testbed.network import ip

API = "skyport.gate.v1"
AGAIN_S = 60.0
"""For what comes back, or is noticed by the clock, on a machine that is busy."""


@dataclasses.dataclass(frozen=True)
class Cable:
    """What connects a machine: a port of the switch of the stand-in's network."""

    switch: str
    port: str

    @contextlib.contextmanager
    def slowed(self, rate: str) -> Iterator[None]:
        """Let no more get to the machine than `rate`, as tc takes it."""
        limit = ["root", "tbf", "rate", rate, "burst", "64k", "latency", "100ms"]
        command = ["tc", "-n", self.switch, "qdisc"]
        subprocess.run([*command, "add", "dev", self.port, *limit], check=True)
        try:
            yield
        finally:
            subprocess.run([*command, "del", "dev", self.port, "root"], check=True)

    def received(self) -> int:
        """The bytes that have come to the machine."""
        (told,) = json.loads(ip("-n", self.switch, "-s", "-j", "link", "show", self.port))
        return int(told["stats64"]["tx"]["bytes"])


@dataclasses.dataclass
class Cloud:
    """A core with one site.

    Attributes:
        folder: That machines see too: they have no `/tmp` of this machine.
    """

    arm: AzureArm
    site: AzureSite
    gate: GateRun
    core: Core
    folder: Path

    # Processes.

    def start(self) -> None:
        """Have gate and core run, and the site take jobs."""
        if not self.gate.is_running:
            self.gate.start({VARIABLE: str(self._plan)})
        if not self.core.is_running:
            self.core.start()
        self.core.wait_ready(within_s=AGAIN_S)

    @contextlib.contextmanager
    def held(self, method: str, when: str = "before", delay_s: float = 3.0) -> Iterator[Path]:
        """Hold up the next call of a method in the gate.

        Returns:
            A file that is there once the call has come.
        """
        marker = self._plan.with_name("held")
        marker.unlink(missing_ok=True)
        order = {"point": f"serve {API}.{method} {when}", "marker": str(marker), "delay_s": delay_s}
        self._arm(order)
        try:
            yield marker
        finally:
            self._arm()

    def _arm(self, *orders: dict[str, Any]) -> None:
        fresh = self._plan.with_suffix(".new")
        fresh.write_text(json.dumps({"orders": orders}))
        fresh.replace(self._plan)

    @property
    def _plan(self) -> Path:
        return self.site.folder / "plan.json"

    # Jobs.

    def submit(self, script: str, **more: Any) -> JobHandle:
        return self.core.user().submit(script, site=self.site.name, **more)

    def file(self, name: str) -> Path:
        """A file by which a job is told something."""
        return self.folder / name

    def wait(self, name: str) -> str:
        """A line of shell that waits until that file is there."""
        return f"until [ -e {self.file(name)} ]; do sleep 0.05; done"

    # Machines.

    def machine(self, job: JobHandle, node: str = "n0") -> str:
        """A job's machine, for the stand-in."""
        partition = job.get().partition_id
        (found,) = (it for it in self.site.machines(partition) if it.endswith(f"/{node}"))
        return found

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Have the cables of all machines be out while the context lasts."""
        ports = [it.replace("-", "-sw to-").split(" ") for it in self.arm.books().processes]
        assert ports
        for switch, port in ports:
            ip("-n", switch, "link", "set", port, "down")
        try:
            yield
        finally:
            for switch, port in ports:
                ip("-n", switch, "link", "set", port, "master", "br0", "up")

    def new_cable(self, others: Collection[str]) -> Cable | None:
        """That of the one machine that is none of these, once it is at the network."""
        spaces = set(self.arm.books().processes) - set(others)
        if not spaces:
            return None
        (space,) = spaces
        prefix, _, number = space.partition("-")
        cable = Cable(f"{prefix}-sw", f"to-{number}")
        return cable if f" {cable.port}@" in ip("-n", cable.switch, "link", "show") else None

    def down(self) -> list[str]:
        """The nodes that the core takes to be out of reach, with their partitions."""
        answer = self.core.admin.catalog.ListNodes(catalog_pb2.ListNodesRequest(), timeout=30)
        return [
            f"{it.name} {it.partition_id}"
            for it in answer.nodes
            if it.state == catalog_pb2.NODE_STATE_DOWN
        ]

    def cleared(self) -> None:
        """Wait until nothing is left, as the books have it."""
        self.site.given_back(within_s=AGAIN_S)
        eventually(lambda: not self.partitions(), "the core has no partition", within_s=AGAIN_S)

    def partitions(self) -> list[str]:
        """Those that the core has."""
        request = catalog_pb2.ListPartitionsRequest()
        answer = self.core.admin.catalog.ListPartitions(request, timeout=30)
        return [it.partition_id for it in answer.partitions]


@contextlib.contextmanager
def empty(cloud: Cloud) -> Iterator[Cloud]:
    """It, with nothing in it, and nothing that goes wrong; who leaves anything fails."""
    cloud.start()
    yield cloud
    cloud.site.faults()
    cloud.start()
    try:
        cloud.cleared()
    except AssertionError as error:
        cloud.core.end_all()
        gate, core = (cloud.site.folder / "gate.log").read_text(), cloud.core.log()
        raise AssertionError(f"{error}\n{gate[-3000:]}\n{core[-3000:]}") from None


@contextlib.contextmanager
def running_cloud(
    folder: Path,
    *,
    log_level: str = "info",
    core_settings: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Iterator[Cloud]:
    """A cloud that takes jobs.

    Args:
        folder: For the files of core, gate and stand-in.
        log_level: Of core and gate.
        core_settings: More tables of swm.toml.
        settings: Of the gate.
    """
    need_root()
    with (
        AzureArm(folder / "arm") as arm,
        # Not below /tmp: machines have one of their own.
        tempfile.TemporaryDirectory(prefix="cloud", dir="/var/tmp") as shared,
    ):
        Path(shared).chmod(0o777)
        endpoint = f"unix://{folder}/s/azure.sock"
        site = AzureSite.of(arm, "azure", folder / "gate", endpoint=endpoint, **settings)
        site = dataclasses.replace(site, log_level=log_level)
        log = {"level": log_level, "format": "text"}
        core = Core(folder / "home", [site], log=log, **(core_settings or {}))
        cloud = Cloud(arm, site, GateRun(site), core, Path(shared))
        cloud.site.folder.joinpath("plan.json").write_text("{}")
        try:
            cloud.start()
            yield cloud
        finally:
            core.close()
            cloud.gate.kill()
            end_jobs(core)
