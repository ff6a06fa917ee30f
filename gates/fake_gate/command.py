"""What a runner is started with: arguments, environment, and what only the job may see. Pure."""

from __future__ import annotations

import dataclasses
import functools
import os
import pwd
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from gate_kit import launching
from gates.fake_gate.attempt import Attempt
from gates.fake_gate.launch import Command
from gates.fake_gate.site import Site
from skyport.gate.v1 import job_pb2

_RUNNER_PATH = "/usr/local/bin:/usr/bin:/bin"
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


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


def work_folder(attempt: Attempt, workdir: str, node: str, *, shared: bool) -> Path:
    """Where the script starts on a node; `workdir` is what the job asked for, if it did."""
    if workdir:
        return Path(workdir)
    return attempt.folder / ("work" if shared else f"work.{node}")


def private_variables(spec: job_pb2.JobSpec, secret_env: Mapping[str, str]) -> dict[str, str]:
    """The secrets, and what must not reach the runner itself, such as LD_PRELOAD."""
    loader = {name: value for name, value in spec.env.items() if _is_loaders(name)}
    return loader | launching.without_ours(secret_env)


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
        private: From `launching.encode_variables`.
    """
    spec = request.spec
    work = work_folder(attempt, spec.workdir, node, shared=shared)
    environment = _environment(attempt, request, node, nodes, account, work)
    arguments = (
        str(site.runner),
        node,
        "",
        "",
        str(site.tombstone(attempt.key)),
        str(work),
        str(work / spec.stdin_path) if spec.stdin_path else os.devnull,
        launching.limit(spec),
        launching.tenths(launching.grace_s(spec)),
        attempt.key.mark(node),
        _setsid(),
        spec.env.get("PATH") or account.path,
        *launching.interpreter(spec.script),
        str(attempt.folder / "script"),
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
    around = launching.Surroundings(
        node=node,
        nodes=nodes,
        addresses=dict.fromkeys(nodes, "127.0.0.1"),
        home=account.home,
        user=account.name,
        login_shell="/bin/sh",
        work=str(work),
        hosts=str(attempt.folder / "hosts"),
    )
    allocations = request.allocations or attempt.given()
    variables = launching.environment(request, around, allocations)
    public = {name: value for name, value in variables.items() if not _is_loaders(name)}
    return public | {"PATH": _RUNNER_PATH}


def _is_loaders(name: str) -> bool:
    """Whether it is a variable that changes what every program loads, the runner's too."""
    return name.startswith("LD_")
