"""Scenarios of places: sites that refuse, partitions on demand, the site's own queue."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from skyport.gate.v1 import partition_pb2, partition_pb2_grpc
from tests.azure_gate.site import AzureSite
from tests.crash.matrix_parts import CORE
from tests.crash.matrix_play import Play
from tests.crash.matrix_scenario import (
    API,
    INPUTS,
    Extra,
    no_room,
    queued_again,
    refused,
    scenario,
)
from tests.crash.world import AGAIN_S, Submitted, insist
from tests.system.harness.jobs import ENDS, PROVISIONING, QUEUED_AT_SITE, RUNNING
from tests.system.harness.waiting import eventually

FAKES = ("hosts", "cloud", "batch")
CLOUDS = ("cloud", "azure")

# ---- refused by the site ----


@scenario(sites=FAKES)
def no_room_while_staging(play: Play) -> None:
    with play.faults(no_room("PutFiles")):
        queued_again(play, play.submit(inputs=INPUTS))


@scenario(sites=FAKES)
def no_room_to_start(play: Play) -> None:
    with play.faults(no_room("StartJob")):
        queued_again(play, play.submit())


@scenario(sites=FAKES)
def start_refused(play: Play) -> None:
    with play.faults(refused("StartJob")):
        play.ended(play.submit(ends=(("FAILED", "INVALID"),)))


# ---- partitions on demand ----


@scenario(sites=CLOUDS)
def boot_fails(play: Play) -> None:
    """There is no room for it just then."""
    fault = {"kind": "boot_fails", "reason": "CAPACITY", "retryable": True, "times": 1}
    with play.faults(fault):
        queued_again(play, play.submit())


@scenario(sites=CLOUDS)
def boot_fails_for_good(play: Play) -> None:
    fault = {"kind": "boot_fails", "reason": "BOOT_FAILED", "times": 1}
    with play.faults(fault):
        play.ended(play.submit(ends=(("FAILED", "PROVISIONING_FAILED"),)))


@scenario(sites=CLOUDS)
def cancelled_while_booting(play: Play) -> None:
    with play.faults({"kind": "boot_slow", "seconds": 5}):
        submitted = play.submit()
        play.until(submitted, PROVISIONING)
        play.cancel(submitted)
        play.ended(submitted)


@scenario(
    sites=CLOUDS,
    extras=(Extra("gate", f"serve {API}.PartitionService/CreatePartition before", delay_s=3),),
    own_cases=True,
)
def created_too_late(play: Play) -> None:
    """The create arrives after the delete: nothing may be made."""
    submitted = play.submit()
    play.until(submitted, PROVISIONING)
    partition_id = play.partition_id(submitted)
    play.under_way(submitted)
    play.cancel(submitted)
    play.ended(submitted)
    time.sleep(4)  # what must not happen tells no event
    eventually(
        lambda: partition_id not in play.site.partitions(),
        f"partition {partition_id} is not there",
        within_s=AGAIN_S,
    )


@scenario(sites=("cloud",))
def stopped(play: Play) -> None:
    """The partition's time is over while its job runs."""
    reasons = ("NODE_FAIL", "PREEMPTED", "END_UNKNOWN", "PROVISIONING_FAILED", "SITE_LOST")
    submitted = play.submit(hold="sleep 600", ends=tuple(("FAILED", each) for each in reasons))
    play.begun(submitted)
    play.until(submitted, RUNNING)
    _expire(play, play.partition_id(submitted))
    play.ended(submitted)


@scenario(sites=("cloud",), extras=(Extra(CORE, "partition READY>STOPPED after", kill=("gate",)),))
def starts_again(play: Play) -> None:
    """The partition stops under its job, and somebody has it start again."""
    reasons = ("NODE_FAIL", "PREEMPTED", "END_UNKNOWN", "PROVISIONING_FAILED")
    ends = tuple(("FAILED", each) for each in reasons)
    submitted = play.submit(hold=play.hold("go"), ends=ends)
    play.begun(submitted)
    play.until(submitted, RUNNING)
    partition_id = play.partition_id(submitted)
    with play.parts.staying_away(play.name):
        _expire(play, partition_id)
        eventually(
            lambda: not play.parts.is_running(play.name) or play.state(submitted) in ENDS,
            "the gate is gone",
            within_s=AGAIN_S,
        )
        folder = play.site.root / "partitions" / partition_id
        if folder.exists():
            (folder / "expire").write_text(str(time.time_ns() + 3_600 * 10**9))
            (folder / "stopped").unlink(missing_ok=True)
    play.file("go").touch()
    play.ended(submitted)


