"""Fail points do nothing unless a plan asks for it, and then what it asks for, once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from rpc_kit import failpoints

_PROGRAM = """
import sys, time
from rpc_kit import failpoints
for name in sys.argv[1:]:
    failpoints.reach(name)
    print(name, flush=True)
"""


def passing(folder: Path, *points: str, **plan: Any) -> subprocess.CompletedProcess[str]:
    """A process that passes by some points, one after the other."""
    file = folder / "plan.json"
    file.write_text(json.dumps(plan))
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, *points],
        env={**os.environ, failpoints.VARIABLE: str(file)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def order(folder: Path, **fields: Any) -> Mapping[str, Any]:
    return {"point": "b", "marker": str(folder / "marker"), **fields}


def test_they_are_off_unless_a_plan_is_named() -> None:
    assert failpoints.VARIABLE not in os.environ
    assert not failpoints.ON


def test_a_process_is_killed_at_its_point_and_leaves_a_marker(tmp_path: Path) -> None:
    ended = passing(tmp_path, "a", "b", "c", orders=[order(tmp_path, kill=["self"])])
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == "a\n"
    assert (tmp_path / "marker").exists()


def test_the_next_process_passes_by(tmp_path: Path) -> None:
    for code in (-signal.SIGKILL, 0):
        ended = passing(tmp_path, "b", orders=[order(tmp_path, kill=["self"])])
        assert ended.returncode == code


def test_a_later_hit_can_be_meant(tmp_path: Path) -> None:
    ended = passing(tmp_path, "b", "b", "b", orders=[order(tmp_path, hit=3, kill=["self"])])
    assert ended.stdout == "b\nb\n"


def test_another_process_can_be_killed(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        (tmp_path / "pid").write_text(str(other.pid))
        ended = passing(tmp_path, "b", orders=[order(tmp_path, kill=[str(tmp_path / "pid")])])
        assert ended.returncode == 0
        assert other.wait(20) == -signal.SIGKILL
    assert (tmp_path / "marker").read_text() == f"{other.pid}\n"


def test_a_process_that_is_gone_counts_as_not_killed(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as other:
        pass
    (tmp_path / "pid").write_text(str(other.pid))
    ended = passing(tmp_path, "b", orders=[order(tmp_path, kill=[str(tmp_path / "pid")])])
    assert ended.returncode == 0
    assert (tmp_path / "marker").read_text() == ""


def test_points_that_are_reached_are_written_down(tmp_path: Path) -> None:
    passing(tmp_path, "a", "b", trace=str(tmp_path / "trace"))
    assert (tmp_path / "trace").read_text() == "a\nb\n"


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The points that are reached in this process, which has no plan."""
    names: list[str] = []

    async def pass_by(point: str) -> None:
        names.append(point)

    monkeypatch.setattr(failpoints, "pass_by", pass_by)
    return names


async def test_a_served_call_has_points_before_and_after_its_work(reached: list[str]) -> None:
    async def handler(request: str, context: object) -> str:
        reached.append("work")
        return request

    served = failpoints.served("/x.S/M", handler)
    assert await served("answer", None) == "answer"
    assert reached == ["serve x.S/M before", "work", "serve x.S/M after"]


async def test_a_refusal_is_an_answer(reached: list[str]) -> None:
    async def handler(request: str, context: object) -> str:
        raise LookupError

    with pytest.raises(LookupError):
        await failpoints.served("/x.S/M", handler)("", None)
    assert reached == ["serve x.S/M before", "serve x.S/M after"]


async def test_a_served_stream_has_a_point_at_its_first_answer(reached: list[str]) -> None:
    async def handler(request: str, context: object) -> Any:
        yield 1
        yield 2

    served = failpoints.served("/x.S/M", handler)
    assert [answer async for answer in served("", None)] == [1, 2]
    assert reached == [f"serve x.S/M {when}" for when in ("before", "first", "after")]


async def test_calls_that_are_made_have_points_too(reached: list[str]) -> None:
    class Message:
        DESCRIPTOR = None

    class Call:
        answers = iter([Message(), Message(), grpc.aio.EOF])

        async def read(self) -> object:
            return next(self.answers)

    class Channel:
        def unary_unary(self, method: str) -> Any:
            async def call(request: str) -> str:
                return request

            return call

        def unary_stream(self, method: str) -> Any:
            return lambda request: Call()

    calls = failpoints.Calls(Channel(), "lab")
    assert await calls.unary_unary("/x.S/M")("answer") == "answer"
    assert reached == ["lab call x.S/M before", "lab call x.S/M after"]
    reached.clear()
    stream = calls.unary_stream("/x.S/N")("request")
    while await stream.read() is not grpc.aio.EOF:
        pass
    assert reached == [f"lab call x.S/N {when}" for when in ("before", "first", "after")]
