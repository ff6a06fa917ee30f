"""Figures for Prometheus."""

from __future__ import annotations

import socket
from typing import cast

import pytest

from rpc_kit.endpoint import Endpoint
from rpc_kit.server import ServeError
from swm_core.lifecycle.context import Context
from swm_core.metrics import serve_metrics


def test_a_port_that_is_taken_is_told_as_that_of_the_core_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = Endpoint.parse(f"127.0.0.1:{taken.getsockname()[1]}")
        says = f"metrics.listen: cannot listen on {listen}: .*; choose another port"
        with (
            pytest.raises(ServeError, match=says),
            serve_metrics(listen, cast("Context", None)),
        ):
            pass
