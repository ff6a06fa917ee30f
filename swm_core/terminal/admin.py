"""AdminService: who may call it. What is done is done elsewhere."""

from __future__ import annotations

from rpc_kit.interceptor import Context as CallContext
from skyport.terminal.v1 import admin_pb2, admin_pb2_grpc
from swm_core.security.identity import current_caller
from swm_core.terminal.orphans import OrphanAdministration
from swm_core.terminal.sites import SiteAdministration
from swm_core.terminal.to_the_end import to_the_end
from swm_core.terminal.users import UserAdministration


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Only for administrators, and told so before anything else.

    Args:
        users: Does what is about users.
        sites: Does what is about sites and their gates.
        orphans: Does what is about orphans.
    """

    def __init__(
        self,
        users: UserAdministration,
        sites: SiteAdministration,
        orphans: OrphanAdministration,
    ) -> None:
        self._users = users
        self._sites = sites
        self._orphans = orphans

    async def ListUsers(
        self, request: admin_pb2.ListUsersRequest, context: CallContext
    ) -> admin_pb2.ListUsersResponse:
        current_caller().require_admin()
        return self._users.list(request)

    async def AddUser(
        self, request: admin_pb2.AddUserRequest, context: CallContext
    ) -> admin_pb2.AddUserResponse:
        current_caller().require_admin()
        return await to_the_end(self._users.add(request))

    async def RenewUser(
        self, request: admin_pb2.RenewUserRequest, context: CallContext
    ) -> admin_pb2.RenewUserResponse:
        current_caller().require_admin()
        return await to_the_end(self._users.renew(request))

    async def RevokeUser(
        self, request: admin_pb2.RevokeUserRequest, context: CallContext
    ) -> admin_pb2.RevokeUserResponse:
        current_caller().require_admin()
        return await to_the_end(self._users.revoke(request))

    async def RestartGate(
        self, request: admin_pb2.RestartGateRequest, context: CallContext
    ) -> admin_pb2.RestartGateResponse:
        current_caller().require_admin()
        return self._sites.restart_gate(request)

    async def DrainSite(
        self, request: admin_pb2.DrainSiteRequest, context: CallContext
    ) -> admin_pb2.DrainSiteResponse:
        current_caller().require_admin()
        return await to_the_end(self._sites.drain(request))

    async def ListOrphans(
        self, request: admin_pb2.ListOrphansRequest, context: CallContext
    ) -> admin_pb2.ListOrphansResponse:
        current_caller().require_admin()
        return self._orphans.list(request)

    async def DeleteOrphan(
        self, request: admin_pb2.DeleteOrphanRequest, context: CallContext
    ) -> admin_pb2.DeleteOrphanResponse:
        current_caller().require_admin()
        return await self._orphans.delete(request)

    async def AcceptSiteChange(
        self, request: admin_pb2.AcceptSiteChangeRequest, context: CallContext
    ) -> admin_pb2.AcceptSiteChangeResponse:
        current_caller().require_admin()
        return await self._sites.accept_change(request)
