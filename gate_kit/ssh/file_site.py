"""What FileService asks about files of attempts on hosts."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

from gate_kit import Page, errors
from gate_kit.job_checks import Place
from gate_kit.put_files import Requests
from gate_kit.ssh.downloads import Downloads
from gate_kit.ssh.host import Host
from gate_kit.ssh.sites import Sites
from gate_kit.ssh.uploads import Uploads
from skyport.gate.v1 import file_pb2


class SshFiles:
    """The site of a `gate_kit.file_service.FileService`.

    Args:
        sites: The hosts.
        uploads: Brings files there.
        downloads: Lists and reads them.
        check_workdir: Raises WORKDIR_NOT_ALLOWED where a named work folder is not allowed on a
            host.
    """

    def __init__(
        self,
        sites: Sites,
        uploads: Uploads,
        downloads: Downloads,
        check_workdir: Callable[[Host, str], Awaitable[None]],
    ) -> None:
        self._sites = sites
        self._uploads = uploads
        self._downloads = downloads
        self._check_workdir = check_workdir

    async def put(
        self, begin: file_pb2.PutFilesBegin, requests: Requests, place: Place
    ) -> AsyncGenerator[file_pb2.PutFilesResponse, None]:
        """The answers of PutFiles, after its begin."""
        if not place.is_ready:
            raise errors.partition_not_ready(begin.ref.partition_id, place.text)
        if begin.workdir:
            for host in self._sites.hosts(begin.ref):
                await self._check_workdir(host, begin.workdir)
        answers = self._uploads.put(begin, requests)
        async with contextlib.aclosing(answers):
            async for answer in answers:
                yield answer

    async def list(
        self, request: file_pb2.ListFilesRequest, page: Page
    ) -> file_pb2.ListFilesResponse:
        """A page of what the patterns match."""
        return await self._downloads.list(request, page)

    def get(
        self, request: file_pb2.GetFilesRequest
    ) -> AsyncGenerator[file_pb2.GetFilesResponse, None]:
        """The files of the request in their order."""
        return self._downloads.get(request)
