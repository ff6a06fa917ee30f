"""What administrators do about users: the part of AdminService that makes and ends certificates."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable

from rpc_kit.errors import Refusal, exists, invalid, not_found, precondition
from rpc_kit.paging import page_of
from skyport.terminal.v1 import admin_pb2
from swm_core.home import HomeError
from swm_core.security.accounts import StoredAccounts
from swm_core.security.bundles import Bundles
from swm_core.security.identity import current_caller
from swm_core.security.names import is_user_name
from swm_core.security.open_calls import OpenCalls
from swm_core.store import StoreUnavailable, User, UserCertificate, Users
from swm_core.store.errors import AlreadyExists
from swm_core.terminal import convert
from swm_core.terminal.access import store_unavailable

log = logging.getLogger(__name__)


class UserAdministration:
    """Users and their certificates. Callers are checked to be administrators before.

    Args:
        users: The store's.
        accounts: Refreshed after each change.
        bundles: Makes keys and certificates.
        calls: Ended where a certificate was revoked.
    """

    def __init__(
        self, users: Users, accounts: StoredAccounts, bundles: Bundles, calls: OpenCalls
    ) -> None:
        self._users = users
        self._accounts = accounts
        self._bundles = bundles
        self._calls = calls
        # Of two administrators who revoke each other, one is the last.
        self._revoking = asyncio.Lock()

    def list(self, request: admin_pb2.ListUsersRequest) -> admin_pb2.ListUsersResponse:
        """A page of all users, by name."""
        page = page_of(request, current_caller().user)
        users, token = page.cut((user.name, user) for user in self._users.all())
        return admin_pb2.ListUsersResponse(users=map(self._message, users), next_page_token=token)

    async def add(self, request: admin_pb2.AddUserRequest) -> admin_pb2.AddUserResponse:
        """A new user with a bundle.

        Raises:
            Refusal: With the reasons of the table of AddUser in protos/README.md.
        """
        name = request.name
        if not is_user_name(name):
            raise invalid(
                f"{name[:60]!r} can't be the name of a user; use up to 32 of a-z, 0-9, '.', '_' "
                "and '-'",
                field="name",
                reason="FIELD_MALFORMED" if name else "FIELD_REQUIRED",
            )
        if self._users.get(name) is not None:
            raise _exists(name)
        user = User(name, admin=request.admin, created=time.time())
        try:
            bundle = await self._bundle(user, functools.partial(self._users.add, user))
        except AlreadyExists:
            raise _exists(name) from None
        _log("added", user)
        return admin_pb2.AddUserResponse(user=self._message(user), bundle=bundle)

    async def renew(self, request: admin_pb2.RenewUserRequest) -> admin_pb2.RenewUserResponse:
        """A new bundle for a user.

        Raises:
            Refusal: With the reasons of the table of RenewUser in protos/README.md.
        """
        user = self._user(request.name)
        bundle = await self._bundle(user, self._users.add_certificate)
        _log("renewed", user)
        return admin_pb2.RenewUserResponse(user=self._message(user), bundle=bundle)

    async def revoke(self, request: admin_pb2.RevokeUserRequest) -> admin_pb2.RevokeUserResponse:
        """The end of all certificates of a user, and of the calls that are open with them.

        Raises:
            Refusal: With the reasons of the table of RevokeUser in protos/README.md.
        """
        async with self._revoking:
            user = self._user(request.name)
            others = (each for each in self._users.all() if each.admin and each.name != user.name)
            if user.admin and not any(map(self._can_call, others)):
                raise precondition(
                    "LAST_ADMIN",
                    f"{user.name} is the last administrator who can call the core; add another, "
                    "or renew one, first",
                )
            try:
                await self._users.revoke_all(user.name, time=time.time())
            except StoreUnavailable as error:
                raise store_unavailable(error) from error
            # Together, without a pause in between: no call begins after the look.
            self._accounts.refresh()
            self._calls.end_refused()
            _log("revoked all certificates of", user)
        return admin_pb2.RevokeUserResponse(user=self._message(user))

    def _user(self, name: str) -> User:
        if not name:
            raise invalid(
                "name is missing; give the user's name", field="name", reason="FIELD_REQUIRED"
            )
        user = self._users.get(name)
        if user is None:
            raise not_found(
                "USER_NOT_FOUND", f"there is no user {name[:60]}; `swm user list` has them all"
            )
        return user

    def _can_call(self, user: User) -> bool:
        """Whether a certificate of the user still counts, as far as is known."""
        certificates = self._users.certificates(user.name)
        if not certificates:
            return user.revoked is None
        now = time.time()
        return any(each.revoked is None and each.not_after > now for each in certificates)

    async def _bundle(
        self, user: User, store: Callable[[UserCertificate], Awaitable[None]]
    ) -> admin_pb2.Bundle:
        """A new bundle for a user, whose certificate `store` keeps; it counts from then on."""
        try:
            bundle, certificate = await asyncio.to_thread(self._bundles.make, user.name)
        except HomeError as error:
            raise precondition(
                "CA_UNAVAILABLE", f"the core can't sign certificates now: {error}"
            ) from None
        try:
            await store(certificate)
        except StoreUnavailable as error:
            raise store_unavailable(error) from error
        self._accounts.refresh()
        return admin_pb2.Bundle(content=bundle.to_toml().encode())

    def _message(self, user: User) -> admin_pb2.User:
        return admin_pb2.User(
            name=user.name,
            admin=user.admin,
            create_time=convert.timestamp(user.created),
            certificates=[
                admin_pb2.Certificate(
                    serial=each.serial,
                    expire_time=convert.timestamp(each.not_after),
                    revoked=each.revoked is not None,
                )
                for each in self._users.certificates(user.name)
            ],
        )


def _log(did: str, user: User) -> None:
    kind = "administrator" if user.admin else "user"
    log.info("administrator %s %s %s %s", current_caller().user, did, kind, user.name)


def _exists(name: str) -> Refusal:
    return exists(
        "USER_EXISTS",
        f"there is a user {name}; `swm user renew {name}` makes a new bundle for them",
    )
