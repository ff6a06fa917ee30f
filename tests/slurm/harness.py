"""A gate of a Slurm cluster, by itself and below a core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.ssh_gate.harness import Gate, SshSite
from tests.testbed.slurm import Slurm

SITE = "hpc"


def site_config(slurm: Slurm, root: str = "~/.skyport", **more: Any) -> dict[str, Any]:
    """The configuration of a gate for a cluster.

    Args:
        slurm: The cluster.
        root: The work root.
        more: Further settings.
    """
    return {
        "scheduler": "slurm",
        "hosts": ["login"],
        "host": {"login": {"address": slurm.login.address}},
        "shared_account": True,
        "user": slurm.user,
        "identity": str(slurm.bed.key(slurm.user)),
        "known_hosts": str(slurm.bed.known_hosts),
        "ssh_config": "",
        "use_agent": False,
        "work_root": root,
    } | more


class SlurmGate(Gate):
    """A gate whose site is a cluster.

    Args:
        folder: For its files; short.
        slurm: The cluster.
        root: The work root, below the account's home.
        config: Further settings.
    """

    def __init__(self, folder: Path, slurm: Slurm, root: str, **config: Any) -> None:
        super().__init__(folder, site_config(slurm, f"~/{root}", **config))
        self.site = slurm.login.home() / root


class SlurmSite(SshSite):
    """A site of this kind in the configuration of a core."""
