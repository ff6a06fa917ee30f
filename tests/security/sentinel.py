"""Looks everywhere for a text that must be nowhere: processes, logs, files, answers of a core."""

from __future__ import annotations

import base64
import dataclasses
import os
import re
import secrets
import signal
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from pathlib import Path

from google.protobuf.message import Message

from skyport.terminal.v1 import account_pb2, admin_pb2, catalog_pb2, file_pb2, job_pb2, server_pb2
from tests.ssh_gate.harness import SshSite
from tests.system.harness.core import Core
from tests.system.harness.jobs import JobHandle
from tests.system.harness.users import User
from tests.system.harness.waiting import eventually
from tests.testbed.processes import descendants

LOUD = {"level": "debug", "format": "text"}
"""For the log of a core."""
ERASED_S = 60.0
"""The store's log is emptied of what was erased when nothing was written for a while."""

_EXEC = re.compile(r'^\d+\s+exec\w*\(.*?"[^"]*", \[(.*?)\], (?:\[(.*)\]|0x)')


@dataclasses.dataclass
class Secret:
    """What must be nowhere. Each test has its own: what was started before stays in the trace."""

    token: str = dataclasses.field(default_factory=lambda: f"token-{secrets.token_hex(16)}")
    password: str = dataclasses.field(default_factory=lambda: f"password-{secrets.token_hex(16)}")

    @property
    def texts(self) -> tuple[str, str]:
        return self.token, self.password


def forms(text: str) -> list[bytes]:
    """What to look for: the text itself, and as it is within anything in base64."""
    data = text.encode()
    found = [data]
    for before in range(3):
        # Without what the neighbours of the text have a part in.
        first = -(-before * 8 // 6)
        last = (before + len(data)) * 8 // 6
        inner = base64.b64encode(b"\0" * before + data)[first:last]
        found += {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return found


class LoudSshSite(SshSite):
    """A gate of real hosts, or of a cluster, that logs all it can."""

    @property
    def command(self) -> list[str]:
        return [*super().command, "--log-level", "debug"]


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


def files_with(folder: Path, *needles: bytes) -> list[Path]:
    """The files below a folder that have one of them in them. Links are not followed."""
    found = []
    for path in _walk(folder):
        try:
            if stat.S_ISREG(path.lstat().st_mode):
                data = path.read_bytes()
                if any(needle in data for needle in needles):
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


@dataclasses.dataclass
class Sentinel:
    """Who looks, at this side and in all processes of this machine.

    Attributes:
        core: Whose jobs have secrets.
        trace: What it, its gates and its sites start.
        logs: All that are written meanwhile, which need not be there.
    """

    core: Core
    trace: Trace
    logs: Callable[[], Iterable[Path]]

    def unseen(self, job: JobHandle, *texts: str) -> None:
        """Have texts be in the job's own processes and the core's store, and nowhere else.

        While the job needs them: afterwards `forgotten` is true.
        """
        needles = [needle for text in texts for needle in forms(text)]
        self.unsaid(*texts, own=f"SWM_JOB_ID={job.job_id}")
        for user in (self.core.user(), self.core.admin):
            for message in answers(user, job.job_id, "0"):
                assert not _has(message.SerializeToString(), needles), message.DESCRIPTOR.name
        # While the job needs it the store has it, which is the core's alone.
        home = self.core.home
        assert {path.parent for path in files_with(home.path, *needles)} <= {home.database.parent}
        assert not open_to_others(home.path)

    def unsaid(self, *texts: str, own: str = "") -> None:
        """Have texts be in no process, but those with `own` in their environment, and in no log."""
        needles = [needle for text in texts for needle in forms(text)]
        assert not _has(command_lines(), needles)
        for pid, environment in environments():
            if _has(environment, needles):
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                assert own, f"process {pid} has it: {line!r}"
                assert own.encode() in environment, f"process {pid} is none of the job's: {line!r}"
        for arguments, started_with in self.trace.started():
            assert not _has(arguments.encode(), needles), arguments
            if _has(started_with.encode(), needles):
                assert own, f"started with it: {arguments}"
                assert own in started_with, f"none of the job's: {arguments}"
        for log in self.logs():
            assert not _has(log.read_bytes(), needles), log

    def kept(self, key: Path, *places: Path) -> None:
        """Have a private key be in its file, which is its owner's alone, and nowhere else."""
        assert key.stat().st_mode & 0o077 == 0
        part = private_part(key.read_text())
        assert [path for place in places for path in with_lines(place, part)] == [key]
        self.unsaid(part)


def private_part(key: str) -> str:
    """A text by which a private key (PEM) is known again: some of the number that nobody may know.

    What is public of it lies in other files too, and may look the same there.
    """
    lines = iter(key.splitlines())
    kind, body = "", ""
    for line in lines:
        if "PRIVATE KEY" in line:
            kind = line
            body = "".join(takewhile(lambda line: "PRIVATE KEY" not in line, lines))
            break
    if "OPENSSH" in kind:
        # ed25519 without a passphrase: 161 bytes come before it (PROTOCOL.key of OpenSSH).
        part = body[216:256]
    elif len(body) < 260:
        # P-256 in PKCS #8: 36 bytes come before it (RFC 5208, RFC 5915).
        part = body[50:90]
    else:
        # RSA: all of the second half is private (RFC 8017, A.1.2).
        part = body[len(body) // 2 :][:40]
    assert len(part) == 40, "it is no key"
    return part


def with_lines(folder: Path, *texts: str) -> list[Path]:
    """The files that have one of these texts, wherever their lines are broken."""
    needles = [text.encode() for text in texts]
    found = []
    for path in _walk(folder):
        is_file = path.is_file() and not path.is_symlink() and path.stat().st_size < 8 << 20
        text = path.read_bytes() if is_file else b""
        if _has(text.replace(b"\n", b"").replace(b"\\n", b""), needles):
            found.append(path)
    return found


def forgotten(places: Iterable[Path], *texts: str) -> None:
    """Wait until texts are in no file: not in the store either, nor in its log."""
    needles = [needle for text in texts for needle in forms(text)]
    for place in places:
        eventually(
            lambda place=place: not files_with(place, *needles),  # type: ignore[misc]
            f"it is nowhere in {place}",
            within_s=ERASED_S,
        )


def sight(owner: str) -> str:
    """A line of sh that tells what an account can see of another's files, and of all processes."""
    return (
        f"ls -lR /home/{owner}/.skyport 2>&1; cat /proc/[0-9]*/environ 2>/dev/null; "
        f"ps -ewwo pid,args; find /tmp /var/tmp /home /run -type f -readable -user {owner}; :"
    )


def hidden(seen: str, *texts: str) -> None:
    """Have what an account can see (`sight`) be nothing of the site's files, nor of texts."""
    assert not [text for text in texts if _has(seen.encode(), forms(text))]
    assert "Permission denied" in seen or "No such file" in seen
    readable = [line for line in seen.splitlines() if line.startswith(("/home/", "/tmp/", "/var/"))]
    assert not [line for line in readable if ".skyport" in line or "swm" in line]


def _has(data: bytes, needles: Iterable[bytes]) -> bool:
    return any(needle in data for needle in needles)
