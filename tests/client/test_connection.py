from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from rpc_kit.errors import unauthenticated
from rpc_kit.tls import KeyPair
from skyport.terminal.v1 import job_pb2, server_pb2
from terminals.client import (
    BundleInvalid,
    CallFailed,
    Client,
    CoreUnreachable,
    JobAmbiguous,
    JobNotFound,
)
from terminals.client.connection import bundle_path
from tests.client.certificates import SERVER, Installation
from tests.client.fake_core import FakeCore


def ask(client: Client) -> server_pb2.GetServerInfoResponse:
    return client.call(client.server.GetServerInfo, server_pb2.GetServerInfoRequest())


def why_not(client: Client) -> str:
    with client, pytest.raises(CoreUnreachable) as caught:
        ask(client)
    return str(caught.value)


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"SWM_CLIENT": "/a/b.toml", "SWM_HOME": "/h"}, Path("/a/b.toml")),
        ({"SWM_HOME": "/h"}, Path("/h/client.toml")),
        ({}, Path.home() / ".swm/client.toml"),
        ({"SWM_CLIENT": "", "SWM_HOME": ""}, Path.home() / ".swm/client.toml"),
    ],
)
def test_the_bundle_is_where_the_environment_says(environ: dict[str, str], path: Path) -> None:
    assert bundle_path(environ) == path


def test_a_bundle_is_read_from_a_file_or_a_home(
    core: FakeCore, installation: Installation, tmp_path: Path
) -> None:
    installation.bundle(core.endpoint).write_new(tmp_path / "client.toml")
    for source in (tmp_path, tmp_path / "client.toml", str(tmp_path)):
        with Client.connect(source) as client:
            assert ask(client).installation == installation.name


def test_calls_are_made_with_the_certificate_that_has_come_into_the_file(
    core: FakeCore, installation: Installation, tmp_path: Path
) -> None:
    path = tmp_path / "client.toml"
    first, second, other = (
        installation.bundle(core.endpoint, user=name) for name in ("ann", "ann", "bob")
    )
    first.write_new(path)
    with Client.connect(path) as client:
        ask(client)
        for written, used in ((second, second), (other, second), (first, first)):
            written.replace(path)
            ask(client)
            assert client.bundle == used
        path.write_text("nonsense")
        ask(client)
        path.unlink()
        ask(client)
        assert client.bundle == first


def test_a_call_cut_by_the_end_of_its_certificate_is_made_again_with_the_new_one(
    core: FakeCore, installation: Installation, tmp_path: Path
) -> None:
    path = tmp_path / "client.toml"
    installation.bundle(core.endpoint).write_new(path)
    ended = certificate_ended()
    with Client.connect(path) as client:
        assert not client.failure(ended).transient
        installation.bundle(core.endpoint).replace(path)
        assert client.failure(ended).transient
        ask(client)
        assert not client.failure(ended).transient


def certificate_ended() -> grpc.RpcError:
    """What a stub raises when the core says CERTIFICATE_EXPIRED."""
    status = unauthenticated("CERTIFICATE_EXPIRED", "it has ended").to_status("skyport.terminal.v1")

    class Ended(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return status.code

        def details(self) -> str:
            return status.details

        def trailing_metadata(self) -> Any:
            return status.trailing_metadata

    return Ended()


def test_a_missing_bundle_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BundleInvalid, match=r"swm up.*swm login"):
        Client.connect(tmp_path / "client.toml")


def test_a_core_that_is_not_running_fails_at_once_and_says_so(installation: Installation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    began = time.monotonic()
    assert "start it with `swm up`" in why_not(Client(installation.bundle(endpoint)))
    assert time.monotonic() - began < 10


def test_an_expired_certificate_says_so(core: FakeCore, installation: Installation) -> None:
    leaf = installation.user(days=-1)
    assert "expired" in why_not(Client(installation.bundle(core.endpoint, leaf)))


@pytest.mark.parametrize("damaged", ["key_pem", "ca_pem"])
def test_a_damaged_bundle_says_so(core: FakeCore, installation: Installation, damaged: str) -> None:
    whole = installation.bundle(core.endpoint)
    another = installation.bundle(core.endpoint).key_pem
    assert another != whole.key_pem
    for text in ("damaged", another):
        bundle = dataclasses.replace(whole, **{damaged: text})
        assert "do not fit together" in why_not(Client(bundle))


def test_another_installation_says_so(core: FakeCore) -> None:
    other = Installation("other1234567")
    assert "another installation" in why_not(Client(other.bundle(core.endpoint)))


@pytest.fixture
def impostor(installation: Installation, tmp_path: Path) -> Iterator[FakeCore]:
    leaf = installation.user("eve")
    fake = FakeCore(installation.pair(leaf), tmp_path)
    fake.start()
    yield fake
    fake.stop()


def test_a_users_certificate_never_serves(impostor: FakeCore, installation: Installation) -> None:
    why = why_not(Client(installation.bundle(impostor.endpoint)))
    assert "certificate" in why
    assert not impostor.state.calls


def test_a_server_with_another_name_is_not_the_core(
    installation: Installation, tmp_path: Path
) -> None:
    leaf = installation.leaf(SERVER, "spiffe://test12345678.swm/gate/g", "gate-g.test12345678.swm")
    keys: KeyPair = installation.pair(leaf)
    fake = FakeCore(keys, tmp_path)
    fake.start()
    try:
        assert "has another name" in why_not(Client(installation.bundle(fake.endpoint)))
    finally:
        fake.stop()


def test_a_call_waits_for_a_core_that_has_answered_before(client: Client, core: FakeCore) -> None:
    ask(client)
    core.stop()
    with pytest.raises(CallFailed):
        ask(client)
    core.start()
    answer = client.call(
        client.server.GetServerInfo, server_pb2.GetServerInfoRequest(), patience_s=20
    )
    assert answer.installation


def test_a_call_with_patience_outlives_a_core_that_is_stuck_for_a_while(
    client: Client, core: FakeCore
) -> None:
    def ask_for_jobs(patience_s: float) -> job_pb2.ListJobsResponse:
        request = job_pb2.ListJobsRequest()
        return client.call(client.jobs.ListJobs, request, timeout_s=0.5, patience_s=patience_s)

    ask(client)
    core.state.faults.slow_list_s = 1.0
    with pytest.raises(CoreUnreachable):
        ask_for_jobs(0)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask_for_jobs, 20)
        core.state.wait_until(lambda: core.state.calls.count("ListJobs") == 3)
        core.state.faults.slow_list_s = 0.0
        assert answer.result(30).watch_token


def test_pages_are_joined_to_the_end(client: Client, core: FakeCore) -> None:
    for number in range(250):
        core.state.add(f"j{number}")
    pages = list(client.pages(client.jobs.ListJobs, job_pb2.ListJobsRequest(page_size=100)))
    assert [len(page.jobs) for page in pages] == [100, 100, 50]


def test_a_job_is_found_by_the_beginning_of_its_id(client: Client, core: FakeCore) -> None:
    for job_id in ("abc1", "abc2", "abc", "xyz9"):
        core.state.add(job_id)
    assert client.find_job("x").job_id == "xyz9"
    assert client.find_job("abc").job_id == "abc"
    with pytest.raises(JobAmbiguous, match="abc, abc2, abc1"):
        client.find_job("ab")
    with pytest.raises(JobNotFound, match='no job "nope"'):
        client.find_job("nope")
    with pytest.raises(JobNotFound, match="not a job id"):
        client.find_job("No Job")
