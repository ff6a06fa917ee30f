"""A site in the stand-in, as its configuration says it."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.system.harness.sites import Site
from tests.system.harness.waiting import eventually
from tests.testbed.azure_arm import AzureArm, faults
from tests.testbed.azure_arm.faults import VM

DEBIAN = "Debian:debian-12:12-gen2:latest"
_FAILURES = {"CAPACITY": "AllocationFailed", "QUOTA": "FamilyQuota"}
"""How Azure says it, by the gate's reason."""


@dataclasses.dataclass(frozen=True)
class AzureSite(Site):
    """The stand-in's subscription in the configuration of a core. Its machines are timers.

    Attributes:
        arm: The stand-in.
        log_level: Of the gate.
    """

    arm: AzureArm = dataclasses.field(kw_only=True)
    log_level: str = "info"

    @classmethod
    def of(
        cls,
        arm: AzureArm,
        name: str,
        folder: Path,
        *,
        endpoint: str = "",
        more: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Self:
        """Write the configuration of a gate.

        Args:
            arm: The stand-in.
            name: In the core's configuration.
            folder: Of the gate's files.
            endpoint: As of any site.
            more: As of any site.
            settings: Of the gate's configuration.
        """
        folder.mkdir(parents=True)
        site_file(arm, folder, **settings)
        return cls(name, folder, endpoint, more or {}, arm=arm)

    @property
    def command(self) -> list[str]:
        """What starts its gate; `--listen` is to be appended."""
        config = ("--config", f"{self.folder}/azure.toml", "--log-level", self.log_level)
        return [sys.executable, "-m", "gates.azure_gate", *config]

    @property
    def state(self) -> Path:
        """What the gate keeps for itself."""
        return self.folder / "state"

    def faults(self, *faults: Mapping[str, Any]) -> None:
        """Those of a fake gate that machines can have: boots that fail, or are slow."""
        self.arm.faults.clear()
        self.arm.set(boot_s=0.0)
        for fault in faults:
            self._fault(**fault)

    def _fault(
        self,
        kind: str,
        *,
        reason: str = "",
        retryable: bool = False,
        times: int = 0,
        seconds: float = 0,
    ) -> None:
        if kind == "boot_slow":
            self.arm.set(boot_s=seconds)
            return
        assert kind == "boot_fails", kind
        assert retryable == (reason in _FAILURES), reason
        failure = faults.failed_operation(
            _FAILURES.get(reason, "OperationNotAllowed"), "PUT", VM, times=times
        )
        self.arm.faults.add(failure)

    def partitions(self) -> list[str]:
        """The partitions that exist, in whatever state."""
        groups = (it for it in self.arm.books().resources if "/providers/" not in it)
        return sorted(it.rpartition("/")[2] for it in groups)

    def holds(self) -> list[str]:
        """All that there is, billed or not, and what runs for it here."""
        books = self.arm.books()
        return [*(it.resource for it in books.live), *books.resources, *books.processes]

    def machines(self, partition_id: str) -> list[str]:
        """The machines of a partition, as `group/name`."""
        words = (it.split("/") for it in self.arm.books().resources if f"/{VM}/" in it)
        return sorted(
            f"{it[4]}/{it[-1]}" for it in words if it[4].lower().endswith(partition_id.lower())
        )

    def forget(self, partition_id: str, job_id: str) -> None:
        """Have somebody delete the folders of a job on the machines of its partition."""
        for machine in self.machines(partition_id):
            self.arm.run(machine, f"rm -rf /home/*/.skyport/jobs/*/*/{job_id}.*")

    def forget_partition(self, partition_id: str) -> None:
        """Have somebody delete a partition, if it is there."""
        for group in self.partitions():
            if group.lower().endswith(partition_id.lower()):
                self.arm.remove_group(group)

    def given_back(self, *, within_s: float = 60.0) -> None:
        """Wait until the books say that nothing is there any more."""
        eventually(lambda: not self.holds(), "nothing is left", within_s=within_s)


def site_file(arm: AzureArm, folder: Path, **settings: Any) -> Path:
    """The configuration of a gate of the stand-in's subscription.

    Args:
        arm: The stand-in.
        folder: Where it is written; the gate's state is below.
        settings: Of the file. `endpoints` changes some of them.
    """
    ready = arm.ready
    values: dict[str, Any] = {
        "subscription_id": ready.subscription,
        "tenant_id": ready.tenant,
        "app_id": ready.app,
        "certificate_file": ready.principal,
        "state_dir": str(folder / "state"),
        "locations": ["westeurope"],
        "image": DEBIAN,
    }
    endpoints = {
        "resource_manager": ready.resource_manager,
        "authority": ready.authority,
        "prices": ready.prices,
        "egress": ready.egress,
        "ca_file": ready.ca_file,
        **settings.pop("endpoints", {}),
    }
    tables = {"endpoints": endpoints}
    for name, storage in settings.pop("storage", {}).items():
        tables[f"storage.{name}"] = storage
    lines = [f"{name} = {json.dumps(value)}" for name, value in {**values, **settings}.items()]
    for title, table in tables.items():
        lines.append(f"[{title}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    path = folder / "azure.toml"
    path.write_text("\n".join(lines) + "\n")
    return path
