"""Files of a job that has not ended: what its work folder holds now, asked of the site.

Of a job whose script runs on several nodes with folders of their own, files of the nodes after the
first lie below a folder named after their node, as its outputs will.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import grpc

from rpc_kit.errors import Refusal, invalid, precondition, unavailable
from rpc_kit.paging import Page
from skyport.common.v1 import manifest_pb2
from skyport.gate.v1 import file_pb2 as gate_pb2
from skyport.gate.v1 import types_pb2 as gate_types_pb2
from skyport.terminal.v1 import file_pb2, types_pb2
from swm_core.domain.job import Job, Launch
from swm_core.domain.paths import PathRefused, check_link, check_path
from swm_core.domain.states import JobState
from swm_core.domain.words import words
from swm_core.gateways.gate import Gate
from swm_core.gateways.problems import GateError, Meaning
from swm_core.gateways.watching import heard
from swm_core.lifecycle.asking import Asker
from swm_core.lifecycle.context import Context

_LIST_S = 60.0
_HAS_RUN = frozenset({JobState.RUNNING, JobState.STAGING_OUT})


class _Asked(NamedTuple):
    """A file that is asked for, and its place in the caller's request."""

    position: int
    cursor: gate_pb2.FileCursor


class WorkFolders:
    """Asks gates about the work folders of jobs.

    Args:
        context: The core's parts.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    async def list(
        self, job: Job, patterns: Sequence[str], page: Page
    ) -> file_pb2.ListOutputsResponse:
        """A page of what matches `patterns`, or the script's own where there are none.

        Raises:
            Refusal: OUTPUTS_NOT_READY, SITE_UNREACHABLE, PATH_INVALID.
        """
        gate, ref = self._place(job)
        nodes = _nodes(job, gate)
        patterns = patterns or job.spec.output_files
        number, _, token = page.after.partition(":")
        at = int(number or 0)
        if not patterns or at >= len(nodes):
            return file_pb2.ListOutputsResponse()
        node = nodes[at]
        request = gate_pb2.ListFilesRequest(
            ref=ref, patterns=patterns, node=node, page_size=page.size, page_token=token
        )
        try:
            found = await gate.call(gate.files.ListFiles, request, timeout_s=_LIST_S)
        except GateError as error:
            raise _refusal(job, error) from error
        answer = file_pb2.ListOutputsResponse(skipped=found.skipped)
        for skipped in answer.skipped:
            skipped.path = _landing(node, skipped.path)
        for file in found.files:
            if why := _refused_path(_landing(node, file.entry.path), file.entry):
                answer.skipped.add(path=words(file.entry.path), reason=words(why))
                continue
            listed = answer.files.add(entry=file.entry)
            listed.entry.path = _landing(node, file.entry.path)
            if file.HasField("modify_time"):
                listed.modify_time.CopyFrom(file.modify_time)
        if not node:
            answer.unmatched_patterns.extend(found.unmatched_patterns)
        if found.next_page_token:
            answer.next_page_token = page.token(f"{at}:{found.next_page_token}")
        elif at + 1 < len(nodes):
            answer.next_page_token = page.token(f"{at + 1}:")
        return answer

    async def download(
        self, job: Job, cursors: Sequence[file_pb2.DownloadCursor]
    ) -> AsyncIterator[file_pb2.DownloadResponse]:
        """The files as they are now, in the order of `cursors`.

        Raises:
            Refusal: OUTPUTS_NOT_READY, SITE_UNREACHABLE, OFFSET.
        """
        gate, ref = self._place(job)
        others = _nodes(job, gate)[1:]
        for node, files in _by_node(cursors, others):
            request = gate_pb2.GetFilesRequest(
                ref=ref, node=node, files=[file.cursor for file in files]
            )
            try:
                async for answer in heard(gate.files.GetFiles(request)):
                    yield _download(answer, files)
            except grpc.aio.AioRpcError as error:
                raise _refusal(job, gate.problem(error)) from error
            except TimeoutError:
                raise _unreachable(job, "it went silent") from None

    def _place(self, job: Job) -> tuple[Gate, gate_types_pb2.JobRef]:
        if job.state not in _HAS_RUN:
            raise precondition(
                "OUTPUTS_NOT_READY",
                f"job {job.job_id} is {job.state}; it has files once it runs",
                job_id=job.job_id,
                state=job.state,
            )
        gate = self._context.gates.get(job.site)
        if gate is None or not gate.ready:
            raise _unreachable(job, gate.message if gate else "it is not configured any more")
        return gate, Asker(self._context, gate, job.job_id).ref(job)


def _nodes(job: Job, gate: Gate) -> list[str]:
    """Whose folders there are; empty stands for the first node."""
    if job.spec.launch is Launch.EVERY and not gate.can("SHARED_FILESYSTEM"):
        return ["", *(allocation.node for allocation in job.allocations[1:])]
    return [""]


def _by_node(
    cursors: Sequence[file_pb2.DownloadCursor], others: Sequence[str]
) -> list[tuple[str, list[_Asked]]]:
    """The files in groups of one node each, in the order in which they are asked for."""
    groups: list[tuple[str, list[_Asked]]] = []
    for index, cursor in enumerate(cursors):
        folder, _, below = cursor.path.partition("/")
        node = folder if below and folder in others else ""
        asked = gate_pb2.FileCursor(path=below if node else cursor.path)
        # A digest was told of a collected file only: what comes now comes from its beginning.
        if cursor.offset and cursor.HasField("modify_time"):
            asked.offset, asked.size = cursor.offset, cursor.size
            asked.modify_time.CopyFrom(cursor.modify_time)
        if not groups or groups[-1][0] != node:
            groups.append((node, []))
        groups[-1][1].append(_Asked(index, asked))
    return groups


def _download(
    answer: gate_pb2.GetFilesResponse, files: Sequence[_Asked]
) -> file_pb2.DownloadResponse:
    told = file_pb2.DownloadResponse()
    for piece in answer.pieces:
        if piece.index >= len(files):
            continue  # of nothing that was asked for
        copy = told.pieces.add(
            index=files[piece.index].position, offset=piece.offset, data=piece.data
        )
        if piece.HasField("end"):
            copy.end.size, copy.end.sha256 = piece.end.size, piece.end.sha256
            copy.end.modify_time.CopyFrom(piece.end.modify_time)
            if piece.end.HasField("failure"):
                failure = piece.end.failure
                copy.end.failure.CopyFrom(
                    types_pb2.Failure(reason=failure.reason, message=failure.message)
                )
    return told


def _refused_path(path: str, entry: manifest_pb2.ManifestEntry) -> str:
    """Why a terminal must not be told of what a site names; empty: it may."""
    try:
        check_path(path)
        if entry.type == manifest_pb2.FILE_TYPE_SYMLINK:
            check_link(path, entry.link_target)
    except PathRefused as refused:
        return str(refused)
    return ""


def _landing(node: str, path: str) -> str:
    return f"{node}/{path}" if node else path


def _refusal(job: Job, error: GateError) -> Refusal:
    """What the caller is told where the gate refused."""
    if error.meaning is Meaning.GONE:
        return precondition(
            "OUTPUTS_NOT_READY",
            f"site {job.site} has no files of job {job.job_id}",
            job_id=job.job_id,
            state=job.state,
        )
    if error.reason in {"PATH_INVALID", "PAGE_TOKEN_INVALID"}:
        return invalid(error.message, field="patterns", reason=error.reason)
    if error.reason == "OFFSET":
        return Refusal(
            grpc.StatusCode.OUT_OF_RANGE,
            "OFFSET",
            error.message,
            metadata={"offset": error.problem.metadata.get("offset", "0")},
        )
    return _unreachable(job, error.message)


def _unreachable(job: Job, why: str) -> Refusal:
    return unavailable(
        "SITE_UNREACHABLE",
        f"site {job.site} can't be asked for the files of job {job.job_id} now: {why}",
        retry_after_s=2.0,
    )
