"""Builds and runs a grpc.aio server: where it listens, health, reflection, and a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from rpc_kit import private_files
from rpc_kit.endpoint import Endpoint
from rpc_kit.errors import unavailable
from rpc_kit.interceptor import HEALTH, Admit, Authenticate, Context, ErrorInterceptor
from rpc_kit.tls import MAX_MESSAGE_BYTES, KeyFiles, KeyPair, server_credentials

log = logging.getLogger(__name__)

SUPERVISED = "SKYPORT_SUPERVISED"
"""Set to 1 by a parent that holds our standard input open: when it closes, the parent is gone."""

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Two servers on one port would each get some of the calls.
    ("grpc.so_reuseport", 0),
    # A client that vanished is noticed within 80 s, also behind a watch that has nothing to say.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Clients may ping to keep a quiet stream alive (rpc_kit.tls: every 30 s).
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
]
_OURS = (HEALTH, "/grpc.reflection.v1")
_GOING = unavailable("SHUTTING_DOWN", "the server is shutting down")

S = TypeVar("S")


class ServeError(Exception):
    """The server can't listen; the message is one line that says why and what to do."""


class RpcServer:
    """One server at one endpoint. Make it inside the running event loop.

    Args:
        domain: The domain of the reasons of its errors.
        authenticate: Tells who calls, before each handler; see `ErrorInterceptor`.
        admit: May refuse streaming calls; see `ErrorInterceptor`.
        unserved: The reason for RPCs that are not written; see `ErrorInterceptor`.
    """

    def __init__(
        self,
        domain: str,
        *,
        authenticate: Authenticate | None = None,
        admit: Admit | None = None,
        unserved: str = "NOT_SERVED",
    ) -> None:
        self.interceptor = ErrorInterceptor(domain, authenticate, admit=admit, unserved=unserved)
        self._server = grpc.aio.server(interceptors=(self.interceptor,), options=_OPTIONS)
        self._health = _Health()
        self._on_drain: list[Callable[[], Awaitable[None]]] = []
        self._draining: asyncio.Task[None] | None = None
        self._services: list[str] = []
        self.endpoint: Endpoint | None = None
        """Where it listens, with the port that was given, once it has started."""

    def add(self, register: Callable[[S, Any], None], servicer: S) -> None:
        """Serve one service; it is told by health and reflection too.

        Args:
            register: The generated `add_XServicer_to_server`.
            servicer: What it takes.
        """
        register(servicer, _Recorder(self._server, self._services))

    def on_drain(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Have `callback` awaited when the end has been told and calls still run.

        It is for closing watches, which would otherwise hold up the end for the whole grace.
        """
        self._on_drain.append(callback)

    async def start(
        self,
        endpoint: Endpoint,
        keys: KeyPair | KeyFiles | None = None,
        *,
        allow_remote: bool = False,
    ) -> Endpoint:
        """Listen, and answer calls.

        Args:
            endpoint: A unix socket (its folder is made, 0700), or a TCP address; port 0 picks one.
            keys: The certificate to show, REQUIRED for TCP; every client needs one of the same CA.
                Of files, new connections are shown what is in them by then.
            allow_remote: Whether the address may be one that other machines reach.

        Returns:
            The endpoint with the port that it has.

        Raises:
            ServeError: Nothing can listen there.
        """
        # Secrets and keys are in our memory: a crash must not leave it in a file.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        serving = health_pb2.HealthCheckResponse.SERVING
        for name in self._services:
            await self._health.set(name, serving)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, self._server)
        if endpoint.path is not None:
            self._bind_socket(endpoint, endpoint.path)
        else:
            endpoint = self._bind_port(endpoint, keys, allow_remote=allow_remote)
        await self._server.start()
        self.endpoint = endpoint
        log.info("listening on %s", endpoint)
        return endpoint

    def _bind_socket(self, endpoint: Endpoint, path: Path) -> None:
        try:
            private_files.make_folder(path.parent)
            # grpc would take the place of a living server without a word.
            if path.exists():
                if not path.is_socket():
                    raise ServeError(
                        f"{path} is there and is no socket; move it, or choose another"
                    )
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.settimeout(5)
                    try:
                        probe.connect(str(path))
                    except (ConnectionRefusedError, FileNotFoundError):
                        path.unlink(missing_ok=True)
                    else:
                        raise ServeError(f"{endpoint} is served by another process; end it first")
            self._server.add_insecure_port(endpoint.target)
            path.chmod(0o600)
        except (OSError, RuntimeError) as error:
            raise ServeError(f"can't listen on {endpoint}: {error}") from error

    def _bind_port(
        self, endpoint: Endpoint, keys: KeyPair | KeyFiles | None, *, allow_remote: bool
    ) -> Endpoint:
        if not (endpoint.is_local or allow_remote):
            raise ServeError(
                f"{endpoint} can be reached from other machines; use a loopback address, "
                "or allow it in the configuration"
            )
        if keys is None:
            raise ServeError(f"{endpoint} needs a certificate; only unix sockets go without")
        _check_free(endpoint)
        try:
            port = self._server.add_secure_port(endpoint.target, server_credentials(keys))
        except RuntimeError as error:
            raise ServeError(f"can't listen on {endpoint}: {error}") from error
        return Endpoint(endpoint.host, port)

    async def stop(self, grace_s: float = 5.0) -> None:
        """End in order: tell it, let watches close, let calls finish, then cut what is left.

        New calls get UNAVAILABLE SHUTTING_DOWN, those of health excepted.

        Args:
            grace_s: Seconds that the callbacks have, and that running calls have after them. A
                second call with less cuts short the first.
        """
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        await asyncio.wait({self._draining}, timeout=grace_s)
        if self._draining.cancel():
            log.warning("watches did not close within %g s", grace_s)
        self.interceptor.end_streams(_GOING, lambda method, who: method.startswith(_OURS))
        await self._server.stop(grace_s)
        if self.endpoint is not None and self.endpoint.path is not None:
            self.endpoint.path.unlink(missing_ok=True)

    async def _drain(self) -> None:
        await self._health.enter_graceful_shutdown()
        self.interceptor.close(_GOING)
        async with asyncio.TaskGroup() as group:
            for callback in self._on_drain:
                group.create_task(_logging_failure(callback))


async def run(*servers: RpcServer, grace_s: float = 5.0) -> None:
    """Serve until SIGTERM or SIGINT, or until the supervising parent is gone; then end gracefully.

    A second signal cuts the grace short. Call it in the main thread, with the servers started.

    Args:
        servers: What to end, all at once.
        grace_s: As for `RpcServer.stop`.
    """
    asked, hurried = asyncio.Event(), asyncio.Event()
    with _signals(asked, hurried), _parent(asked):
        await asked.wait()
        ending = asyncio.gather(*(server.stop(grace_s) for server in servers))
        hurry = asyncio.create_task(hurried.wait())
        await asyncio.wait((ending, hurry), return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            await asyncio.gather(*(server.stop(0) for server in servers))
        hurry.cancel()
        await ending


async def _logging_failure(callback: Callable[[], Awaitable[None]]) -> None:
    try:
        await callback()
    except Exception:
        log.exception("closing a watch failed")


@contextlib.contextmanager
def _signals(first: asyncio.Event, second: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def received(number: signal.Signals) -> None:
        log.info("%s: ending", number.name)
        (second if first.is_set() else first).set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, received, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _parent(gone: asyncio.Event) -> Iterator[None]:
    """Set `gone` when standard input ends, if a parent said that it holds it open."""
    if os.environ.get(SUPERVISED) != "1":
        yield
        return
    loop = asyncio.get_running_loop()
    stdin = sys.__stdin__.fileno() if sys.__stdin__ else 0

    def readable() -> None:
        if not os.read(stdin, 4096):
            log.info("the parent is gone: ending")
            loop.remove_reader(stdin)
            gone.set()

    try:
        loop.add_reader(stdin, readable)
    except PermissionError:
        log.warning("%s is set, but standard input is a file: not watched", SUPERVISED)
        yield
        return
    try:
        yield
    finally:
        loop.remove_reader(stdin)


def _check_free(endpoint: Endpoint) -> None:
    """Say in our words why a port can't be had; grpc says it in several lines of its own."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ServeError(
                f"{endpoint} is in use by another process; end it, or choose another address"
            ) from None
        raise ServeError(f"can't listen on {endpoint}: {error.strerror or error}") from None


class _Health(health.aio.HealthServicer):
    """Health with List, which grpc's own has for threads only.

    One that is not async would fail before anybody has looked at who calls.
    """

    async def List(self, request: Any, context: Context) -> Any:
        # The types of both know no List yet.
        messages: Any = health_pb2
        known: Any = self
        statuses = {
            name: messages.HealthCheckResponse(status=status)
            for name, status in known._server_status.items()
        }
        return messages.HealthListResponse(statuses=statuses)


class _Recorder:
    """Stands in for a server while a service registers, and notes the service's name."""

    def __init__(self, server: grpc.aio.Server, names: list[str]) -> None:
        self._server = server
        self._names = names

    def add_generic_rpc_handlers(self, handlers: tuple[grpc.GenericRpcHandler, ...]) -> None:
        names = (handler.service_name() for handler in handlers if hasattr(handler, "service_name"))
        self._names.extend(names)
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """What generated code calls besides; an asyncio server needs only the generic ones."""
