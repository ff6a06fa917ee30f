"""mTLS on every TCP connection, and the channel options that all clients share."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import grpc

MAX_MESSAGE_BYTES = 4 << 20
"""What every server and client accepts at most in one message; larger things are streamed."""

# Only what says "nothing was done, or it may be done again under its id" is repeated below us.
# Three more tries within about a second: somebody waits, and who can wait longer says so himself.
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class KeyPair:
    """What one side of a connection shows and trusts, as PEM."""

    ca_pem: bytes
    cert_pem: bytes
    key_pem: bytes = dataclasses.field(repr=False)


class KeyFiles:
    """A key pair in files, which is read anew whenever one of them has changed.

    So a certificate is renewed by writing its file, whole (as a rename does), and nobody is
    restarted.

    Args:
        ca: The CA's certificate.
        cert: Ours.
        key: Its private key.

    Raises:
        OSError: One of them can't be read.
    """

    def __init__(self, ca: Path, cert: Path, key: Path) -> None:
        self._paths = (ca, cert, key)
        self._seen = self._look()
        self.pair = self._read()
        """What was read last."""

    def changed(self) -> KeyPair | None:
        """The pair in the files if it is another than the last one.

        Files that can't be read now (they are being replaced, or were lost) change nothing.
        """
        try:
            seen = self._look()
            if seen == self._seen:
                return None
            pair = self._read()
        except OSError:
            return None
        self._seen = seen
        if pair == self.pair:
            return None
        self.pair = pair
        return pair

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        found = (path.stat() for path in self._paths)
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)

    def _read(self) -> KeyPair:
        ca, cert, key = (path.read_bytes() for path in self._paths)
        return KeyPair(ca, cert, key)


def core_name(installation: str) -> str:
    """The DNS name in the core's certificate, which clients expect."""
    return f"core.{installation}.swm"


def gate_name(installation: str, gate: str) -> str:
    """The DNS name in a gate's certificate, which the core expects."""
    return f"gate-{gate}.{installation}.swm"


def server_credentials(keys: KeyPair | KeyFiles) -> grpc.ServerCredentials:
    """Credentials of a server that takes only clients with a certificate of the same CA.

    Args:
        keys: What to show. Of files, each new connection is shown what is in them by then.
    """
    if isinstance(keys, KeyPair):
        return grpc.ssl_server_credentials(
            [(keys.key_pem, keys.cert_pem)],
            root_certificates=keys.ca_pem,
            require_client_auth=True,
        )
    files = keys

    def newer() -> grpc.ServerCertificateConfiguration | None:
        pair = files.changed()
        return None if pair is None else _configuration(pair)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(files.pair),
        newer,  # type: ignore[arg-type]  # None means no change; the types do not know
        require_client_authentication=True,
    )


def _configuration(pair: KeyPair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(pair.key_pem, pair.cert_pem)], root_certificates=pair.ca_pem
    )


def channel_credentials(pair: KeyPair) -> grpc.ChannelCredentials:
    """Credentials of a client that trusts only servers with a certificate of the same CA."""
    return grpc.ssl_channel_credentials(
        root_certificates=pair.ca_pem,
        private_key=pair.key_pem,
        certificate_chain=pair.cert_pem,
    )


def channel_options(
    expected_name: str | None = None, *, keepalive_s: int | None = 30
) -> list[tuple[str, str | int]]:
    """Options for a channel, sync or asyncio.

    Args:
        expected_name: The DNS name that the server's certificate must have; None for a unix
            socket. The address says nothing: all parts may share one.
        keepalive_s: Seconds between pings while a call is open, so that a link that died in
            silence is noticed. Our servers allow it. None sends none: for servers of others, which
            may cut a connection that pings more often than every five minutes, and whose watches
            have a heartbeat anyway.

    Returns:
        Messages up to 4 MiB, quick reconnects, and a retry policy that repeats UNAVAILABLE only.
    """
    options: list[tuple[str, str | int]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.service_config", _SERVICE_CONFIG),
        # A proxy named in the environment is meant for the web, never for these links.
        ("grpc.enable_http_proxy", 0),
    ]
    if expected_name is not None:
        options.append(("grpc.ssl_target_name_override", expected_name))
    if keepalive_s is not None:
        options += [
            ("grpc.keepalive_time_ms", keepalive_s * 1_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    return options
