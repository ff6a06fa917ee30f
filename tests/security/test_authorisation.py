"""Who may call what: every RPC that a core or a gate serves, by everybody who may try.

The RPCs come from the descriptors, the answers from the tables here: one that is added without a
row fails a test.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from rpc_kit.identity import Kind
from rpc_kit.tls import gate_name
from skyport.gate.v1 import file_pb2 as gate_file
from skyport.gate.v1 import identity_pb2, inventory_pb2, partition_pb2
from skyport.gate.v1 import job_pb2 as gate_job
from skyport.gate.v1 import tunnel_pb2 as gate_tunnel
from skyport.terminal.v1 import (
    account_pb2,
    admin_pb2,
    catalog_pb2,
    file_pb2,
    job_pb2,
    server_pb2,
    tunnel_pb2,
)
from swm_core.home import load_ca
from tests.security.callers import (
    CODE,
    NO_CONNECTION,
    OK,
    Outcome,
    Strangers,
    ended_on_the_way,
    methods,
    outcomes,
    reached_by,
)
from tests.security.world import COMMON, TERMINAL, World
from tests.system.harness.core import ADMIN, Core, free_port
from tests.system.harness.jobs import STDOUT
from tests.system.harness.sites import GateProcess, Site, dynamic, static
from tests.system.test_gates import tls_options

_health: Any = health_pb2  # its types know no List yet
GATE_FILES = (gate_file, identity_pb2, inventory_pb2, gate_job, partition_pb2, gate_tunnel)
GATE = methods(*(file.DESCRIPTOR for file in GATE_FILES), *COMMON)

NO_ADMIN = Outcome(CODE.PERMISSION_DENIED, "ADMIN_REQUIRED")
NO_JOB = Outcome(CODE.NOT_FOUND, "JOB_NOT_FOUND")
NO_SITE = Outcome(CODE.NOT_FOUND, "SITE_NOT_FOUND")
NO_USER = Outcome(CODE.NOT_FOUND, "USER_NOT_FOUND")
NOT_ENDED = Outcome(CODE.FAILED_PRECONDITION, "JOB_NOT_ENDED")
NO_PORT = Outcome(CODE.FAILED_PRECONDITION, "PORT_NOT_FOUND")
REQUIRED = Outcome(CODE.INVALID_ARGUMENT, "FIELD_REQUIRED")
MALFORMED = Outcome(CODE.INVALID_ARGUMENT, "FIELD_MALFORMED")


@dataclasses.dataclass(frozen=True)
class Row:
    """A call, and how it ends for those whom the core serves.

    Attributes:
        request: About the world's jobs, which are bo's.
        owner: For bo.
        other: For another user.
        admin: For an administrator.
    """

    request: Callable[[World], Message]
    owner: Outcome
    other: Outcome
    admin: Outcome


def everybody(request: Message, answer: Outcome = OK) -> Row:
    """The same for all users."""
    return Row(lambda world: request, answer, answer, answer)


def admins(request: Message, answer: Outcome = OK) -> Row:
    """Only for administrators."""
    return Row(lambda world: request, NO_ADMIN, NO_ADMIN, answer)


def owners(
    request: Callable[[World], Message], answer: Outcome = OK, other: Outcome = NO_JOB
) -> Row:
    """Only for the owner and administrators."""
    return Row(request, answer, other, answer)


NOBODY = "no-such-thing"
TERMINAL_ROWS = {
    "AccountService.WhoAmI": everybody(account_pb2.WhoAmIRequest()),
    "AccountService.GetUsage": owners(
        lambda world: account_pb2.GetUsageRequest(group=account_pb2.USAGE_GROUP_JOB, user="bo"),
        other=NO_ADMIN,
    ),
    "AccountService.GetQuotas": everybody(account_pb2.GetQuotasRequest()),
    "AdminService.ListUsers": admins(admin_pb2.ListUsersRequest()),
    "AdminService.AddUser": admins(admin_pb2.AddUserRequest(name="A B"), MALFORMED),
    "AdminService.RenewUser": admins(admin_pb2.RenewUserRequest(name=NOBODY), NO_USER),
    "AdminService.RevokeUser": admins(admin_pb2.RevokeUserRequest(name=NOBODY), NO_USER),
    "AdminService.RestartGate": admins(admin_pb2.RestartGateRequest(site=NOBODY), NO_SITE),
    "AdminService.DrainSite": admins(admin_pb2.DrainSiteRequest(site=NOBODY), NO_SITE),
    "AdminService.AcceptSiteChange": admins(
        admin_pb2.AcceptSiteChangeRequest(site=NOBODY), NO_SITE
    ),
    "AdminService.ListOrphans": admins(admin_pb2.ListOrphansRequest()),
    "AdminService.DeleteOrphan": admins(
        admin_pb2.DeleteOrphanRequest(site=NOBODY, kind=admin_pb2.ORPHAN_KIND_JOB, id="a/1"),
        NO_SITE,
    ),
    "CatalogService.ListSites": everybody(catalog_pb2.ListSitesRequest()),
    "CatalogService.ListFlavors": everybody(catalog_pb2.ListFlavorsRequest()),
    "CatalogService.ListImages": everybody(catalog_pb2.ListImagesRequest()),
    "CatalogService.ListPartitions": everybody(catalog_pb2.ListPartitionsRequest()),
    "CatalogService.ListNodes": owners(
        lambda world: catalog_pb2.ListNodesRequest(partition_id=world.partition),
        other=Outcome(CODE.NOT_FOUND, "PARTITION_NOT_FOUND"),
    ),
    "FileService.FindMissing": everybody(file_pb2.FindMissingRequest()),
    "FileService.Upload": everybody(file_pb2.UploadRequest()),
    "FileService.ListOutputs": owners(
        lambda world: file_pb2.ListOutputsRequest(job_id=world.ended)
    ),
    "FileService.Download": owners(
        lambda world: file_pb2.DownloadRequest(
            job_id=world.ended, files=[file_pb2.DownloadCursor(path="a.txt")]
        )
    ),
    "JobService.CheckJob": everybody(job_pb2.CheckJobRequest(script=b"#!/bin/sh\ntrue\n")),
    "JobService.SubmitJob": everybody(
        job_pb2.SubmitJobRequest(script=b" ", request_id="one"),
        Outcome(CODE.INVALID_ARGUMENT, "SCRIPT_EMPTY"),
    ),
    "JobService.GetJob": owners(lambda world: job_pb2.GetJobRequest(job_id=world.ended)),
    "JobService.ListJobs": everybody(job_pb2.ListJobsRequest()),
    "JobService.WatchJobs": owners(
        lambda world: job_pb2.WatchJobsRequest(job_ids=[world.ended], resume_token="0")
    ),
    "JobService.CancelJob": owners(lambda world: job_pb2.CancelJobRequest(job_id=world.ended)),
    "JobService.RequeueJob": owners(
        lambda world: job_pb2.RequeueJobRequest(job_id=world.running), NOT_ENDED
    ),
    "JobService.ReadOutput": owners(
        lambda world: job_pb2.ReadOutputRequest(job_id=world.ended, kind=STDOUT)
    ),
    "JobService.DeleteJob": owners(
        lambda world: job_pb2.DeleteJobRequest(job_id=world.running), NOT_ENDED
    ),
    "ServerService.GetServerInfo": everybody(server_pb2.GetServerInfoRequest()),
    "TunnelService.Connect": owners(
        lambda world: tunnel_pb2.ConnectRequest(
            open=tunnel_pb2.ConnectOpen(job_id=world.running, port=80)
        ),
        NO_PORT,
    ),
    "TunnelService.Listen": owners(
        lambda world: tunnel_pb2.ListenRequest(job_id=world.running, port=80), NO_PORT
    ),
    "TunnelService.Accept": everybody(
        tunnel_pb2.AcceptRequest(open=tunnel_pb2.AcceptOpen(connection_id=NOBODY)),
        Outcome(CODE.NOT_FOUND, "CONNECTION_NOT_FOUND"),
    ),
    "Health.Check": everybody(health_pb2.HealthCheckRequest()),
    "Health.Watch": everybody(health_pb2.HealthCheckRequest()),
    "Health.List": everybody(_health.HealthListRequest()),
    "ServerReflection.ServerReflectionInfo": everybody(
        reflection_pb2.ServerReflectionRequest(list_services="")
    ),
}

SERVED_BY_THE_CORE = {
    "without a certificate": NO_CONNECTION,
    "of another CA": NO_CONNECTION,
    "expired": NO_CONNECTION,
    "a gate": NO_CONNECTION,  # its certificate is for serving alone
    "of another installation": Outcome(CODE.UNAUTHENTICATED, "CERTIFICATE_INVALID"),
    "expired since": Outcome(CODE.UNAUTHENTICATED, "CERTIFICATE_EXPIRED"),
    "the core": Outcome(CODE.PERMISSION_DENIED, "KIND_NOT_ALLOWED"),
    "revoked": Outcome(CODE.UNAUTHENTICATED, "CERTIFICATE_REVOKED"),
    "removed": Outcome(CODE.UNAUTHENTICATED, "IDENTITY_UNKNOWN"),
}
"""Whom the core serves nothing, and what they are told."""


@pytest.mark.parametrize("name", TERMINAL)
def test_an_rpc_of_the_core_is_for_whom_its_row_says(world: World, name: str) -> None:
    row = TERMINAL_ROWS[name]
    expected = {**SERVED_BY_THE_CORE, "owner": row.owner, "other": row.other, "admin": row.admin}
    callers = {who: world.callers[who] for who in expected}
    assert outcomes(callers, TERMINAL[name], row.request(world)) == expected


def test_the_tables_have_no_row_too_many() -> None:
    assert TERMINAL_ROWS.keys() == TERMINAL.keys()
    assert GATE_ROWS.keys() == GATE.keys()


def test_the_core_serves_nothing_beside_the_table(world: World) -> None:
    served = _served(world.callers["owner"])
    assert served == {method.containing_service.full_name for method in TERMINAL.values()}


def _served(channel: grpc.Channel) -> set[str]:
    """The services that a server says it has."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(stub.ServerReflectionInfo(iter([request]), timeout=20))
    return {service.name for service in answer.list_services_response.service}


