"""ReadOutput: every byte once, at once, from any offset."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from typing import Any

import grpc

from skyport.gate.v1 import job_pb2, types_pb2
from tests.fake_gate.conftest import MakeGate
from tests.fake_gate.harness import STATIC, Gate, make_ref, refused

_OUT = job_pb2.OUTPUT_KIND_STDOUT
_ERR = job_pb2.OUTPUT_KIND_STDERR


def _request(
    ref: types_pb2.JobRef, *cursors: dict[str, Any], follow: bool = False
) -> job_pb2.ReadOutputRequest:
    request = job_pb2.ReadOutputRequest(ref=ref, follow=follow)
    for cursor in cursors or ({"kind": _OUT},):
        request.cursors.add(**cursor)
    return request


async def test_a_finished_stream_ends_with_size_and_digest(gate: Gate) -> None:
    ref, _ = await gate.start_job("echo out; echo err >&2")
    await gate.ended(ref)
    data: dict[int, bytes] = {}
    ends: dict[int, job_pb2.OutputEnd] = {}
    async for answer in gate.jobs.ReadOutput(_request(ref, {"kind": _OUT}, {"kind": _ERR})):
        for piece in answer.pieces:
            assert piece.at.offset == len(data.get(piece.at.kind, b""))
            data[piece.at.kind] = data.get(piece.at.kind, b"") + piece.data
        ends |= {end.at.kind: end for end in answer.ends}
    assert data == {_OUT: b"out\n", _ERR: b"err\n"}
    for kind, content in data.items():
        assert ends[kind].at.offset == len(content)
        assert ends[kind].sha256 == hashlib.sha256(content).digest()


async def test_reading_goes_on_at_any_offset(gate: Gate) -> None:
    ref, _ = await gate.start_job("printf 0123456789")
    await gate.ended(ref)
    call = gate.jobs.ReadOutput(_request(ref, {"kind": _OUT, "offset": 4}))
    pieces = [piece async for answer in call for piece in answer.pieces]
    assert [(piece.at.offset, piece.data) for piece in pieces] == [(4, b"456789")]
    at_the_end = gate.jobs.ReadOutput(_request(ref, {"kind": _OUT, "offset": 10}))
    answers = [answer async for answer in at_the_end]
    assert [end.at.offset for answer in answers for end in answer.ends] == [10]
    found = await refused(
        gate.jobs.ReadOutput(_request(ref, {"kind": _OUT, "offset": 11})),
        "OFFSET",
        grpc.StatusCode.OUT_OF_RANGE,
    )
    assert found.metadata["offset"] == "10"


async def test_without_following_it_gives_what_is_there_and_no_end(gate: Gate) -> None:
    ref, _ = await gate.start_job("echo now; sleep 60")
    await gate.printed(ref, b"now\n")
    answers = [answer async for answer in gate.jobs.ReadOutput(_request(ref))]
    assert b"".join(piece.data for answer in answers for piece in answer.pieces) == b"now\n"
    assert not [end for answer in answers for end in answer.ends]
    await gate.cancel(ref, 0)


async def test_following_waits_for_the_first_file_and_the_start(make_gate: MakeGate) -> None:
    gate = await make_gate(**STATIC, heartbeat_s=0.1)
    ref = make_ref()
    call = gate.jobs.ReadOutput(_request(ref, follow=True))
    beat = await call.read()
    assert beat.HasField("heartbeat")
    assert beat.heartbeat.incarnation
    await gate.start_job("echo here", ref)
    data = b""
    while (answer := await call.read()) is not grpc.aio.EOF:
        data += b"".join(piece.data for piece in answer.pieces)
    assert data == b"here\n"


async def test_what_is_written_is_told_within_20_ms(gate: Gate) -> None:
    ref = make_ref()
    await gate.stage(ref)
    pipe = gate.attempt_folder(ref) / "pipe"
    os.mkfifo(pipe)
    await gate.start_job('while read -r line; do echo "$line"; done < ../pipe', ref)
    call = gate.jobs.ReadOutput(_request(ref, follow=True))
    took = []
    with pipe.open("w") as lines:
        for number in range(20):
            began = time.monotonic()
            lines.write(f"{number}\n")
            lines.flush()
            async with asyncio.timeout(5):
                answer = await call.read()
            took.append(time.monotonic() - began)
            assert answer.pieces[0].data == f"{number}\n".encode()
    assert sorted(took)[len(took) // 2] < 0.02
    await gate.ended(ref)


async def test_a_large_output_comes_whole_in_messages_of_at_most_1_mib(gate: Gate) -> None:
    ref, _ = await gate.start_job("head -c 20000000 /dev/urandom | tee ../copy")
    digest, size, largest = hashlib.sha256(), 0, 0
    async for answer in gate.jobs.ReadOutput(_request(ref, follow=True)):
        total = sum(len(piece.data) for piece in answer.pieces)
        largest = max(largest, total)
        for piece in answer.pieces:
            assert piece.at.offset == size
            size += len(piece.data)
            digest.update(piece.data)
        for end in answer.ends:
            assert (end.at.offset, end.sha256) == (size, digest.digest())
    assert size == 20_000_000
    assert largest <= 1 << 20
    assert (
        hashlib.sha256((gate.attempt_folder(ref) / "copy").read_bytes()).digest() == digest.digest()
    )


async def test_a_job_that_deletes_its_work_folder_keeps_its_output(gate: Gate) -> None:
    ref, _ = await gate.start_job('rm -rf "$SWM_WORKDIR"; echo still here')
    assert await gate.output(ref) == b"still here\n"


async def test_a_cancelled_start_has_empty_streams(gate: Gate) -> None:
    ref = make_ref()
    await gate.stage(ref)
    await gate.cancel(ref)
    answers = [answer async for answer in gate.jobs.ReadOutput(_request(ref, follow=True))]
    assert [end.at.offset for answer in answers for end in answer.ends] == [0]


async def test_output_of_the_removed_and_the_never_seen_is_not_found(gate: Gate) -> None:
    ref = make_ref()
    await refused(gate.jobs.ReadOutput(_request(ref)), "JOB_NOT_FOUND")
    await gate.remove(ref)
    await refused(gate.jobs.ReadOutput(_request(ref, follow=True)), "JOB_NOT_FOUND")


async def test_malformed_cursors_are_refused(gate: Gate) -> None:
    ref, _ = await gate.start_job("true")
    await refused(gate.jobs.ReadOutput(job_pb2.ReadOutputRequest(ref=ref)), "FIELD_MALFORMED")
    await refused(gate.jobs.ReadOutput(_request(ref, {"kind": 0})), "FIELD_REQUIRED")
    twice = _request(ref, {"kind": _OUT}, {"kind": _OUT})
    await refused(gate.jobs.ReadOutput(twice), "FIELD_MALFORMED")
    elsewhere = _request(ref, {"kind": _OUT, "node": "n2"})
    await refused(gate.jobs.ReadOutput(elsewhere), "FIELD_MALFORMED")
