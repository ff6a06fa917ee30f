"""Who may call: a service principal that proves by a certificate who it is gets a token."""

from __future__ import annotations

import base64
import json
import secrets
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.testbed.azure_arm.errors import ArmError

__all__ = ["TokenError", "Tokens"]

_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class TokenError(Exception):
    """No token: what the token endpoint answers then."""

    def __init__(self, status: int, error: str, code: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.body = {
            "error": error,
            "error_description": f"AADSTS{code}: {text}",
            "error_codes": [code],
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ"),
            "trace_id": str(uuid.uuid4()),
            "correlation_id": str(uuid.uuid4()),
            "error_uri": f"https://login.microsoftonline.com/error?code={code}",
        }


class Tokens:
    """Gives tokens and knows them again.

    Args:
        tenant: The one tenant that there is.
        app: The one application.
    """

    def __init__(self, tenant: str, app: str) -> None:
        self.tenant = tenant
        self.app = app
        self.given = 0
        self._certificates: list[x509.Certificate] = []
        self._good: dict[str, float] = {}

    @property
    def all(self) -> list[str]:
        """Those that were given, good or not any more."""
        return list(self._good)

    def register(self, pem: bytes) -> None:
        """Let whoever has the key of a certificate be the application."""
        self._certificates += x509.load_pem_x509_certificates(pem)

    def forget_certificates(self) -> None:
        """Let nobody be it any more."""
        self._certificates.clear()

    def revoke(self) -> None:
        """Have no token be good any more."""
        self._good = dict.fromkeys(self._good, 0.0)

    def configuration(self, tenant: str, base: str) -> dict[str, Any]:
        """What is at `.well-known/openid-configuration`."""
        self._require_tenant(tenant)
        return {
            "token_endpoint": f"{base}/{tenant}/oauth2/v2.0/token",
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
            "jwks_uri": f"{base}/{tenant}/discovery/v2.0/keys",
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "issuer": f"{base}/{tenant}/v2.0",
            "authorization_endpoint": f"{base}/{tenant}/oauth2/v2.0/authorize",
            "device_authorization_endpoint": f"{base}/{tenant}/oauth2/v2.0/devicecode",
            "tenant_region_scope": None,
        }

    def give(self, tenant: str, form: dict[str, str], base: str, good_s: int) -> dict[str, Any]:
        """A token for who proves to be the application."""
        self._require_tenant(tenant)
        if form.get("grant_type") != "client_credentials":
            raise TokenError(
                400, "unsupported_grant_type", 70003, "The grant type is not supported."
            )
        if form.get("client_id", "").lower() != self.app.lower():
            raise TokenError(
                400,
                "unauthorized_client",
                700016,
                f"Application with identifier '{form.get('client_id')}' was not found in the "
                "directory 'stand-in'. This can happen if the application has not been installed "
                "by "
                "the administrator of the tenant.",
            )
        if not form.get("scope", "").endswith("/.default"):
            raise TokenError(
                400, "invalid_scope", 1002012, f"The scope '{form.get('scope')}' is not valid."
            )
        if form.get("client_assertion_type") != _ASSERTION:
            raise TokenError(
                401, "invalid_client", 7000216, "'client_assertion' or 'client_secret' is required."
            )
        self._verify(form.get("client_assertion", ""), f"{base}/{tenant}/oauth2/v2.0/token")
        token = f"stand-in.{secrets.token_urlsafe(32)}"
        self._good[token] = time.time() + good_s
        self.given += 1
        return {
            "token_type": "Bearer",
            "expires_in": good_s,
            "ext_expires_in": good_s,
            "access_token": token,
        }

    def check(self, header: str | None) -> None:
        """Fail unless the header of a call has a token that is good."""
        if not header:
            raise _unauthorized(
                "AuthenticationFailed",
                "Authentication failed. The 'Authorization' header is missing.",
            )
        scheme, _, token = header.partition(" ")
        until = self._good.get(token)
        if scheme.lower() != "bearer" or until is None:
            raise _unauthorized("InvalidAuthenticationToken", "The access token is invalid.")
        if time.time() >= until:
            raise _unauthorized(
                "ExpiredAuthenticationToken",
                "The access token expiry UTC time is earlier than current UTC time.",
            )

    def _require_tenant(self, tenant: str) -> None:
        if tenant.lower() != self.tenant.lower():
            raise TokenError(
                400,
                "invalid_tenant",
                90002,
                f"Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID "
                "and "
                "are signing into the correct cloud.",
            )

    def _verify(self, assertion: str, audience: str) -> None:
        try:
            signed, _, signature = assertion.rpartition(".")
            header, claims = (json.loads(_decoded(it)) for it in signed.split("."))
            raw = _decoded(signature)
        except ValueError:
            raise _refused(50027, "JWT token is invalid or malformed.") from None
        found = next((it for it in self._certificates if _is_of(it, header)), None)
        if found is None:
            raise _refused(
                700027,
                "The certificate with identifier used to sign the client assertion is not "
                "registered "
                "on application. [Reason - The key was not found.]",
            )
        key = found.public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        try:
            if header.get("alg") == "PS256":
                pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
                key.verify(raw, signed.encode(), pss, hashes.SHA256())
            elif header.get("alg") == "RS256":
                key.verify(raw, signed.encode(), padding.PKCS1v15(), hashes.SHA256())
            else:
                raise _refused(5002723, "The algorithm of the client assertion is not supported.")
        except InvalidSignature:
            raise _refused(
                700027,
                "Client assertion failed signature validation. [Reason - The key does not fit.]",
            ) from None
        now = time.time()
        if found.not_valid_after_utc.timestamp() < now:
            raise _refused(
                1000502, "The provided certificate is not within its specified validity window."
            )
        if not claims.get("nbf", 0) - 300 <= now < claims.get("exp", 0):
            raise _refused(700024, "Client assertion is not within its valid time range.")
        if claims.get("aud") != audience:
            raise _refused(700023, "Client assertion audience claim does not match Realm issuer.")
        if {str(claims.get(it)).lower() for it in ("iss", "sub")} != {self.app.lower()}:
            raise _refused(
                700021, "Client assertion application identifier doesn't match 'client_id'."
            )


def _is_of(certificate: x509.Certificate, header: dict[str, Any]) -> bool:
    for name, kind in (("x5t#S256", hashes.SHA256()), ("x5t", hashes.SHA1())):  # noqa: S303
        if name in header:
            return _decoded(header[name]) == certificate.fingerprint(kind)
    return False


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _refused(code: int, text: str) -> TokenError:
    return TokenError(401, "invalid_client", code, text)


def _unauthorized(code: str, text: str) -> ArmError:
    return ArmError(401, code, text, headers={"WWW-Authenticate": 'Bearer authorization_uri=""'})
