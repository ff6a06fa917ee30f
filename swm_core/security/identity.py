"""Who calls the core, and whether they still may."""

from __future__ import annotations

import dataclasses
import time
from typing import Protocol

from rpc_kit import interceptor
from rpc_kit.errors import denied, unauthenticated
from rpc_kit.identity import Identity, Kind, certificate_expired, peer_identity

__all__ = ["Accounts", "Authenticator", "Caller", "Identity", "Kind", "current_caller"]


class Accounts(Protocol):
    """What the store knows of users. Asked at every call, so it answers from memory."""

    def is_revoked(self, user: str, serial: str) -> bool:
        """Whether the user's certificate with this serial number (lower-case hex) was revoked."""

    def is_admin(self, user: str) -> bool | None:
        """Whether the user is an administrator; None if there is no such user."""


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """A user, as far as this call goes."""

    identity: Identity
    is_admin: bool

    @property
    def user(self) -> str:
        return self.identity.name

    def require_admin(self) -> None:
        """Raise a Refusal, PERMISSION_DENIED ADMIN_REQUIRED, unless it is an administrator."""
        if not self.is_admin:
            raise denied("ADMIN_REQUIRED", "only an administrator may do this")

    def may_see(self, owner: str) -> bool:
        """Whether an object of `owner` is theirs to see. Ask before telling that it exists."""
        return self.is_admin or owner == self.user


class Authenticator:
    """The core's `authenticate`: it serves users of its own installation, and nobody else.

    Args:
        installation: The installation's id.
        accounts: Who is known, and which certificates are revoked.
    """

    def __init__(self, installation: str, accounts: Accounts) -> None:
        self._installation = installation
        self._accounts = accounts

    def __call__(self, method: str, context: interceptor.Context) -> Caller:
        return self.caller(peer_identity(context, self._installation, (Kind.USER,)))

    def caller(self, identity: Identity) -> Caller:
        """Who the holder of a certificate is to the core now.

        Raises:
            Refusal: UNAUTHENTICATED with CERTIFICATE_EXPIRED, CERTIFICATE_REVOKED or
                IDENTITY_UNKNOWN.
        """
        if identity.expires_at <= time.time():
            raise certificate_expired()
        if self._accounts.is_revoked(identity.name, identity.serial):
            raise unauthenticated(
                "CERTIFICATE_REVOKED",
                "the certificate was revoked; ask the administrator for a new bundle",
            )
        is_admin = self._accounts.is_admin(identity.name)
        if is_admin is None:
            raise unauthenticated(
                "IDENTITY_UNKNOWN", f"there is no user {identity.name} any more; ask for a bundle"
            )
        return Caller(identity, is_admin)


def current_caller() -> Caller:
    """The caller of the call that is being handled. Only for handlers of the core."""
    found = interceptor.caller.get()
    if not isinstance(found, Caller):
        raise TypeError("the server has no Authenticator")
    return found