@scenario(sites=CLOUDS)
def partition_vanishes(play: Play) -> None:
    """Somebody deletes the partition behind everybody's back."""
    reasons = ("END_UNKNOWN", "PROVISIONING_FAILED", "NODE_FAIL")
    submitted = play.submit(hold="sleep 3", ends=tuple(("FAILED", each) for each in reasons))
    play.begun(submitted)
    play.until(submitted, RUNNING)
    with play.parts.without(play.name):
        play.forget(submitted)  # its nodes are gone with it
        play.forget_partition(submitted)
    play.ended(submitted)


def _expire(play: Play, partition_id: str) -> None:
    """Have the time of a partition be over in a moment."""
    soon = Timestamp()
    soon.FromSeconds(int(time.time()) + 1)
    request = partition_pb2.RenewPartitionRequest(partition_id=partition_id, expire_time=soon)
    with grpc.insecure_channel(play.site.endpoint) as channel:
        stub = partition_pb2_grpc.PartitionServiceStub(channel)
        with contextlib.suppress(grpc.RpcError):
            insist(lambda: stub.RenewPartition(request, timeout=10))


@scenario(sites=CLOUDS, own_cases=True)
def used_again(play: Play) -> None:
    """A second job of the same owner gets the machine of the first, which waits for it."""
    with _idle_time(play, "30s"):
        play.ended(play.submit(inputs=INPUTS))
        play.ended(play.submit())


@scenario(sites=CLOUDS)
def over_budget(play: Play) -> None:
    """It costs more than it may while it runs: it is ended, and not tried again.

    The cap is for 12 to 15 seconds at what machines cost here: for the time limit, and not for the
    boot beside it. Where a kill takes longer than what is between, the limit may end it.
    """
    ends = (("FAILED", "BUDGET"), ("FAILED", "TIME_LIMIT"))
    directives = ("time 11", "max-cost 0.0004", "retries 1")
    with play.faults({"kind": "boot_slow", "seconds": 7}):
        submitted = play.submit(inputs=INPUTS, hold="sleep 600", directives=directives, ends=ends)
        play.ended(submitted)


@contextlib.contextmanager
def _idle_time(play: Play, idle_time: str) -> Iterator[None]:
    """Have machines of the site wait for so long."""
    sites = play.world.core.sites
    usual = sites[play.name]
    for site in (dataclasses.replace(usual, more={"idle_time": idle_time}), usual):
        sites[play.name] = site
        play.world.core.configure()
        with play.parts.without(CORE):
            pass
        play.parts.ready(play.name)
        if site is not usual:
            yield


# ---- machines ----


@scenario(sites=("azure",), own_cases=True)
def on_two_machines(play: Play) -> None:
    """The second is reached through the first."""
    hold = '[ "$SWM_NUM_NODES" = 2 ]'
    play.ended(play.submit(inputs=INPUTS, hold=hold, directives=("nodes 2",)))


@scenario(sites=("azure",))
def evicted(play: Play) -> None:
    """Its machine is taken away, and it is tried again on another."""
    hold = '[ "$SWM_ATTEMPT" -gt 1 ] || sleep 600'
    submitted = play.submit(hold=hold, directives=("spot", "retries 1"), runs=2)
    play.begun(submitted)
    play.until(submitted, RUNNING)
    _evict(play, submitted)
    play.ended(submitted)


@scenario(sites=("azure",))
def evicted_for_good(play: Play) -> None:
    """As before, and it asks for no other."""
    ends = (("FAILED", "PREEMPTED"),)
    submitted = play.submit(hold="sleep 600", directives=("spot",), ends=ends)
    play.begun(submitted)
    play.until(submitted, RUNNING)
    _evict(play, submitted)
    play.ended(submitted)


