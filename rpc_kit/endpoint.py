"""Where a server listens: `unix:///absolute/path`, or `host:port`."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

MAX_SOCKET_PATH_BYTES = 107
"""What the kernel takes for the path of a unix socket."""

_HOST_PORT = re.compile(r"(?:\[([0-9a-fA-F:.%]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a server: a `path` (then host and port are empty), or `host` and `port`."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """The endpoint that `text` names.

        Raises:
            ValueError: It names none; the message says what one looks like.
        """
        if text.startswith("unix:"):
            path = text.removeprefix("unix:").removeprefix("//")
            if not path.startswith("/") or "\0" in path:
                raise ValueError(
                    f'"{text}" has no absolute path; write it as "unix:///run/skyport/gate.sock"'
                )
            if len(path.encode()) > MAX_SOCKET_PATH_BYTES:
                raise ValueError(
                    f'the path of "{text}" is longer than {MAX_SOCKET_PATH_BYTES} bytes, which no '
                    "unix socket can be; choose a shorter one"
                )
            return cls(path=Path(path))
        found = _HOST_PORT.fullmatch(text)
        if not found or int(found[3]) > 65_535:
            raise ValueError(
                f'"{text}" is not an address; write "127.0.0.1:7717" or "unix:///path/of/socket"'
            )
        return cls(host=found[1] or found[2], port=int(found[3]))

    @property
    def target(self) -> str:
        """The name of this endpoint for a grpc channel or server."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it: a unix socket or a loopback address."""
        if self.path is not None or self.host == "localhost":
            return True
        import ipaddress  # a command line pays for each import

        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"unix://{self.path}" if self.path is not None else self.target
