"""What was asked of Azure, kept on disk, so that a gate that starts knows it at once.

One JSON file for each kind and location. A file that can't be read, is of another version, or of
another subscription or endpoint counts as none: all of it can be asked for again.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rpc_kit import private_files

log = logging.getLogger(__name__)

_VERSION = 1
"""Grows when what is in the files means something else."""


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """What was found in the cache."""

    items: list[Mapping[str, Any]]
    fetched_at: datetime.datetime
    """When the site said so, by our clock, in UTC."""


class Cache:
    """Files below a folder of the gate's own."""

    def __init__(self, folder: Path, scope: str) -> None:
        """Files are in `folder`, made when there is the first.

        Args:
            folder: Nobody else writes there.
            scope: What is kept belongs to, such as a subscription at an endpoint.
        """
        self._folder = folder
        self._scope = scope

    def load(self, kind: str, location: str) -> Kept | None:
        """What is kept of `kind` in `location`; None if that is nothing, or nothing usable."""
        path = self._path(kind, location)
        try:
            told = json.loads(path.read_bytes())
            if (told["version"], told["scope"]) != (_VERSION, self._scope):
                return None
            items = told["items"]
            fetched_at = datetime.datetime.fromisoformat(told["fetched_at"])
            if not isinstance(items, list) or not all(isinstance(each, dict) for each in items):
                return None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("%s can't be read and is asked for anew: %r", path, error)
            return None
        if fetched_at.tzinfo is None or fetched_at > datetime.datetime.now(datetime.UTC):
            # A clock that was wrong then would keep it fresh for ever.
            return None
        return Kept(items, fetched_at)

    def keep(self, kind: str, location: str, kept: Kept) -> None:
        """Replace what is kept. A disk that takes none is logged: the gate goes on without."""
        path = self._path(kind, location)
        text = json.dumps(
            {
                "version": _VERSION,
                "scope": self._scope,
                "fetched_at": kept.fetched_at.isoformat(),
                "items": kept.items,
            }
        )
        try:
            private_files.make_folder(path.parent)
            private_files.replace(path, text.encode())
        except OSError as error:
            log.warning("%s can't be written, and is not there after a restart: %s", path, error)

    def _path(self, kind: str, location: str) -> Path:
        return self._folder / f"{kind}-{location}.json"
