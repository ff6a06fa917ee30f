"""What cloud-init gets: `cloud_init.yaml` and `boot.sh`, with the values of one partition."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import hmac
import json
import string
import urllib.parse
from collections.abc import Sequence
from importlib import resources

LOGIN_CONTAINERS = "swm"
"""The account of partitions for jobs in containers."""
LOGIN_PLAIN = "job"
"""The account of all others: it can't reach an engine."""
MOUNTS = "/mnt/skyport"
"""Where storage is mounted on nodes."""

_SAS_VERSION = "2021-12-02"
_SAS_S = 7 * 86_400
"""It can't be renewed: nobody of ours is root on a node that runs."""
_CLOCK_S = 900
"""How far a node's clock may be off."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mount:
    """A container of blobs, and a pass to read it."""

    name: str
    account: str
    container: str
    endpoint: str
    sas: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Boot:
    """What a machine is to become."""

    login: str
    client_key: str
    """The public key that gets in."""
    host_key: str = dataclasses.field(repr=False)
    """The private host key."""
    host_key_public: str
    containers: bool
    mounts: Sequence[Mount] = ()

    def render(self) -> str:
        """The text for cloud-init."""
        template = string.Template(_text("cloud_init.yaml"))
        files = [
            {
                "path": f"/etc/skyport/storage.{mount.name}.yaml",
                "permissions": "0600",
                "content": _blobfuse(mount),
            }
            for mount in self.mounts
        ]
        values = {
            "login": self.login,
            "client_key": self.client_key,
            "host_key": self.host_key,
            "host_key_public": self.host_key_public,
            "containers": "yes" if self.containers else "no",
            "storage_names": "".join(f"{mount.name}\n" for mount in self.mounts),
            "boot": _text("boot.sh"),
        }
        written = {name: json.dumps(value) for name, value in values.items()}
        written["storage_files"] = "".join(f"  - {json.dumps(file)}\n" for file in files)
        return template.substitute(written)


def mount(name: str, account: str, container: str, suffix: str, key: str, now_s: float) -> Mount:
    """A pass to list and read a container, made from the account's key.

    The string to sign is that of a service SAS, by Azure's documentation of version 2021-12-02.

    Raises:
        ValueError: The key is not one of a storage account.
    """
    start, end = (
        datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for at in (now_s - _CLOCK_S, now_s + _SAS_S)
    )
    fields = [
        "rl",  # permissions: read, list
        start,
        end,
        f"/blob/{account}/{container}",
        "",  # identifier
        "",  # addresses
        "https",
        _SAS_VERSION,
        "c",  # resource: the container
        "",  # snapshot time
        "",  # encryption scope
        *[""] * 5,  # headers of answers
    ]
    secret = base64.b64decode(key, validate=True)
    signed = hmac.new(secret, "\n".join(fields).encode(), hashlib.sha256).digest()
    query = {
        "sp": "rl",
        "st": start,
        "se": end,
        "spr": "https",
        "sv": _SAS_VERSION,
        "sr": "c",
        "sig": base64.b64encode(signed).decode(),
    }
    endpoint = f"https://{account}.blob.{suffix}"
    return Mount(name, account, container, endpoint, urllib.parse.urlencode(query))


def _blobfuse(mount: Mount) -> str:
    """The configuration of blobfuse2, as JSON, which is YAML too."""
    told = {
        "read-only": True,
        "allow-other": True,
        "logging": {"type": "syslog", "level": "log_warning"},
        "components": ["libfuse", "block_cache", "attr_cache", "azstorage"],
        "libfuse": {"attribute-expiration-sec": 120, "entry-expiration-sec": 120},
        "azstorage": {
            "type": "block",
            "account-name": mount.account,
            "container": mount.container,
            "endpoint": mount.endpoint,
            "mode": "sas",
            "sas": mount.sas,
        },
    }
    return json.dumps(told, indent=1)


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
