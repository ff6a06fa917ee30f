"""A user with a certificate, and all services of the core as that user sees them."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

import grpc

from rpc_kit.endpoint import Endpoint
from rpc_kit.tls import KeyPair, channel_credentials, channel_options, core_name
from skyport.terminal.v1 import (
    account_pb2_grpc,
    admin_pb2_grpc,
    catalog_pb2_grpc,
    file_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    server_pb2,
    server_pb2_grpc,
    tunnel_pb2_grpc,
)
from tests.system.harness.files import Tree, bring
from tests.system.harness.jobs import JobHandle

if TYPE_CHECKING:
    from collections.abc import Iterable

CALL_S = 30.0
_NOBODY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class User:
    """Calls the core. The stubs are grpc's own; what takes several calls has a method.

    Args:
        name: Of the user.
        keys: The certificate to show.
        endpoint: Of the core.
        installation: Of the core.
    """

    def __init__(self, name: str, keys: KeyPair, endpoint: Endpoint, installation: str) -> None:
        self.name = name
        self.keys = keys
        self.endpoint = endpoint
        self.installation = installation

    @functools.cached_property
    def channel(self) -> grpc.Channel:
        return grpc.secure_channel(
            self.endpoint.target,
            channel_credentials(self.keys),
            # A core that a test has started anew is to be found at once, not after a backoff.
            options=[
                *channel_options(core_name(self.installation)),
                ("grpc.max_reconnect_backoff_ms", 200),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )

    def close(self) -> None:
        if "channel" in self.__dict__:
            self.channel.close()

    def is_answered(self, *, within_s: float) -> bool:
        """Whether a core answers calls of this user, be it by a refusal."""
        request = server_pb2.GetServerInfoRequest()
        try:
            self.server.GetServerInfo(request, timeout=within_s, wait_for_ready=True)
        except grpc.RpcError as error:
            return error.code() not in _NOBODY
        return True

    @functools.cached_property
    def jobs(self) -> job_pb2_grpc.JobServiceStub:
        return job_pb2_grpc.JobServiceStub(self.channel)

    @functools.cached_property
    def files(self) -> file_pb2_grpc.FileServiceStub:
        return file_pb2_grpc.FileServiceStub(self.channel)

    @functools.cached_property
    def tunnels(self) -> tunnel_pb2_grpc.TunnelServiceStub:
        return tunnel_pb2_grpc.TunnelServiceStub(self.channel)

    @functools.cached_property
    def catalog(self) -> catalog_pb2_grpc.CatalogServiceStub:
        return catalog_pb2_grpc.CatalogServiceStub(self.channel)

    @functools.cached_property
    def account(self) -> account_pb2_grpc.AccountServiceStub:
        return account_pb2_grpc.AccountServiceStub(self.channel)

    @functools.cached_property
    def admin(self) -> admin_pb2_grpc.AdminServiceStub:
        return admin_pb2_grpc.AdminServiceStub(self.channel)

    @functools.cached_property
    def server(self) -> server_pb2_grpc.ServerServiceStub:
        return server_pb2_grpc.ServerServiceStub(self.channel)

    def submit(
        self,
        script: str,
        *,
        inputs: Tree | None = None,
        manifest_sha256: bytes = b"",
        secret_env: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        registry_logins: Iterable[job_pb2.RegistryLogin] = (),
        request_id: str = "",
        site: str = "",
    ) -> JobHandle:
        """Upload the inputs and submit a script; `#!/bin/sh` is put before one that has no `#!`."""
        request = submission(script, request_id=request_id, site=site, env=env)
        request.manifest_sha256 = bring(self, inputs) if inputs else manifest_sha256
        request.secret_env.update(secret_env or {})
        request.registry_logins.extend(registry_logins)
        answer = self.jobs.SubmitJob(request, timeout=CALL_S)
        return JobHandle(self, answer.job.job_id, answer.watch_token)

    def job(self, job_id: str) -> job_pb2.Job:
        """One job as it is now, with its attempts."""
        return self.jobs.GetJob(job_pb2.GetJobRequest(job_id=job_id), timeout=CALL_S).job


def submission(
    script: str, *, request_id: str = "", site: str = "", env: Mapping[str, str] | None = None
) -> job_pb2.SubmitJobRequest:
    """A request to submit a script, with a request id of its own unless one is given."""
    text = script if script.startswith("#!") else f"#!/bin/sh\n{script}"
    return job_pb2.SubmitJobRequest(
        script=text.encode(),
        overrides=job_pb2.JobOverrides(site=site, env=env),
        request_id=request_id or secrets.token_hex(8),
    )
