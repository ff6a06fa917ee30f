"""FileService: checks requests and hands them on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from gate_kit import Context, Fields, errors, job_context, page_of
from gates.fake_gate.admission import Admission
from gates.fake_gate.attempt import Attempt
from gates.fake_gate.downloads import Positions, get_files, list_files
from gates.fake_gate.jobs import Jobs
from gates.fake_gate.uploads import Uploads
from skyport.gate.v1 import file_pb2, file_pb2_grpc, types_pb2

_MOST_FILES = 10_000
_MOST_PATTERNS = 1_000


class FileService(file_pb2_grpc.FileServiceServicer):
    """Serves files of attempts."""

    def __init__(self, admission: Admission, jobs: Jobs, uploads: Uploads) -> None:
        self._admission = admission
        self._jobs = jobs
        self._uploads = uploads
        self._positions = Positions()

    async def PutFiles(
        self, request_iterator: AsyncIterator[file_pb2.PutFilesRequest], context: Context
    ) -> AsyncIterator[file_pb2.PutFilesResponse]:
        requests = aiter(request_iterator)
        first = await anext(requests, None)
        if first is None or first.WhichOneof("message") != "begin":
            raise errors.invalid("begin has to come first", field="begin", reason="FIELD_REQUIRED")
        begin = first.begin
        place = self._admission.ref(begin.ref)
        fields = Fields()
        fields.digest("begin.manifest_sha256", begin.manifest_sha256)
        fields.origin(begin.origin, begin.ref.installation, "begin.origin")
        fields.done()
        self._admission.workdir(begin.workdir)
        attempt = self._jobs.evidence.locate(begin.ref, make_root=True)
        if not place.is_ready and not attempt.exists:
            raise errors.partition_not_ready(begin.ref.partition_id, place.text)
        with job_context(begin.ref.job_id, begin.ref.attempt):
            answers = self._uploads.put(
                attempt,
                begin,
                requests,
                account=self._admission.account(begin.ref.owner).name,
                folders=self._jobs.specs.work_folders(attempt, begin.ref, begin.workdir),
            )
            async with contextlib.aclosing(answers):
                async for answer in answers:
                    yield answer

    async def ListFiles(
        self, request: file_pb2.ListFilesRequest, context: Context
    ) -> file_pb2.ListFilesResponse:
        self._admission.ref(request.ref)
        fields = Fields()
        if not 1 <= len(request.patterns) <= _MOST_PATTERNS:
            fields.wrong("patterns", f"has {len(request.patterns)}; 1 to {_MOST_PATTERNS:,} serve")
        fields.done()
        self._admission.node(request.ref, request.node)
        folder = self._folder(request.ref, request.node)
        page = page_of(request, default_size=1_000, max_size=10_000)
        return await asyncio.to_thread(list_files, folder, request.patterns, page, self._positions)

    async def GetFiles(
        self, request: file_pb2.GetFilesRequest, context: Context
    ) -> AsyncIterator[file_pb2.GetFilesResponse]:
        self._admission.ref(request.ref)
        fields = Fields()
        if not 1 <= len(request.files) <= _MOST_FILES:
            fields.wrong("files", f"has {len(request.files)}; 1 to {_MOST_FILES:,} serve")
        fields.done()
        self._admission.node(request.ref, request.node)
        answers = get_files(self._folder(request.ref, request.node), request.files)
        async with contextlib.aclosing(answers):
            async for answer in answers:
                yield answer

    def _folder(self, ref: types_pb2.JobRef, node: str) -> Path:
        """The work folder of a node; of the first one if none is named."""
        attempt: Attempt = self._jobs.evidence.find(ref)
        folders = self._jobs.specs.work_folders(attempt, ref, attempt.workdir())
        nodes = list(ref.nodes)
        return folders[nodes.index(node) if node in nodes and len(folders) > 1 else 0]
