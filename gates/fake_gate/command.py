"""What a runner is started with: arguments, environment, and what only the job may see. Pure."""

from __future__ import annotations

import dataclasses
import functools
import os
import pwd
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from gates.fake_gate.attempt import Attempt
from gates.fake_gate.launch import Command
from gates.fake_gate.site import Site
from skyport.gate.v1 import job_pb2

GRACE_S = 10.0
"""Between TERM and KILL where nobody says."""

_RUNNER_PATH = "/usr/local/bin:/usr/bin:/bin"
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INTERPRETER_BYTES = 255


@dataclasses.dataclass(frozen=True, slots=True)
class Account:
    """Whom jobs run as, as they see it."""

    name: str
    home: str
    path: str
    """Where its programs are looked for."""


def own_account(name: str = "", path: str = "") -> Account:
    """The account of this process, which calls itself `name` if that is given."""
    entry = pwd.getpwuid(os.geteuid())
    return Account(name or entry.pw_name, entry.pw_dir, path or _DEFAULT_PATH)


def interpreter(script: bytes, path: str) -> list[str]:
    """What runs the script in the file `path`: as the kernel reads `#!`, or /bin/sh without it.

    Reading it here spares the kernel the check that nobody has the file open for writing.
    """
    line = script[:_INTERPRETER_BYTES].partition(b"\n")[0]
    if not line.startswith(b"#!"):
        return ["/bin/sh", path]
    words = line[2:].strip().decode(errors="replace").split(None, 1)
    return [*words, path] if words else ["/bin/sh", path]


def seconds(value_seconds: int, nanos: int) -> float:
    """A Duration's two fields as seconds."""
    return value_seconds + nanos / 1e9


def grace_s(spec: job_pb2.JobSpec) -> float:
    """Seconds between TERM and KILL."""
    if not spec.HasField("grace"):
        return GRACE_S
    return seconds(spec.grace.seconds, spec.grace.nanos)


def work_folder(attempt: Attempt, workdir: str, node: str, *, shared: bool) -> Path:
    """Where the script starts on a node; `workdir` is what the job asked for, if it did."""
    if workdir:
        return Path(workdir)
    return attempt.folder / ("work" if shared else f"work.{node}")


def encode_private(variables: Mapping[str, str]) -> bytes:
    """Variables as the runner reads them: name, number of lines, lines."""
    parts = []
    for name, value in variables.items():
        lines = value.split("\n")
        parts += [name, str(len(lines)), *lines]
    return "".join(f"{part}\n" for part in parts).encode()


def private_variables(spec: job_pb2.JobSpec, secret_env: Mapping[str, str]) -> dict[str, str]:
    """The secrets, and what must not reach the runner itself, such as LD_PRELOAD."""
    loader = {name: value for name, value in spec.env.items() if name.startswith("LD_")}
    # The names of the contract can't be replaced.
    secrets = {n: value for n, value in secret_env.items() if not n.startswith("SWM_")}
    return loader | secrets


def make(
    site: Site,
    attempt: Attempt,
    request: job_pb2.StartJobRequest,
    node: str,
    *,
    nodes: Sequence[str],
    account: Account,
    shared: bool,
    private: bytes,
) -> Command:
    """The command for one node of an attempt.

    Args:
        site: Where it is.
        attempt: Whose folder it is.
        request: What was asked, without its secrets.
        node: The node.
        nodes: All nodes of the job, rank 0 first.
        account: Whom it runs as.
        shared: Whether all nodes see one work folder.
        private: From `encode_private`.
    """
    spec = request.spec
    work = work_folder(attempt, spec.workdir, node, shared=shared)
    environment = _environment(attempt, request, node, nodes, account, work)
    limit = ""
    if spec.HasField("time_limit"):
        limit = f"{seconds(spec.time_limit.seconds, spec.time_limit.nanos):.3f}"
    arguments = (
        str(site.runner),
        node,
        str(site.tombstone(attempt.key)),
        str(work),
        str(work / spec.stdin_path) if spec.stdin_path else os.devnull,
        limit,
        str(round(grace_s(spec) * 10)),
        attempt.key.mark + node,
        _setsid(),
        spec.env.get("PATH") or account.path,
        *interpreter(spec.script, str(attempt.folder / "script")),
    )
    return Command(attempt, node, arguments, environment, private)


@functools.cache
def _setsid() -> str:
    """The path of the program that the runner puts before the script."""
    return shutil.which("setsid", path=_RUNNER_PATH) or "setsid"


def _environment(
    attempt: Attempt,
    request: job_pb2.StartJobRequest,
    node: str,
    nodes: Sequence[str],
    account: Account,
    work: Path,
) -> dict[str, str]:
    spec, ref = request.spec, request.ref
    allocations = request.allocations or attempt.given()
    given = next((item for item in allocations if item.node == node), None)
    cpus = given.cpus if given else spec.resources.cpus
    memory = given.memory_bytes if given else spec.resources.memory_bytes
    gpus = list(given.gpu_ids) if given else [str(i) for i in range(spec.resources.gpus)]
    ours = {
        "SWM_JOB_ID": ref.job_id,
        "SWM_JOBID": ref.job_id,
        "SWM_JOB_NAME": spec.name,
        "SWM_ATTEMPT": str(ref.attempt),
        "SWM_NODES": ",".join(nodes),
        "SWM_NODE_IPS": ",".join("127.0.0.1" for _ in nodes),
        "SWM_NODE_RANK": str(list(nodes).index(node)),
        "SWM_NUM_NODES": str(len(nodes)),
        "SWM_HOSTFILE": str(attempt.folder / "hosts"),
        "SWM_CPUS": str(cpus),
        "SWM_MEM": str(memory),
        "SWM_GPUS": ",".join(gpus),
        "SWM_WORKDIR": str(work),
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
    }
    for port in given.ports if given else ():
        ours[f"SWM_PORT_{port.port}"] = str(port.port)
        if port.name:
            ours[f"SWM_PORT_{port.name}"] = str(port.port)
    if spec.container_image:
        ours["SWM_CONTAINER_IMAGE"] = spec.container_image
    environment = {
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        "SHELL": "/bin/sh",
    }
    environment |= {n: v for n, v in spec.env.items() if not n.startswith(("LD_", "SWM_"))}
    return environment | ours | {"PATH": _RUNNER_PATH}
