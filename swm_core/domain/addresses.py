"""Which addresses at the user's side jobs may be reached at, and may reach.

An administrator lists them. An address is compared as it is written, without asking a name server:
who answers for a name may give another answer a moment later.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable

LOOPBACK = "127.0.0.1"

_MAX_PORT = 65_535


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """An entry of such a list: one address, name or network, with all ports or with one."""

    host: str
    """In normal form; a network as `192.0.2.0/24`."""
    port: int = 0
    """0: any."""

    @classmethod
    def parse(cls, text: str) -> Place:
        """The place that `text` names: `ADDRESS`, `NETWORK` or `NAME`, or one of them and `:PORT`.

        Raises:
            ValueError: It names none; the message says what one looks like.
        """
        host, port = text, 0
        bracketed, bracket, behind = text.partition("]")
        if bracket:
            host = bracketed.removeprefix("[")
            port = _port(text, behind.removeprefix(":")) if behind else 0
        elif text.count(":") == 1:
            host, _, number = text.partition(":")
            port = _port(text, number)
        normal = _normal(host)
        if not normal:
            raise ValueError(
                f'"{text}" is not an address; write "192.0.2.7", "192.0.2.0/24", "db.example", or '
                'one of them with a port, as "127.0.0.1:5432"'
            )
        return cls(normal, port)

    def has(self, host: str, port: int) -> bool:
        """Whether `port` of the address `host` is here."""
        if self.port not in (0, port):
            return False
        wanted = _normal(host)
        if wanted == self.host:
            return bool(wanted)
        try:
            return ipaddress.ip_address(wanted) in ipaddress.ip_network(self.host)
        except ValueError:
            return False

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


LOOPBACK_ONLY = (Place("127.0.0.0/8"), Place("::1"))
"""What holds where an administrator says nothing."""


def allowed(places: Iterable[Place], host: str, port: int = 0) -> bool:
    """Whether one of `places` has the address; for port 0, one that has all ports of it."""
    return any(place.has(host, port) for place in places)


def dialled(address: str) -> str:
    """The host of a job's submission address as sockets take it; loopback where it has none."""
    return address.strip("[]") or LOOPBACK


def _port(text: str, number: str) -> int:
    if not (number.isascii() and number.isdigit() and 0 < int(number) <= _MAX_PORT):
        raise ValueError(f'"{text}" has no port from 1 to {_MAX_PORT} behind its colon')
    return int(number)


def _normal(host: str) -> str:
    """An address, network or name in the form that is compared; empty for what is none."""
    host = host.strip("[]").lower().rstrip(".")
    if host == "localhost":
        return LOOPBACK
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        mapped = getattr(address, "ipv4_mapped", None)
        return str(mapped or address)
    try:
        return str(ipaddress.ip_network(host)) if "/" in host else _name(host)
    except ValueError:
        return ""


def _name(host: str) -> str:
    """A host's name: one whose last part is a number would be taken for an address by some."""
    parts = host.split(".")
    fits = all(part and part.replace("-", "").isalnum() and part.isascii() for part in parts)
    return host if fits and not parts[-1].isdigit() and not host.startswith("0x") else ""
