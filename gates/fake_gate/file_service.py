"""Files of attempts in folders of this machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

from gate_kit import Page, errors, file_service
from gate_kit.job_checks import Place
from gate_kit.put_files import Requests
from gates.fake_gate.admission import Admission
from gates.fake_gate.attempt import Attempt
from gates.fake_gate.downloads import Positions, get_files, list_files
from gates.fake_gate.jobs import Jobs
from gates.fake_gate.uploads import Uploads
from skyport.gate.v1 import file_pb2, types_pb2


class FileService(file_service.FileService):
    """Serves files of attempts."""

    def __init__(self, admission: Admission, jobs: Jobs, uploads: Uploads) -> None:
        super().__init__(admission, _Files(admission, jobs, uploads))


class _Files:
    """What FileService asks."""

    def __init__(self, admission: Admission, jobs: Jobs, uploads: Uploads) -> None:
        self._admission = admission
        self._jobs = jobs
        self._uploads = uploads
        self._positions = Positions()

    async def put(
        self, begin: file_pb2.PutFilesBegin, requests: Requests, place: Place
    ) -> AsyncGenerator[file_pb2.PutFilesResponse, None]:
        """The answers of PutFiles, after its begin."""
        self._admission.workdir(begin.workdir)
        attempt = self._jobs.evidence.locate(begin.ref, make_root=True)
        if not place.is_ready and not attempt.exists:
            raise errors.partition_not_ready(begin.ref.partition_id, place.text)
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

    async def list(
        self, request: file_pb2.ListFilesRequest, page: Page
    ) -> file_pb2.ListFilesResponse:
        """A page of what the patterns match."""
        folder = self._folder(request.ref, request.node)
        return await asyncio.to_thread(list_files, folder, request.patterns, page, self._positions)

    def get(
        self, request: file_pb2.GetFilesRequest
    ) -> AsyncGenerator[file_pb2.GetFilesResponse, None]:
        """The files of the request in their order."""
        return get_files(self._folder(request.ref, request.node), request)

    def _folder(self, ref: types_pb2.JobRef, node: str) -> Path:
        """The work folder of a node; of the first one if none is named."""
        attempt: Attempt = self._jobs.evidence.find(ref)
        folders = self._jobs.specs.work_folders(attempt, ref, attempt.workdir())
        nodes = list(ref.nodes)
        return folders[nodes.index(node) if node in nodes and len(folders) > 1 else 0]
