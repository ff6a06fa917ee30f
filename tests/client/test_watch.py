from __future__ import annotations

import threading

import pytest

from skyport.terminal.v1 import job_pb2
from terminals.client import CallFailed, Client, NotFound, WatchExpired
from terminals.client.watch import wait_for, watch
from tests.client.fake_core import FakeCore

QUEUED = job_pb2.JOB_STATE_QUEUED
RUNNING = job_pb2.JOB_STATE_RUNNING
SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED
FAILED = job_pb2.JOB_STATE_FAILED


def in_background(function: object) -> threading.Thread:
    assert callable(function)
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_wait_tells_each_change_and_ends_when_all_have_ended(
    client: Client, core: FakeCore
) -> None:
    core.state.add("j1")
    core.state.add("j2", state=SUCCEEDED)
    seen = []
    for job in client.wait_for(["j1", "j2"]):
        seen.append((job.job_id, job.state))
        if seen[-1] == ("j2", SUCCEEDED):
            core.state.move("j1", RUNNING)
        elif seen[-1] == ("j1", RUNNING):
            core.state.move("j1", FAILED)
    assert seen == [("j1", QUEUED), ("j2", SUCCEEDED), ("j1", RUNNING), ("j1", FAILED)]


def test_wait_outlives_a_restart_of_the_core(client: Client, core: FakeCore) -> None:
    core.state.add("j1")

    def restart() -> None:
        core.state.wait_until(lambda: "WatchJobs" in core.state.calls)
        core.stop()
        core.state.move("j1", SUCCEEDED)
        core.start()

    thread = in_background(restart)
    states = [job.state for job in client.wait_for(["j1"])]
    thread.join()
    assert states == [QUEUED, SUCCEEDED]


def test_wait_lists_again_when_the_journal_has_forgotten(client: Client, core: FakeCore) -> None:
    core.state.add("j1")
    core.state.faults.watch_expires = 3
    seen = []
    for job in client.wait_for(["j1"]):
        seen.append(job.state)
        if len(seen) == 4:
            core.state.move("j1", SUCCEEDED)
    assert seen[-1] == SUCCEEDED
    assert core.state.calls.count("WatchJobs") == 4


def test_a_watch_repeats_and_loses_nothing_over_many_breaks(client: Client, core: FakeCore) -> None:
    core.state.add("j1")
    events = watch(client, ["j1"], "0")
    assert next(events).to_state == QUEUED
    for number in range(3):
        core.restart()
        core.state.move("j1", RUNNING)
        assert next(events).sequence == number + 2


def test_an_expired_token_is_told_to_who_watches(client: Client, core: FakeCore) -> None:
    core.state.faults.watch_expires = 1
    with pytest.raises(WatchExpired):
        next(watch(client, [], "0"))


def test_a_job_that_does_not_exist_ends_the_wait(client: Client) -> None:
    with pytest.raises(NotFound) as caught:
        list(client.wait_for(["nope"]))
    assert caught.value.reason == "JOB_NOT_FOUND"


def test_patience_ends(client: Client, core: FakeCore) -> None:
    core.state.add("j1")
    jobs = wait_for(client, ["j1"], patience_s=1.5)
    next(jobs)
    core.stop()
    with pytest.raises(CallFailed, match="nothing listens"):
        next(jobs)


def test_a_state_of_a_newer_core_is_not_an_end(client: Client, core: FakeCore) -> None:
    job = core.state.add("j1")
    job.state = 99  # type: ignore[assignment]
    jobs = client.wait_for(["j1"])
    assert next(jobs).state == 99
    core.state.move("j1", SUCCEEDED)
    assert next(jobs).state == SUCCEEDED
