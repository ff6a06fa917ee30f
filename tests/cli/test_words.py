from __future__ import annotations

import time

import click
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from skyport.common.v1.money_pb2 import Money
from skyport.terminal.v1 import job_pb2, types_pb2
from terminals.cli import states, words
from terminals.cli.outcome import exit_code, explanation, joint_exit_code
from terminals.cli.wishes import ports, resources

JOB = job_pb2.Job


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (61, "1m1s"),
        (3600, "1h"),
        (3605, "1h"),
        (5400, "1h30m"),
        (86_400, "1d"),
        (86_400 + 7_200, "1d2h"),
        (86_400 + 60, "1d"),
        (-5, "0s"),
    ],
)
def test_a_span_has_two_units_at_most(seconds: float, shown: str) -> None:
    assert words.span(seconds) == shown


@pytest.mark.parametrize(
    ("units", "nanos", "shown"),
    [
        (1, 750_000_000, "1.75 USD"),
        (0, 0, "0.00 USD"),
        (0, 12_300_000, "0.0123 USD"),
        (-2, -500_000_000, "-2.50 USD"),
        (1234, 567_890_000, "1234.57 USD"),
    ],
)
def test_money_is_shown_with_its_currency(units: int, nanos: int, shown: str) -> None:
    assert words.money(Money(currency_code="USD", units=units, nanos=nanos)) == shown


def test_texts_of_others_cannot_move_the_cursor_or_fake_a_line() -> None:
    assert words.plain("a\nb\tc") == "a b c"
    assert "\x1b" not in words.plain("\x1b[31mred\x1b]0;title\x07\x9b2J")
    assert "\u202e" not in words.plain("abc\u202ecba")
    assert words.cell(" \n ") == "-"


def test_a_moment_of_another_year_has_its_year() -> None:
    now = Timestamp()
    now.GetCurrentTime()
    assert len(words.short_moment(now)) == len("11-22 21:03")
    assert words.short_moment(Timestamp(seconds=1_600_000_000)).startswith("2020-09-1")
    assert words.ago(Timestamp(seconds=int(time.time()) - 65)).startswith("1m")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("running", {"RUNNING"}),
        ("Staging-In", {"STAGING_IN"}),
        ("Q", {"QUEUED", "QUEUED_AT_SITE"}),
        ("w", {"PROVISIONING"}),
        ("T", {"STAGING_IN", "STARTING", "STAGING_OUT"}),
        ("R,F", {"RUNNING", "SUCCEEDED"}),
        ("C", {"CANCELLED"}),
        ("E", {"FAILED"}),
        ("ended", {"SUCCEEDED", "FAILED", "CANCELLED"}),
    ],
)
def test_states_are_chosen_by_name_group_and_the_letters_of_old(text: str, names: set[str]) -> None:
    assert {states.state_word(state) for state in states.chosen([text])} == names


def test_active_is_all_that_is_no_end() -> None:
    assert set(states.chosen(["active"])) | set(states.ENDED) == {
        state for state in job_pb2.JobState.values() if state
    }


def test_an_unknown_state_is_refused_with_those_there_are() -> None:
    with pytest.raises(click.BadParameter, match="queued, provisioning"):
        states.chosen(["nope"])


def test_a_state_of_a_newer_core_is_shown_by_its_number() -> None:
    assert states.state_word(42) == "STATE_42"  # type: ignore[arg-type]


def ended(reason: str = "", **fields: object) -> job_pb2.Job:
    failure = types_pb2.Failure(reason=reason, message="it went wrong")
    state = job_pb2.JOB_STATE_FAILED if reason else job_pb2.JOB_STATE_SUCCEEDED
    return JOB(job_id="j1", state=state, failure=failure, **fields)  # type: ignore[arg-type]


CANCELLED = JOB(job_id="j1", state=job_pb2.JOB_STATE_CANCELLED, exit_code=5)


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (ended(exit_code=0), 0),
        (ended("EXIT_CODE", exit_code=3), 3),
        (ended("EXIT_CODE", exit_code=255), 255),
        (ended("EXIT_CODE", exit_code=256), 1),
        (ended("SIGNAL", signal=9), 137),
        (ended("TIME_LIMIT", signal=15), 1),
        (ended("OUTPUT_MISSING", exit_code=0), 1),
        (ended("NODE_FAIL"), 1),
        (CANCELLED, 1),
    ],
)
def test_the_exit_code_is_the_scripts_wherever_it_has_one(job: job_pb2.Job, code: int) -> None:
    assert exit_code(job) == code


def test_of_several_jobs_the_first_that_failed_decides() -> None:
    jobs = [ended(), ended("EXIT_CODE", exit_code=7), ended("EXIT_CODE", exit_code=3)]
    assert joint_exit_code(jobs) == 7
    assert joint_exit_code(jobs[:1]) == 0


def test_a_job_that_did_not_succeed_is_explained() -> None:
    assert explanation(ended()) == ""
    assert explanation(ended("EXIT_CODE", exit_code=3)) == "job j1 failed: it went wrong"
    failed = ended("NODE_FAIL")
    failed.failure.retryable = True
    assert explanation(failed) == (
        "job j1 failed: it went wrong (NODE_FAIL); run it again with `swm requeue j1`"
    )
    failed.failure.reason = "START_FAILED"
    assert explanation(failed).endswith(
        "(START_FAILED); once that is mended, run it again with `swm requeue j1`"
    )
    forced = JOB(job_id="j1", state=job_pb2.JOB_STATE_CANCELLED, cancel_forced=True)
    assert "by force" in explanation(forced)


def test_what_a_job_asks_for_is_one_line() -> None:
    spec = job_pb2.JobSpec(nodes=2, cpus=4, memory_bytes=8 << 30, gpus=1, retries=1)
    spec.time_limit.seconds = 3600
    assert resources(spec) == "2 nodes, each 4 cpus, 8G memory, 1 gpu; at most 1h; 1 retry"
    assert resources(job_pb2.JobSpec(nodes=1, cpus=1)) == "1 cpu"


def test_a_port_tells_how_it_is_reached() -> None:
    job = JOB(job_id="j1")
    job.spec.ports.add(number=8888, direction=job_pb2.PORT_DIRECTION_IN)
    job.spec.ports.add(number=0, direction=job_pb2.PORT_DIRECTION_IN, name="WEB")
    job.spec.ports.add(number=8081, direction=job_pb2.PORT_DIRECTION_OUT)
    job.nodes.add(name="n1").ports.add(name="WEB", number=31_000)
    first, second, third = ports(job)
    assert first == "8888  in: swm forward j1 8888"
    assert second == "31000 WEB  in: swm forward j1 WEB"
    job.state = job_pb2.JOB_STATE_SUCCEEDED
    assert next(iter(ports(job))) == "8888  in"
    assert third.startswith("8081  out")
