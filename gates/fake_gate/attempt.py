"""An attempt's folder: what lies there, and what it says about the attempt.

    labels          a JobStatus with ref and origin, for as long as there is no spec
    workdir         the folder of the user's own that the job works in, if it named one
    spec            the StartJobRequest, without its secrets: asked to start
    script hosts    what runs, and the names of its nodes
    manifest        digest of the manifest that was sent: there is only one
    inputs          the same, once it is whole in the work folder
    placed          what was put into a folder of the user's own, to be taken away again
    given           at a queue: a JobStatus with the allocations that it got
    work* stdout.N stderr.N
    private*        at a queue: variables that only the job may see, until the claim
    claim.N         "BOOT PID START": the runner that has node N; or "cancelled"
    session.N       the job's session on node N
    timer.N         the process there that waits for the time limit
    verdict.N       the reason why it is being ended; the runner takes it into the end
    end.N           how it ended there; the first one counts
    notice.N        what the shell of the runner had to say

Claims and ends are linked into place, so each is whole, and there is one of each.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from gate_kit.job_status import End, Phase, parse_end
from gate_kit.ssh.layout import AttemptPath
from gates.fake_gate import processes
from gates.fake_gate.site import read, write_all, write_new, write_whole
from skyport.gate.v1 import job_pb2, types_pb2

M = TypeVar("M", bound=Message)

_CANCELLED = "cancelled"


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """Who runs an attempt on a node. A pid of 0: no runner ever did, or nobody knows."""

    boot_id: str
    pid: int
    started: int
    """Ticks since boot."""
    time_ns: int

    @property
    def is_readable(self) -> bool:
        return bool(self.pid) or self.boot_id == _CANCELLED

    def is_alive(self, boot_id: str) -> bool:
        return bool(
            self.pid and self.boot_id == boot_id and processes.started_at(self.pid) == self.started
        )


@dataclasses.dataclass(frozen=True, slots=True)
class OnNode:
    """An attempt on one of its nodes."""

    name: str
    phase: Phase
    claim: Claim | None = None
    end: End | None = None


class Attempt:
    """One attempt's folder. Nothing is kept in memory: each answer is read from there."""

    __slots__ = ("_path", "folder", "key")

    def __init__(self, key: AttemptPath, folder: Path) -> None:
        self.key = key
        self.folder = folder
        self._path = f"{folder}/"

    @property
    def exists(self) -> bool:
        return self.folder.is_dir()

    def make_folder(self, workdir: str) -> bool:
        """Make the folder; returns whether it was not there.

        Args:
            workdir: The folder of the user's own that the job works in, if it named one.
        """
        try:
            self.folder.mkdir(mode=0o700)
        except FileExistsError:
            return False
        except FileNotFoundError:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
        if workdir:
            write_whole(self.folder / "workdir", workdir.encode())
        return True

    def make(self, ref: types_pb2.JobRef, origin: types_pb2.Origin, workdir: str) -> None:
        """Make the folder with its labels, unless it is there."""
        self.make_folder(workdir)
        labels = job_pb2.JobStatus(ref=ref, origin=origin)
        labels.ref.ClearField("roots")
        write_whole(self.folder / "labels", labels.SerializeToString())

    # What was asked.

    def spec(self) -> job_pb2.StartJobRequest | None:
        """What it was asked to start with; None before."""
        return self._message("spec", job_pb2.StartJobRequest)

    def write_spec(self, spec: job_pb2.StartJobRequest) -> int:
        """Write what it is started with; returns a descriptor of it that is not synced yet."""
        draft = f"{self._path}.spec"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(descriptor, spec.SerializeToString())
            os.rename(draft, f"{self._path}spec")  # noqa: PTH104 - no Path for a moment's use
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def labels(self) -> job_pb2.JobStatus | None:
        return self._message("labels", job_pb2.JobStatus)

    def nodes(self, spec: job_pb2.StartJobRequest) -> list[str]:
        """The nodes on which it runs: empty while a queue has given none."""
        given = list(spec.ref.nodes) or self.placement()
        return given if spec.spec.launch == job_pb2.LAUNCH_EVERY else given[:1]

    def workdir(self) -> str:
        """The folder of the user's own that the job works in; empty if it named none."""
        return self._text("workdir")

    def manifest(self) -> bytes:
        """Digest of the manifest that was sent; empty if none was."""
        return bytes.fromhex(self._text("manifest"))

    def inputs(self) -> bytes:
        """Digest of the manifest that is whole in the work folder; empty if none is."""
        return bytes.fromhex(self._text("inputs"))

    def write_digest(self, name: str, sha256: bytes) -> None:
        """Note the digest of the manifest, as `manifest` or as `inputs`."""
        write_whole(self.folder / name, sha256.hex().encode())

    def given(self) -> list[types_pb2.Allocation]:
        """What the queue gave it; empty before."""
        told = self._message("given", job_pb2.JobStatus)
        return list(told.allocations) if told else []

    def placement(self) -> list[str]:
        """The nodes that the queue gave it; empty before."""
        return [allocation.node for allocation in self.given()]

    # What became of it.

    def on_node(self, node: str, boot_id: str) -> OnNode:
        """How far it is on one node. Reads the end first and last: it may come in between."""
        end = self._end(node)
        claim = self.claim(node)
        if end:
            return OnNode(node, Phase.ENDED, claim, end)
        if claim is None:
            return OnNode(node, Phase.UNCLAIMED)
        if claim.is_alive(boot_id):
            return OnNode(node, Phase.RUNNING, claim)
        end = self._end(node)
        return OnNode(node, Phase.ENDED if end else Phase.LOST, claim, end)

    def claim(self, node: str) -> Claim | None:
        """Who has claimed the node."""
        read = self._read(f"claim.{node}")
        if read is None:
            return None
        text, time_ns = read[0].decode(errors="replace").strip(), read[1]
        words = text.split()
        if len(words) == 3 and words[1].isdigit() and words[2].isdigit():
            return Claim(words[0], int(words[1]), int(words[2]), time_ns)
        return Claim(text, 0, 0, time_ns)

    def timer(self, node: str) -> int | None:
        """The part of the runner that waits for the time limit."""
        text = self._text(f"timer.{node}").strip()
        return int(text) if text.isdigit() else None

    def session(self, node: str) -> int | None:
        """The id of the job's session on a node, once it has one."""
        text = self._text(f"session.{node}").strip()
        # 0 and 1 are the system's: never a job's, whatever the file says.
        return int(text) if text.isdigit() and int(text) > 1 else None

    def verdict(self, node: str) -> str:
        """The reason why it is being ended; empty if it is not."""
        return self._text(f"verdict.{node}").strip()

    def claim_instead(self, node: str) -> bool:
        """Take the claim so that no runner can; returns whether it was free."""
        return write_new(self.folder / f"claim.{node}", _CANCELLED.encode())

    def judge(self, node: str, reason: str) -> None:
        """Have the runner say `reason` when the job ends; the first reason counts."""
        write_new(self.folder / f"verdict.{node}", f"{reason}\n".encode())

    def write_end(self, node: str, reason: str, *, started: bool) -> bool:
        """Write the end that no runner wrote; returns False if there is one."""
        kind = "failure" if started else "unstarted"
        return write_new(self.folder / f"end.{node}", f"{kind} {reason}\n.\n".encode())

    def _end(self, node: str) -> End | None:
        read = self._read(f"end.{node}")
        if read is None:
            return None
        *lines, _ = read[0].decode(errors="replace").split("\n")
        return parse_end(lines, read[1])

    def _text(self, name: str) -> str:
        read = self._read(name)
        return read[0].decode() if read else ""

    def _message(self, name: str, kind: type[M]) -> M | None:
        read = self._read(name)
        return kind.FromString(read[0]) if read else None

    def _read(self, name: str) -> tuple[bytes, int] | None:
        return read(self._path + name)
