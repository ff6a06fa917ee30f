"""Looks everywhere for a text that must be nowhere: processes, logs, files, answers of a core."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.message import Message

from skyport.terminal.v1 import account_pb2, admin_pb2, catalog_pb2, file_pb2, job_pb2, server_pb2
from tests.system.harness.users import User
from tests.system.harness.waiting import eventually
from tests.testbed.processes import descendants

_EXEC = re.compile(r'^\d+\s+exec\w*\(.*?"[^"]*", \[(.*?)\], (?:\[(.*)\]|0x)')


class Trace:
    """Every program that some processes and their children start, with arguments and environment.

    Args:
        file: Where strace writes.
        pids: The processes; those that they have started by now are looked at too.
    """

    def __init__(self, file: Path, pids: Iterable[int]) -> None:
        self._file = file
        every = sorted({each for pid in pids for each in (pid, *descendants(pid))})
        attach = [word for pid in every for word in ("-p", str(pid))]
        options = ["-f", "-qq", "-v", "-s", "200000", "-e", "trace=execve,execveat"]
        self._strace = subprocess.Popen(
            ["strace", *options, "-e", "signal=none", "-o", str(file), *attach],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        eventually(lambda: all(map(_is_traced, every)), "strace looks at all of them")

    def close(self) -> None:
        """Let go of them."""
        self._strace.send_signal(signal.SIGTERM)
        self._strace.wait(20)

    def started(self) -> list[tuple[str, str]]:
        """Arguments and environment of each program that was started, as strace writes them."""
        lines = self._file.read_text(errors="replace").splitlines()
        matches = (_EXEC.match(line) for line in lines)
        return [(match[1], match[2] or "") for match in matches if match]


def _is_traced(pid: int) -> bool:
    try:
        return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True  # gone


def environments() -> Iterator[tuple[int, bytes]]:
    """Of all processes of this machine: their number, and what they were started with."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            yield int(folder.name), (folder / "environ").read_bytes()
        except OSError:
            continue


def command_lines() -> bytes:
    """Those of all processes of this machine."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:
            continue
    return b"\n".join(lines)


def files_with(folder: Path, needle: bytes) -> list[Path]:
    """The files below a folder that have it in them. Links are not followed."""
    found = []
    for path in _walk(folder):
        try:
            if stat.S_ISREG(path.lstat().st_mode) and needle in path.read_bytes():
                found.append(path)
        except FileNotFoundError:
            continue
    return found


def open_to_others(folder: Path) -> list[Path]:
    """What below a folder (itself included) any other account of the machine could read.

    Whatever the folder lies in counts as open to all.
    """
    found = []
    try:
        mode = folder.lstat().st_mode
    except FileNotFoundError:
        return []
    if stat.S_ISLNK(mode):
        return []
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        found.append(folder)
    if stat.S_ISDIR(mode) and mode & stat.S_IXOTH:
        for entry in os.scandir(folder):
            found += open_to_others(Path(entry.path))
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for above, _, names in os.walk(folder):
        yield from (Path(above, name) for name in names)


def answers(user: User, job_id: str, token: str) -> list[Message]:
    """All that a core tells this user of a job, and of everything else."""
    told: list[Message] = [
        user.jobs.GetJob(job_pb2.GetJobRequest(job_id=job_id), timeout=30),
        user.jobs.ListJobs(job_pb2.ListJobsRequest(page_size=1_000), timeout=30),
        user.catalog.ListSites(catalog_pb2.ListSitesRequest(), timeout=30),
        user.catalog.ListFlavors(catalog_pb2.ListFlavorsRequest(), timeout=30),
        user.catalog.ListPartitions(catalog_pb2.ListPartitionsRequest(), timeout=30),
        user.catalog.ListNodes(catalog_pb2.ListNodesRequest(), timeout=30),
        user.account.WhoAmI(account_pb2.WhoAmIRequest(), timeout=30),
        user.server.GetServerInfo(server_pb2.GetServerInfoRequest(), timeout=30),
    ]
    watch = job_pb2.WatchJobsRequest(job_ids=[job_id], resume_token=token)
    call = user.jobs.WatchJobs(watch, timeout=30)
    for answer in call:
        told.append(answer)
        if answer.caught_up:
            break
    call.cancel()
    for kind in (job_pb2.OUTPUT_KIND_STDOUT, job_pb2.OUTPUT_KIND_STDERR):
        read = job_pb2.ReadOutputRequest(job_id=job_id, kind=kind)
        told += user.jobs.ReadOutput(read, timeout=30)
    job = told[0].job  # type: ignore[attr-defined]
    if job.state >= job_pb2.JOB_STATE_SUCCEEDED:
        outputs = file_pb2.ListOutputsRequest(job_id=job_id)
        told.append(user.files.ListOutputs(outputs, timeout=30))
    if user.account.WhoAmI(account_pb2.WhoAmIRequest(), timeout=30).admin:
        told.append(user.admin.ListUsers(admin_pb2.ListUsersRequest(), timeout=30))
    return told
