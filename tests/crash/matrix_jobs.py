"""Scenarios of jobs: how they end, go again, are cancelled, vanish, talk."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from skyport.gate.v1 import (
    inventory_pb2,
    inventory_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    partition_pb2,
    partition_pb2_grpc,
)
from tests.crash.matrix_parts import CORE
from tests.crash.matrix_play import Play
from tests.crash.matrix_ports import SCRIPT, Ports
from tests.crash.matrix_scenario import API, INPUTS, Extra, nothing_runs_late, scenario
from tests.crash.world import AGAIN_S, insist
from tests.system.harness.jobs import QUEUED, RUNNING, STAGING_IN, STARTING
from tests.system.harness.waiting import eventually
from tests.testbed import images

SITE_LOST_S = 5
"""After so long without its gate a site is given up on, where a scenario says so."""

# ---- ends of all kinds ----


@scenario()
def succeeds(play: Play) -> None:
    """Inputs, outputs and a log."""
    play.ended(play.submit(inputs=INPUTS))


@scenario()
def fails(play: Play) -> None:
    """An exit code; outputs come home all the same."""
    play.ended(play.submit(inputs=INPUTS, exit_code=3))


@scenario()
def retried(play: Play) -> None:
    """The first attempt fails by itself, the second does not."""
    hold = '[ "$SWM_ATTEMPT" -gt 1 ] || exit 7'
    play.ended(play.submit(hold=hold, directives=("retries 1",), runs=2))


@scenario()
def cancelled(play: Play) -> None:
    """Its owner ends it while it runs."""
    submitted = play.submit(hold="sleep 600")
    play.begun(submitted)
    play.until(submitted, RUNNING)
    play.cancel(submitted)
    play.ended(submitted)


@scenario()
def rejected(play: Play) -> None:
    """It is taken while nobody knows what the site has; then it turns out to be too little."""
    directives = ("nodes 500",) if play.name == "batch" else ("cpus 5000",)
    ends = tuple(("FAILED", reason) for reason in ("INVALID", "NO_CAPACITY"))
    with play.parts.without(play.name):
        with play.parts.without(CORE):
            pass
        submitted = play.submit(directives=directives, ends=ends)
    play.ended(submitted)


@scenario()
def bad_folder(play: Play) -> None:
    """It asks for a work folder that the site does not allow."""
    ends = (("FAILED", "INVALID"), ("FAILED", "STAGING_FAILED"))
    play.ended(play.submit(inputs=INPUTS, directives=("workdir /usr/nowhere",), ends=ends))


@scenario(extras=(Extra(CORE, f"call {API}.JobService/StartJob after", kill=(CORE,)),))
def short(play: Play) -> None:
    """It has ended before the core has heard that it runs."""
    play.ended(play.submit(lines=1))


@scenario(
    sites=("batch",), extras=(Extra(CORE, f"call {API}.JobService/StartJob after", kill=(CORE,)),)
)
def seen_running_first(play: Play) -> None:
    """It runs before the core has heard that the site's queue has it."""
    submitted = play.submit(hold=play.hold("go"))
    play.begun(submitted)
    play.until(submitted, RUNNING)
    play.file("go").touch()
    play.ended(submitted)


# ---- in containers ----

CONTAINED = (f"container-image {images.BUSYBOX}", "storage world")

in_container = scenario(sites=("lab",), own_cases=True)


@in_container
def contained(play: Play) -> None:
    """With inputs, outputs and a log."""
    play.ended(play.submit(inputs=INPUTS, directives=CONTAINED))


@in_container
def contained_fails(play: Play) -> None:
    """An exit code that one has too which was killed."""
    play.ended(play.submit(inputs=INPUTS, exit_code=137, directives=CONTAINED))


@in_container
def contained_killed(play: Play) -> None:
    """By itself, by the signal that comes too where memory runs out."""
    play.ended(play.submit(inputs=INPUTS, hold="kill -KILL $$", cut="SIGNAL", directives=CONTAINED))


