"""A user's bundle: one file with all that a terminal needs to reach its core."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path

from rpc_kit import private_files
from rpc_kit.endpoint import Endpoint
from rpc_kit.tls import KeyPair, core_name


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
            # A JSON string is a TOML basic string; PEM has nothing that needs escaping.
            quoted = f'"""\n{value}"""' if field.name.endswith("_pem") else json.dumps(value)
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
            values = tomllib.loads(text)
        except FileNotFoundError:
            raise BundleError(
                f"{path}: no such file; run `swm init`, or ask the administrator for a bundle"
            ) from None
        except (OSError, ValueError) as error:
            raise BundleError(f"{path}: can't be read: {error}") from None
        if mode & 0o077:
            raise BundleError(f"{path}: others can read the key in it; run `chmod 600 {path}`")
        names = [field.name for field in dataclasses.fields(cls)]
        lacking = [name for name in names if not isinstance(values.get(name), str)]
        if lacking:
            raise BundleError(f"{path}: lacks {', '.join(lacking)}; ask for a new bundle")
        try:
            Endpoint.parse(values["endpoint"])
        except ValueError as error:
            raise BundleError(f"{path}: endpoint: {error}") from None
        return cls(**{name: values[name] for name in names})

    def write_new(self, path: Path) -> bool:
        """Write the file, 0600, unless there is one; returns whether it was written."""
        return private_files.write_new(path, self.to_toml().encode())
