"""A core with jobs of one user, and connections of everybody who may try to call it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from rpc_kit.identity import Kind
from rpc_kit.tls import core_name
from skyport.terminal.v1 import (
    account_pb2,
    admin_pb2,
    catalog_pb2,
    file_pb2,
    job_pb2,
    server_pb2,
    tunnel_pb2,
)
from swm_core.home import load_ca
from tests.security.callers import Strangers, ended_on_the_way, methods, reached_by
from tests.system.harness.core import ADMIN, Core, running
from tests.system.harness.jobs import RUNNING, SUCCEEDED
from tests.system.harness.latch import Latch
from tests.system.harness.sites import dynamic, static

COMMON = (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
FILES = (account_pb2, admin_pb2, catalog_pb2, file_pb2, job_pb2, server_pb2, tunnel_pb2)
TERMINAL = methods(*(file.DESCRIPTOR for file in FILES), *COMMON)
"""Every RPC that a core serves."""


@dataclasses.dataclass(frozen=True)
class World:
    """A core with two jobs of bo: one that has ended, one that runs on nodes of its own.

    Attributes:
        callers: Everybody's connection.
    """

    core: Core
    ended: str
    running: str
    partition: str
    callers: dict[str, grpc.Channel]


@contextlib.contextmanager
def a_world(folder: Path) -> Iterator[World]:
    """A core, its sites and its callers, below `folder`."""
    flavors = [{"name": name, "cpus": 2, "memory": "4G"} for name in ("small", "large")]
    images = [{"name": name, "kind": "container"} for name in ("box", "can")]
    sites = {"lab": static(), "cloud": {"images": images} | dynamic(*flavors)}
    latch = Latch(folder / "latch")
    with running(folder, sites) as core, contextlib.ExitStack() as closing:
        bo = core.user("bo")
        ended = bo.submit("#SWM output *.txt\necho a > a.txt; echo b > b.txt", site="lab")
        runs = bo.submit(latch.wait, site="cloud")
        ended.until(SUCCEEDED)
        partition = runs.until(RUNNING).partition_id
        callers = _callers_of_the_core(core)
        for channel in callers.values():
            closing.callback(channel.close)
        yield World(core, ended.job_id, runs.job_id, partition, callers)
        latch.release()
        runs.until(SUCCEEDED)
    latch.close()


def _callers_of_the_core(core: Core) -> dict[str, grpc.Channel]:
    strangers = Strangers(load_ca(core.home))
    at, name = str(core.endpoint), core_name(core.installation)
    who_am_i = TERMINAL["AccountService.WhoAmI"]
    keys = {
        "without a certificate": None,
        "of another CA": strangers.of_another_ca(Kind.USER, ADMIN),
        "expired": strangers.expired(Kind.USER, ADMIN),
        "a gate": strangers.keys(Kind.GATE, "lab"),
        "of another installation": strangers.of_another_installation(Kind.USER, ADMIN),
        "the core": strangers.keys(Kind.CORE),
        "revoked": strangers.keys(Kind.USER, "dee"),
        "removed": strangers.keys(Kind.USER, "eve"),
        "owner": core.keys("bo"),
        "other": core.keys("cy"),
        "admin": core.keys(ADMIN),
    }
    core.admin.admin.AddUser(admin_pb2.AddUserRequest(name="dee", admin=True), timeout=30)
    core.admin.admin.RevokeUser(admin_pb2.RevokeUserRequest(name="dee"), timeout=30)
    channels = {
        who: reached_by(at, name, pair, strangers.ca.cert_pem) for who, pair in keys.items()
    }
    ended = ended_on_the_way(strangers, Kind.USER, ADMIN, at, name, who_am_i)
    return {**channels, "expired since": ended}