@in_container
def contained_out_of_memory(play: Play) -> None:
    """It takes more memory than it may."""
    hold = "a=0123456789abcdef; while :; do a=$a$a; done"
    directives = (*CONTAINED, "mem 32M")
    play.ended(play.submit(inputs=INPUTS, hold=hold, cut="OUT_OF_MEMORY", directives=directives))


@in_container
def contained_too_long(play: Play) -> None:
    """It does not end by itself within its time limit."""
    directives = (*CONTAINED, "time 6")
    play.ended(
        play.submit(inputs=INPUTS, hold="exec sleep 600", cut="TIME_LIMIT", directives=directives)
    )


@in_container
def contained_cancelled(play: Play) -> None:
    """Its owner ends it while it runs."""
    submitted = play.submit(hold="sleep 600", directives=CONTAINED)
    play.begun(submitted)
    play.until(submitted, RUNNING)
    play.cancel(submitted)
    play.ended(submitted)


# ---- again ----


@scenario()
def requeued(play: Play) -> None:
    """Again after a success."""
    submitted = play.submit()
    play.ended(submitted)
    play.requeue(submitted)
    play.ended(submitted)


@scenario()
def requeued_after_failure(play: Play) -> None:
    submitted = play.submit(exit_code=3)
    play.ended(submitted)
    play.requeue(submitted)
    play.ended(submitted)


@scenario()
def requeued_after_cancel(play: Play) -> None:
    submitted = play.submit(hold=play.hold("go"))
    play.begun(submitted)
    play.cancel(submitted)
    play.ended(submitted)
    play.file("go").touch()
    play.requeue(submitted)
    play.ended(submitted)


# ---- cancelled on its way ----


@scenario()
def cancelled_in_queue(play: Play) -> None:
    """Its site is away, so it waits; then it is not wanted any more."""
    with play.parts.without(play.name):
        submitted = play.submit()
        play.until(submitted, QUEUED)
        play.cancel(submitted)
    play.ended(submitted)


@scenario(extras=(Extra("gate", f"serve {API}.FileService/PutFiles before", delay_s=2),))
def cancelled_while_staging(play: Play) -> None:
    submitted = play.submit(inputs=INPUTS)
    play.until(submitted, STAGING_IN)
    play.under_way(submitted)
    play.cancel(submitted)
    play.ended(submitted)


@scenario(extras=(Extra("gate", f"serve {API}.JobService/StartJob before", delay_s=2),))
def cancelled_while_starting(play: Play) -> None:
    """The start arrives after the cancel: nothing may run."""
    submitted = play.submit()
    play.until(submitted, STARTING)
    play.under_way(submitted)
    play.cancel(submitted)
    play.ended(submitted)
    nothing_runs_late(play, submitted, 3.0)


@scenario(
    extras=(
        Extra("gate", f"serve {API}.JobService/StartJob before", delay_s=2),
        Extra("gate", f"serve {API}.JobService/CancelJob before", delay_s=3),
    )
)
def forced_while_starting(play: Play) -> None:
    """The owner does not wait for the site: what is there goes nevertheless."""
    submitted = play.submit()
    play.until(submitted, STARTING)
    play.under_way(submitted)
    play.cancel(submitted, force=True)
    play.ended(submitted)


@scenario(extras=(Extra("gate", f"serve {API}.JobService/CancelJob before", delay_s=3),))
def forced_while_running(play: Play) -> None:
    submitted = play.submit(hold="sleep 600")
    play.begun(submitted)
    play.until(submitted, RUNNING)
    play.cancel(submitted, force=True)
    play.ended(submitted)


# ---- what vanishes ----


@scenario()
def forgotten(play: Play) -> None:
    """Somebody deletes its folder: nobody knows how it ended."""
    submitted = play.submit(hold="sleep 3", ends=(("FAILED", "END_UNKNOWN"),))
    play.begun(submitted)
    play.until(submitted, RUNNING)
    with play.parts.without(play.name):
        play.forget(submitted)
    play.ended(submitted)


