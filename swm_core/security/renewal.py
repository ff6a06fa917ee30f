"""Renews certificates before they end, without a restart of anybody.

The core's own, those of gates that lie in its home, and the one in the bundle there. A user's
elsewhere is renewed by an administrator, and so is the CA's, of whose end the log tells.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import functools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from rpc_kit import private_files
from rpc_kit.bundle import Bundle, BundleError
from rpc_kit.identity import Identity, Kind, end_of_certificate, of_certificate
from swm_core.gateways.gate import Gate
from swm_core.home import Home, HomeError, as_home_error, load_ca
from swm_core.security.accounts import StoredAccounts
from swm_core.security.bundles import Bundles
from swm_core.security.open_calls import OpenCalls
from swm_core.store import UserCertificate, Users
from swm_core.store.errors import StoreError

log = logging.getLogger(__name__)

_TICK_S = 60.0
_TICKS_OF_A_LIFE = 50
_RENEWED_PART = 1 / 3
"""What is left of a life when a certificate is renewed: months, so that days of trouble (a full
disk, a home that is read-only) do no harm."""

_DAY_S = 86_400
CA_WARNED_S = 180 * _DAY_S
"""So long before the CA ends people are told, each day: all who have a bundle need a new one by
then, and what it signs is no longer valid for a year by far."""


def renew_ca(home: Home) -> tuple[float, float]:
    """Make a new certificate for the CA's key; a core may run.

    Key and name stay, so that certificates from before count as before, for those who have the
    new one and those who have the old one.

    Returns:
        When the old one ends and when the new one does, in seconds since the epoch.

    Raises:
        HomeError: It can't be done, and why.
    """
    from swm_core.security.ca import CaError, CertificateAuthority

    try:
        with as_home_error():
            old = load_ca(home)
            new = CertificateAuthority.create(old.installation, home.ca_key.read_bytes())
            private_files.replace(home.ca_cert, new.cert_pem)
    except CaError as error:
        raise HomeError(f"{home.pki}: {error}") from None
    return old.expires_at, new.expires_at


def ca_end(home: Home) -> float | None:
    """When the certificate of the CA ends, in seconds since the epoch; None: it can't be read."""
    try:
        return end_of_certificate(home.ca_cert.read_bytes())
    except (OSError, ValueError):
        return None


