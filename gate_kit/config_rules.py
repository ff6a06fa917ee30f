"""What configurations of gates have in common: a description, files, logins at registries."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Wrong = Iterator[tuple[tuple[str | int, ...], str]]
"""Where a table has something wrong, and what; see `rpc_kit.config_file`."""

_REGISTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}(:[0-9]{1,5})?", re.ASCII)
_USERNAME = re.compile(r"[!-9;-~]{1,128}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    """The site's own login at a container registry: `[registry."ghcr.io"]`."""

    username: str
    password_file: str
    """A file with the password or token, for nobody but the gate's account to read."""

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Wrong:
        username = table.get("username")
        if isinstance(username, str) and not _USERNAME.fullmatch(username):
            yield ("username",), "is not a login; one word without ':' serves"
        yield from check_secret(table, "password_file", "one line with a password", is_line)


def check_registries(table: Mapping[str, Any]) -> Wrong:
    """Logins stand under the names of registries: `registry`."""
    names = table.get("registry")
    for name in names if isinstance(names, dict) else ():
        if not _REGISTRY.fullmatch(name):
            yield ("registry", name), 'is not a registry; write its host and port, as "ghcr.io"'


def check_names(table: Mapping[str, Any], key: str) -> Wrong:
    """What jobs ask for has names that can stand in paths."""
    named = table.get(key)
    for name in named if isinstance(named, dict) else ():
        if not _NAME.fullmatch(name):
            yield (key, name), "is not a name; 1 to 64 letters, digits, '.', '_' and '-' serve"


def check_description(table: Mapping[str, Any]) -> Wrong:
    """What is told of the site to people: `description`."""
    text = table.get("description")
    if isinstance(text, str) and (len(text) > 500 or not text.isprintable()):
        yield ("description",), "is not one line of at most 500 letters"


def check_path(table: Mapping[str, Any], key: str) -> Wrong:
    """A path means the same wherever the gate starts."""
    path = table.get(key)
    if isinstance(path, str) and not path.startswith(("/", "~/")):
        yield (key,), f'"{path}" depends on where the gate starts; begin it with / or ~/'


def check_readable(table: Mapping[str, Any], key: str) -> Wrong:
    """A file can be read."""
    path = table.get(key)
    if not isinstance(path, str):
        return
    wrong = list(check_path(table, key))
    yield from wrong
    if not wrong:
        try:
            Path(path).expanduser().read_bytes()
        except OSError as error:
            yield (key,), f'"{path}" can\'t be read: {error.strerror}'


def check_secret(
    table: Mapping[str, Any], key: str, what: str, is_such: Callable[[bytes], bool]
) -> Wrong:
    """A file is for nobody but the gate's account, and holds what it should.

    Args:
        table: The raw table.
        key: Under which the path stands there.
        what: Should be in the file, for people.
        is_such: Whether a content is that.
    """
    path = table.get(key)
    if not isinstance(path, str):
        return
    wrong = list(check_readable(table, key))
    yield from wrong
    if wrong:
        return
    file = Path(path).expanduser()
    if file.stat().st_mode & 0o077:
        yield (key,), f'"{path}" can be read by others; run `chmod 600 {path}`'
    if not is_such(file.read_bytes()):
        yield (key,), f'"{path}" does not hold {what}'


def is_line(content: bytes) -> bool:
    """Whether `secret` can tell what a file with this content holds."""
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        return False
    return bool(text) and text.isprintable()


def secret(path: str) -> str:
    """The one line of a file that was checked when the configuration was read."""
    return Path(path).expanduser().read_text(encoding="utf-8").strip()
