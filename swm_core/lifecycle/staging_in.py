"""Inputs from the spool to a site."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import grpc.aio

from skyport.common.v1 import manifest_pb2
from skyport.gate.v1 import file_pb2, types_pb2
from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.job import Job
from swm_core.gateways.gate import Gate
from swm_core.gateways.watching import readable
from swm_core.lifecycle.asking import AttemptFailed
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.defects import GateDefect, sent_wrong
from swm_core.spool import CHUNK_BYTES, OwnerContents, SpoolRefusal

_PAGE_ENTRIES = 5_000
_PAGE_BYTES = 1 << 20
_TELL_EVERY_S = 2.0


async def put_inputs(
    context: Context, gate: Gate, job: Job, ref: types_pb2.JobRef
) -> list[types_pb2.SiteRoot]:
    """Bring the inputs of an attempt to its site; again from the beginning after a break.

    Returns:
        The roots that hold the attempt.

    Raises:
        GateError: It did not work.
        AttemptFailed: The inputs are not in the spool any more.
        OSError: The spool can't be read now.
    """
    contents = context.spool.owner(job.owner)
    try:
        manifest = await asyncio.to_thread(_Inputs.load, context, job)
    except SpoolRefusal as error:
        raise await _lacking(contents, error) from error
    call = gate.files.PutFiles()
    sending: asyncio.Task[None] | None = None
    try:
        await call.write(
            file_pb2.PutFilesRequest(
                begin=file_pb2.PutFilesBegin(
                    ref=ref,
                    manifest_sha256=manifest.digest,
                    origin=types_pb2.Origin(
                        installation=context.installation, store_generation=context.generation
                    ),
                    entry_count=len(manifest.entries),
                    total_bytes=sum(entry.size for entry in manifest.entries),
                    workdir=job.spec.workdir,
                )
            )
        )
        for page in manifest.pages():
            await call.write(file_pb2.PutFilesRequest(page=page))
        needed: list[file_pb2.NeededFile] = []
        told = 0.0
        # Typed with EOF, which ends the loop.
        answer: Any
        while (answer := await call.read()) is not grpc.aio.EOF:
            match readable(answer).WhichOneof("message"):
                case "needed":
                    if sending is not None:
                        raise GateDefect("what it needs, twice")
                    needed += answer.needed.files
                    if len(needed) > len(manifest.sizes):
                        raise GateDefect("more files that it needs than there are")
                    for need in answer.needed.files:
                        if need.offset > manifest.sizes.get(need.sha256, -1):
                            raise GateDefect(f"{need.sha256.hex()} as needed, which is no input")
                    if answer.needed.last:
                        sending = asyncio.create_task(_send(call, contents, manifest, needed))
                case "progress":
                    now = asyncio.get_running_loop().time()
                    if now - told > _TELL_EVERY_S:
                        told = now
                        text = f"bringing inputs: {answer.progress.complete_files} files"
                        await context.jobs.note(job.job_id, f"{text} of {len(manifest.sizes)}")
                case "result":
                    gate.reached(ref)
                    return list(answer.result.roots)
                case _:
                    pass
        # Without a result the status says why.
        await call.code()
        raise ConnectionResetError("the gate ended the transfer without a result")
    except grpc.aio.AioRpcError as error:
        raise gate.problem(error, ref) from error
    except GateDefect as error:
        raise AttemptFailed(sent_wrong(gate, error)) from error
    except (asyncio.InvalidStateError, ConnectionResetError):
        # A write after the call has ended: its status tells more than the write's own error.
        raise gate.problem(await _status(call), ref) from None
    finally:
        call.cancel()
        if sending is not None:
            sending.cancel()
            outcome = (await asyncio.gather(sending, return_exceptions=True))[0]
            if isinstance(outcome, SpoolRefusal):
                raise await _lacking(contents, outcome) from outcome
            if isinstance(outcome, OSError):
                raise outcome


async def _lacking(contents: OwnerContents, error: SpoolRefusal) -> AttemptFailed:
    """What it means that the spool lacks an input.

    Raises:
        OSError: Nothing, since the spool itself is away.
    """
    await asyncio.to_thread(contents.check)
    return AttemptFailed(Failure(FailureReason.STAGING_FAILED, str(error)))


async def _status(call: object) -> grpc.aio.AioRpcError:
    """The status of a call that has ended, as an error."""
    metadata = grpc.aio.Metadata()
    code = await call.code()  # type: ignore[attr-defined]
    trailing = await call.trailing_metadata()  # type: ignore[attr-defined]
    details = await call.details()  # type: ignore[attr-defined]
    if code is grpc.StatusCode.OK:
        code, details = grpc.StatusCode.UNAVAILABLE, "the gate ended the transfer early"
    return grpc.aio.AioRpcError(code, metadata, trailing, details)


@dataclasses.dataclass(frozen=True, slots=True)
class _Inputs:
    """The manifest of a job's inputs."""

    digest: bytes
    entries: list[manifest_pb2.ManifestEntry]
    sizes: dict[bytes, int]
    """Of each content."""

    @classmethod
    def load(cls, context: Context, job: Job) -> _Inputs:
        if not job.manifest_sha256:
            return cls(hashlib.sha256(b"").digest(), [], {})
        entries = list(context.spool.manifest(job.owner, job.manifest_sha256))
        sizes = {
            entry.sha256: entry.size
            for entry in entries
            if entry.type == manifest_pb2.FILE_TYPE_FILE
        }
        return cls(bytes.fromhex(job.manifest_sha256), entries, sizes)

    def pages(self) -> Iterator[file_pb2.ManifestPage]:
        """At least one; the last says so."""
        page, size = file_pb2.ManifestPage(), 0
        for entry in self.entries:
            if len(page.entries) >= _PAGE_ENTRIES or size > _PAGE_BYTES - 10_000:
                yield page
                page, size = file_pb2.ManifestPage(), 0
            page.entries.append(entry)
            size += entry.ByteSize()
        page.last = True
        yield page


async def _send(
    call: object,
    contents: OwnerContents,
    manifest: _Inputs,
    needed: Sequence[file_pb2.NeededFile],
) -> None:
    messages = _messages(contents, manifest, needed)
    try:
        while (message := await asyncio.to_thread(next, messages, None)) is not None:
            await call.write(message)  # type: ignore[attr-defined]
        await call.done_writing()  # type: ignore[attr-defined]
    except (SpoolRefusal, OSError):
        # The gate would wait for the rest, and we for its answer.
        call.cancel()  # type: ignore[attr-defined]
        raise


def _messages(
    contents: OwnerContents, manifest: _Inputs, needed: Sequence[file_pb2.NeededFile]
) -> Iterator[file_pb2.PutFilesRequest]:
    """What is needed, in messages of up to 1 MiB: many small files or a piece of a large one."""
    message, room = file_pb2.PutFilesRequest(), CHUNK_BYTES
    for need in needed:
        size = manifest.sizes[need.sha256]
        with contents.open(need.sha256.hex()) as file:
            offset = file.seek(need.offset)
            while True:
                data = file.read(min(room, CHUNK_BYTES))
                last = offset + len(data) >= size
                message.pieces.pieces.add(sha256=need.sha256, offset=offset, data=data, last=last)
                offset += len(data)
                room -= len(data) + 64
                if room <= 4096:
                    yield message
                    message, room = file_pb2.PutFilesRequest(), CHUNK_BYTES
                if last or not data:
                    break
    if message.pieces.pieces:
        yield message
