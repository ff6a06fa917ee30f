from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rpc_kit import private_files


def test_a_new_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert private_files.write_new(path, b"secret")
    assert path.read_bytes() == b"secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_exists_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"old")
    assert not private_files.write_new(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_new_file_can_be_on_a_file_system_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.link", no_links)
    path = tmp_path / "key"
    assert private_files.write_new(path, b"secret")
    assert path.read_bytes() == b"secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert not private_files.write_new(path, b"another")
    assert path.read_bytes() == b"secret"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_leaves_the_old_content_when_the_new_can_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    private_files.replace(path, b"old")
    private_files.replace(path, b"newer")
    assert path.read_bytes() == b"newer"

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        private_files.replace(path, b"lost")
    assert path.read_bytes() == b"newer"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert private_files.make_folder(path) == path
    assert path.stat().st_mode & 0o777 == 0o700
    assert private_files.make_folder(path) == path


def test_a_folder_that_is_open_linked_or_a_file_is_refused(tmp_path: Path) -> None:
    shut = private_files.make_folder(tmp_path / "shut")
    (tmp_path / "link").symlink_to(shut)
    (tmp_path / "file").write_text("")
    (tmp_path / "open").mkdir(mode=0o755)
    for name in ("link", "file", "open"):
        with pytest.raises(PermissionError, match=name):
            private_files.make_folder(tmp_path / name)
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o755


def test_drafts_of_writers_that_were_killed_are_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in ("state", ".hidden", ".state.bak", "state.0a1b2c3d")]
    for path in (*kept, tmp_path / ".state.0a1b2c3d"):
        path.write_bytes(b"x")
    private_files.remove_drafts(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
