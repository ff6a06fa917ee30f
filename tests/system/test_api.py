"""Every RPC of the Terminal API is there, and says so itself where it is not served yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from rpc_kit.errors import Problem
from skyport.terminal.v1 import (
    account_pb2,
    admin_pb2,
    catalog_pb2,
    file_pb2,
    job_pb2,
    server_pb2,
    tunnel_pb2,
)
from tests.system.harness.core import Core, running
from tests.system.harness.refusals import DOMAIN, check_words, refused
from tests.system.harness.sites import static
from tests.system.harness.users import User

FILES = (account_pb2, admin_pb2, catalog_pb2, file_pb2, job_pb2, server_pb2, tunnel_pb2)
SERVICES = [service for file in FILES for service in file.DESCRIPTOR.services_by_name.values()]
METHODS = {
    f"{service.name}.{method.name}": method for service in SERVICES for method in service.methods
}
ADMIN_METHODS = {name: each for name, each in METHODS.items() if name.startswith("AdminService")}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    with running(tmp_path_factory.mktemp("api"), {"lab": static()}) as core:
        yield core


def multicallable(user: User, method: MethodDescriptor) -> Any:
    kind = "_".join(
        "stream" if streams else "unary"
        for streams in (method.client_streaming, method.server_streaming)
    )
    make = getattr(user.channel, kind)
    return make(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )


def call(user: User, method: MethodDescriptor) -> Problem | None:
    """Call with an empty request; returns how it failed, or None for an answer."""
    request = message_factory.GetMessageClass(method.input_type)()
    sent = iter([request]) if method.client_streaming else request
    try:
        answer = multicallable(user, method)(sent, timeout=10)
        if method.server_streaming:
            next(answer, None)
            answer.cancel()
    except grpc.RpcError as error:
        return Problem.from_error(error)
    return None


def test_there_are_seven_services() -> None:
    assert len(SERVICES) == 7
    assert len(METHODS) > 30


@pytest.mark.parametrize("name", METHODS)
def test_an_rpc_answers_an_empty_request_in_our_own_words(core: Core, name: str) -> None:
    for user in (core.admin, core.user()):
        problem = call(user, METHODS[name])
        if problem is not None:
            assert problem.domain == DOMAIN, problem
            assert problem.reason
            check_words(problem.message)
            assert problem.reason != "INTERNAL"
            if problem.code is grpc.StatusCode.UNIMPLEMENTED:
                assert problem.reason == "NOT_SERVED"


@pytest.mark.parametrize("name", ADMIN_METHODS)
def test_administration_is_for_admins_whatever_the_request_holds(core: Core, name: str) -> None:
    method = ADMIN_METHODS[name]
    refused(
        multicallable(core.user(), method),
        message_factory.GetMessageClass(method.input_type)(),
        grpc.StatusCode.PERMISSION_DENIED,
        "ADMIN_REQUIRED",
    )


def test_health_is_told_of_the_whole_and_of_each_service(core: Core) -> None:
    stub: Any = health_pb2_grpc.HealthStub(core.user().channel)
    for name in ("", *(service.full_name for service in SERVICES)):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_every_service(core: Core) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(core.user().channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(stub.ServerReflectionInfo(iter([request]), timeout=10))
    told = {service.name for service in answer.list_services_response.service}
    assert {service.full_name for service in SERVICES} <= told


def test_the_core_tells_what_it_is(core: Core) -> None:
    info = core.user().server.GetServerInfo(server_pb2.GetServerInfoRequest(), timeout=10)
    assert info.pid == core.pid
    assert info.installation == core.installation
    assert list(info.api_versions) == ["v1"]
    assert info.limits.script_bytes == 1 << 20
    assert info.limits.message_bytes == 4 << 20
    assert info.version
