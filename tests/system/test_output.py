"""What a job writes: live, from any offset, and the same bytes after its machines are gone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import grpc
import pytest

from skyport.terminal.v1 import job_pb2
from tests.system.harness.core import Core, running
from tests.system.harness.jobs import RUNNING, STDERR, STDOUT, SUCCEEDED, JobHandle
from tests.system.harness.latch import Latch
from tests.system.harness.refusals import refused
from tests.system.harness.sites import node, static

MiB = 1 << 20


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    limits = {"log_bytes_per_job": "32M"}
    with running(
        tmp_path_factory.mktemp("output"), {"lab": static(node("n1"))}, limits=limits
    ) as core:
        yield core


def read(job: JobHandle, **fields: int) -> list[job_pb2.ReadOutputResponse]:
    request = job_pb2.ReadOutputRequest(job_id=job.job_id, kind=STDOUT)
    for name, value in fields.items():
        setattr(request, name, value)
    return list(job.user.jobs.ReadOutput(request, timeout=20))


def test_output_is_seen_while_the_job_runs_and_the_same_bytes_afterwards(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    job = core.user().submit(f"echo first; echo loud >&2; {hold.wait}; echo second")
    job.until(RUNNING)
    live = job.follow()
    heard = b""
    while b"first\n" not in heard:
        heard += next(live).data
    hold.release()
    rest = list(live)
    job.until(SUCCEEDED)
    heard += b"".join(answer.data for answer in rest)
    assert heard == b"first\nsecond\n"
    end = rest[-1].end
    assert (end.size, end.sha256) == (len(heard), hashlib.sha256(heard).digest())
    core.site("lab").cleared(job.job_id)
    assert job.output() == heard
    assert job.output(STDERR) == b"loud\n"
    assert b"".join(answer.data for answer in job.follow()) == heard


def test_output_is_read_from_any_offset(core: Core) -> None:
    job = core.user().submit("printf 0123456789")
    job.until(SUCCEEDED)
    assert [job.output(offset=offset) for offset in (0, 4, 9, 10)] == [
        b"0123456789", b"456789", b"9", b""
    ]  # fmt: skip
    answers = read(job, tail_bytes=3)
    assert b"".join(answer.data for answer in answers) == b"789"
    assert answers[0].offset == 7
    assert answers[0].attempt == 1
    refused(
        core.user().jobs.ReadOutput,
        job_pb2.ReadOutputRequest(job_id=job.job_id, kind=STDOUT, offset=11),
        grpc.StatusCode.OUT_OF_RANGE,
        "OFFSET",
        says="10",
    )


def test_a_follower_before_the_start_waits_for_it(core: Core, latch: Callable[[], Latch]) -> None:
    hold = latch()
    first = core.user().submit(f"#SWM cpus 4\n{hold.wait}")
    first.until(RUNNING)
    behind = core.user().submit("#SWM cpus 4\necho at last")
    request = job_pb2.ReadOutputRequest(job_id=behind.job_id, kind=STDOUT, follow=True)
    call = core.user().jobs.ReadOutput(request, timeout=30)
    hold.release()
    answers = list(call)
    assert b"".join(answer.data for answer in answers) == b"at last\n"
    assert answers[-1].HasField("end")
    behind.until(SUCCEEDED)


def test_a_job_cancelled_before_its_start_has_an_empty_output(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    first = core.user().submit(f"#SWM cpus 4\n{hold.wait}")
    first.until(RUNNING)
    behind = core.user().submit("#SWM cpus 4\necho never")
    request = job_pb2.ReadOutputRequest(job_id=behind.job_id, kind=STDOUT, follow=True)
    call = core.user().jobs.ReadOutput(request, timeout=30)
    behind.cancel()
    answers = list(call)
    assert answers[-1].HasField("end")
    assert not any(answer.data for answer in answers)
    hold.release()
    first.until(SUCCEEDED)


def test_bytes_are_kept_as_they_are_whatever_they_are(core: Core) -> None:
    script = "#!/usr/bin/env python3\nimport sys\nsys.stdout.buffer.write(bytes(range(256)) * 9000)"
    job = core.user().submit(script)
    job.until(SUCCEEDED)
    assert job.output() == bytes(range(256)) * 9_000


def test_of_more_output_than_is_kept_the_end_is_kept_and_the_gap_is_told(core: Core) -> None:
    size = 48 * MiB
    job = core.user().submit(f"echo begin; head -c {size} /dev/zero; echo end")
    job.until(SUCCEEDED, within_s=60)
    whole = size + len("begin\n") + len("end\n")
    answers = read(job)
    data = b"".join(answer.data for answer in answers)
    assert 8 * MiB < len(data) < 32 * MiB
    assert data.endswith(b"end\n")
    assert answers[-1].end.size == whole
    assert answers[0].offset == whole - len(data)


def test_two_readers_hear_the_same(core: Core, latch: Callable[[], Latch]) -> None:
    hold = latch()
    job = core.user().submit(f"{hold.wait}; seq 1 20000")
    job.until(RUNNING)
    request = job_pb2.ReadOutputRequest(job_id=job.job_id, kind=STDOUT, follow=True)
    calls = [core.user().jobs.ReadOutput(request, timeout=30) for _ in range(2)]
    hold.release()
    heard = [b"".join(answer.data for answer in call) for call in calls]
    assert heard[0] == heard[1] == "".join(f"{n}\n" for n in range(1, 20_001)).encode()


def test_a_job_that_deletes_its_work_folder_keeps_its_output(core: Core) -> None:
    job = core.user().submit('echo before; rm -rf "$SWM_WORKDIR"; echo after')
    job.until(SUCCEEDED)
    assert job.output() == b"before\nafter\n"


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({}, grpc.StatusCode.INVALID_ARGUMENT, "FIELD_REQUIRED"),
        ({"kind": STDOUT, "attempt": 9}, grpc.StatusCode.NOT_FOUND, "ATTEMPT_NOT_FOUND"),
        ({"kind": STDOUT, "node": "n7"}, grpc.StatusCode.NOT_FOUND, "NODE_NOT_FOUND"),
    ],
)
def test_a_stream_that_cannot_be_is_refused(
    core: Core, fields: dict[str, int], code: grpc.StatusCode, reason: str
) -> None:
    job = core.user().submit("true")
    job.until(SUCCEEDED)
    request = job_pb2.ReadOutputRequest(job_id=job.job_id, **fields)  # type: ignore[arg-type]
    refused(core.user().jobs.ReadOutput, request, code, reason)