# Gates.

GATE_ROWS: dict[str, tuple[Message, Outcome]] = {
    "IdentityService.GetGateInfo": (identity_pb2.GetGateInfoRequest(), REQUIRED),
    "IdentityService.Probe": (identity_pb2.ProbeRequest(), OK),
    "InventoryService.ListFlavors": (inventory_pb2.ListFlavorsRequest(), OK),
    "InventoryService.ListImages": (inventory_pb2.ListImagesRequest(), OK),
    "InventoryService.ListNodes": (inventory_pb2.ListNodesRequest(), OK),
    "PartitionService.CreatePartition": (partition_pb2.CreatePartitionRequest(), REQUIRED),
    "PartitionService.GetPartition": (partition_pb2.GetPartitionRequest(), REQUIRED),
    "PartitionService.ListPartitions": (partition_pb2.ListPartitionsRequest(), OK),
    "PartitionService.RenewPartition": (partition_pb2.RenewPartitionRequest(), REQUIRED),
    "PartitionService.DeletePartition": (partition_pb2.DeletePartitionRequest(), REQUIRED),
    "PartitionService.WatchPartitions": (partition_pb2.WatchPartitionsRequest(), OK),
    "JobService.StartJob": (gate_job.StartJobRequest(), REQUIRED),
    "JobService.GetJob": (gate_job.GetJobRequest(), REQUIRED),
    "JobService.ListJobs": (gate_job.ListJobsRequest(), REQUIRED),
    "JobService.CancelJob": (gate_job.CancelJobRequest(), REQUIRED),
    "JobService.WatchJobs": (gate_job.WatchJobsRequest(), REQUIRED),
    "JobService.ReadOutput": (gate_job.ReadOutputRequest(), REQUIRED),
    "JobService.RemoveJob": (gate_job.RemoveJobRequest(), REQUIRED),
    "FileService.PutFiles": (gate_file.PutFilesRequest(), REQUIRED),
    "FileService.ListFiles": (gate_file.ListFilesRequest(), REQUIRED),
    "FileService.GetFiles": (gate_file.GetFilesRequest(), REQUIRED),
    "TunnelService.Connect": (gate_tunnel.ConnectRequest(), REQUIRED),
    "TunnelService.Listen": (gate_tunnel.ListenRequest(), REQUIRED),
    "TunnelService.Accept": (gate_tunnel.AcceptRequest(), REQUIRED),
    "Health.Check": (health_pb2.HealthCheckRequest(), OK),
    "Health.Watch": (health_pb2.HealthCheckRequest(), OK),
    "Health.List": (_health.HealthListRequest(), OK),
    "ServerReflection.ServerReflectionInfo": (
        reflection_pb2.ServerReflectionRequest(list_services=""),
        OK,
    ),
}
"""A call, and how it ends for the core: past all questions of who calls."""

