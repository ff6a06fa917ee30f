"""AdminService: here in full, and answered with NOT_SERVED until it is served."""

from __future__ import annotations

from typing import NoReturn

from rpc_kit.errors import unimplemented
from rpc_kit.interceptor import Context as CallContext
from skyport.terminal.v1 import admin_pb2, admin_pb2_grpc
from swm_core.security.identity import current_caller


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Only for administrators, and told so before anything else."""

    async def ListUsers(
        self, request: admin_pb2.ListUsersRequest, context: CallContext
    ) -> admin_pb2.ListUsersResponse:
        _not_served("ListUsers")

    async def AddUser(
        self, request: admin_pb2.AddUserRequest, context: CallContext
    ) -> admin_pb2.AddUserResponse:
        _not_served("AddUser")

    async def RenewUser(
        self, request: admin_pb2.RenewUserRequest, context: CallContext
    ) -> admin_pb2.RenewUserResponse:
        _not_served("RenewUser")

    async def RevokeUser(
        self, request: admin_pb2.RevokeUserRequest, context: CallContext
    ) -> admin_pb2.RevokeUserResponse:
        _not_served("RevokeUser")

    async def RestartGate(
        self, request: admin_pb2.RestartGateRequest, context: CallContext
    ) -> admin_pb2.RestartGateResponse:
        _not_served("RestartGate")

    async def DrainSite(
        self, request: admin_pb2.DrainSiteRequest, context: CallContext
    ) -> admin_pb2.DrainSiteResponse:
        _not_served("DrainSite")

    async def ListOrphans(
        self, request: admin_pb2.ListOrphansRequest, context: CallContext
    ) -> admin_pb2.ListOrphansResponse:
        _not_served("ListOrphans")

    async def DeleteOrphan(
        self, request: admin_pb2.DeleteOrphanRequest, context: CallContext
    ) -> admin_pb2.DeleteOrphanResponse:
        _not_served("DeleteOrphan")

    async def AcceptSiteChange(
        self, request: admin_pb2.AcceptSiteChangeRequest, context: CallContext
    ) -> admin_pb2.AcceptSiteChangeResponse:
        _not_served("AcceptSiteChange")


def _not_served(rpc: str) -> NoReturn:
    current_caller().require_admin()
    raise unimplemented("NOT_SERVED", f"{rpc} is not served by this version of the core")