class Renewal:
    """Looks at all certificates of a home every minute.

    Args:
        home: Where they are.
        users: The store's; certificates for users are on record there.
        accounts: Refreshed when something was put on record.
        bundles: Makes the ones for the bundle in the home.
        calls: Looked through each time: the end of a certificate ends its calls.
        gates: Shown the core's new certificate.
    """

    def __init__(
        self,
        home: Home,
        users: Users,
        accounts: StoredAccounts,
        bundles: Bundles,
        calls: OpenCalls,
        gates: Iterable[Gate],
    ) -> None:
        self._home = home
        self._users = users
        self._accounts = accounts
        self._bundles = bundles
        self._calls = calls
        self._gates = tuple(gates)
        self._lifetime = datetime.timedelta(seconds=bundles.lifetime_s)
        self._core = home.core_files()
        self._told = ""
        self._ca_told = -math.inf

    async def run(self) -> None:
        """Keep certificates new until cancelled."""
        while True:
            await asyncio.sleep(min(_TICK_S, self._bundles.lifetime_s / _TICKS_OF_A_LIFE))
            await self.look()

    async def look(self) -> None:
        """Renew what is due, and end the calls of what has ended.

        What can't be renewed is told in the log, once, and tried again the next time.
        """
        gates = sorted((self._home.pki / "gates").glob("*.crt"))
        renewals: list[Callable[[], Awaitable[None]]] = [
            self._renew_core,
            *(functools.partial(asyncio.to_thread, self._renew_file, path) for path in gates),
            self._renew_bundle,
        ]
        trouble = []
        # One that can't be renewed is no reason to let the others end.
        for renew in renewals:
            try:
                await renew()
            except (HomeError, StoreError, OSError) as error:
                trouble.append(str(error))
        text = "; ".join(trouble)
        if text and text != self._told:
            log.warning("certificates can't be renewed: %s", text)
        self._told = text
        self._tell_of_the_ca()
        self._calls.end_refused()

    def _tell_of_the_ca(self) -> None:
        """Tell once a day of a CA that ends."""
        end, now = ca_end(self._home), time.time()
        if end is None or end - now >= CA_WARNED_S or abs(now - self._ca_told) < _DAY_S:
            return
        self._ca_told = now
        when = f"{datetime.datetime.fromtimestamp(end, datetime.UTC):%Y-%m-%d}"
        log.warning(
            "the CA of this installation %s %s, and with it every certificate; "
            "renew it by `swm-core renew-ca`, see docs/users.md",
            "ends on" if end > now else "has ended on",
            when,
        )

    async def _renew_core(self) -> None:
        await asyncio.to_thread(self._renew_file, self._home.core_cert)
        pair = self._core.changed()
        if pair is not None:
            for gate in self._gates:
                await gate.renew(pair)

    def _renew_file(self, path: Path) -> None:
        """Renew the certificate in a file for the same key, if it is due. Blocks."""
        pem = path.read_bytes()
        if not self._is_due(_identity(pem, path)):
            return
        # Imported late, as by all who sign: a core at rest does not pay for it.
        from swm_core.security.ca import CaError

        try:
            renewed = load_ca(self._home).renew(pem, lifetime=self._lifetime)
        except CaError as error:
            raise HomeError(f"{path}: {error}") from None
        if _identity(renewed, path).expires_at <= _identity(pem, path).expires_at:
            raise HomeError(f"{path}: it ends with the CA; renew that by `swm-core renew-ca`")
        private_files.replace(path, renewed)
        log.info("renewed the certificate %s", path)

    async def _renew_bundle(self) -> None:
        """Renew the bundle in the home, which is that of a user of this machine."""
        path = self._home.bundle
        try:
            bundle = Bundle.read(path)
            identity = _identity(bundle.key_pair.cert_pem, path)
        except (BundleError, HomeError):
            return  # whoever uses it is told
        ca_pem = self._core.pair.ca_pem
        ours = identity.kind is Kind.USER and _is_same_ca(bundle.ca_pem.encode(), ca_pem)
        if not ours or self._users.get(identity.name) is None:
            return
        known = self._users.certificate(identity.serial)
        if known is None:
            # Made by the first run, which has no store; only who owns the home can do that.
            await self._record(UserCertificate(identity.serial, identity.name, identity.expires_at))
        elif known.revoked is not None:
            return
        if not self._is_due(identity):
            if bundle.ca_pem.encode() != ca_pem:
                dataclasses.replace(bundle, ca_pem=ca_pem.decode()).replace(path)
                log.info("the bundle %s has the renewed certificate of the CA", path)
            return
        fresh, certificate = await asyncio.to_thread(self._bundles.make, identity.name)
        if certificate.not_after <= identity.expires_at:
            return
        # Not if it is revoked at this moment.
        await self._record(certificate, instead_of=identity.serial)
        dataclasses.replace(fresh, endpoint=bundle.endpoint).replace(path)
        log.info("renewed the certificate of user %s in %s", identity.name, path)

    async def _record(self, certificate: UserCertificate, *, instead_of: str | None = None) -> None:
        await self._users.add_certificate(certificate, instead_of=instead_of)
        self._accounts.refresh()

    def _is_due(self, identity: Identity) -> bool:
        left_s = identity.expires_at - time.time()
        return left_s < self._lifetime.total_seconds() * _RENEWED_PART


def _is_same_ca(one_pem: bytes, other_pem: bytes) -> bool:
    """Whether both are of one CA, perhaps from before and after it was renewed."""
    if one_pem == other_pem:
        return True
    from swm_core.security.ca import has_same_key

    return has_same_key(one_pem, other_pem)


def _identity(pem: bytes, path: Path) -> Identity:
    try:
        return of_certificate(pem)
    except ValueError as error:
        raise HomeError(f"{path}: {error}; restore it from a backup") from None
