"""Who is known to the core, at hand for every call."""

from __future__ import annotations

import time

from swm_core.store import Users


class StoredAccounts:
    """The users and revoked certificates of a store, in memory.

    Args:
        users: Where they are kept. Call `refresh` after changing anything there.
    """

    def __init__(self, users: Users) -> None:
        self._users = users
        self._admins: dict[str, bool] = {}
        self._revoked: frozenset[str] = frozenset()
        self.refresh()

    def refresh(self) -> None:
        """Read them anew."""
        self._admins = {user.name: user.admin for user in self._users.all()}
        self._revoked = self._users.revoked_serials(now=time.time())

    def is_revoked(self, serial: str) -> bool:
        """Whether the certificate with this serial number (lower-case hex) was revoked."""
        return serial in self._revoked

    def is_admin(self, user: str) -> bool | None:
        """Whether the user is an administrator; None if there is no such user."""
        return self._admins.get(user)
