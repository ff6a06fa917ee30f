"""Everybody who may try to call a core or a gate, and how a call of any RPC of a contract ends."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from rpc_kit.errors import Problem
from rpc_kit.identity import Kind
from rpc_kit.tls import KeyPair, channel_credentials, channel_options
from swm_core.security.ca import CertificateAuthority, new_key
from tests.system.harness.waiting import eventually

CALL_S = 20.0
CODE = grpc.StatusCode


class Outcome(NamedTuple):
    """How a call ended: the code, and the reason where a core or gate gave one."""

    code: grpc.StatusCode
    reason: str | None = None


OK = Outcome(CODE.OK)
NO_CONNECTION = Outcome(CODE.UNAVAILABLE)
"""The handshake failed: nothing of ours has looked at the call."""


def methods(*files: Any) -> dict[str, MethodDescriptor]:
    """All RPCs of the descriptors of proto files, as `Service.Method`."""
    return {
        f"{service.name}.{method.name}": method
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    }


def answered(channel: grpc.Channel, method: MethodDescriptor, request: Message) -> Message | None:
    """The answer to a call, of a stream the first one, or None where it has none.

    Raises:
        grpc.RpcError: It failed.
    """
    kind = "_".join(
        "stream" if streams else "unary"
        for streams in (method.client_streaming, method.server_streaming)
    )
    call = getattr(channel, kind)(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    answer = call(iter([request]) if method.client_streaming else request, timeout=CALL_S)
    if method.server_streaming:
        first: Message | None = next(answer, None)
        answer.cancel()
        return first
    found: Message = answer
    return found


def outcome(channel: grpc.Channel, method: MethodDescriptor, request: Message) -> Outcome:
    """Make a call, and see how it ends; of a stream of answers the first one is enough."""
    try:
        answered(channel, method, request)
    except grpc.RpcError as error:
        problem = Problem.from_error(error)
        return Outcome(problem.code, problem.reason)
    return OK


class Refused(NamedTuple):
    """A refusal as it came over the wire."""

    code: grpc.StatusCode
    reason: str | None
    details: bytes


def refusal(channel: grpc.Channel, method: MethodDescriptor, request: Message) -> Refused:
    """How a call is refused, byte for byte.

    Raises:
        AssertionError: It is not.
    """
    try:
        answered(channel, method, request)
    except grpc.RpcError as error:
        trailing: Any = error.trailing_metadata()
        trailers = dict(trailing)
        problem = Problem.from_error(error)
        return Refused(problem.code, problem.reason, trailers.get("grpc-status-details-bin", b""))
    raise AssertionError("it was not refused")


def reached_by(endpoint: str, name: str, keys: KeyPair | None, ca_pem: bytes) -> grpc.Channel:
    """A connection to a server that is called `name`, by whoever shows these keys, or none."""
    credentials = grpc.ssl_channel_credentials(ca_pem)
    if keys is not None:
        credentials = channel_credentials(keys)
    options: list[tuple[str, Any]] = [
        *channel_options(name),
        ("grpc.enable_retries", 0),  # most of them are refused each time
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return grpc.secure_channel(endpoint, credentials, options)


@dataclasses.dataclass(frozen=True)
class Strangers:
    """Certificates of those whom nobody serves.

    Args:
        ca: Of the installation.
    """

    ca: CertificateAuthority

    def keys(self, kind: Kind, name: str = "", **life: Any) -> KeyPair:
        """Of the installation itself, and good."""
        return _keys(self.ca, kind, name, **life)

    def of_another_ca(self, kind: Kind, name: str = "") -> KeyPair:
        """Of a CA that says it is that of the installation; ours is trusted all the same."""
        other = CertificateAuthority.create(self.ca.installation, new_key())
        return dataclasses.replace(_keys(other, kind, name), ca_pem=self.ca.cert_pem)

    def of_another_installation(self, kind: Kind, name: str = "") -> KeyPair:
        """Signed by our CA with another installation's name."""
        other = CertificateAuthority.create(self.ca.installation, new_key())
        other.__dict__.update(self.ca.__dict__)
        other.installation = "zzzzzzzzzzzz"
        return _keys(other, kind, name)

    def expired(self, kind: Kind, name: str = "") -> KeyPair:
        """That has ended long ago."""
        long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=400)
        return self.keys(kind, name, valid_from=long_ago)


def _keys(ca: CertificateAuthority, kind: Kind, name: str, **life: Any) -> KeyPair:
    issued = ca.issue(kind, name, **life)
    return KeyPair(ca.cert_pem, issued.cert_pem, issued.key_pem)


def ended_on_the_way(
    strangers: Strangers, kind: Kind, name: str, endpoint: str, server: str, first: MethodDescriptor
) -> grpc.Channel:
    """A connection that was made with a certificate which has ended since."""
    request = message_factory.GetMessageClass(first.input_type)()
    for life_s in (2, 6, 20):  # more, where the machine is too busy to connect in time
        life = datetime.timedelta(seconds=life_s)
        keys = strangers.keys(kind, name, lifetime=life)
        ends = time.time() + life_s
        channel = reached_by(endpoint, server, keys, strangers.ca.cert_pem)
        if outcome(channel, first, request).reason != "CERTIFICATE_EXPIRED" and _is_up(channel):
            eventually(functools.partial(_is_past, ends + 0.1), "it has ended", within_s=30)
            return channel
        channel.close()
    raise AssertionError("no connection within 20 s")


def _is_past(moment: float) -> bool:
    return time.time() > moment


def _is_up(channel: grpc.Channel) -> bool:
    try:
        grpc.channel_ready_future(channel).result(timeout=0.5)
    except grpc.FutureTimeoutError:
        return False
    return True


def outcomes(
    channels: Mapping[str, grpc.Channel], method: MethodDescriptor, request: Message
) -> dict[str, Outcome]:
    """How the same call ends for each of several callers, in their order."""
    return {who: outcome(channel, method, request) for who, channel in channels.items()}