SERVED_BY_A_GATE = {
    "without a certificate": NO_CONNECTION,
    "of another CA": NO_CONNECTION,
    "expired": NO_CONNECTION,
    "another gate": NO_CONNECTION,
    "of another installation": Outcome(CODE.UNAUTHENTICATED, "CERTIFICATE_INVALID"),
    "expired since": Outcome(CODE.UNAUTHENTICATED, "CERTIFICATE_EXPIRED"),
    "a user": Outcome(CODE.PERMISSION_DENIED, "KIND_NOT_ALLOWED"),
    "an administrator": Outcome(CODE.PERMISSION_DENIED, "KIND_NOT_ALLOWED"),
}
"""Whom a gate serves nothing, and what they are told."""


@pytest.fixture(scope="module")
def callers_of_a_gate(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, grpc.Channel]]:
    """Connections to a gate on TCP, whose core is not there now."""
    folder = tmp_path_factory.mktemp("gate")
    at = f"127.0.0.1:{free_port()}"
    core = Core(
        folder / "home", [Site.make("far", folder / "far", static() | dynamic(), endpoint=at)]
    )
    gate = GateProcess(core.site("far"), *tls_options(core, "far", core.keys("far", Kind.GATE)))
    strangers = Strangers(load_ca(core.home))
    name = gate_name(core.installation, "far")
    keys = {
        "without a certificate": None,
        "of another CA": strangers.of_another_ca(Kind.CORE),
        "expired": strangers.expired(Kind.CORE),
        "another gate": strangers.keys(Kind.GATE, "near"),
        "of another installation": strangers.of_another_installation(Kind.CORE),
        "a user": strangers.keys(Kind.USER, "bo"),
        "an administrator": strangers.keys(Kind.USER, ADMIN),
        "the core": strangers.keys(Kind.CORE),
    }
    gate.start()
    with contextlib.ExitStack() as closing:
        closing.callback(gate.close)
        channels = {
            who: reached_by(at, name, pair, strangers.ca.cert_pem) for who, pair in keys.items()
        }
        grpc.channel_ready_future(channels["the core"]).result(timeout=30)
        probe = GATE["IdentityService.Probe"]
        ended = ended_on_the_way(strangers, Kind.CORE, "", at, name, probe)
        channels["expired since"] = ended
        for channel in channels.values():
            closing.callback(channel.close)
        yield channels


@pytest.mark.parametrize("name", GATE)
def test_an_rpc_of_a_gate_is_for_its_core_alone(
    callers_of_a_gate: dict[str, grpc.Channel], name: str
) -> None:
    request, answer = GATE_ROWS[name]
    expected = {**SERVED_BY_A_GATE, "the core": answer}
    callers = {who: callers_of_a_gate[who] for who in expected}
    assert outcomes(callers, GATE[name], request) == expected


def test_a_gate_serves_nothing_beside_the_table(
    callers_of_a_gate: dict[str, grpc.Channel],
) -> None:
    served = _served(callers_of_a_gate["the core"])
    assert served == {method.containing_service.full_name for method in GATE.values()}
