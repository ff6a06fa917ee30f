"""PutFiles to hosts: a cache gets what it lacks, the work folder a copy of the whole."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from pathlib import Path

from gate_kit import LatestWins, Operations, errors
from gate_kit.bells import Bells
from gate_kit.put_files import Arrived, Lack, Requests, put_files
from gate_kit.scratch import Scratch
from gate_kit.ssh import evidence, named_inputs
from gate_kit.ssh.answers import as_refusals
from gate_kit.ssh.cached_inputs import CachedInputs, mismatches
from gate_kit.ssh.conversation import Conversation, together
from gate_kit.ssh.host import Host
from gate_kit.ssh.jobs import root_of
from gate_kit.ssh.layout import AttemptKey
from gate_kit.ssh.sites import Sites
from skyport.gate.v1 import file_pb2, types_pb2


class Uploads:
    """What PutFiles does, for all attempts.

    Args:
        sites: The hosts.
        operations: Whose lock on an attempt keeps a start and a placing apart.
        bells: Rung when an attempt is made.
        cache_bytes: Limit of each account's cache on each host.
    """

    def __init__(
        self, sites: Sites, operations: Operations, bells: Bells, cache_bytes: int
    ) -> None:
        self.sites = sites
        self.operations = operations
        self.bells = bells
        self._cache_bytes = cache_bytes
        self._streams = LatestWins()
        self._users: collections.Counter[Host] = collections.Counter()
        """How many calls use the cache of a host."""

    async def put(
        self, begin: file_pb2.PutFilesBegin, requests: Requests
    ) -> AsyncGenerator[file_pb2.PutFilesResponse, None]:
        """The answers to one call, after its begin.

        Args:
            begin: The first message, checked; that the named work folder is allowed, too.
            requests: The others.

        Raises:
            Refusal: As protos/README.md has them for PutFiles.
        """
        key = AttemptKey.of(begin.ref)
        hosts = self.sites.hosts(begin.ref)
        used = hosts[:1] if self.sites.is_shared else hosts
        async with self._streams.hold(key, lambda: errors.replaced("PutFiles")):
            with Scratch("put") as scratch, self._using(used):
                store = _Inputs(self, begin, used, scratch.path / "manifest")
                try:
                    with as_refusals(begin.ref):
                        answers = put_files(begin, requests, store)
                        async with contextlib.aclosing(answers):
                            async for answer in answers:
                                yield answer
                finally:
                    await store.close()
            for host in used:
                if not self._users[host]:
                    self.operations.spawn(self._trim(host), f"cache trim of {host.node}")

    async def end(self, key: AttemptKey, refusal: errors.Refusal) -> None:
        """End the PutFiles of an attempt, if one is under way."""
        await self._streams.end(key, refusal)

    @contextlib.contextmanager
    def _using(self, hosts: Sequence[Host]) -> Iterator[None]:
        self._users.update(hosts)
        try:
            yield
        finally:
            self._users.subtract(hosts)

    async def _trim(self, host: Host) -> None:
        """Drop what was not used for longest, until the limit holds."""
        script = None
        try:
            script = await Conversation.begin(host, "trim", str(self._cache_bytes // 1024))
            await script.ask("trim")
        except errors.Refusal:
            pass  # the next call trims as well
        finally:
            if script is not None:
                await script.close()


class _Inputs:
    """The inputs of one attempt, as one call brings them."""

    def __init__(
        self,
        uploads: Uploads,
        begin: file_pb2.PutFilesBegin,
        hosts: Sequence[Host],
        manifest: Path,
    ) -> None:
        self.manifest = manifest
        self._uploads = uploads
        self._begin = begin
        self._key = AttemptKey.of(begin.ref)
        self._digest = begin.manifest_sha256.hex()
        self._hosts = hosts
        self._open: list[Host] = []
        """Hosts that don't have all of it in the work folder yet."""
        self._roots: dict[Host, str] = {}
        self._cached = CachedInputs()
        self._growing = contextlib.AsyncExitStack()

    async def open(self) -> None:
        async with self._uploads.operations.exclusive(self._key):
            inputs = await together(self._begin_on(host) for host in self._hosts)
        self._uploads.bells.ring(self._key)
        whole = zip(self._hosts, inputs, strict=True)
        self._open = [host for host, digest in whole if digest != self._digest]

    @property
    def _is_nothing(self) -> bool:
        """Whether there is nothing to bring, as most jobs have it: no script has to run for that.

        The start makes the work folder; one of the user's own is looked at all the same.
        """
        return not self._begin.entry_count and not self._begin.workdir

    async def lacking(self) -> Mapping[bytes, Lack]:
        await together(self._note(host, "manifest") for host in self._hosts)
        if not self._open or self._is_nothing:
            return {}
        # Of several attempts with the same inputs one brings them, and the others wait for it.
        for root in sorted({self._roots[host] for host in self._open}):
            growing = self._uploads.operations.exclusive(("tree", root, self._digest))
            await self._growing.enter_async_context(growing)
        async with mismatches():
            return await self._cached.look(
                self.manifest,
                {host: self._words(host) for host in self._open},
            )

    async def take(self, pieces: Sequence[file_pb2.FilePiece], arrived: Arrived) -> None:
        async with mismatches():
            await self._cached.take(pieces, arrived)

    async def place(self) -> Sequence[types_pb2.SiteRoot]:
        async with mismatches():
            if not self._is_nothing:
                await self._cached.grow(self.manifest)
                await self._growing.aclose()
            async with self._uploads.operations.exclusive(self._key):
                if not self._is_nothing:
                    await self._appear()
                await together(self._note(host, "inputs") for host in self._open)
        if self._uploads.sites.is_shared:
            return [types_pb2.SiteRoot(root_uid=self._roots[self._hosts[0]])]
        return [
            types_pb2.SiteRoot(node=host.node, root_uid=uid) for host, uid in self._roots.items()
        ]

    async def _appear(self) -> None:
        if self._begin.workdir:
            await together(self._place_named(host) for host in self._open)
        else:
            await self._cached.copy()
            await self._cached.appear()

    async def close(self) -> None:
        """Let go of the hosts. What has come stays."""
        await self._cached.close()
        await self._growing.aclose()

    async def _begin_on(self, host: Host) -> str:
        """Make the attempt on a host; returns the digest of the inputs that are whole there."""
        ref = self._begin.ref
        root = root_of(ref, host.node)
        # A place that should be there is never made.
        self._roots[host] = root or await host.make_root()
        labels = evidence.encode_labels(ref, self._begin.origin)
        reply = await host.ask("begin", self._key.path, root, labels, self._begin.workdir)
        told = dict(line.split(" ", 1) for line in reply.lines)
        if told.get("manifest", self._digest) != self._digest:
            raise errors.job_differs(ref)
        return told.get("inputs", "")

    async def _note(self, host: Host, name: str) -> None:
        await host.ask("note", self._key.path, self._roots[host], name, self._digest)

    def _words(self, host: Host) -> Sequence[str]:
        """The arguments of the scripts."""
        key = self._key.path
        name = key.replace("/", ",")
        return key, name, self._roots[host], self._digest, self._begin.workdir

    async def _place_named(self, host: Host) -> None:
        await named_inputs.place(
            host, self._words(host), self.manifest, lambda: self._cached.copy(host)
        )
