"""What one account on one node is refused is told of that node, and of no site."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gate_kit import errors
from gate_kit.errors import Refusal
from gate_kit.ssh.one_way import OneWay
from gates.azure_gate.hosts import Hosts as AzureHosts


class Refusing:
    """A way that is refused."""

    node = "n1"

    def __init__(self, refusal: Refusal) -> None:
        self._refusal = refusal

    async def open(self, command: str, *, lasting: bool = False) -> None:
        raise self._refusal


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (errors.credentials_invalid("it takes no key"), "NODE_UNREACHABLE"),
        (errors.permission_missing("it opens no session"), "NODE_UNREACHABLE"),
        (errors.host_key_mismatch("n1", "another key"), "HOST_KEY_MISMATCH"),
        (errors.node_unreachable("n1", "it is off"), "NODE_UNREACHABLE"),
    ],
)
async def test_a_node_that_refuses_an_account_is_no_broken_site(
    refusal: Refusal, reason: str
) -> None:
    way: Any = Refusing(refusal)
    with pytest.raises(Refusal) as caught:
        await OneWay(way).open("true")
    assert caught.value.reason == reason
    assert caught.value.message.endswith(refusal.message)


async def test_machines_of_azure_are_told_of_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    way: Any = Refusing(errors.credentials_invalid("its job has removed the key"))
    monkeypatch.setattr(AzureHosts, "first_way", lambda *_: way)
    partitions: Any = SimpleNamespace(on_gone=[])
    keys: Any = None
    known: Any = SimpleNamespace(id="p1")
    host = AzureHosts(partitions, keys).host(known, "n1")
    with pytest.raises(Refusal) as caught:
        await host.transport.open("true")
    assert caught.value.reason == "NODE_UNREACHABLE"
