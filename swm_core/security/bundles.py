"""Bundles for users: a new key, its certificate, and where the core is, in one file's text."""

from __future__ import annotations

import dataclasses
import datetime
import socket

from rpc_kit.bundle import Bundle
from rpc_kit.endpoint import Endpoint
from rpc_kit.identity import Kind
from swm_core.home import Home, HomeError, load_ca
from swm_core.store import UserCertificate


@dataclasses.dataclass(frozen=True, slots=True)
class Bundles:
    """Makes bundles. The private keys in them are kept nowhere else.

    Attributes:
        home: With the CA.
        endpoint: Where users reach the core.
        lifetime_s: How long a certificate is valid, in seconds.
    """

    home: Home
    endpoint: Endpoint
    lifetime_s: float

    def make(self, user: str) -> tuple[Bundle, UserCertificate]:
        """A bundle for a user, and what is to be on record before it is handed out. Blocks.

        Raises:
            HomeError: The CA is not there, or can't be used.
        """
        # Imported late, as by all who sign: a core at rest does not pay for it.
        from swm_core.security.ca import CaError

        lifetime = datetime.timedelta(seconds=self.lifetime_s)
        try:
            ca = load_ca(self.home)
            issued = ca.issue(Kind.USER, user, lifetime=lifetime)
        except CaError as error:
            raise HomeError(f"{self.home.pki}: {error}") from None
        bundle = Bundle(
            endpoint=str(self.endpoint),
            installation=ca.installation,
            user=user,
            ca_pem=ca.cert_pem.decode(),
            cert_pem=issued.cert_pem.decode(),
            key_pem=issued.key_pem.decode(),
            expires=issued.expires_at.isoformat(),
        )
        return bundle, UserCertificate(issued.serial, user, issued.expires_at.timestamp())


def reached_at(listen: Endpoint) -> Endpoint:
    """Where other machines reach a core that listens there; everywhere: by this machine's name."""
    if listen.host in ("0.0.0.0", "::"):  # noqa: S104 - only looked for  # nosec B104
        return Endpoint(socket.gethostname(), listen.port)
    return listen