@scenario(sites=("azure",), extras=(Extra(CORE, "partition READY>STOPPED after", kill=("gate",)),))
def shut_down(play: Play) -> None:
    """Azure shuts its machine down, as it does by the schedule when nobody renews that."""
    reasons = ("NODE_FAIL", "END_UNKNOWN", "PROVISIONING_FAILED")
    ends = tuple(("FAILED", each) for each in reasons)
    submitted = play.submit(hold="sleep 600", ends=ends)
    play.begun(submitted)
    play.until(submitted, RUNNING)
    _evict(play, submitted)  # one that is not spot is deallocated
    play.ended(submitted)


@scenario(sites=("azure",), extras=(Extra(CORE, "partition READY>STOPPED after", kill=("gate",)),))
def shut_down_and_cancelled(play: Play) -> None:
    """As before, and nobody wants what is left on it: it need not start again."""
    reasons = ("NODE_FAIL", "END_UNKNOWN", "PROVISIONING_FAILED")
    ends = tuple(("FAILED", each) for each in reasons)
    submitted = play.submit(hold="sleep 600", ends=ends)
    play.begun(submitted)
    play.until(submitted, RUNNING)
    with play.parts.staying_away(play.name):
        _evict(play, submitted)
        eventually(
            lambda: not play.parts.is_running(play.name) or play.state(submitted) in ENDS,
            "the gate is gone",
            within_s=AGAIN_S,
        )
        play.cancel(submitted, force=True)
        play.ended(submitted)


def _evict(play: Play, submitted: Submitted) -> None:
    """Take the first machine of a job away; whatever was killed, the job may have none now."""
    assert isinstance(play.site, AzureSite)
    machines = play.site.machines(play.partition_id(submitted))
    if play.state(submitted) == RUNNING and machines:
        with contextlib.suppress(AssertionError):  # it has just gone
            play.site.arm.evict(machines[0])


# ---- the site's own queue ----


@contextlib.contextmanager
def _behind_another(play: Play, **fields: object) -> Iterator[Submitted]:
    """A job that waits in the site's queue; the one before it may go when the context ends."""
    first = play.submit(hold=play.hold("go"), directives=("partition narrow",))
    play.begun(first)
    second = play.submit(**{"directives": ("partition narrow",), **fields})
    play.until(second, QUEUED_AT_SITE)
    try:
        yield second
    finally:
        play.file("go").touch()
        play.ended(first)


@scenario(sites=("batch",))
def waits_in_queue(play: Play) -> None:
    with _behind_another(play, hold=play.hold("second")) as second:
        pass
    play.until(second, RUNNING)
    play.file("second").touch()
    play.ended(second)


@scenario(sites=("batch",))
def cancelled_in_the_sites_queue(play: Play) -> None:
    with _behind_another(play) as second:
        play.cancel(second)
        play.ended(second)


@scenario(sites=("batch",))
def unseen_in_queue(play: Play) -> None:
    """It runs and ends while the core is away."""
    with _behind_another(play, lines=1) as second, play.parts.without(CORE):
        play.file("go").touch()
        ran = second.job.job_id
        eventually(
            lambda: ran in play.world.facts.read_text() or play.parts.is_running(CORE),
            "it ran",
            within_s=AGAIN_S,
        )
    play.ended(second)


@scenario(sites=("batch",))
def forgotten_in_queue(play: Play) -> None:
    """Nobody has seen it run, and the site does not know it any more: it is asked for again."""
    with _behind_another(play) as second, play.parts.without(play.name):
        play.forget(second)
    play.ended(second)


@scenario(sites=("batch",))
def refused_in_queue(play: Play) -> None:
    """As before, but then the site does not take it any more."""
    with (
        _behind_another(play, ends=(("FAILED", "INVALID"),)) as second,
        _forgotten(play, second, refused("StartJob")),
    ):
        play.changed(second)
    play.ended(second)


@scenario(sites=("batch",))
def no_room_in_queue(play: Play) -> None:
    """As before, but then there is no room for it just then: it is tried again."""
    with _behind_another(play) as second:
        with _forgotten(play, second, no_room("StartJob")):
            play.changed(second)
        with play.parts.without(CORE):  # places without room would rest for a while
            pass
    play.ended(second)


@contextlib.contextmanager
def _forgotten(play: Play, submitted: Submitted, fault: dict[str, object]) -> Iterator[None]:
    """Have the site forget a job, and do something wrong when it is asked again."""
    with play.parts.without(play.name):
        play.forget(submitted)
        play.site.faults(fault)
    try:
        yield
    finally:
        play.site.faults()
