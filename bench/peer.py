"""The peer of what goes over the wire: a gRPC server that does nothing, with the core's own keys.

    python -m bench.peer HOME           prints its port, and serves until it is ended

Echo answers an empty message with an empty message; Sink takes a stream of messages and answers
how many bytes they had. Neither looks at what comes: bytes in, bytes out, no protobuf.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import grpc.aio

from bench.processes import ask, running
from rpc_kit.bundle import Bundle
from rpc_kit.tls import (
    MAX_MESSAGE_BYTES,
    channel_credentials,
    channel_options,
    server_credentials,
)
from swm_core.home import Home

ECHO = "/bench.Peer/Echo"
_SINK = "/bench.Peer/Sink"


async def _echo(request: bytes, context: object) -> bytes:
    return request


async def _sink(requests: AsyncIterator[bytes], context: object) -> bytes:
    received = 0
    async for request in requests:
        received += len(request)
    return str(received).encode()


async def _serve(home: Path) -> None:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)])
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Echo": grpc.unary_unary_rpc_method_handler(_echo),
        "Sink": grpc.stream_unary_rpc_method_handler(_sink),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Peer", handlers),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(Home(home).core_keys()))
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


@contextlib.contextmanager
def serving(home: Path) -> Iterator[str]:
    """A peer as a process of its own; yields its address."""
    with running("bench.peer", str(home)) as process:
        yield f"127.0.0.1:{ask(process)}"


def secure_channel(bundle: Bundle, address: str) -> grpc.Channel:
    """A connection to the peer, made as the client library makes one to the core."""
    return grpc.secure_channel(
        address, channel_credentials(bundle.key_pair), channel_options(bundle.server_name)
    )


def echo(channel: grpc.Channel) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
    """The call that answers what it was sent."""
    return channel.unary_unary(ECHO)


def sink(channel: grpc.Channel) -> grpc.StreamUnaryMultiCallable[bytes, bytes]:
    """The call that answers how many bytes came, as text."""
    return channel.stream_unary(_SINK)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
