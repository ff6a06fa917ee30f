"""What Azure lists is read by what belongs together, however it spells names."""

from __future__ import annotations

from typing import Any

import pytest

from gates.azure_gate.answers import contents_of

BASE = "/subscriptions/s/resourceGroups/SWM-i-p/providers/Microsoft"


def lists(machine: str, interface: str, address: str) -> tuple[list[dict[str, Any]], ...]:
    """Of a machine with an interface and an address, as Azure lists them."""
    vm = f"{BASE}.Compute/virtualMachines/{machine}"
    ip = f"{BASE}.Network/publicIPAddresses/{address}"
    at = {"properties": {"privateIPAddress": "10.0.0.4", "publicIPAddress": {"id": ip}}}
    nic = {
        "id": f"{BASE}.Network/networkInterfaces/{interface}",
        "properties": {"virtualMachine": {"id": vm}, "ipConfigurations": [at]},
    }
    power = {"statuses": [{"code": "PowerState/running"}]}
    made = {"provisioningState": "Succeeded", "instanceView": power}
    return (
        [{"id": vm, "name": machine, "properties": made}],
        [nic],
        [{"id": ip.upper(), "properties": {"ipAddress": "203.0.113.9"}}],
    )


@pytest.mark.parametrize(
    "names", [("n0", "n0-nic", "n0-ip"), ("N0", "n0-nic-1a2b3c4d", "n0-ip-1a2b3c4d")]
)
def test_addresses_are_those_of_the_machine_that_has_them(names: tuple[str, str, str]) -> None:
    (content,) = [contents_of(*lists(*names))["swm-i-p"]]
    assert list(content.machines) == ["n0"]
    assert content.private == {"n0": "10.0.0.4"}
    assert content.public == {"n0": "203.0.113.9"}


def test_without_a_machine_the_name_has_to_do() -> None:
    _, interfaces, addresses = lists("n1", "n1-nic", "n1-ip")
    del interfaces[0]["properties"]["virtualMachine"]
    content = contents_of([], interfaces, addresses)["swm-i-p"]
    assert content.private == {"n1": "10.0.0.4"}
    assert content.public == {"n1": "203.0.113.9"}
