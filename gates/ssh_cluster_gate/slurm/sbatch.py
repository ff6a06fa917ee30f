"""The request to the queue: arguments of sbatch, and what it answers. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from gate_kit import errors, launching
from gate_kit.errors import Refusal
from gate_kit.job_checks import seconds
from gate_kit.ssh.layout import AttemptPath
from gates.ssh_cluster_gate.slurm import directives
from skyport.gate.v1 import job_pb2

_FULL_RETRY_S = 5.0
_MIB = 1 << 20
_MOST_WARNINGS = 19
_FULL = (
    "submitjob",  # QOSMaxSubmitJobPerUserLimit, AssocGrpSubmitJobsLimit and their like
    "unable to accept job",  # MaxJobCount
    "resource temporarily unavailable",
)
_AWAY = (
    "unable to contact slurm controller",
    "socket timed out",
    "connection refused",
    "communication connection failure",
    "transport endpoint",
    "zero bytes were transmitted",
    "protocol authentication error",
    "controller not responding",
    "in standby mode",
    "could not establish a configuration source",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What is asked of sbatch."""

    options: tuple[str, ...]
    warnings: tuple[str, ...]
    """What is done otherwise than asked."""


def job_name(key: AttemptPath) -> str:
    """By what an attempt is known in the queue, should the answer of sbatch be lost."""
    return f"swm-{key.job_id}.{key.attempt}"


def comment(key: AttemptPath, root_uid: str) -> str:
    """What says whose an attempt is: the same account may serve several cores, and work roots."""
    return f"{root_uid}/{key.path}"


def request(
    start: job_pb2.StartJobRequest, folder: str, root_uid: str, longest_s: float
) -> Request:
    """The options for a start.

    Args:
        start: What is asked.
        folder: The attempt's, absolute.
        root_uid: Of the work root.
        longest_s: How long the partition lets a job run; 0: without end.
    """
    spec, key = start.spec, AttemptPath.of(start.ref)
    needs = spec.resources
    fixed = {
        "job-name": job_name(key),
        "comment": comment(key, root_uid),
        "partition": key.partition_id,
        "chdir": folder,
        "output": f"{folder}/slurm.log",
        "open-mode": "append",
        "nodes": str(spec.node_count),
        "cpus-per-task": str(needs.cpus),
    }
    said = {}
    if needs.memory_bytes:
        said["mem"] = f"{math.ceil(needs.memory_bytes / _MIB)}M"
    if needs.gpus:
        said["gpus-per-node"] = str(needs.gpus)
    if needs.disk_bytes:
        said["tmp"] = f"{math.ceil(needs.disk_bytes / _MIB)}M"
    if spec.HasField("time_limit"):
        said["time"] = str(_minutes(spec, longest_s))
    if spec.account:
        said["account"] = spec.account
    given, warnings = directives.read(spec.script.decode())
    is_every = spec.launch == job_pb2.LAUNCH_EVERY
    theirs, more = directives.merge(given, dict(spec.site_options), said.keys(), is_every=is_every)
    if not any(argument.startswith("--ntasks") for argument in theirs):
        fixed["ntasks-per-node"] = "1"
    ours = [directives.option(name, value) for name, value in (fixed | said).items()]
    warnings = [*warnings, *more]
    if len(warnings) > _MOST_WARNINGS:
        rest = len(warnings) - _MOST_WARNINGS + 1
        warnings = [*warnings[: _MOST_WARNINGS - 1], f"and {rest} more #SBATCH options"]
    return Request(("--parsable", "--no-requeue", *theirs, *ours), tuple(warnings))


def _minutes(spec: job_pb2.JobSpec, longest_s: float) -> int:
    """What is asked of Slurm: room for the runner to end the job by itself, if there is any."""
    limit_s = seconds(spec.time_limit) + launching.grace_s(spec) + 60
    if longest_s and limit_s > longest_s:
        limit_s = max(longest_s, seconds(spec.time_limit))
    return math.ceil(limit_s / 60)


def job_id(output: str) -> str:
    """The id that sbatch printed; empty if it printed none."""
    for line in output.splitlines():
        number = line.strip().partition(";")[0]
        if number.isascii() and number.isdigit():
            return number
    return ""


def refusal(told: Sequence[str], code: int) -> Refusal:
    """What to tell of a request that sbatch did not take, or may not have taken.

    Args:
        told: The lines of its standard error.
        code: Its exit code; 124 where it was ended at its deadline.
    """
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ").strip() for line in told]
    text = "; ".join(line for line in lines if line)[:500]
    lowered = text.lower()
    if any(words in lowered for words in _FULL):
        return errors.site_queue_full(f"Slurm takes no more: {text}", retry_after_s=_FULL_RETRY_S)
    if code == 124 or not text or any(words in lowered for words in _AWAY):
        return errors.site_unreachable(f"sbatch got no answer: {text or 'it took too long'}")
    if "command not found" in lowered or "no such file" in lowered or code == 127:
        return errors.site_unreachable(f"sbatch can't be run: {text}")
    return errors.invalid(f"Slurm refuses the job: {text}", field="spec")
