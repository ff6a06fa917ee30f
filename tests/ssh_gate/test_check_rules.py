"""What `swm-ssh-gate --check` makes of what a host has said."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gate_kit.verdicts import State, Verdict
from gates.ssh_cluster_gate import check_rules
from gates.ssh_cluster_gate.check_rules import Found, Promised


def judged(
    found: Found,
    *,
    login: str = "",
    asked_s: float = 1000.0,
    ended_s: float = 1001.0,
) -> Sequence[Verdict]:
    return check_rules.judge(
        found,
        Promised(login),
        lambda command: command,
        asked_s,
        ended_s,
        forwards=True,
    )


def verdict(name: str, **values: str | list[str]) -> Verdict:
    found = Found({key: [each] if isinstance(each, str) else each for key, each in values.items()})
    (chosen,) = (each for each in judged(found) if each.check == name)
    return chosen


@pytest.mark.parametrize(
    ("began", "ended", "state", "value"),
    [
        ("1000", "1001", State.OK, "0s"),
        ("999", "1000", State.OK, "0s"),
        ("1010", "1011", State.WARNING, "+10s"),
        ("990", "991", State.WARNING, "-9s"),
        ("1100", "1101", State.FAILED, "+100s"),
        ("", "", State.UNKNOWN, ""),
    ],
)
def test_a_clock_is_wrong_only_if_no_delay_explains_it(
    began: str, ended: str, state: State, value: str
) -> None:
    clock = verdict("clock", began=began, ended=ended)
    assert (clock.state, clock.value) == (state, value)


@pytest.mark.parametrize(
    ("disk", "state"),
    [
        ("1000 100 /data", State.FAILED),
        ("100000000 2000000 /data", State.WARNING),
        ("100000000 90000000 /data", State.OK),
        ("- - /data", State.UNKNOWN),
        ("", State.UNKNOWN),
    ],
)
def test_little_room_is_told_with_where_it_went(disk: str, state: State) -> None:
    told = verdict("disk", disk=disk, place="/data/x")
    assert told.state is state
    assert bool(told.mend) == (state in {State.FAILED, State.WARNING})


def test_a_file_system_that_counts_no_inodes_is_not_full() -> None:
    assert verdict("inodes", inodes="0 0 /").state is State.UNKNOWN
    assert verdict("inodes", inodes="1000 7 /").state is State.FAILED


@pytest.mark.parametrize(
    ("writable", "mend"),
    [
        ("no Permission denied", "sudo install -d -m 700 -o ann /w/.skyport"),
        ("no Read-only file system", "sudo mount -o remount,rw /w"),
        ("no No space left on device", "df -h /w"),
    ],
)
def test_a_work_root_is_mended_by_what_is_wrong_with_it(writable: str, mend: str) -> None:
    told = verdict(
        "work_root", root="/w/.skyport", place="/w", writable=writable, user="ann", disk="9 9 /w"
    )
    assert (told.state, told.mend) == (State.FAILED, mend)


def test_a_mount_that_runs_no_programs_is_a_warning() -> None:
    told = verdict(
        "work_root", root="/w/r", place="/w", writable="yes", executes="no", disk="9 9 /w"
    )
    assert (told.state, told.mend) == (State.WARNING, "sudo mount -o remount,exec /w")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"systemd_run": "yes", "lingers": "yes"}, "systemd"),
        ({"systemd_run": "yes", "user": "ann"}, "none"),
        ({"systemd_run": "no Failed to connect", "lingers": "yes", "user": "ann"}, "none"),
        ({}, "none"),
    ],
)
def test_whether_limits_can_be_put_on_jobs_is_told(values: dict[str, str], expected: str) -> None:
    found = Found({name: [value] for name, value in values.items()})
    (limits,) = (each for each in judged(found) if each.check == "limits")
    assert limits.value == expected
    assert (limits.state is State.WARNING) == (expected == "none" and bool(values))
    if limits.state is State.WARNING:
        assert limits.mend == "sudo loginctl enable-linger ann"


def test_a_docker_that_the_account_may_not_use_is_told_with_its_group() -> None:
    told = verdict("containers", user="ann", engine=["docker no permission denied while trying"])
    assert (told.state, told.mend) == (State.WARNING, "sudo usermod -aG docker ann")
    both = verdict("containers", engine=["docker yes 27.0", "podman no broken"])
    assert (both.state, both.value) == (State.OK, "docker 27.0")


def test_a_login_that_becomes_somebody_else_is_told() -> None:
    found = Found({"user": ["nobody"]})
    (verdict,) = (each for each in judged(found, login="ann") if each.check == "login")
    assert (verdict.state, verdict.text) == (State.FAILED, "ann logs in and becomes nobody")


def test_what_is_between_the_marks_counts_and_half_an_answer_does_not() -> None:
    text = "user mallory\ncheck-begins\nuser ann\nlacks tar\nlacks awk\ncheck-ends\nuser x\n"
    found = Found.parse(text)
    assert found is not None
    assert (found.one("user"), found.values["lacks"]) == ("ann", ["tar", "awk"])
    assert Found.parse(text.replace("check-ends", "")) is None
