from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from skyport.common.v1 import manifest_pb2
from skyport.terminal.v1 import job_pb2
from terminals.client import Client, DataDamaged, OutputRefused
from terminals.client.download import fetch
from terminals.client.folder import OutputFolder, stays_inside
from tests.client.fake_core import FakeCore

LINK = manifest_pb2.FILE_TYPE_SYMLINK
FOLDER = manifest_pb2.FILE_TYPE_DIRECTORY


@pytest.fixture(autouse=True)
def job(client: Client, core: FakeCore) -> job_pb2.Job:
    made = core.state.add("j1", state=job_pb2.JOB_STATE_SUCCEEDED, outputs_collected=True)
    client.call(client.jobs.ListJobs, job_pb2.ListJobsRequest())
    return made


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "into"


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.endswith(".part")]


def test_outputs_arrive_with_folders_modes_and_links(
    client: Client, core: FakeCore, into: Path
) -> None:
    contents = {f"d/{number}/x": os.urandom(number * 1000) for number in range(20)}
    for name, data in contents.items():
        core.state.output("j1", name, data)
    core.state.output("j1", "run", b"#!/bin/sh\n", 0o755)
    core.state.list_entry("j1", path="empty/deep", type=FOLDER)
    core.state.list_entry("j1", path="d/last", type=LINK, link_target="../run")
    fetched = client.fetch("j1", into)
    assert len(fetched.names) == 22
    assert {name: (into / name).read_bytes() for name in contents} == contents
    assert stat.S_IMODE((into / "run").stat().st_mode) == 0o755 & ~_umask()
    assert (into / "empty/deep").is_dir()
    assert (into / "d/last").readlink() == Path("../run")
    assert not left_over(into)


def test_a_broken_download_goes_on_where_it_was(client: Client, core: FakeCore, into: Path) -> None:
    data = os.urandom(5 << 20)
    core.state.output("j1", "large", data)
    core.state.faults.download_breaks_after = [30, 20, 10]
    fetched = client.fetch("j1", into)
    assert (into / "large").read_bytes() == data
    assert fetched.received_bytes == len(data)
    assert core.state.calls.count("Download") == 4


def test_a_part_of_an_earlier_run_is_continued(client: Client, core: FakeCore, into: Path) -> None:
    data = os.urandom(5 << 20)
    core.state.output("j1", "large", data)
    core.state.faults.download_breaks_after = [50]
    with pytest.raises(Exception, match="shutting down"):
        fetch(client, "j1", into, patience_s=0)
    (part,) = left_over(into)
    assert (into / part).stat().st_size == 50 * 65536
    fetched = client.fetch("j1", into)
    assert fetched.received_bytes == len(data) - 50 * 65536
    assert (into / "large").read_bytes() == data
    assert not left_over(into)


def test_a_live_file_is_continued_while_it_stays_as_it_was(
    client: Client, core: FakeCore, into: Path
) -> None:
    data = os.urandom(3 << 20)
    core.state.output("j1", "live", data, live=True)
    core.state.faults.download_breaks_after = [20]
    fetched = client.fetch("j1", into)
    assert (into / "live").read_bytes() == data
    assert fetched.received_bytes == len(data)


def test_a_fetch_that_is_cut_leaves_parts_of_what_has_come_alone(
    client: Client, core: FakeCore, into: Path
) -> None:
    for name in ("one", "two", "three"):
        core.state.output("j1", name, os.urandom(3 << 20))
    core.state.faults.download_breaks_after = [1]
    with pytest.raises(Exception, match="shutting down"):
        fetch(client, "j1", into, patience_s=0)
    (part,) = into.iterdir()
    assert part.name.startswith(".one.")
    assert part.stat().st_size


def test_a_part_of_another_content_is_not_continued(
    client: Client, core: FakeCore, into: Path
) -> None:
    old, new = os.urandom(2 << 20), os.urandom(2 << 20)
    core.state.output("j1", "x", old)
    core.state.faults.download_breaks_after = [10]
    with pytest.raises(Exception, match="shutting down"):
        fetch(client, "j1", into, patience_s=0)
    core.state.listed.clear()
    core.state.output("j1", "x", new)
    client.fetch("j1", into)
    assert (into / "x").read_bytes() == new


def test_what_is_there_is_not_fetched_again(client: Client, core: FakeCore, into: Path) -> None:
    core.state.output("j1", "a", b"a" * 1000)
    core.state.output("j1", "b", b"b" * 1000)
    client.fetch("j1", into)
    (into / "b").write_bytes(b"changed here")
    fetched = client.fetch("j1", into)
    assert fetched.received_bytes == 1000
    assert set(fetched.names) == {"a", "b"}
    assert (into / "b").read_bytes() == b"b" * 1000


def test_a_damaged_file_is_fetched_again(client: Client, core: FakeCore, into: Path) -> None:
    core.state.output("j1", "x", b"right" * 100)
    core.state.faults.corrupt_downloads = 1
    client.fetch("j1", into)
    assert (into / "x").read_bytes() == b"right" * 100


def test_a_file_that_stays_damaged_is_named_and_not_left_behind(
    client: Client, core: FakeCore, into: Path
) -> None:
    core.state.output("j1", "x", b"right" * 100)
    core.state.output("j1", "y", b"")
    core.state.faults.corrupt_downloads = 100
    fetched = client.fetch("j1", into)
    assert fetched.names == ("y",)
    assert len(fetched.failed) == 1
    assert "x: it arrived damaged" in fetched.failed[0]
    assert not (into / "x").exists()
    assert not left_over(into)


