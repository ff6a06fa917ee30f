"""A user's bundle: one file with all that a terminal needs to reach its core."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import tomllib
from pathlib import Path

from rpc_kit import private_files
from rpc_kit.endpoint import Endpoint
from rpc_kit.tls import KeyPair, core_name

_OPTIONAL = ("expires",)
_PEM = re.compile(r"[A-Za-z0-9+/=\n -]*")


def _quoted(text: str) -> str:
    """A TOML basic string: as one of JSON, but for the one control character that JSON leaves."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class BundleError(Exception):
    """The bundle can't be used; the message says why and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """The content of `client.toml`. Holds a private key: never log it."""

    endpoint: str
    installation: str
    user: str
    ca_pem: str
    cert_pem: str
    key_pem: str = dataclasses.field(repr=False)
    expires: str = ""
    """When the certificate ends, as ISO 8601, for people and for a warning in time; may be absent.
    What counts is in the certificate."""

    @property
    def expire_time(self) -> float | None:
        """What `expires` says, in seconds since the epoch; None if it says nothing."""
        try:
            return datetime.datetime.fromisoformat(self.expires).timestamp()
        except ValueError:
            return None

    @property
    def server_name(self) -> str:
        """The name that the core's certificate must have."""
        return core_name(self.installation)

    @property
    def key_pair(self) -> KeyPair:
        return KeyPair(self.ca_pem.encode(), self.cert_pem.encode(), self.key_pem.encode())

    def to_toml(self) -> str:
        """The text of the file."""
        lines = ["# Lets its holder act as this user. Keep it to yourself (mode 0600)."]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not value and field.name in _OPTIONAL:
                continue
            plain = field.name.endswith("_pem") and _PEM.fullmatch(value)
            quoted = f'"""\n{value}"""' if plain else _quoted(value)
            lines.append(f"{field.name} = {quoted}")
        return "\n".join(lines) + "\n"

    @classmethod
    def read(cls, path: Path) -> Bundle:
        """The bundle in the file `path`.

        Raises:
            BundleError: There is none, others can read it, or it lacks something.
        """
        try:
            mode = path.stat().st_mode
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise BundleError(
                f"{path}: no such file; run `swm up` to start a core here, or `swm login` with the "
                "bundle that an administrator gave you"
            ) from None
        except (OSError, ValueError) as error:
            raise BundleError(f"{path}: can't be read: {error}") from None
        if mode & 0o077:
            raise BundleError(f"{path}: others can read the key in it; run `chmod 600 {path}`")
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, where: str) -> Bundle:
        """The bundle in a file's text.

        Args:
            text: As `to_toml` makes it.
            where: It came from, for errors.

        Raises:
            BundleError: It is none, or lacks something.
        """
        try:
            values = tomllib.loads(text)
        except ValueError as error:
            raise BundleError(f"{where}: can't be read: {error}") from None
        names = [field.name for field in dataclasses.fields(cls)]
        for name in _OPTIONAL:
            values.setdefault(name, "")
        lacking = [name for name in names if not isinstance(values.get(name), str)]
        if lacking:
            raise BundleError(f"{where}: lacks {', '.join(lacking)}; ask for a new bundle")
        try:
            Endpoint.parse(values["endpoint"])
        except ValueError as error:
            raise BundleError(f"{where}: endpoint: {error}") from None
        return cls(**{name: values[name] for name in names})

    def write_new(self, path: Path) -> bool:
        """Write the file, 0600, unless there is one; returns whether it was written."""
        return private_files.write_new(path, self.to_toml().encode())

    def replace(self, path: Path) -> None:
        """Write the file, 0600, in place of the one that may be there."""
        private_files.replace(path, self.to_toml().encode())
