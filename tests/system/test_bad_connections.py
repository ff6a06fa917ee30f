"""Whoever may not call is not served; whatever comes, core and gates serve on."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from rpc_kit.diagnosis import explain
from rpc_kit.endpoint import Endpoint
from rpc_kit.identity import Kind
from rpc_kit.tls import KeyPair, channel_credentials, channel_options, core_name, server_credentials
from skyport.terminal.v1 import account_pb2, account_pb2_grpc, job_pb2, job_pb2_grpc
from swm_core.security.ca import CertificateAuthority, new_key
from tests.system.harness.core import Core, free_port, running, serves
from tests.system.harness.refusals import check_words, problem_of, refused
from tests.system.harness.sites import static
from tests.system.harness.users import User, submission

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
WHO = account_pb2.WhoAmIRequest()


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    with running(tmp_path_factory.mktemp("connections"), {"lab": static()}) as core:
        yield core


@pytest.fixture(autouse=True)
def _serves_on(core: Core) -> Iterator[None]:
    yield
    serves(core)


def transport_refuses(caller: User, *, says: str) -> None:
    """Have a caller's connection fail below the calls: no reason, and words that explain it."""
    with contextlib.closing(caller):
        problem = problem_of(caller.account.WhoAmI, WHO)
    assert (problem.code, problem.reason) == (UNAVAILABLE, None)
    text = explain(caller.endpoint, caller.keys, core_name(caller.installation))
    check_words(text)
    assert says in text


def test_a_core_that_is_not_running(core: Core) -> None:
    nobody = User("bo", core.keys("bo"), Endpoint("127.0.0.1", free_port()), core.installation)
    transport_refuses(nobody, says="swm up")


def test_an_expired_certificate(core: Core) -> None:
    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=9)
    keys = core.keys("bo", valid_from=long_ago, lifetime=datetime.timedelta(days=1))
    transport_refuses(core.caller(keys), says="expired")


def test_a_certificate_that_is_not_valid_yet(core: Core) -> None:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=9)
    transport_refuses(core.caller(core.keys("bo", valid_from=later)), says="clock")


def test_a_certificate_of_another_ca(core: Core) -> None:
    other = CertificateAuthority.create(core.installation, new_key())
    issued = other.issue(Kind.USER, "ann")
    ours = core.keys("ann")
    keys = KeyPair(ours.ca_pem, issued.cert_pem, issued.key_pem)
    transport_refuses(core.caller(keys), says="refused our certificate")


def test_a_client_that_trusts_another_ca_does_not_talk_to_the_core(core: Core) -> None:
    other = CertificateAuthority.create(core.installation, new_key())
    ours = core.keys("ann")
    keys = KeyPair(other.cert_pem, ours.cert_pem, ours.key_pem)
    transport_refuses(core.caller(keys), says="not signed by the CA")


def test_a_gate_s_certificate_is_none_to_call_with(core: Core) -> None:
    transport_refuses(core.caller(core.keys("lab", Kind.GATE)), says="refused our certificate")


def test_the_core_s_own_certificate_is_no_user(core: Core) -> None:
    with contextlib.closing(core.caller(core.keys("", Kind.CORE))) as caller:
        refused(caller.account.WhoAmI, WHO, grpc.StatusCode.PERMISSION_DENIED, "KIND_NOT_ALLOWED")


def test_a_certificate_for_nobody_s_name(core: Core) -> None:
    with contextlib.closing(core.caller(core.keys("nobody"))) as caller:
        refused(
            caller.account.WhoAmI,
            WHO,
            grpc.StatusCode.UNAUTHENTICATED,
            "IDENTITY_UNKNOWN",
            says="nobody",
        )


def test_a_client_without_a_certificate(core: Core) -> None:
    credentials = grpc.ssl_channel_credentials(core.keys("bo").ca_pem)
    options = channel_options(core_name(core.installation))
    with grpc.secure_channel(core.endpoint.target, credentials, options) as channel:
        stub = account_pb2_grpc.AccountServiceStub(channel)
        problem = problem_of(stub.WhoAmI, WHO)
    assert (problem.code, problem.reason) == (UNAVAILABLE, None)


def test_a_user_s_certificate_used_as_a_server(core: Core) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(core.keys("bo")))
    server.start()
    try:
        fooled = User("ann", core.keys("ann"), Endpoint("127.0.0.1", port), core.installation)
        transport_refuses(fooled, says="may not serve")
    finally:
        server.stop(0)


def test_a_plain_text_client(core: Core) -> None:
    with grpc.insecure_channel(core.endpoint.target) as channel:
        stub = account_pb2_grpc.AccountServiceStub(channel)
        problem = problem_of(stub.WhoAmI, WHO)
    assert (problem.code, problem.reason) == (UNAVAILABLE, None)


@pytest.mark.parametrize(
    "noise", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 4_000]
)
def test_noise_on_the_port(core: Core, noise: bytes) -> None:
    address = (core.endpoint.host, core.endpoint.port)
    for _ in range(20):
        connection = socket.create_connection(address, timeout=5)
        with connection, contextlib.suppress(OSError):
            connection.sendall(noise)


def test_an_old_version_of_tls(core: Core) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    address = (core.endpoint.host, core.endpoint.port)
    with (
        socket.create_connection(address, timeout=5) as connection,
        contextlib.suppress(OSError),
        context.wrap_socket(connection) as tls,
    ):
        tls.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert not tls.recv(100)


def test_a_message_over_the_limit(core: Core) -> None:
    user = core.user()
    # Our own clients do not even send it.
    options = [
        *channel_options(core_name(core.installation)),
        ("grpc.max_send_message_length", -1),
    ]
    credentials = channel_credentials(user.keys)
    with grpc.secure_channel(core.endpoint.target, credentials, options) as channel:
        stub = job_pb2_grpc.JobServiceStub(channel)
        request = submission("true\n#" + "x" * (5 << 20))
        problem = problem_of(stub.SubmitJob, request)
    assert (problem.code, problem.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, None)


def test_a_method_that_nobody_has(core: Core) -> None:
    for name in ("JobService/Destroy", "NoService/GetJob"):
        call = core.user().channel.unary_unary(
            f"/skyport.terminal.v1.{name}",
            request_serializer=job_pb2.GetJobRequest.SerializeToString,
            response_deserializer=job_pb2.GetJobResponse.FromString,
        )
        problem = problem_of(call, job_pb2.GetJobRequest())
        assert (problem.code, problem.reason) == (grpc.StatusCode.UNIMPLEMENTED, None)


def test_bytes_that_are_no_message(core: Core) -> None:
    call: Any = core.user().channel.unary_unary(
        "/skyport.terminal.v1.JobService/GetJob", request_serializer=bytes
    )
    problem = problem_of(call, b"\xff\xff\xff\xff")
    assert (problem.code, problem.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_MALFORMED")
    assert "Traceback" not in problem.message
