"""Gates: started and supervised by the core, or reached at an endpoint; none takes it down."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from rpc_kit.errors import Problem
from rpc_kit.identity import Kind
from rpc_kit.tls import KeyPair, channel_credentials, channel_options, gate_name
from skyport.gate.v1 import identity_pb2, identity_pb2_grpc
from skyport.terminal.v1 import catalog_pb2
from tests.system.harness.core import Core, free_port, running, serves
from tests.system.harness.files import File
from tests.system.harness.jobs import RUNNING, SUCCEEDED
from tests.system.harness.latch import Latch
from tests.system.harness.sites import GateProcess, Site, dynamic, static
from tests.system.harness.waiting import eventually, gone

READY = catalog_pb2.SITE_STATE_READY
UNREACHABLE = catalog_pb2.SITE_STATE_UNREACHABLE


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    """Three gates: one supervised, one at a socket, one over TLS; and one that cannot start."""
    folder = tmp_path_factory.mktemp("gates")
    sites = [
        Site.make("lab", folder / "lab", static() | dynamic()),
        Site.make("near", folder / "near", static(), endpoint=f"unix://{folder}/s/near.sock"),
        Site.make("far", folder / "far", static(), endpoint=f"127.0.0.1:{free_port()}"),
        Site.make("wrong", folder / "wrong", static(), endpoint=f"127.0.0.1:{free_port()}"),
        Site.make("broken", folder / "broken", {"nonsense": True}),
    ]
    core = Core(folder / "home", sites)
    gates = [
        GateProcess(core.site("near")),
        GateProcess(core.site("far"), *tls_options(core, "far", core.keys("far", Kind.GATE))),
        GateProcess(core.site("wrong"), *tls_options(core, "wrong", core.keys("bo"))),
    ]
    try:
        for gate in gates:
            gate.start()
        core.start()
        core.wait_ready("lab", "near", "far")
        yield core
    finally:
        core.close()
        for gate in gates:
            gate.close()


def tls_options(core: Core, site: str, keys: KeyPair) -> list[str]:
    """What a gate on TCP is started with."""
    folder = core.site(site).folder
    for name, data in (("ca", keys.ca_pem), ("cert", keys.cert_pem), ("key", keys.key_pem)):
        path = folder / f"{name}.pem"
        path.touch(0o600)
        path.write_bytes(data)
    return [
        *("--tls-cert", str(folder / "cert.pem")),
        *("--tls-key", str(folder / "key.pem")),
        *("--tls-ca", str(folder / "ca.pem")),
        *("--core-identity", f"spiffe://{core.installation}.swm/core"),
    ]


@pytest.mark.parametrize("name", ["near", "far"])
def test_a_job_goes_its_whole_way_through_a_gate_at_an_endpoint(core: Core, name: str) -> None:
    job = core.user().submit(
        "#SWM output r.txt\ncat in.txt > r.txt; echo said", site=name, inputs={"in.txt": b"in"}
    )
    job.until(SUCCEEDED)
    assert job.output() == b"said\n"
    assert job.outputs() == {"r.txt": File(b"in")}
    told = core.gate(name)
    assert (told.supervised, told.pid) == (False, 0)


def test_a_gate_with_a_user_s_certificate_is_never_trusted(core: Core) -> None:
    told = core.gate("wrong")
    assert told.state != READY
    assert not told.gate_name
    serves(core, "lab")


@pytest.mark.parametrize("caller", ["user", "gate", "nobody"])
def test_a_gate_serves_its_core_and_nobody_else(core: Core, caller: str) -> None:
    keys = core.keys("bo")
    if caller == "gate":
        keys = core.keys("near", Kind.GATE)
    options = channel_options(gate_name(core.installation, "far"))
    credentials = channel_credentials(keys)
    if caller == "nobody":
        credentials = grpc.ssl_channel_credentials(keys.ca_pem)
    with grpc.secure_channel(core.site("far").endpoint, credentials, options) as channel:
        stub = identity_pb2_grpc.IdentityServiceStub(channel)
        with pytest.raises(grpc.RpcError) as failed:
            stub.Probe(identity_pb2.ProbeRequest(), timeout=10)
    problem = Problem.from_error(failed.value)
    if caller == "user":
        assert (problem.code, problem.reason) == (
            grpc.StatusCode.PERMISSION_DENIED, "KIND_NOT_ALLOWED"
        )  # fmt: skip
    else:
        assert (problem.code, problem.reason) == (grpc.StatusCode.UNAVAILABLE, None)


def test_a_gate_that_cannot_start_says_why_and_harms_no_other_site(core: Core) -> None:
    told = eventually(
        lambda: site if (site := core.gate("broken")).restarts > 1 else None, "it was tried again"
    )
    assert told is not None
    assert told.state in (UNREACHABLE, catalog_pb2.SITE_STATE_STARTING)
    assert "nonsense" in "\n".join([told.message, *told.log_tail])
    serves(core, "lab", "near")


def test_a_supervised_gate_that_dies_is_started_again(core: Core) -> None:
    before = core.gate("lab")
    pid = core.kill_gate("lab")
    core.wait_ready("lab")
    after = core.gate("lab")
    assert pid == before.pid
    assert after.pid not in (0, pid)
    assert after.restarts == before.restarts + 1
    serves(core, "lab")


def test_a_gate_at_an_endpoint_that_goes_and_comes_is_noticed(
    tmp_path: Path, latch: Callable[[], Latch]
) -> None:
    site = Site.make("near", tmp_path / "near", static(), endpoint=f"unix://{tmp_path}/s/g.sock")
    gate = GateProcess(site)
    hold = latch()
    with contextlib.closing(gate), contextlib.closing(Core(tmp_path / "home", [site])) as core:
        core.start()
        # Nobody is there yet: a job is taken, and waits.
        job = core.user().submit(f"echo up; {hold.wait}; exit 0")
        gate.start()
        job.until(RUNNING)
        assert gate.stop() == 0
        eventually(lambda: core.gate("near").state == UNREACHABLE, "it is known to be away")
        where = site.endpoint
        eventually(lambda: f"not answer at {where}" in core.gate("near").message, "it says where")
        # What runs there runs on, and what is known of it stays.
        assert job.get().state == RUNNING
        waiting = core.user().submit("true")
        eventually(lambda: "near" in waiting.get().text, "it waits for the site")
        hold.release()
        gate.start()
        job.until(SUCCEEDED)
        waiting.until(SUCCEEDED)
        gate.kill()
        later = core.user().submit("true")
        gate.start()
        later.until(SUCCEEDED)
        site.cleared()


def test_a_gate_at_an_endpoint_outlives_the_core(
    core: Core, latch: Callable[[], Latch], tmp_path: Path
) -> None:
    hold = latch()
    job = core.user().submit(
        f"echo $SWM_ATTEMPT >> {tmp_path}/ran; echo up; {hold.wait}; echo down", site="far"
    )
    job.written(b"up\n")
    core.kill()
    hold.release()
    core.start()
    job.until(SUCCEEDED)
    assert job.output() == b"up\ndown\n"
    assert (tmp_path / "ran").read_text() == "1\n"
    core.wait_ready("lab", "near", "far")


def test_an_error_of_a_gate_that_is_away_never_means_gone(core: Core) -> None:
    lab = core.site("lab")
    for code, reason in (("UNAVAILABLE", "SITE_UNREACHABLE"), ("INTERNAL", "INTERNAL")):
        lab.faults(
            {
                "kind": "fail",
                "method": "DeletePartition",
                "code": code,
                "reason": reason,
                "times": 2,
            }
        )
        job = core.user().submit("#SWM flavor small\ntrue", site="lab")
        job.until(SUCCEEDED)
        lab.given_back()


def test_every_process_ends_with_the_core(tmp_path: Path) -> None:
    with running(tmp_path / "r", {"one": static(), "two": static()}) as core:
        pids = [core.gate(name).pid for name in core.sites]
        assert core.stop() == 0
        assert all(gone(pid) for pid in pids)
        assert not core.home.pid_file.exists()
