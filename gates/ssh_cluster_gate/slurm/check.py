"""What is well and what is not about Slurm, judged from what the probe said. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from gate_kit.verdicts import State, Verdict
from gates.ssh_cluster_gate.check_rules import Found
from gates.ssh_cluster_gate.config import Config, SlurmConfig
from gates.ssh_cluster_gate.container_config import Runtime
from gates.ssh_cluster_gate.slurm import queue

CHECKS = ("slurm", "partitions", "accounting", "shared", "node_ssh", "containers")
"""What is looked at, in this order."""

_PATH = "see PATH in ~/.bashrc, or SetEnv of sshd"
_SHARED = (
    "nfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "panfs",
    "glusterfs",
    "afs",
    "fuse",
    "orangefs",
)


def probe() -> str:
    """What is asked, behind the helpers of check_probe.sh."""
    return Path(__file__).with_name("check_probe.sh").read_text()


def unknown() -> list[Verdict]:
    """What there is to say where the login node could not be asked."""
    return [Verdict(check, State.UNKNOWN) for check in CHECKS]


def judge(found: Found, config: Config) -> list[Verdict]:
    """All that can be said once the probe has run, in the order of `CHECKS`."""
    return [
        _controller(found),
        _partitions(found, config.slurm),
        _accounting(found),
        _shared(found, config.work_root),
        _node_ssh(found, config.slurm),
        _containers(found, config.containers.runtime),
    ]


def _controller(found: Found) -> Verdict:
    lacks = found.values.get("lacks", ())
    if lacks:
        text = f"it lacks {', '.join(lacks)}, or its PATH for commands of ssh does"
        return Verdict("slurm", State.FAILED, "", text, _PATH)
    told = found.one("controller")
    if told != "yes":
        why = told.removeprefix("no ")[:200]
        text = "the controller does not answer" + (f": {why}" if "not answer" not in why else "")
        return Verdict("slurm", State.FAILED, "", text, "scontrol ping")
    return Verdict("slurm", State.OK)


def _partitions(found: Found, config: SlurmConfig) -> Verdict:
    rows: Sequence[Sequence[str]] = [line.split() for line in found.values.get("node", ())]
    names = {row[0] for row in rows if len(row) == 3}
    missing = [name for name in config.partitions if name not in names]
    if not names:
        return Verdict("partitions", State.UNKNOWN)
    if missing:
        text = f"sinfo shows no partition {', '.join(missing)}, only {', '.join(sorted(names))}"
        mend = f"partitions = {json.dumps(sorted(names))} in [slurm]"
        return Verdict("partitions", State.FAILED, "", text, mend)
    shown = len(config.partitions) or len(names)
    return Verdict("partitions", State.OK, str(shown))


def _accounting(found: Found) -> Verdict:
    kind = found.one("accounting")
    if not kind:
        return Verdict("accounting", State.UNKNOWN)
    # Nothing is wrong without: what has aged out is known from the folders of jobs.
    return Verdict("accounting", State.OK, "yes" if queue.has_accounts(kind) else "none")


def _shared(found: Found, work_root: str) -> Verdict:
    told, kind = found.one("shared"), found.one("filesystem")
    if told == "seen":
        return Verdict("shared", State.OK, kind)
    if told == "missing":
        text = "a compute node does not see what the login node writes into the work root"
        return Verdict("shared", State.FAILED, kind, text, 'work_root = "/…" on a shared folder')
    if any(name in kind for name in _SHARED):
        return Verdict("shared", State.OK, kind)
    if found.one("controller") != "yes":
        return Verdict("shared", State.UNKNOWN, kind)
    why = told.removeprefix("unknown ")[:200] or "no job ran"
    text = (
        f"whether compute nodes see the work root ({kind or 'no file system'}) is not known: {why}"
    )
    return Verdict("shared", State.WARNING, kind, text, f"srun -N1 ls {work_root}")


def _node_ssh(found: Found, config: SlurmConfig) -> Verdict:
    told = found.one("ssh")
    if not told:
        return Verdict("node_ssh", State.UNKNOWN)
    if told == "no" and config.compute_ssh:
        text = "compute nodes take no connections of SSH from the login node"
        return Verdict("node_ssh", State.FAILED, told, text, "[slurm] compute_ssh = false")
    return Verdict("node_ssh", State.OK, told)


def _containers(found: Found, runtime: Runtime) -> Verdict:
    """Whether images can be pulled on the login node, and run on compute nodes."""
    if runtime is not Runtime.APPTAINER:
        return Verdict("containers", State.OK, "none")
    version, on_node = found.one("apptainer"), found.one("node_apptainer")
    value = f"apptainer {version}".strip()
    if not version:
        text = "it lacks apptainer, which pulls images, or its PATH for commands of ssh does"
        return Verdict("containers", State.FAILED, "", text, _PATH)
    if on_node == "no":
        text = "a compute node has no apptainer on the PATH that jobs get from the login node"
        return Verdict("containers", State.FAILED, value, text, "srun -N1 apptainer --version")
    if on_node != "yes" and found.one("controller") != "yes":
        return Verdict("containers", State.UNKNOWN, value)
    if on_node != "yes":
        text = "whether compute nodes have apptainer is not known: no job ran"
        return Verdict("containers", State.WARNING, value, text, "srun -N1 apptainer --version")
    return Verdict("containers", State.OK, value)
