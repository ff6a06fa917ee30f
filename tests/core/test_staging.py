"""Files on their way to a site and back, where something of them can't be had."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from rpc_kit.errors import Problem
from skyport.gate.v1 import file_pb2, types_pb2
from swm_core.domain.job import Job, JobSpec
from swm_core.domain.states import JobState
from swm_core.gateways.problems import GateError, Meaning
from swm_core.lifecycle import staging_in, staging_out
from swm_core.lifecycle.asking import AttemptFailed
from swm_core.lifecycle.staging_in import put_inputs
from swm_core.lifecycle.staging_out import Collection
from swm_core.spool.errors import ContentMissing

DIGEST = bytes(32)


class Call:
    """A PutFiles whose gate wants one content, and waits for it."""

    def __init__(self) -> None:
        needed = file_pb2.NeededFiles(files=[file_pb2.NeededFile(sha256=DIGEST)], last=True)
        self._answers = [file_pb2.PutFilesResponse(needed=needed)]
        self._cancelled = asyncio.Event()

    async def write(self, message: object) -> None:
        pass

    async def read(self) -> file_pb2.PutFilesResponse:
        if self._answers:
            return self._answers.pop()
        await self._cancelled.wait()
        # As grpc does for a call that was cancelled on this side.
        raise asyncio.CancelledError

    def cancel(self) -> None:
        self._cancelled.set()


@pytest.mark.parametrize(
    ("trouble", "away", "told"),
    [
        (ContentMissing("content is not in the spool"), False, AttemptFailed),
        # With its disk everything is away, and will be there again.
        (ContentMissing("content is not in the spool"), True, OSError),
        (OSError(5, "input/output error"), False, OSError),
    ],
)
async def test_a_content_that_cannot_be_read_ends_the_transfer(
    monkeypatch: pytest.MonkeyPatch, trouble: Exception, away: bool, told: type[Exception]
) -> None:
    def refuse(sha256: str) -> None:
        raise trouble

    def check() -> None:
        if away:
            raise OSError(2, "its disk is not mounted")

    manifest = staging_in._Inputs(DIGEST, [], {DIGEST: 3})
    monkeypatch.setattr(staging_in, "_Inputs", SimpleNamespace(load=lambda *_: manifest))
    contents = SimpleNamespace(open=refuse, check=check)
    context: Any = SimpleNamespace(
        installation="abc", generation="g1", spool=SimpleNamespace(owner=lambda _: contents)
    )
    gate: Any = SimpleNamespace(name="lab", files=SimpleNamespace(PutFiles=Call))
    job = Job("j1", "ann", JobSpec(), "", JobState.STAGING_IN, 1.0, 1.0, attempt=1)
    bringing = asyncio.create_task(put_inputs(context, gate, job, types_pb2.JobRef()))
    done, _ = await asyncio.wait({bringing}, timeout=20)
    bringing.cancel()
    assert done
    with pytest.raises(told):
        await bringing


async def test_a_gate_that_goes_silent_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(call: object) -> AsyncIterator[file_pb2.GetFilesResponse]:
        raise TimeoutError
        yield

    monkeypatch.setattr(staging_out, "heard", silent)
    contents = SimpleNamespace(holding=contextlib.nullcontext)
    context: Any = SimpleNamespace(spool=SimpleNamespace(owner=lambda _: contents))
    gate: Any = SimpleNamespace(
        files=SimpleNamespace(GetFiles=lambda _: None),
        problem=lambda error, _: GateError("lab", Problem.from_error(error)),
    )
    job = Job("j1", "ann", JobSpec(), "", JobState.STAGING_OUT, 1.0, 1.0, attempt=1)
    collection = Collection(context, gate, job)
    with pytest.raises(GateError, match="silent") as caught:
        await collection._get(types_pb2.JobRef(), "", [])
    assert caught.value.meaning is Meaning.UNKNOWN


async def test_who_is_cancelled_waits_for_what_a_thread_writes() -> None:
    begun, go, written = threading.Event(), threading.Event(), threading.Event()

    def write() -> None:
        begun.set()
        go.wait(20)
        written.set()

    taking = asyncio.create_task(staging_out._uncut(asyncio.to_thread(write)))
    await asyncio.to_thread(begun.wait, 20)
    taking.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not taking.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert written.is_set()
