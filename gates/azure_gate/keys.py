"""The gate's own SSH key, and the host keys of nodes.

The client key is all that the gate has to keep: a file of its state, made at the first start. The
host key of a partition's nodes is derived from it, so a gate that was killed half-way through a
create gives further nodes the same one, and the first connection to a node is verified already.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import textwrap
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rpc_kit import private_files

_KEY = "id_ed25519"
_KNOWN = "known"
_FOR_HOSTS = b"skyport azure host key 1 "


@dataclasses.dataclass(frozen=True, slots=True)
class HostKey:
    """The host key of all nodes of a partition."""

    private: str = dataclasses.field(repr=False)
    """As OpenSSH keeps it."""
    public: str


class Keys:
    """The keys in the gate's folder.

    Args:
        folder: Of the gate alone; made if it is missing.

    Raises:
        OSError: It can't be used; the text says why.
        ValueError: What is there is no key.
    """

    def __init__(self, folder: Path) -> None:
        private_files.make_folder(folder)
        self.file = folder / _KEY
        """What ssh takes as an identity."""
        if not self.file.exists():
            private_files.write_new(self.file, _openssh(Ed25519PrivateKey.generate()))
        key = serialization.load_ssh_private_key(self.file.read_bytes(), None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{self.file} is not an ed25519 key; move it away to have one made")
        self._key = key
        self._known = private_files.make_folder(folder / _KNOWN)
        self.public = _public(key)
        """As a line of authorized_keys."""

    def host_key(self, partition: str) -> HostKey:
        """The host key for the nodes of a partition, always the same.

        Args:
            partition: A name of it that is unique in the world.
        """
        secret = self._key.private_bytes_raw()
        derived = HKDF(hashes.SHA256(), 32, salt=None, info=_FOR_HOSTS + partition.encode())
        key = Ed25519PrivateKey.from_private_bytes(derived.derive(secret))
        return HostKey(_same_openssh(key), _public(key))

    def known_hosts(self, partition: str, host_key: str) -> Path:
        """A file for ssh that trusts one host key, whatever the address.

        Args:
            partition: As for `host_key`; it is the file's name.
            host_key: The public key, as the partition's tags tell it.
        """
        file = self._known / partition
        line = f"* {host_key}\n".encode()
        try:
            if file.read_bytes() == line:
                return file
        except FileNotFoundError:
            pass
        private_files.replace(file, line)
        return file

    def forget(self, partition: str) -> None:
        """The partition is gone."""
        (self._known / partition).unlink(missing_ok=True)

    def forget_all(self) -> None:
        """What is needed again is written again; what went while no gate ran is not."""
        for file in self._known.iterdir():
            file.unlink(missing_ok=True)


def _openssh(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )


def _same_openssh(key: Ed25519PrivateKey) -> str:
    """A key as OpenSSH keeps it, always with the same letters.

    Libraries put random numbers into it. A machine that is asked for once more gets the key again,
    and Azure refuses what differs from the first time. The form is that of PROTOCOL.key of OpenSSH.
    """

    def text(data: bytes) -> bytes:
        return len(data).to_bytes(4) + data

    secret, public = key.private_bytes_raw(), key.public_key().public_bytes_raw()
    kind = text(b"ssh-ed25519")
    check = hashlib.sha256(secret).digest()[:4]
    private = 2 * check + kind + text(public) + text(secret + public) + text(b"")
    private += bytes(range(1, 1 + -len(private) % 8))
    none = text(b"none")
    head = b"openssh-key-v1\0" + none + none + text(b"") + (1).to_bytes(4)
    whole = base64.b64encode(head + text(kind + text(public)) + text(private)).decode()
    lines = "\n".join(textwrap.wrap(whole, 70))
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{lines}\n-----END OPENSSH PRIVATE KEY-----\n"


def _public(key: Ed25519PrivateKey) -> str:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        .decode()
    )
