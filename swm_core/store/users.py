"""Who may use the core, and which certificates were made for them."""

from __future__ import annotations

import dataclasses
import sqlite3

from swm_core.store.database import Database, Transaction
from swm_core.store.errors import AlreadyExists, NotFound


@dataclasses.dataclass(frozen=True, slots=True)
class User:
    """A user. Times are seconds since the epoch."""

    name: str
    admin: bool
    created: float
    revoked: float | None = None
    """When all certificates of the user were last revoked; None: never.

    From then on only certificates that are on record count: what was made before, and is known to
    nobody (a store that was put back from a backup), stays revoked too.
    """


@dataclasses.dataclass(frozen=True, slots=True)
class UserCertificate:
    """A certificate that was made for a user.

    `serial` is its number in hex; times are seconds since the epoch.
    """

    serial: str
    user: str
    not_after: float
    revoked: float | None = None
    """When it was revoked; None: it was not."""


class Users:
    """Writes and reads users and their certificates. Reads are for the event loop's thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, user: User, certificate: UserCertificate | None = None) -> None:
        """Add a user, and the record of a first certificate with them.

        Raises:
            AlreadyExists: There is one of this name.
        """

        def add(transaction: Transaction) -> None:
            try:
                transaction.execute(
                    "INSERT INTO users VALUES (?, ?, ?, ?)", dataclasses.astuple(user)
                )
            except sqlite3.IntegrityError as error:
                raise AlreadyExists(f"there is a user {user.name!r}") from error
            if certificate is not None:
                _add_certificate(transaction, certificate)

        await self._database.write(add)

    async def set_admin(self, name: str, *, admin: bool) -> None:
        """Make a user an admin, or no longer one.

        Raises:
            NotFound: There is no such user.
        """

        def change(transaction: Transaction) -> None:
            cursor = transaction.execute("UPDATE users SET admin = ? WHERE name = ?", (admin, name))
            if cursor.rowcount == 0:
                raise NotFound(f"there is no user {name!r}")

        await self._database.write(change)

    async def revoke_all(self, name: str, *, time: float) -> None:
        """Revoke all certificates of a user as of `time`; the user stays.

        Raises:
            NotFound: There is no such user.
        """

        def revoke(transaction: Transaction) -> None:
            cursor = transaction.execute(
                "UPDATE users SET revoked = ? WHERE name = ?", (time, name)
            )
            if cursor.rowcount == 0:
                raise NotFound(f"there is no user {name!r}")
            _revoke_certificates(transaction, name, time)

        await self._database.write(revoke)

    async def remove(self, name: str, *, time: float) -> None:
        """Remove a user and revoke all their certificates as of `time`; they stay known as revoked.

        Raises:
            NotFound: There is no such user.
        """

        def remove(transaction: Transaction) -> None:
            cursor = transaction.execute("DELETE FROM users WHERE name = ?", (name,))
            if cursor.rowcount == 0:
                raise NotFound(f"there is no user {name!r}")
            _revoke_certificates(transaction, name, time)

        await self._database.write(remove)

    def get(self, name: str) -> User | None:
        """The user of this name."""
        row = (
            self._database.read()
            .execute("SELECT name, admin, created, revoked FROM users WHERE name = ?", (name,))
            .fetchone()
        )
        return None if row is None else _user(row)

    def all(self) -> list[User]:
        """All users, by name."""
        rows = self._database.read().execute(
            "SELECT name, admin, created, revoked FROM users ORDER BY name"
        )
        return [_user(row) for row in rows.fetchall()]

    async def add_certificate(
        self, certificate: UserCertificate, *, instead_of: str | None = None
    ) -> None:
        """Record a certificate before it is handed out.

        Args:
            certificate: The new one.
            instead_of: The serial number of one that must still count: what was revoked meanwhile
                is not renewed.

        Raises:
            NotFound: There is no such user, or no such certificate that counts.
            AlreadyExists: The serial number is taken.
        """

        def add(transaction: Transaction) -> None:
            user = transaction.execute(
                "SELECT 1 FROM users WHERE name = ?", (certificate.user,)
            ).fetchone()
            if user is None:
                raise NotFound(f"there is no user {certificate.user!r}")
            if instead_of is not None:
                old = _certificate(transaction, instead_of)
                if old is None or old.revoked is not None:
                    raise NotFound(f"there is no certificate {instead_of} that counts")
            _add_certificate(transaction, certificate)

        await self._database.write(add)

    async def revoke_certificate(self, serial: str, *, time: float) -> UserCertificate:
        """Revoke a certificate as of `time`, and return it; the same again changes nothing.

        Raises:
            NotFound: There is no such certificate.
        """

        def revoke(transaction: Transaction) -> UserCertificate:
            transaction.execute(
                "UPDATE certificates SET revoked = ? WHERE serial = ? AND revoked IS NULL",
                (time, serial),
            )
            certificate = _certificate(transaction, serial)
            if certificate is None:
                raise NotFound(f"there is no certificate {serial}")
            return certificate

        return await self._database.write(revoke)

    def certificate(self, serial: str) -> UserCertificate | None:
        """The certificate with this serial number."""
        return _certificate(self._database.read(), serial)

    def certificates(self, user: str) -> list[UserCertificate]:
        """All certificates of a user, the one that lasts longest first."""
        rows = self._database.read().execute(
            "SELECT serial, user, not_after, revoked FROM certificates"
            " WHERE user = ? ORDER BY not_after DESC",
            (user,),
        )
        return [UserCertificate(*row) for row in rows.fetchall()]

    def revoked_serials(self, *, now: float) -> frozenset[str]:
        """Serial numbers of the certificates that were revoked and would otherwise still hold."""
        rows = self._database.read().execute(
            "SELECT serial FROM certificates WHERE revoked IS NOT NULL AND not_after > ?", (now,)
        )
        return frozenset(serial for (serial,) in rows.fetchall())


def _user(row: tuple[str, int, float, float | None]) -> User:
    name, admin, created, revoked = row
    return User(name, bool(admin), created, revoked)


def _add_certificate(transaction: Transaction, certificate: UserCertificate) -> None:
    try:
        transaction.execute(
            "INSERT INTO certificates VALUES (?, ?, ?, ?)", dataclasses.astuple(certificate)
        )
    except sqlite3.IntegrityError as error:
        raise AlreadyExists(f"there is a certificate {certificate.serial}") from error


def _revoke_certificates(transaction: Transaction, user: str, time: float) -> None:
    transaction.execute(
        "UPDATE certificates SET revoked = ? WHERE user = ? AND revoked IS NULL", (time, user)
    )


def _certificate(connection: sqlite3.Connection, serial: str) -> UserCertificate | None:
    row = connection.execute(
        "SELECT serial, user, not_after, revoked FROM certificates WHERE serial = ?", (serial,)
    ).fetchone()
    return None if row is None else UserCertificate(*row)
