"""Callers that are as busy as they can be, in a process of their own.

    python -m bench.callers BUNDLE ECHO_ADDRESS COUNT

Each caller is a task with a connection of its own and calls again as soon as it is answered. A line
`echo SECONDS` or `submit SECONDS` on standard input makes all of them call that for so long, and is
answered by calls per second. Echoes and submits go through the same code.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc.aio

from bench.peer import ECHO
from rpc_kit.bundle import Bundle
from rpc_kit.tls import channel_credentials, channel_options
from skyport.terminal.v1 import job_pb2

SCRIPT = b"""\
#!/bin/sh
#SWM name bench
#SWM cpus 1
exec true
"""
SUBMIT = "/skyport.terminal.v1.JobService/SubmitJob"

Call = Callable[[], Awaitable[object]]


def _channel(bundle: Bundle, address: str) -> grpc.aio.Channel:
    # Otherwise all channels to one server would share one connection.
    options = [*channel_options(bundle.server_name), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(address, channel_credentials(bundle.key_pair), options)


def _echo(channel: grpc.aio.Channel) -> Call:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ECHO)
    return lambda: call(b"")


def _submit(channel: grpc.aio.Channel) -> Call:
    # Answers stay bytes for both: what a client makes of them is not the core's work.
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(SUBMIT)

    def submit() -> Awaitable[object]:
        request = job_pb2.SubmitJobRequest(script=SCRIPT, request_id=secrets.token_hex(16))
        return call(request.SerializeToString())

    return submit


async def _call_until(deadline: float, call: Call) -> int:
    done = 0
    while time.perf_counter() < deadline:
        await call()
        done += 1
    return done


async def _per_second(calls: list[Call], seconds: float) -> float:
    began = time.perf_counter()
    counts = await asyncio.gather(*(_call_until(began + seconds, call) for call in calls))
    return sum(counts) / (time.perf_counter() - began)


async def _main(bundle: Bundle, echo_address: str, count: int) -> None:
    calls = {
        "echo": [_echo(_channel(bundle, echo_address)) for _ in range(count)],
        "submit": [_submit(_channel(bundle, bundle.endpoint)) for _ in range(count)],
    }
    while line := await asyncio.to_thread(sys.stdin.readline):
        what, seconds = line.split()
        print(await _per_second(calls[what], float(seconds)), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(Bundle.read(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])))
