"""What the end of the connection to a gate says of its site."""

from __future__ import annotations

import time

import grpc
import pytest

from rpc_kit.endpoint import Endpoint
from rpc_kit.errors import Problem
from swm_core.gateways.health import Health, SiteState
from swm_core.gateways.problems import DOMAIN, GateError


@pytest.mark.parametrize(
    ("code", "reason", "state"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, "CREDENTIALS_INVALID", SiteState.BROKEN),
        (grpc.StatusCode.FAILED_PRECONDITION, "PERMISSION_MISSING", SiteState.BROKEN),
        (grpc.StatusCode.FAILED_PRECONDITION, "HOST_KEY_MISMATCH", SiteState.BROKEN),
        (grpc.StatusCode.UNAVAILABLE, "SITE_UNREACHABLE", SiteState.UNREACHABLE),
    ],
)
def test_a_site_is_broken_where_an_administrator_has_to_do_something(
    code: grpc.StatusCode, reason: str, state: SiteState
) -> None:
    """As the table of Probe in protos/README.md has it."""
    health = Health("lab", Endpoint.parse("unix:///run/lab.sock"), lambda: None)
    problem = Problem(code, reason, DOMAIN, "none of 2 hosts answers")
    health.lost(GateError("lab", problem), None, time.monotonic())
    assert (health.state, health.message) == (state, "none of 2 hosts answers")
