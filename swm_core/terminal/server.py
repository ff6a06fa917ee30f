"""ServerService: the core itself."""

from __future__ import annotations

import collections
import os
import time
from collections.abc import Callable

from rpc_kit.interceptor import Context as CallContext
from rpc_kit.tls import MAX_MESSAGE_BYTES
from skyport.terminal.v1 import server_pb2, server_pb2_grpc
from swm_core.jobscript import MAX_SCRIPT_BYTES
from swm_core.lifecycle.context import Context
from swm_core.security.identity import current_caller
from swm_core.spool import MAX_BYTES, MAX_ENTRIES
from swm_core.terminal import convert
from swm_core.terminal.files import MOST_CONTENTS


class ServerService(server_pb2_grpc.ServerServiceServicer):
    """Tells what the core is.

    Args:
        context: The core's parts.
        version: The core's version.
        ca_end: Tells when the certificate of the CA ends, in seconds since the epoch.
    """

    def __init__(
        self, context: Context, version: str, ca_end: Callable[[], float | None] = lambda: None
    ) -> None:
        self._context = context
        self._ca_end = ca_end
        self._version = version
        self._start_time = time.time()

    async def GetServerInfo(
        self, request: server_pb2.GetServerInfoRequest, context: CallContext
    ) -> server_pb2.GetServerInfoResponse:
        caller = current_caller()
        counts = collections.Counter(
            job.state for job in self._context.jobs if caller.may_see(job.owner)
        )
        spool = self._context.spool
        room = spool.room(caller.user)
        limit = spool.max_bytes
        if room.max_bytes and not caller.is_admin:
            limit = min(limit, room.max_bytes)
        ca_end = self._ca_end() if caller.is_admin else None
        return server_pb2.GetServerInfoResponse(
            version=self._version,
            api_versions=["v1"],
            installation=self._context.installation,
            start_time=convert.timestamp(self._start_time),
            pid=os.getpid(),
            limits=server_pb2.ServerLimits(
                script_bytes=MAX_SCRIPT_BYTES,
                message_bytes=MAX_MESSAGE_BYTES,
                find_missing_contents=MOST_CONTENTS,
                manifest_entries=MAX_ENTRIES,
                manifest_bytes=MAX_BYTES,
            ),
            active_jobs=[
                server_pb2.JobCount(state=convert.state(state), jobs=count)
                for state, count in sorted(counts.items())
            ],
            spool_used_bytes=spool.used_bytes if caller.is_admin else room.used_bytes,
            spool_limit_bytes=limit,
            ca_expire_time=None if ca_end is None else convert.timestamp(ca_end),
        )
