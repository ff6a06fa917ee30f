"""The configuration of the Azure gate, as its file has it."""

# ruff: noqa: RUF009 - what a NewType is called with is a constant still

from __future__ import annotations

import dataclasses
import ipaddress
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gate_kit import NodeImages
from gate_kit.config_rules import (
    RegistryConfig,
    Wrong,
    check_description,
    check_names,
    check_path,
    check_readable,
    check_registries,
    check_secret,
    is_line,
)
from rpc_kit import config_file
from rpc_kit.units import Seconds

DEFAULT_IMAGE = "Canonical:ubuntu-24_04-lts:server:latest"

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_LOCATION = re.compile(r"[a-z0-9]{1,64}", re.ASCII)
_SIZE = re.compile(r"[A-Za-z0-9_*?\[\]-]{1,64}", re.ASCII)
_URN = re.compile(r"[A-Za-z0-9._-]{1,128}(:[A-Za-z0-9._-]{1,128}){3}", re.ASCII)
_IMAGE_ID = re.compile(
    r"(?i:/subscriptions/[0-9a-f-]{36}/resourceGroups/[\w.()-]{1,90}/providers/Microsoft\.Compute/"
    r"(images/[\w.-]{1,80}|galleries/[\w.]{1,80}/images/[\w.-]{1,80}(/versions/[\w.]{1,80})?))"
    r"|/(CommunityGalleries|SharedGalleries)/[\w./-]{1,400}",
    re.ASCII,
)
IMAGES = NodeImages(
    f"{_URN.pattern}|{_IMAGE_ID.pattern}",
    "publisher:offer:sku:version, or the id of an image (/subscriptions/…)",
)
"""What nodes can boot."""
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}", re.ASCII)
_CONTAINER = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}", re.ASCII)
_LOGIN = "a private key and a certificate, as PEM, one after the other"
_DOMAIN = re.compile(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """A container of blobs that jobs may ask for, read-only: `[storage.NAME]`."""

    account: str
    """The storage account."""
    container: str
    key_file: str
    """A file with the account's key. It stays with the gate: nodes get a pass that ends soon."""
    suffix: str = "core.windows.net"
    """Of the service's name: sovereign clouds have others."""

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Wrong:
        for key, form, mend in (
            ("account", _ACCOUNT, "3 to 24 lower-case letters and digits serve"),
            ("container", _CONTAINER, "3 to 63 lower-case letters, digits and single '-' serve"),
            ("suffix", _DOMAIN, 'write it as "core.windows.net"'),
        ):
            value = table.get(key)
            if isinstance(value, str) and not form.fullmatch(value):
                yield (key,), f'"{value}" is not such a name; {mend}'
        yield from check_secret(table, "key_file", "one line with the account's key", is_line)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EndpointsConfig:
    """Where Azure is: `[endpoints]`, for other clouds than the public one."""

    resource_manager: str = "https://management.azure.com"
    authority: str = "https://login.microsoftonline.com"
    prices: str = "https://prices.azure.com/api/retail/prices"
    egress: str = "https://api.ipify.org"
    """Tells the address that we come from, as text; asked where `inbound_from` is empty."""
    ca_file: str = ""
    """Certificates that are trusted at all of these, PEM; empty: those of the system."""

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Wrong:
        for key in ("resource_manager", "authority", "prices", "egress"):
            value = table.get(key)
            if isinstance(value, str):
                yield from (((key,), why) for why in _url(value, key in {"prices", "egress"}))
        if table.get("ca_file"):
            yield from check_readable(table, "ca_file")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The file as a whole."""

    subscription_id: str
    tenant_id: str
    app_id: str
    """Of the service principal."""
    certificate_file: str
    """Its private key (RSA) and its certificate, PEM, for nobody but the gate's account to read."""
    state_dir: str
    """A folder of the gate's own: its client key, and caches. One for each site."""
    locations: tuple[str, ...]
    """The regions that partitions may be made in, as "westeurope"; the first is the default."""
    description: str = ""
    """Of the site, for people; one line."""
    vm_sizes: tuple[str, ...] = ()
    """The sizes that are offered, as "Standard_D*s_v5"; empty: all."""
    image: str = DEFAULT_IMAGE
    """What nodes boot: publisher:offer:sku:version, or the id of an image of your own."""
    images: tuple[str, ...] = ()
    """Further ones that jobs may name."""
    inbound_from: tuple[str, ...] = ()
    """The addresses or networks that SSH to nodes is let in from; empty: the one that we come from,
    as `endpoints.egress` tells it."""
    expiry: bool = True
    """Whether nodes are deallocated by Azure itself when neither core nor gate has been heard of:
    within 24 hours."""
    max_partitions: int = 0
    """At most so many at a time; 0: as many as the subscription has room for."""
    boot_timeout: Seconds = Seconds(1_200)
    """A node that is not ready by then has failed."""
    registry: dict[str, RegistryConfig] = dataclasses.field(default_factory=dict)
    """Logins by registry: host and port."""
    storage: dict[str, StorageConfig] = dataclasses.field(default_factory=dict)
    """What jobs may name with `#SWM storage`."""
    endpoints: EndpointsConfig = dataclasses.field(default_factory=EndpointsConfig)

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Wrong:
        yield from _ids(table)
        yield from check_secret(table, "certificate_file", _LOGIN, _is_login)
        yield from check_path(table, "state_dir")
        yield from check_description(table)
        if table.get("locations") == []:
            yield ("locations",), 'is empty; name a region, as ["westeurope"]'
        yield from _each(table, "locations", _LOCATION, 'is not a region; write it as "westeurope"')
        yield from _each(
            table, "vm_sizes", _SIZE, 'is not a size of machines; write it as "Standard_D4s_v5"'
        )
        for at, image in (
            *((("images", index), name) for index, name in enumerate(_list(table, "images"))),
            (("image",), table.get("image")),
        ):
            if isinstance(image, str) and not is_image(image):
                mend = "write publisher:offer:sku:version, or an id as /subscriptions/…/images/NAME"
                yield at, f'"{image}" is no image; {mend}'
        for index, network in enumerate(_list(table, "inbound_from")):
            if isinstance(network, str):
                yield from ((("inbound_from", index), why) for why in _network(network))
        most = table.get("max_partitions")
        if type(most) is int and most < 0:
            yield ("max_partitions",), f"is {most}; 0 is no limit"
        yield from check_registries(table)
        yield from check_names(table, "storage")


def load(path: Path) -> Config:
    """The configuration in `path`.

    Raises:
        rpc_kit.config_file.ConfigError: It can't be used; the text names line, field and mend.
    """
    return config_file.load(path, Config)


def is_image(name: str) -> bool:
    """Whether `name` is an image as Azure names them: a URN, or an id."""
    return bool(_URN.fullmatch(name) or _IMAGE_ID.fullmatch(name))


def is_id(text: str) -> bool:
    """Whether `text` has the form of the ids of subscriptions, tenants and applications."""
    return _UUID.fullmatch(text) is not None


def is_location(text: str) -> bool:
    """Whether `text` has the form of the name of a region."""
    return _LOCATION.fullmatch(text) is not None


def _ids(table: Mapping[str, Any]) -> Wrong:
    for key, where in (
        ("subscription_id", "`az account show` tells it as id"),
        ("tenant_id", "`az account show` tells it as tenantId"),
        ("app_id", "`az ad sp create-for-rbac` told it as appId"),
    ):
        value = table.get(key)
        if isinstance(value, str) and not _UUID.fullmatch(value):
            yield (key,), f'"{value}" is not an id of Azure; {where}'


def _list(table: Mapping[str, Any], key: str) -> list[Any]:
    value = table.get(key)
    return value if isinstance(value, list) else []


def _each(table: Mapping[str, Any], key: str, form: re.Pattern[str], why: str) -> Wrong:
    for index, value in enumerate(_list(table, key)):
        if isinstance(value, str) and not form.fullmatch(value):
            yield (key, index), f'"{value}" {why}'


def _network(text: str) -> Iterator[str]:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        yield f'"{text}" is not an address or a network; write it as "203.0.113.7"'
        return
    if network.prefixlen == 0:
        yield f'"{text}" is everybody; name the addresses that the gate comes from'


def _url(url: str, may_be_plain: bool) -> Iterator[str]:
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        parts.port  # noqa: B018 - raises where it is no number
    except ValueError:
        yield f'"{url}" is not an address; write it as "https://management.azure.com"'
        return
    is_plain = parts.scheme == "http" and may_be_plain and _is_loopback(host)
    if not host or (parts.scheme != "https" and not is_plain):
        yield f'"{url}" is not reached safely; write it with https://'
    elif parts.username is not None or parts.query or parts.fragment:
        yield f'"{url}" has more than host and path; leave the rest out'


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_login(content: bytes) -> bool:
    return b"PRIVATE KEY-----" in content and b"-----BEGIN CERTIFICATE-----" in content
