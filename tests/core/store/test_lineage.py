"""A store that was copied or put back is told from one that has only been used on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from swm_core.store.lineage import Lineage


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "swm.db"
    path.write_bytes(b"store")
    return path


@pytest.fixture
def lineage(database: Path) -> Lineage:
    """Of a store that was used, up to event 7 in generation g2."""
    lineage = Lineage(database)
    lineage.note("g1", 3)
    lineage.note("g2", 7)
    return lineage


def test_a_new_store_has_nothing_to_be_compared_with(database: Path) -> None:
    assert Lineage(database).is_continued([], 0)


@pytest.mark.parametrize("sequence", [7, 8, 1000])
def test_a_store_that_was_used_on_is_continued(lineage: Lineage, sequence: int) -> None:
    assert lineage.is_continued(["g2", "g1"], sequence)


def test_a_store_whose_core_was_killed_at_its_start_is_continued(lineage: Lineage) -> None:
    assert lineage.is_continued(["g3", "g2", "g1"], 7)


@pytest.mark.parametrize(
    ("history", "sequence"),
    [
        (["g1"], 7),  # a backup from before the last start
        (["g2", "g1"], 6),  # a backup from while it ran
        (["g4", "g3"], 9),  # another store
    ],
)
def test_a_backup_put_back_over_it_is_not(
    lineage: Lineage, history: list[str], sequence: int
) -> None:
    assert not lineage.is_continued(history, sequence)


def test_a_copy_is_not_even_with_the_file_beside_it(lineage: Lineage, database: Path) -> None:
    copy = database.parent / "copy"
    copy.mkdir()
    for path in database.parent.glob("*.*"):
        shutil.copy2(path, copy)
    assert not Lineage(copy / database.name).is_continued(["g2", "g1"], 7)
    assert lineage.is_continued(["g2", "g1"], 7)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"inode": 1}', '{"more": 1}'])
def test_a_mark_that_is_missing_or_unreadable_proves_nothing(
    lineage: Lineage, database: Path, text: str
) -> None:
    mark = database.with_name("lineage.json")
    mark.write_text(text)
    assert not lineage.is_continued(["g2", "g1"], 7)
    mark.unlink()
    assert not lineage.is_continued(["g2", "g1"], 7)
