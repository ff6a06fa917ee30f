"""PutFiles without a gate around it: calls of `Uploads`, on hosts with a chosen shell."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from gate_kit import Operations
from gate_kit.bells import Bells
from gate_kit.ssh.host import TOOLS, Host
from gate_kit.ssh.layout import AttemptKey
from gate_kit.ssh.local import LocalProcess, LocalTransport
from gate_kit.ssh.uploads import Uploads
from skyport.gate.v1 import file_pb2, types_pb2
from tests.fake_gate.harness import Tree, begin_request, make_ref, pages, pieces

WITHIN_S = 60.0
_PIECE = 1 << 20


class BusyboxTransport(LocalTransport):
    """This machine with no programs but those of busybox.

    Args:
        node: The node's name.
        folder: Where its programs go.
    """

    def __init__(self, node: str, folder: Path) -> None:
        super().__init__(node)
        program = shutil.which("busybox")
        assert program, "busybox is missing"
        self._tools = folder / "busybox"
        self._tools.mkdir()
        for name in {"sh", "env", "du", "readlink", "touch", *TOOLS}:
            (self._tools / name).symlink_to(program)

    @property
    def shell(self) -> str:
        """Its shell."""
        return f"{self._tools}/sh"

    async def open(self, command: str, *, lasting: bool = False) -> LocalProcess:
        """Start `command` where nothing else is found."""
        line = f"PATH={self._tools}; export PATH; {command}"
        return await super().open(line, lasting=lasting)


@dataclasses.dataclass
class OwnSites:
    """Hosts of one account."""

    all: Sequence[Host]
    is_shared: bool = False
    on_made: list[Callable[[Host], None]] = dataclasses.field(default_factory=list)

    def hosts(self, ref: types_pb2.JobRef) -> list[Host]:
        """Those that the job names."""
        return [host for host in self.all if host.node in ref.nodes]

    def everywhere(self, partition_id: str = "") -> list[Host]:
        """All of them."""
        return list(self.all)

    def addresses(self, partition_id: str) -> dict[str, str]:
        """None are known."""
        return {}


@dataclasses.dataclass
class Put:
    """How a PutFiles went."""

    needed: list[file_pb2.NeededFile] = dataclasses.field(default_factory=list)
    acknowledged: int = 0
    result: file_pb2.PutFilesResult | None = None


class Rig:
    """Some hosts, and uploads to them."""

    def __init__(
        self,
        hosts: Sequence[Host],
        roots: Sequence[Path],
        *,
        is_shared: bool = False,
        **uploads: int,
    ) -> None:
        self.hosts = hosts
        self.roots = roots
        self.operations = Operations()
        sites = OwnSites(hosts, is_shared)
        limit = uploads.get("cache_bytes", 1 << 30)
        self.uploads = Uploads(sites, self.operations, Bells(), limit)

    def ref(self, job: str = "job-1", attempt: int = 1) -> types_pb2.JobRef:
        """An attempt on all hosts."""
        return make_ref(job, *(host.node for host in self.hosts), attempt=attempt)

    def folder(self, ref: types_pb2.JobRef, host: int = 0) -> Path:
        """The attempt's folder."""
        return self.roots[host] / "jobs" / AttemptKey.of(ref).path

    def work(self, ref: types_pb2.JobRef, host: int = 0) -> Path:
        """Its work folder."""
        return self.folder(ref, host) / "work"

    async def put(
        self,
        ref: types_pb2.JobRef,
        tree: Tree,
        *,
        workdir: str = "",
        wrong: bytes = b"",
        stop_after: int | None = None,
        piece: int = _PIECE,
        before_pieces: asyncio.Event | None = None,
        hang: bool = False,
        into: Put | None = None,
    ) -> Put:
        """One call, from begin to result.

        Args:
            ref: The attempt.
            tree: What it brings.
            workdir: The work folder, if it is named.
            wrong: What comes instead of each content.
            stop_after: The call breaks when that many bytes have been handed over.
            piece: Bytes of a piece.
            before_pieces: Set when it is known what is needed.
            hang: Nothing comes then.
            into: What is returned, also for a call that breaks.
        """
        put = into or Put()
        is_known = asyncio.Event()

        async def requests() -> AsyncIterator[file_pb2.PutFilesRequest]:
            for page in pages(tree):
                yield page
            await is_known.wait()
            if before_pieces is not None:
                before_pieces.set()
            if hang:
                await asyncio.Event().wait()
            sent = 0
            contents = tree.contents
            batch: list[tuple[bytes, int, bytes, bool]] = []
            for want in put.needed:
                data = wrong or contents[want.sha256]
                for start in range(want.offset, len(data), piece):
                    part = data[start : start + piece]
                    batch.append((want.sha256, start, part, start + len(part) == len(data)))
                    sent += len(part)
                    if sum(len(each[2]) for each in batch) + piece > _PIECE:
                        yield pieces(*batch)
                        batch = []
                        if stop_after is not None and sent >= stop_after:
                            raise BrokenError
            if batch:
                yield pieces(*batch)

        begin = begin_request(ref, tree, workdir).begin
        answers = self.uploads.put(begin, requests())
        async with asyncio.timeout(WITHIN_S), contextlib.aclosing(answers):
            async for answer in answers:
                if answer.HasField("needed"):
                    put.needed += answer.needed.files
                    if answer.needed.last:
                        is_known.set()
                elif answer.HasField("progress"):
                    put.acknowledged = answer.progress.received_bytes
                else:
                    put.result = answer.result
        return put

    async def close(self) -> None:
        """Let go of all, once what goes on beside is over."""
        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(*self.operations._background)
        await self.operations.close()
        for host in self.hosts:
            await host.close()


class BrokenError(Exception):
    """The call was broken off."""


def found_in(folder: Path) -> dict[str, object]:
    """What lies below a folder: contents of files, targets of links, None for folders."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = None if path.is_dir() else path.read_bytes()
    return found


def check_found(folder: Path, files: Mapping[str, bytes]) -> None:
    """Check that just these files lie below a folder; of a large one no difference is shown."""
    found = found_in(folder)
    different = [name for name in {*found, *files} if found.get(name) != files.get(name)]
    assert not different, sorted(different)[:10]
