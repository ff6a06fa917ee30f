"""Orphans, gates and sites, as an administrator looks after them."""

from __future__ import annotations

import json

import pytest

from skyport.terminal.v1 import admin_pb2, catalog_pb2
from tests.cli.terminal import Swm
from tests.client.fake_core import FakeCore

PARTITION = admin_pb2.ORPHAN_KIND_PARTITION
JOB = admin_pb2.ORPHAN_KIND_JOB


@pytest.fixture
def orphans(core: FakeCore) -> None:
    """One that is deleted some day, and one that is not."""
    partition = admin_pb2.Orphan(site="here", kind=PARTITION, id="abc", message="of bo")
    partition.seen_time.GetCurrentTime()
    partition.delete_time.GetCurrentTime()
    attempt = admin_pb2.Orphan(site="there", kind=JOB, id="xyz/2", message="by hand only")
    attempt.seen_time.GetCurrentTime()
    core.state.orphans = [partition, attempt]


@pytest.mark.usefixtures("orphans")
def test_orphans_are_listed_with_when_they_are_deleted(swm: Swm) -> None:
    result = swm("orphans")
    title, partition, attempt = result.out.splitlines()
    assert title.split()[:4] == ["ORPHAN", "SITE", "KIND", "SEEN"]
    assert partition.split()[:3] == ["abc", "here", "partition"]
    assert "never" not in partition
    assert attempt.split()[:3] == ["xyz/2", "there", "job"]
    assert "never" in attempt
    assert "by hand only" in attempt
    assert "not told by there" in result.err
    assert [json.loads(line)["id"] for line in swm.ok("orphans", "--json").splitlines()] == [
        "abc",
        "xyz/2",
    ]


def test_no_orphans_are_said_to_be_none(swm: Swm) -> None:
    result = swm("orphans")
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith("swm: no orphans\n")
    assert swm("orphans", "--delete").code == 0


@pytest.mark.usefixtures("orphans")
def test_orphans_are_deleted_by_id_or_all(swm: Swm, core: FakeCore) -> None:
    assert "abc" in swm.ok("orphans", "--delete", "--yes", "abc")
    assert core.state.administered == ["DeleteOrphan here abc"]
    told = swm.ok("orphans", "--delete", "--yes", "--json")
    assert [json.loads(line)["id"] for line in told.splitlines()] == ["abc", "xyz/2"]
    assert core.state.administered[1:] == ["DeleteOrphan here abc", "DeleteOrphan there xyz/2"]


@pytest.mark.usefixtures("orphans")
@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["abc"], 2, "--delete"),
        (["--yes"], 2, "--delete"),
        (["--delete"], 1, "--yes"),
        (["--delete", "--yes", "nothing"], 1, "nothing"),
    ],
)
def test_nothing_is_deleted_by_mistake(
    swm: Swm, core: FakeCore, args: list[str], code: int, says: str
) -> None:
    result = swm("orphans", *args)
    assert result.code == code
    assert says in result.err
    assert not core.state.administered


@pytest.mark.usefixtures("orphans")
@pytest.mark.parametrize(("answer", "deleted"), [("y", True), ("n", False)])
def test_on_a_terminal_it_is_asked_first(
    swm: Swm, core: FakeCore, answer: str, deleted: bool
) -> None:
    with swm.on_terminal("orphans", "--delete", "abc") as terminal:
        terminal.read_until("Delete 1 orphan")
        terminal.type(f"{answer}\n")
        assert terminal.finish() == (0 if deleted else 1)
        assert ("nothing was deleted" in terminal.text) is not deleted
    assert core.state.administered == (["DeleteOrphan here abc"] if deleted else [])


def test_a_gate_is_started_anew(swm: Swm, core: FakeCore) -> None:
    assert "here" in swm.ok("gate", "restart", "here")
    assert core.state.administered == ["RestartGate here"]
    result = swm("gate", "restart", "there")
    assert (result.code, result.err) == (1, "swm: that gate was not started by the core\n")


def test_gates_are_listed_with_who_runs_them(swm: Swm, core: FakeCore) -> None:
    core.state.troubled = catalog_pb2.Site(name="lab", supervised=True, pid=77, restarts=3)
    lab = swm.ok("gate", "list").splitlines()[-1]
    assert lab.split()[0] == "lab"
    for value in ("core", "77", "3"):
        assert value in lab.split()
    assert json.loads(swm.ok("gate", "list", "--json").splitlines()[-1])["pid"] == 77


def test_a_site_is_drained_and_resumed(swm: Swm, core: FakeCore) -> None:
    assert "swm site resume here" in swm.ok("site", "drain", "here")
    swm.ok("site", "resume", "here")
    assert core.state.administered == ["DrainSite here True", "DrainSite here False"]
    assert swm("site", "drain", "nowhere").err == "swm: there is no site nowhere\n"


def test_a_changed_site_is_taken_only_when_it_is_meant(swm: Swm, core: FakeCore) -> None:
    assert swm("site", "accept-change", "here").code == 1
    assert swm("site", "accept-change", "here", "--yes", "--node", "n1").code == 2
    assert not core.state.administered
    swm.ok("site", "accept-change", "here", "--yes", "--partition", "hosts", "--node", "n1")
    assert core.state.administered == ["AcceptSiteChange here hosts n1"]


def test_a_change_of_a_site_is_left_when_the_answer_is_no(swm: Swm, core: FakeCore) -> None:
    with swm.on_terminal("site", "accept-change", "here") as terminal:
        terminal.read_until("Give up")
        terminal.type("n\n")
        assert terminal.finish() == 1
        assert "nothing was given up" in terminal.text
    assert not core.state.administered


def test_status_tells_what_an_administrator_has_to_know(swm: Swm, core: FakeCore) -> None:
    site = core.state.troubled = catalog_pb2.Site(
        name="lab",
        state=catalog_pb2.SITE_STATE_UNREACHABLE,
        message="its gate keeps ending",
        supervised=True,
        restarts=4,
        log_tail=[
            "first line",
            "first line",
            '{"time": "12:00Z", "level": "INFO", "logger": "x", "message": "listening"}',
            "last \x1b[31mline",
        ],
        pending_removals=5,
        orphans=2,
    )
    site.failed_removals.add(partition_id="p1", tries=3, message="not deleted yet: busy")
    site.failed_removals.add(
        partition_id="hosts", job_id="j1", attempt=2, tries=1, message="no route"
    )
    out = swm.ok("status")
    assert "gate of site lab, started anew 4 times; the end of its log:\n  first line\n" in out
    assert out.count("first line") == 1
    assert "\n  12:00Z INFO listening\n" in out
    assert "\x1b[31m" not in out
    assert "log/gate-lab.log" in out
    assert "5 to be removed at site lab; asked in vain" in out
    assert "\n  partition p1, 3 times: not deleted yet: busy\n" in out
    assert "\n  attempt j1/2 in hosts, 1 time: no route\n" in out
    assert "site lab has 2 orphans; see `swm orphans`" in out
    assert "  first line\n" in swm.ok("sites")


@pytest.mark.usefixtures("orphans")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("orphans --delete a", ["abc"]),
        ("gate restart t", ["there"]),
        ("site drain he", ["here"]),
    ],
)
def test_names_are_completed(swm: Swm, words: str, wanted: list[str]) -> None:
    typed = f"swm {words}"
    out = swm.ok(
        _SWM_COMPLETE="bash_complete",
        COMP_WORDS=typed,
        COMP_CWORD=str(len(typed.split()) - 1),
    )
    assert [line.partition(",")[2] for line in out.splitlines() if line] == wanted
