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
        self._only: dict[str, frozenset[str]] = {}
        """Users whose certificates were all revoked once, and the ones that were made since."""
        self.refresh()

    def refresh(self) -> None:
        """Read them anew."""
        users = self._users.all()
        self._admins = {user.name: user.admin for user in users}
        self._revoked = self._users.revoked_serials(now=time.time())
        self._only = {
            user.name: frozenset(
                each.serial for each in self._users.certificates(user.name) if each.revoked is None
            )
            for user in users
            if user.revoked is not None
        }

    def is_revoked(self, user: str, serial: str) -> bool:
        """Whether the user's certificate with this serial number (lower-case hex) was revoked."""
        only = self._only.get(user)
        return serial in self._revoked or (only is not None and serial not in only)

    def is_admin(self, user: str) -> bool | None:
        """Whether the user is an administrator; None if there is no such user."""
        return self._admins.get(user)
