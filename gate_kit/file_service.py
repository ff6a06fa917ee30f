"""FileService: checks requests and hands them on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from gate_kit.job_checks import Place
from gate_kit.job_service import Admission
from gate_kit.put_files import Requests, begin_of
from gate_kit.validation import Fields
from rpc_kit.interceptor import Context
from rpc_kit.logs import job_context
from rpc_kit.paging import Page, page_of
from skyport.gate.v1 import file_pb2, file_pb2_grpc

_MOST_FILES = 10_000
_MOST_PATTERNS = 1_000


class FileSite(Protocol):
    """What differs from gate to gate. The requests that it gets are checked.

    Each coroutine and each iterator may raise a Refusal.
    """

    def put(
        self, begin: file_pb2.PutFilesBegin, requests: Requests, place: Place
    ) -> AsyncGenerator[file_pb2.PutFilesResponse, None]:
        """The answers of PutFiles, after its begin."""
        ...

    async def list(
        self, request: file_pb2.ListFilesRequest, page: Page
    ) -> file_pb2.ListFilesResponse:
        """A page of what the patterns match."""
        ...

    def get(
        self, request: file_pb2.GetFilesRequest
    ) -> AsyncGenerator[file_pb2.GetFilesResponse, None]:
        """The files of the request in their order."""
        ...


class FileService(file_pb2_grpc.FileServiceServicer):
    """Serves files of attempts.

    Args:
        admission: Checks who asks, and for what.
        site: Has them.
    """

    def __init__(self, admission: Admission, site: FileSite) -> None:
        self._admission = admission
        self._site = site

    async def PutFiles(
        self, request_iterator: AsyncIterator[file_pb2.PutFilesRequest], context: Context
    ) -> AsyncIterator[file_pb2.PutFilesResponse]:
        requests = aiter(request_iterator)
        begin = await begin_of(requests)
        place = self._admission.ref(begin.ref)
        with job_context(begin.ref.job_id, begin.ref.attempt):
            answers = self._site.put(begin, requests, place)
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
        self._admission.checks.node(request.ref, request.node)
        return await self._site.list(request, page_of(request, default_size=1_000, max_size=10_000))

    async def GetFiles(
        self, request: file_pb2.GetFilesRequest, context: Context
    ) -> AsyncIterator[file_pb2.GetFilesResponse]:
        self._admission.ref(request.ref)
        fields = Fields()
        if not 1 <= len(request.files) <= _MOST_FILES:
            fields.wrong("files", f"has {len(request.files)}; 1 to {_MOST_FILES:,} serve")
        fields.done()
        self._admission.checks.node(request.ref, request.node)
        answers = self._site.get(request)
        async with contextlib.aclosing(answers):
            async for answer in answers:
                yield answer
