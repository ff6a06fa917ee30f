"""What a script is run with: its program, its times, and the environment of the contract. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from gate_kit.job_checks import seconds
from skyport.gate.v1 import job_pb2, types_pb2

GRACE_S = 10.0
"""Between TERM and KILL where nobody says."""

_NOT_A_LETTER = re.compile(r"[^A-Za-z0-9_]", re.ASCII)
_INTERPRETER_BYTES = 255
"""Of the first line, that the kernel reads."""


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    """What a job finds on one of its nodes."""

    node: str
    nodes: Sequence[str]
    """All nodes of the job, rank 0 first."""
    addresses: Mapping[str, str]
    """Of nodes, as far as they are known."""
    home: str
    user: str
    login_shell: str
    work: str
    """The absolute path of the work folder."""
    hosts: str
    """The path of the file that names the nodes."""
    site: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What the site sets for everybody: LANG, TZ and their like."""
    storage: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The paths of what the job asked for, by name."""


def interpreter(script: bytes) -> list[str]:
    """What runs a script, as the kernel reads `#!`; /bin/sh without it.

    The path of the script's file comes after it.
    """
    line = script[:_INTERPRETER_BYTES].partition(b"\n")[0]
    if not line.startswith(b"#!"):
        return ["/bin/sh"]
    words = line[2:].strip().decode(errors="replace").split(None, 1)
    return list(words) if words else ["/bin/sh"]


def limited(cpus: int, memory_bytes: int) -> list[str]:
    """What runs a program within limits, by the systemd of its account.

    See systemd-run(1) and systemd.resource-control(5); what it runs stays its own process.
    """
    words = ["systemd-run", "--user", "--scope", "--quiet", "--collect"]
    words += ["--property", f"CPUQuota={cpus * 100}%"]
    if memory_bytes:
        words += ["--property", f"MemoryMax={memory_bytes}", "--property", "MemorySwapMax=0"]
    return [*words, "--"]


def limit(spec: job_pb2.JobSpec) -> str:
    """The time limit as runners take it: seconds, or empty where there is none."""
    return f"{seconds(spec.time_limit):.3f}" if spec.HasField("time_limit") else ""


def grace_s(spec: job_pb2.JobSpec) -> float:
    """Seconds between TERM and KILL."""
    return seconds(spec.grace) if spec.HasField("grace") else GRACE_S


def tenths(time_s: float) -> str:
    """A time as runners take it."""
    return str(round(time_s * 10))


def encode_variables(variables: Mapping[str, str]) -> bytes:
    """Variables as runners read them: name, number of lines, lines."""
    parts = []
    for name, value in variables.items():
        lines = value.split("\n")
        parts += [name, str(len(lines)), *lines]
    return "".join(f"{part}\n" for part in parts).encode()


def environment(
    request: job_pb2.StartJobRequest,
    around: Surroundings,
    allocations: Iterable[types_pb2.Allocation],
) -> dict[str, str]:
    """What a job has in its environment on one node, without what is secret.

    Args:
        request: What was asked.
        around: What is there.
        allocations: What was given, of any nodes.
    """
    spec, ref = request.spec, request.ref
    given = next((item for item in allocations if item.node == around.node), None)
    cpus = given.cpus if given else spec.resources.cpus
    memory = given.memory_bytes if given else spec.resources.memory_bytes
    gpus = list(given.gpu_ids) if given else [str(i) for i in range(spec.resources.gpus)]
    nodes = list(around.nodes)
    ours = {
        "SWM_JOB_ID": ref.job_id,
        "SWM_JOBID": ref.job_id,
        "SWM_JOB_NAME": spec.name,
        "SWM_ATTEMPT": str(ref.attempt),
        "SWM_NODES": ",".join(nodes),
        "SWM_NODE_IPS": ",".join(around.addresses.get(node, node) for node in nodes),
        "SWM_NODE_RANK": str(nodes.index(around.node)),
        "SWM_NUM_NODES": str(len(nodes)),
        "SWM_HOSTFILE": around.hosts,
        "SWM_CPUS": str(cpus),
        "SWM_MEM": str(memory),
        "SWM_GPUS": ",".join(gpus),
        "SWM_WORKDIR": around.work,
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
    }
    for port in given.ports if given else ():
        ours[f"SWM_PORT_{port.port}"] = str(port.port)
        if port.name:
            ours[f"SWM_PORT_{port.name}"] = str(port.port)
    for name, path in around.storage.items():
        ours[f"SWM_STORAGE_{_NOT_A_LETTER.sub('_', name).upper()}"] = path
    if spec.container_image:
        ours["SWM_CONTAINER_IMAGE"] = spec.container_image
    account = {
        "HOME": around.home,
        "USER": around.user,
        "LOGNAME": around.user,
        "SHELL": around.login_shell,
    }
    return account | dict(around.site) | without_ours(spec.env) | ours


def without_ours(variables: Mapping[str, str]) -> dict[str, str]:
    """`variables` but for those that a job can't set."""
    return {name: value for name, value in variables.items() if not name.startswith("SWM_")}