def test_patterns_choose_and_what_matches_nothing_is_told(
    client: Client, core: FakeCore, into: Path
) -> None:
    core.state.output("j1", "a.csv", b"a")
    core.state.output("j1", "b.txt", b"b")
    core.state.skipped["j1"] = [manifest_pb2.SkippedFile(path="s", reason="socket")]
    fetched = client.fetch("j1", into, ["*.csv", "*.nope"])
    assert fetched.names == ("a.csv",)
    assert fetched.listing.unmatched == ("*.nope",)
    assert [skipped.reason for skipped in fetched.listing.skipped] == ["socket"]


# A core that is not to be trusted with names.


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/../../x", "a//b", "", ".", "a/.", "x\0y", "n" * 256, "a/" * 3000]
)
def test_a_name_that_leads_out_is_refused_before_anything_is_written(
    client: Client, core: FakeCore, into: Path, name: str
) -> None:
    core.state.output("j1", "good", b"x")
    core.state.output("j1", name, b"evil")
    with pytest.raises(OutputRefused, match="no path below a folder"):
        client.fetch("j1", into)
    assert not into.exists()


@pytest.mark.parametrize(
    ("name", "target", "inside"),
    [
        ("l", "x", True),
        ("a/b/l", "../../x", True),
        ("a/l", "./../x/./y", True),
        ("l", "../x", False),
        ("a/l", "../../x", False),
        ("l", "/etc", False),
        ("l", "", False),
        ("a/l", "x/../../y", False),
        ("a/l", "x/..", False),
    ],
)
def test_a_link_may_rise_at_its_beginning_only_and_not_out(
    name: str, target: str, *, inside: bool
) -> None:
    assert stays_inside(name, target) is inside


def test_a_link_that_leads_out_is_left_out_and_named(
    client: Client, core: FakeCore, into: Path
) -> None:
    core.state.output("j1", "good", b"x")
    core.state.list_entry("j1", path="bad", type=LINK, link_target="../../etc")
    fetched = client.fetch("j1", into)
    assert fetched.names == ("good",)
    assert "bad" in fetched.failed[0]
    assert not (into / "bad").is_symlink()


def test_nothing_is_written_through_a_link_that_is_in_the_way(
    client: Client, core: FakeCore, into: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    into.mkdir()
    (into / "d").symlink_to(tmp_path / "elsewhere")
    core.state.output("j1", "d/x", b"x")
    with pytest.raises(OutputRefused, match=r"into/d: it is a link"):
        client.fetch("j1", into)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_link_that_the_core_sends_is_not_written_through(
    client: Client, core: FakeCore, into: Path
) -> None:
    core.state.list_entry("j1", path="d", type=LINK, link_target="e")
    core.state.list_entry("j1", path="e", type=FOLDER)
    core.state.output("j1", "d/x", b"x")
    with pytest.raises(OutputRefused, match="a folder is where"):
        client.fetch("j1", into)
    assert not list((into / "e").iterdir())


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(
    client: Client, core: FakeCore, into: Path, tmp_path: Path
) -> None:
    (tmp_path / "victim").write_text("mine")
    into.mkdir()
    (into / "x").symlink_to(tmp_path / "victim")
    core.state.output("j1", "x", b"new")
    client.fetch("j1", into)
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (into / "x").is_symlink()
    assert (into / "x").read_bytes() == b"new"


def test_more_bytes_than_were_told_are_refused(client: Client, core: FakeCore, into: Path) -> None:
    core.state.output("j1", "x", b"y" * 100)
    core.state.listed["j1"][0].entry.size = 10
    with pytest.raises(DataDamaged, match="more of x"):
        client.fetch("j1", into)
    assert not left_over(into)


def test_a_folder_in_the_place_of_a_file_is_an_error_that_says_so(
    client: Client, core: FakeCore, into: Path
) -> None:
    (into / "x/y").mkdir(parents=True)
    core.state.output("j1", "x", b"new")
    with pytest.raises(OutputRefused, match="a folder is where a file is needed"):
        client.fetch("j1", into)


def test_a_folder_in_the_place_of_a_link_is_an_error_and_nothing_is_left(
    client: Client, core: FakeCore, into: Path
) -> None:
    (into / "last").mkdir(parents=True)
    core.state.list_entry("j1", path="last", type=LINK, link_target="first")
    with pytest.raises(OutputRefused, match="a folder is where a file is needed"):
        client.fetch("j1", into)
    assert not left_over(into)


def test_a_long_name_has_room_for_its_part(tmp_path: Path) -> None:
    with OutputFolder(tmp_path) as folder:
        part = folder.part("n" * 255, b"key")
        part.write(b"x")
        part.finish(0o644)
        part.close()
    assert (tmp_path / ("n" * 255)).read_bytes() == b"x"


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_of_two_who_write_a_file_one_is_refused_and_nothing_is_spoiled(tmp_path: Path) -> None:
    with OutputFolder(tmp_path) as first, OutputFolder(tmp_path) as second:
        part = first.part("model", b"its digest")
        part.write(b"whole")
        with pytest.raises(OutputRefused, match="another swm is fetching it"):
            second.part("model", b"its digest")
        part.finish(0o644)
        part.close()
        later = second.part("model", b"its digest")
        later.restart()
        assert (tmp_path / "model").read_bytes() == b"whole"
        later.drop()
        later.close()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_disk_that_is_full_is_told_with_what_to_do(tmp_path: Path) -> None:
    with OutputFolder(tmp_path) as into:
        full = OSError(errno.ENOSPC, "No space left on device")
        told = str(into.refused("big", full))
    assert told == f"{tmp_path}/big: No space left on device; choose another folder"
