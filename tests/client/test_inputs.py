from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from terminals.client import inputs
from terminals.client.errors import InputsInvalid
from terminals.client.inputs import Input, Kind, select


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
    return folder


def names(folder: Path, *patterns: str) -> list[str]:
    return [entry.name for entry in select(patterns, folder).inputs]


def problems(folder: Path, *patterns: str) -> tuple[str, ...]:
    with pytest.raises(InputsInvalid) as caught:
        select(patterns, folder)
    return caught.value.problems


def test_a_relative_path_keeps_its_folders(tmp_path: Path) -> None:
    tree(tmp_path, "a/b/c.txt")
    assert names(tmp_path, "./a//b/c.txt") == ["a/b/c.txt"]


def test_an_absolute_path_is_taken_as_the_system_takes_it(tmp_path: Path) -> None:
    tree(tmp_path, "releases/5/", "releases/data", "data", "..hidden", "releases/..hidden")
    (tmp_path / "current").symlink_to("releases/5")
    for name in ("data", "..hidden"):
        (entry,) = select([f"{tmp_path}/current/../{name}"], tmp_path).inputs
        assert entry.name == name
        assert Path(entry.source).read_text() == f"releases/{name}"
    assert names(tmp_path, f"{tmp_path}/current/..") == [
        "releases/..hidden",
        "releases/5",
        "releases/data",
    ]


def test_more_than_a_job_takes_is_told_without_looking_at_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "MAX_INPUTS", 3)
    tree(tmp_path, *(f"data/{number}/x" for number in range(20)))
    assert names(tmp_path, *(f"data/{number}" for number in range(3)))
    looked_at = []

    def scandir(path: str, known: Callable[[str], Any] = os.scandir) -> Any:
        looked_at.append(path)
        return known(path)

    monkeypatch.setattr("os.scandir", scandir)
    (problem,) = problems(tmp_path, "data")
    assert "more than 3 files" in problem
    assert len(looked_at) == 5  # the folder, and four below it


def test_an_absolute_path_lands_under_its_last_name(tmp_path: Path) -> None:
    tree(tmp_path, "a/b/c.txt", "set/x", "set/y/z")
    assert names(Path("/"), f"{tmp_path}/a/b/c.txt") == ["c.txt"]
    assert names(Path("/"), f"{tmp_path}/set/") == ["set/x", "set/y/z"]


def test_a_path_from_the_home_folder_lands_under_its_last_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tree(tmp_path, "data/x.csv")))
    assert names(Path("/"), "~/data/x.csv") == ["x.csv"]


def test_a_folder_means_all_below_it_also_what_is_hidden_and_empty(tmp_path: Path) -> None:
    tree(tmp_path, "d/.hidden", "d/sub/x", "d/empty/")
    selection = select(["d"], tmp_path)
    assert [(entry.name, entry.kind) for entry in selection.inputs] == [
        ("d/.hidden", Kind.FILE),
        ("d/empty", Kind.FOLDER),
        ("d/sub/x", Kind.FILE),
    ]


def test_the_current_folder_lands_as_it_is(tmp_path: Path) -> None:
    tree(tmp_path, "x", "d/y")
    assert names(tmp_path, ".") == ["d/y", "x"]


def test_names_come_in_byte_order(tmp_path: Path) -> None:
    tree(tmp_path, "a/x", "a-b", "a.c", "Z", "é")
    assert names(tmp_path, ".") == ["Z", "a-b", "a.c", "a/x", "é"]


def test_globs_match_as_in_a_shell(tmp_path: Path) -> None:
    tree(tmp_path, "a.csv", "b.csv", ".c.csv", "d/e.csv", "d/f/g.csv", "h.txt")
    assert names(tmp_path, "*.csv") == ["a.csv", "b.csv"]
    assert names(tmp_path, ".*.csv") == [".c.csv"]
    assert names(tmp_path, "**/*.csv") == ["a.csv", "b.csv", "d/e.csv", "d/f/g.csv"]
    assert names(tmp_path, "d/**") == ["d/e.csv", "d/f/g.csv"]
    assert names(tmp_path, "[ab].csv") == ["a.csv", "b.csv"]
    assert names(tmp_path, "?.txt") == ["h.txt"]


def test_a_file_whose_name_looks_like_a_glob_is_taken_itself(tmp_path: Path) -> None:
    tree(tmp_path, "a[1].csv", "a1.csv")
    assert names(tmp_path, "a[1].csv") == ["a[1].csv"]


def test_matches_of_an_absolute_glob_land_under_their_last_names(tmp_path: Path) -> None:
    tree(tmp_path, "in/a.csv", "in/b.csv")
    assert names(Path("/"), f"{tmp_path}/in/*.csv") == ["a.csv", "b.csv"]


def test_two_inputs_that_land_on_one_name_are_an_error_that_names_both(tmp_path: Path) -> None:
    tree(tmp_path, "one/x", "two/x")
    (problem,) = problems(tmp_path, f"{tmp_path}/one/x", f"{tmp_path}/two/x")
    assert f"{tmp_path}/one/x" in problem
    assert f"{tmp_path}/two/x" in problem
    assert "x; rename" in problem


def test_the_same_file_named_twice_is_taken_once(tmp_path: Path) -> None:
    tree(tmp_path, "x")
    assert names(tmp_path, "x", "./x", f"{tmp_path}/x", "*") == ["x"]


