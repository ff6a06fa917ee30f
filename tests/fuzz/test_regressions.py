"""What fuzzing has found, each by itself."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from gate_kit import Fields, Refusal
from gate_kit.patterns import Matcher, compile_pattern
from gate_kit.site_files import resume_at
from gate_kit.ssh import evidence
from gate_kit.ssh.shell import Reply
from rpc_kit.bundle import Bundle
from rpc_kit.endpoint import Endpoint
from rpc_kit.errors import Problem, invalid
from rpc_kit.server import RpcServer
from skyport.gate.v1 import file_pb2
from tests.fuzz.targets import TARGETS

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NO_MESSAGE = b"\xff\xff\xff"
NO_TIMES = [
    Timestamp(seconds=2**62),
    Timestamp(seconds=-(2**62)),
    Timestamp(seconds=5, nanos=-1),
    Timestamp(seconds=5, nanos=10**9),
    Timestamp(nanos=-1),
]


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("/grpc.health.v1.Health/Check", "unary_unary"),
        ("/grpc.health.v1.Health/Watch", "unary_stream"),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "stream_stream"),
    ],
)
async def test_bytes_that_are_no_message_are_refused_with_a_reason(method: str, kind: str) -> None:
    server = RpcServer("skyport.test")
    with tempfile.TemporaryDirectory(prefix="fz") as folder:  # short, for a socket's path
        endpoint = await server.start(Endpoint(path=Path(folder) / "s"))
        try:
            async with grpc.aio.insecure_channel(endpoint.target) as channel:
                problem = await _refused(getattr(channel, kind)(method))
        finally:
            await server.stop(0)
    assert (problem.code, problem.reason) == (INVALID, "FIELD_MALFORMED")
    assert "no message of this call's kind" in problem.message


async def _refused(method: Any) -> Problem:
    """How a call with bytes that are no message ends."""
    sent = iter([NO_MESSAGE]) if isinstance(method, grpc.aio.StreamStreamMultiCallable) else None
    call = method(sent or NO_MESSAGE, timeout=20)
    answer = call if isinstance(method, grpc.aio.UnaryUnaryMultiCallable) else anext(aiter(call))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await answer
    return Problem.from_error(raised.value)


def test_what_a_caller_sent_does_nothing_to_the_terminal_that_shows_the_refusal() -> None:
    refusal = invalid("no site \x1b[31m\u202e\nx", field="site", violations=[("a", "b\0\u2028c")])
    status = refusal.to_status("skyport.test")
    assert status.details is not None
    assert status.details.isprintable()
    assert "no site " in status.details


@pytest.mark.parametrize("value", NO_TIMES, ids=str)
def test_a_time_that_is_none_is_refused_with_its_field(value: Timestamp) -> None:
    fields = Fields()
    assert fields.time("expire_time", value) == 0
    with pytest.raises(Refusal, match="expire_time") as found:
        fields.done()
    assert found.value.reason == "FIELD_OUT_OF_RANGE"


@pytest.mark.parametrize("value", NO_TIMES, ids=str)
def test_a_cursor_with_a_time_that_is_none_is_of_another_file(value: Timestamp) -> None:
    cursor = file_pb2.FileCursor(path="a", offset=3, size=5, modify_time=value)
    assert resume_at(0, cursor, 5, 7_000_000_001) == 0
    cursor.modify_time.FromNanoseconds(7_000_000_001)
    assert resume_at(0, cursor, 5, 7_000_000_001) == 3


@pytest.mark.timeout(30)
def test_no_name_takes_a_pattern_for_ever() -> None:
    for pattern in ("*a" * 8 + "*b", "a*" * 20 + "b", "*?" * 20 + "[!a]*"):
        matcher = Matcher([compile_pattern(pattern)])
        assert not matcher.enter("a" * 250).matched
    assert Matcher([compile_pattern("*a" * 8 + "*b")]).enter("xa" * 100 + "b").matched


@pytest.mark.parametrize("text", ["\0", "\x7f", '"""', "\\", "\U0001f600", "a\r\nb", "\ufeff"])
def test_a_bundle_is_read_as_it_was_written(text: str) -> None:
    bundle = Bundle("127.0.0.1:1", text, text, text, text, text, text)
    assert Bundle.parse(bundle.to_toml(), "client.toml") == bundle


def test_a_root_whose_id_is_no_text_is_another_root() -> None:
    seed = TARGETS["evidence"].seeds[0]
    TARGETS["evidence"].run(seed.replace(b"root_uid r", b"root_uid \x9ar"))
    found = evidence.read_list("n1", Reply(["root_uid \udc9ar", *_attempt(seed)], []))
    assert [on_host.root_uid for on_host in found.values()] == ["?r"]


def _attempt(seed: bytes) -> list[str]:
    return seed.decode().split("\n")[1:]
