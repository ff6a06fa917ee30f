from __future__ import annotations

from pathlib import Path

import pytest

from rpc_kit.endpoint import Endpoint


@pytest.mark.parametrize(
    ("text", "endpoint", "target"),
    [
        ("127.0.0.1:7717", Endpoint("127.0.0.1", 7717), "127.0.0.1:7717"),
        ("localhost:0", Endpoint("localhost", 0), "localhost:0"),
        ("[::1]:80", Endpoint("::1", 80), "[::1]:80"),
        ("gate.example.com:443", Endpoint("gate.example.com", 443), "gate.example.com:443"),
        ("unix:///run/a.sock", Endpoint(path=Path("/run/a.sock")), "unix:/run/a.sock"),
    ],
)
def test_an_endpoint_is_read_and_written(text: str, endpoint: Endpoint, target: str) -> None:
    assert Endpoint.parse(text) == endpoint
    assert str(endpoint) == text
    assert endpoint.target == target


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7717",
        ":7717",
        "host",
        "host:",
        "host:x",
        "host:65536",
        "host:123456",
        "::1:80",
        "http://host:80",
        "host:80/path",
        "a b:80",
        "unix:relative",
        "unix://",
        "[::1]",
        "hö:80",
    ],
)
def test_what_is_no_endpoint_is_refused_and_told_how_one_looks(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        Endpoint.parse(text)


def test_a_socket_path_that_the_kernel_refuses_is_told_before() -> None:
    assert Endpoint.parse("unix://" + "/" + "x" * 106).path
    with pytest.raises(ValueError, match="107 bytes"):
        Endpoint.parse("unix://" + "/" + "ß" * 54)


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:///run/a.sock", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("192.168.0.1:1", False),
        ("localhost.example.com:1", False),
    ],
)
def test_who_can_reach_it_is_known(text: str, local: bool) -> None:
    assert Endpoint.parse(text).is_local is local