@scenario()
def site_lost(play: Play) -> None:
    """Its site is away for too long: it is tried again, and the first attempt is ended."""
    hold = f'[ "$SWM_ATTEMPT" -gt 1 ] || {{ {play.hold("go")}; }}'
    with _deadlines(play, site_lost=SITE_LOST_S):
        submitted = play.submit(hold=hold, directives=("retries 1",), runs=2)
        play.begun(submitted)
        play.until(submitted, RUNNING)
        with play.parts.without(play.name):
            play.until(submitted, QUEUED)
            eventually(lambda: play.state(submitted) == QUEUED, "it is queued", within_s=AGAIN_S)
        play.ended(submitted)
        play.file("go").touch()


@scenario(extras=(Extra("gate", f"serve {API}.JobService/StartJob before", delay_s=6),))
def started_too_late(play: Play) -> None:
    """The start takes longer than it may: it is given up on, and then it arrives."""
    with _deadlines(play, starting=2):
        submitted = play.submit(ends=(("FAILED", "DEADLINE"),))
        play.ended(submitted)
        nothing_runs_late(play, submitted, 7.0)


@scenario(extras=(Extra("gate", f"serve {API}.JobService/StartJob before", delay_s=6),))
def lost_while_starting(play: Play) -> None:
    """Its site goes away for too long while it is asked to start it."""
    with _deadlines(play, site_lost=SITE_LOST_S):
        submitted = play.submit(ends=(("FAILED", "SITE_LOST"),))
        play.until(submitted, STARTING)
        play.under_way(submitted)
        with play.parts.without(play.name):
            play.ended(submitted)


@contextlib.contextmanager
def _deadlines(play: Play, **seconds: int) -> Iterator[None]:
    """Have the core give up sooner."""
    for deadlines in (seconds, {}):
        play.world.core.configure(deadlines=deadlines)
        with play.parts.without(CORE):
            pass
        play.parts.ready(play.name)
        if deadlines:
            yield


# ---- ports ----


@scenario()
def talks(play: Play) -> None:
    """Is reached at its port, and reaches one at the user's side."""
    ports = Ports(play)
    submitted = play.submit(
        inputs={"ports.py": SCRIPT}, hold=ports.hold, directives=ports.directives
    )
    with ports.talking(submitted):
        play.ended(submitted)


# ---- the gate comes back ----


@scenario()
def gate_comes_back(play: Play) -> None:
    """All that the core asks a gate that has forgotten everything."""
    submitted = play.submit(hold=play.hold("go"))
    play.begun(submitted)
    with play.parts.without(play.name):
        pass
    play.parts.ready(play.name)
    play.file("go").touch()
    play.ended(submitted)


@scenario()
def asked_by_others(play: Play) -> None:
    """The calls that change nothing, and that the core seldom or never makes by itself."""
    submitted = play.submit(hold=play.hold("go"))
    play.begun(submitted)
    with grpc.insecure_channel(play.site.endpoint) as channel:
        inventory = inventory_pb2_grpc.InventoryServiceStub(channel)
        jobs = job_pb2_grpc.JobServiceStub(channel)
        partitions = partition_pb2_grpc.PartitionServiceStub(channel)
        partition_id = play.partition_id(submitted)
        later = Timestamp()
        later.FromSeconds(int(time.time()) + 3_600)
        for call, request in (
            (inventory.ListNodes, inventory_pb2.ListNodesRequest()),
            (inventory.ListFlavors, inventory_pb2.ListFlavorsRequest()),
            (jobs.ListJobs, job_pb2.ListJobsRequest()),
            (jobs.GetJob, job_pb2.GetJobRequest()),
            (partitions.ListPartitions, partition_pb2.ListPartitionsRequest()),
            (partitions.GetPartition, partition_pb2.GetPartitionRequest(partition_id=partition_id)),
            (
                partitions.RenewPartition,
                partition_pb2.RenewPartitionRequest(partition_id=partition_id, expire_time=later),
            ),
        ):
            with contextlib.suppress(grpc.RpcError):
                insist(lambda call=call, request=request: call(request, timeout=10))  # type: ignore[misc]
    play.file("go").touch()
    play.ended(submitted)