def test_a_file_where_another_input_needs_a_folder_is_an_error(tmp_path: Path) -> None:
    tree(tmp_path, "one/x", "x/y")
    (problem,) = problems(tmp_path, f"{tmp_path}/one/x", "x/y")
    assert f"{tmp_path}/one/x lands on x, which" in problem


def test_all_missing_inputs_are_named_at_once(tmp_path: Path) -> None:
    first, second, third = problems(tmp_path, "nope", "*.nope", "/nope/nope")
    assert first == f"nope: there is no such file or folder in {tmp_path}"
    assert second == f"*.nope matches nothing in {tmp_path}"
    assert third == "/nope/nope: there is no such file or folder"


@pytest.mark.parametrize("pattern", ["../x", "a/../../x", "a/.."])
def test_a_path_that_goes_up_is_an_error(tmp_path: Path, pattern: str) -> None:
    tree(tmp_path, "a/")
    (problem,) = problems(tmp_path / "a", pattern)
    assert "outside the work folder" in problem


@pytest.mark.parametrize("pattern", ["", "a\0b"])
def test_an_empty_name_is_an_error(tmp_path: Path, pattern: str) -> None:
    assert "empty name" in problems(tmp_path, pattern)[0]


def test_the_root_folder_has_no_name_to_land_under(tmp_path: Path) -> None:
    assert "no last name" in problems(tmp_path, "/")[0]


def test_a_link_inside_the_folder_stays_a_link(tmp_path: Path) -> None:
    tree(tmp_path, "d/sub/x")
    (tmp_path / "d/l").symlink_to("sub/x")
    (tmp_path / "d/sub/up").symlink_to("..")
    found = {entry.name: entry for entry in select(["d"], tmp_path).inputs}
    assert found["d/l"] == Input("d/l", Kind.LINK, f"{tmp_path}/d/l", link_target="sub/x")
    assert found["d/sub/up"].link_target == ".."


@pytest.mark.parametrize("target", ["../out/x", "{}/out/x"])
def test_a_link_that_leads_out_is_replaced_by_what_it_leads_to(tmp_path: Path, target: str) -> None:
    tree(tmp_path, "d/", "out/x")
    (tmp_path / "d/l").symlink_to(target.format(tmp_path))
    (entry,) = select(["d"], tmp_path).inputs
    assert (entry.name, entry.kind, entry.size) == ("d/l", Kind.FILE, 5)


def test_a_link_to_a_folder_outside_is_replaced_by_the_folder(tmp_path: Path) -> None:
    tree(tmp_path, "d/y", "out/x")
    (tmp_path / "d/l").symlink_to("../out")
    assert names(tmp_path, "d") == ["d/l/x", "d/y"]


def test_a_link_that_leads_out_by_way_of_another_link_does_not_stay_a_link(tmp_path: Path) -> None:
    tree(tmp_path, "x", "d/sub/y")
    (tmp_path / "d/sub/up").symlink_to("..")
    (tmp_path / "d/l").symlink_to("sub/up/../x")  # read as text it stays in d
    assert {entry.name: entry.kind for entry in select(["d"], tmp_path).inputs}["d/l"] is Kind.FILE


def test_a_link_that_a_pattern_names_is_followed(tmp_path: Path) -> None:
    tree(tmp_path, "real/x")
    (tmp_path / "l").symlink_to("real/x")
    (tmp_path / "dir").symlink_to("real")
    assert [entry.kind for entry in select(["l"], tmp_path).inputs] == [Kind.FILE]
    assert names(tmp_path, "dir") == ["dir/x"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    tree(tmp_path, "d/sub/x", "out/")
    (tmp_path / "d/sub/above").symlink_to(tmp_path)
    (problem,) = problems(tmp_path, "d")
    assert "a folder that it lies in" in problem
    (tmp_path / "d/sub/above").unlink()
    (tmp_path / "out/again").symlink_to(tmp_path / "out")
    (tmp_path / "d/l").symlink_to(tmp_path / "out")
    assert "a folder that it lies in" in problems(tmp_path, "d")[0]


def test_a_dangling_link_inside_stays_and_one_that_leads_out_is_an_error(tmp_path: Path) -> None:
    tree(tmp_path, "d/")
    (tmp_path / "d/l").symlink_to("nothing")
    assert names(tmp_path, "d") == ["d/l"]
    (tmp_path / "d/l").unlink()
    (tmp_path / "d/l").symlink_to("../nothing")
    assert "which is not there" in problems(tmp_path, "d")[0]


def test_what_is_no_file_is_skipped_below_a_folder_and_an_error_when_named(tmp_path: Path) -> None:
    tree(tmp_path, "d/x")
    os.mkfifo(tmp_path / "d/pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "d/sock"))
        selection = select(["d"], tmp_path)
    assert [entry.name for entry in selection.inputs] == ["d/x"]
    assert sorted(line.split(" is a ")[1] for line in selection.skipped) == [
        "pipe: not taken along",
        "socket: not taken along",
    ]
    assert problems(tmp_path, "d/pipe") == ("d/pipe is a pipe, which can't be taken",)


def test_a_name_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/d/caf\xe9")).write_text("x")
    (problem,) = problems(tmp_path, "d")
    assert problem.endswith("its name is not UTF-8; rename it")
    problem.encode()


def test_a_folder_that_may_not_be_read_is_an_error() -> None:
    # Root reads everything, so it looks as somebody else; above pytest's own folder, where that
    # one gets to.
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        tree(folder, "d/x")
        (folder / "d").chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65_534)
        try:
            assert "you may not read it" in problems(folder, "d")[0]
        finally:
            os.seteuid(user)
            (folder / "d").chmod(0o700)
