"""The fake core's sites and orphans, as an administrator has them."""

from __future__ import annotations

import grpc

from rpc_kit.errors import Refusal, not_found, precondition, unimplemented
from skyport.terminal.v1 import admin_pb2, admin_pb2_grpc
from tests.client.fake_call import handler
from tests.client.fake_core import State


class Admin(admin_pb2_grpc.AdminServiceServicer):
    def __init__(self, state: State) -> None:
        self.state = state

    # Users are for the tests of a real core.

    @handler
    def ListUsers(
        self, request: admin_pb2.ListUsersRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ListUsersResponse:
        raise _not_served()

    @handler
    def AddUser(
        self, request: admin_pb2.AddUserRequest, context: grpc.ServicerContext
    ) -> admin_pb2.AddUserResponse:
        raise _not_served()

    @handler
    def RenewUser(
        self, request: admin_pb2.RenewUserRequest, context: grpc.ServicerContext
    ) -> admin_pb2.RenewUserResponse:
        raise _not_served()

    @handler
    def RevokeUser(
        self, request: admin_pb2.RevokeUserRequest, context: grpc.ServicerContext
    ) -> admin_pb2.RevokeUserResponse:
        raise _not_served()

    @handler
    def ListOrphans(
        self, request: admin_pb2.ListOrphansRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ListOrphansResponse:
        return admin_pb2.ListOrphansResponse(
            orphans=self.state.orphans, unreachable_sites=["there"]
        )

    @handler
    def DeleteOrphan(
        self, request: admin_pb2.DeleteOrphanRequest, context: grpc.ServicerContext
    ) -> admin_pb2.DeleteOrphanResponse:
        self.state.administered.append(f"DeleteOrphan {request.site} {request.id}")
        return admin_pb2.DeleteOrphanResponse()

    @handler
    def RestartGate(
        self, request: admin_pb2.RestartGateRequest, context: grpc.ServicerContext
    ) -> admin_pb2.RestartGateResponse:
        if request.site != "here":
            raise precondition("NOT_SUPERVISED", "that gate was not started by the core")
        self.state.administered.append("RestartGate here")
        return admin_pb2.RestartGateResponse()

    @handler
    def DrainSite(
        self, request: admin_pb2.DrainSiteRequest, context: grpc.ServicerContext
    ) -> admin_pb2.DrainSiteResponse:
        if request.site not in ("here", "there"):
            raise not_found("SITE_NOT_FOUND", f"there is no site {request.site}")
        self.state.administered.append(f"DrainSite {request.site} {request.drained}")
        return admin_pb2.DrainSiteResponse()

    @handler
    def AcceptSiteChange(
        self, request: admin_pb2.AcceptSiteChangeRequest, context: grpc.ServicerContext
    ) -> admin_pb2.AcceptSiteChangeResponse:
        place = f"{request.site} {request.partition_id} {request.node}".strip()
        self.state.administered.append(f"AcceptSiteChange {place}")
        return admin_pb2.AcceptSiteChangeResponse()


def _not_served() -> Refusal:
    return unimplemented("NOT_SERVED", "not served by the fake")
