"""Everything that a core keeps in one file, and a home made from it.

The backup of a core that runs is as of one moment: first the store is copied as SQLite does it for
a file in use, then what it names; contents never change, and are there before anything names them.

    backup.json     what it is: format, installation, time, whether files are in it
    home/...        the home, with the copy of the store, without what runs and what is half there
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from rpc_kit import private_files
from swm_core import __version__
from swm_core.home import Home
from swm_core.spool import place
from swm_core.store.lineage import Lineage
from swm_core.store.meta import forget_spool

_FORMAT = 1
_CONTENTS = "backup.json"
_TOP = "home"
_CHUNK = 1 << 20
_SHORT_BYTES = 16 << 20
"""Files up to this may change while they are read: they are read first, and written whole."""


class BackupError(Exception):
    """It can't be done; the message is one line that says why and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Contents:
    """What a backup is of."""

    installation: str
    time: float
    """When the store was copied; seconds since the epoch."""
    core_version: str
    has_files: bool
    """Whether inputs, results and logs are in it."""
    format: int = _FORMAT


def back_up(home: Home, file: Path, *, with_files: bool) -> Contents:
    """Write all of a home to a new file, 0600; its core may run.

    Args:
        home: An initialised home of this user.
        file: Where to; there must be none, and it must not be in the home.
        with_files: Whether to take inputs, results and logs along.

    Raises:
        BackupError: It can't be done, and why. Then there is no file.
    """
    _check(home, file)
    draft = file.with_name(f".{file.name}.{os.urandom(4).hex()}")
    try:
        with _draft(draft) as output, tempfile.TemporaryDirectory(dir=file.parent) as folder:
            copy = Path(folder, "swm.db")
            installation = _copy_store(home, copy, with_files=with_files)
            contents = Contents(installation, time.time(), __version__, with_files)
            with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
                text = json.dumps(dataclasses.asdict(contents)).encode()
                _add_bytes(archive, _CONTENTS, text)
                for path in _kept(home, with_files=with_files):
                    _add(archive, f"{_TOP}/{path.relative_to(home.path)}", path)
                _add(archive, f"{_TOP}/{home.database.relative_to(home.path)}", copy)
            output.flush()
            os.fsync(output.fileno())
        if not private_files.give_name(draft, file):
            raise BackupError(f"{file} is there already; choose another name")
    except OSError as error:
        raise BackupError(_line(error)) from None
    except sqlite3.Error as error:
        raise BackupError(f"{home.database}: {error}") from None
    finally:
        draft.unlink(missing_ok=True)
    return contents


def restore(home: Home, file: Path, *, nothing_since: bool) -> Contents:
    """Make a home of a backup.

    Args:
        home: Where; there must be nothing.
        file: The backup.
        nothing_since: No core has run on the home that was backed up since: then its jobs go on as
            if nothing had been. Otherwise the core starts nothing of before; see `store.held`.

    Raises:
        BackupError: It can't be done, and why. Then the place is as it was.
    """
    if home.path.exists() and (not home.path.is_dir() or any(home.path.iterdir())):
        raise BackupError(
            f"{home.path} is there already; move it away, or set SWM_HOME to a new folder"
        )
    if not file.is_file():
        raise BackupError(f"{file}: no such file; name one that `swm backup` made")
    is_there = home.path.exists()
    try:
        # Beside it; in it where it may be a disk of its own.
        place_for = home.path if is_there else home.path.parent
        place_for.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place_for, prefix=".restoring-") as folder:
            draft = Home(Path(folder, _TOP))
            contents = _unpack(file, draft)
            _check_store(draft, contents)
            if nothing_since:
                _continue(draft)
            os.sync()
            if is_there:
                home.path.chmod(0o700)
                for part in draft.path.iterdir():
                    part.rename(home.path / part.name)
            else:
                draft.path.rename(home.path)
    except OSError as error:
        raise BackupError(_line(error)) from None
    except tarfile.TarError as error:
        raise BackupError(
            f"{file} is not a backup, or a part of it is missing ({error}); `swm backup` makes one"
        ) from None
    return contents


# ---- writing ----


def _check(home: Home, file: Path) -> None:
    if not home.database.exists():
        raise BackupError(f"{home.path} has no store; set SWM_HOME to the folder of a core")
    if home.database.stat().st_uid != os.geteuid():
        # The files that SQLite makes beside the store would be ours, and in its core's way.
        raise BackupError(f"{home.path} belongs to another user; run this as that user")
    if file.exists():
        raise BackupError(f"{file} is there already; choose another name")
    if not file.parent.is_dir():
        raise BackupError(f"{file.parent}: no such folder; make it, or choose another place")
    if file.absolute().resolve().is_relative_to(home.path.resolve()):
        raise BackupError(f"{file} would be a part of its own backup; choose a place elsewhere")


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[IO[bytes]]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as output:
        yield output


def _copy_store(home: Home, copy: Path, *, with_files: bool) -> str:
    """Copy the store as of now; returns the installation that it is of."""
    with (
        contextlib.closing(sqlite3.connect(home.database)) as store,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        store.execute("PRAGMA query_only = ON")
        store.backup(target)
        # One file, without a log beside it.
        target.execute("PRAGMA journal_mode = DELETE").fetchone()
        if not with_files:
            forget_spool(target)
        target.commit()
        row = target.execute("SELECT value FROM meta WHERE key = 'installation'").fetchone()
    if row is None:
        raise BackupError(f"{home.path}: no core has run here yet; there is nothing to back up")
    return str(row[0])


def _kept(home: Home, *, with_files: bool) -> Iterator[Path]:
    """The files of a home that are in a backup; of the spool only what is whole.

    A file that is linked to, as a `swm.toml` that lies elsewhere, is in it as a file.
    """
    left_out = {home.run, home.log, home.database.parent}
    if not with_files:
        left_out.add(home.spool)
    for folder, folders, names in os.walk(home.path):
        here = Path(folder)
        is_owner = here.parent == home.spool
        folders[:] = sorted(
            name
            for name in folders
            if here / name not in left_out and not (is_owner and name == "partial")
        )
        for name in sorted(names):
            path = here / name
            is_settings = home.spool not in path.parents
            if path.is_file() and (is_settings or not path.is_symlink()):
                yield path


def _add(archive: tarfile.TarFile, name: str, path: Path) -> None:
    """A file as it is now; one that has gone meanwhile is left out."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= _SHORT_BYTES:
                _add_bytes(archive, name, file.read())
            else:
                archive.addfile(_entry(name, size), file)
    except FileNotFoundError:
        return


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    archive.addfile(_entry(name, len(data)), io.BytesIO(data))


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o600, int(time.time())
    return entry


# ---- reading ----


def _unpack(file: Path, home: Home) -> Contents:
    with tarfile.open(file, mode="r:") as archive:
        contents = _contents(archive, file)
        home.path.mkdir(mode=0o700)
        for folder in home.folders:
            folder.mkdir(mode=0o700, exist_ok=True)
        for entry in archive:
            if entry.name == _CONTENTS:
                continue
            path = home.path / _relative(entry, file)
            _make_folder(path.parent)
            data = archive.extractfile(entry)
            with _draft(path) as output:
                while data is not None and (chunk := data.read(_CHUNK)):
                    output.write(chunk)
    return contents


def _make_folder(path: Path) -> None:
    """Make a folder, and what is missing above it, all of them 0700."""
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(mode=0o700)


def _contents(archive: tarfile.TarFile, file: Path) -> Contents:
    first = archive.next()
    data = archive.extractfile(first) if first is not None and first.isreg() else None
    if first is None or first.name != _CONTENTS or data is None:
        raise BackupError(f"{file} is not a backup of a core")
    try:
        table = json.loads(data.read(_CHUNK))
        if table["format"] > _FORMAT:
            raise BackupError(
                f"{file} was made by a newer version ({table['core_version']}); install that one"
            )
        known = {field.name for field in dataclasses.fields(Contents)}
        return Contents(**{name: value for name, value in table.items() if name in known})
    except (ValueError, TypeError, KeyError):
        raise BackupError(f"{file} is not a backup of a core") from None


def _relative(entry: tarfile.TarInfo, file: Path) -> PurePosixPath:
    """Where an entry lies in the home: plain files below it alone."""
    path = PurePosixPath(entry.name)
    if not entry.isreg() or path.is_absolute() or ".." in path.parts or path.parts[0] != _TOP:
        raise BackupError(f"{file} holds {entry.name!r}, which no backup has; it was changed")
    return path.relative_to(_TOP)


def _check_store(home: Home, contents: Contents) -> None:
    with contextlib.closing(sqlite3.connect(home.database)) as store:
        try:
            (told,) = store.execute("PRAGMA quick_check(1)").fetchone()
            (found,) = store.execute("SELECT value FROM meta WHERE key = 'installation'").fetchone()
        except (sqlite3.Error, TypeError) as error:
            raise BackupError(f"the store in the backup can't be used: {error}") from None
    if told != "ok" or found != contents.installation:
        raise BackupError(f"the store in the backup is damaged: {told}")
    if contents.has_files and not (home.spool / place.MARK).exists():
        raise BackupError("the backup is to have files, and their spool is not in it")


def _continue(home: Home) -> None:
    """Have the core take the store for the one that was used last."""
    with contextlib.closing(sqlite3.connect(home.database)) as store:
        generation = store.execute(
            "SELECT generation FROM generations ORDER BY number DESC LIMIT 1"
        ).fetchone()
        (sequence,) = store.execute("SELECT max(sequence) FROM events").fetchone()
    if generation is not None:
        Lineage(home.database).note(generation[0], sequence or 0)


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)
