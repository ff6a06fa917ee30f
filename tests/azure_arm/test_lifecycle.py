"""The life of partitions, by the SDK, with VMs that are timers."""

from __future__ import annotations

import asyncio

import asyncssh
import pytest
from azure.core.exceptions import ResourceNotFoundError

from tests.azure_arm.sdk import GROUP, Sdk, vm_body
from tests.testbed.azure_arm import AzureArm


async def user_data(public_key: str, host_key: str) -> str:
    indented = "".join(f"    {line}\n" for line in host_key.splitlines())
    return (
        "#cloud-config\n"
        f"users:\n  - name: swm\n    ssh_authorized_keys: ['{public_key}']\n"
        f"ssh_keys:\n  ed25519_private: |\n{indented}"
    )


async def test_a_partition_is_made_used_and_deleted(sdk: Sdk, arm: AzureArm) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    host = asyncssh.generate_private_key("ssh-ed25519")
    data = await user_data(
        key.export_public_key().decode().strip(), host.export_private_key().decode()
    )
    await sdk.make_group(installation="test")
    _, subnet = await sdk.make_network()
    first, second = await asyncio.gather(
        sdk.make_vm(subnet, "n0", data=data), sdk.make_vm(subnet, "n1", data=data, public=False)
    )
    assert first.provisioning_state == second.provisioning_state == "Succeeded"

    found = await sdk.network.public_ip_addresses.get(GROUP, "n0-ip")
    address = found.ip_address
    assert address is not None
    nic = await sdk.network.network_interfaces.get(GROUP, "n1-nic")
    assert nic.ip_configurations
    inner = nic.ip_configurations[0].private_ip_address
    assert inner is not None
    trusted = asyncssh.import_known_hosts(
        f"{address},{inner} {host.export_public_key().decode().strip()}\n"
    )
    async with asyncssh.connect(
        address, username="swm", client_keys=[key], known_hosts=trusted
    ) as connection:
        said = await connection.run("id -un; hostname", check=True)
        assert said.stdout == "swm\nn0\n"
        # The second node has no public address: it is reached through the first alone.
        async with connection.connect_ssh(
            inner, username="swm", client_keys=[key], known_hosts=trusted
        ) as through:
            assert (await through.run("hostname", check=True)).stdout == "n1\n"
    with pytest.raises((OSError, asyncio.TimeoutError)):
        await asyncio.wait_for(asyncssh.connect(inner, username="swm", known_hosts=None), 1)

    books = arm.books()
    assert (books.created, books.left) == (5, 5)
    await sdk.delete_group()
    with pytest.raises(ResourceNotFoundError, match="ResourceGroupNotFound"):
        await sdk.resources.resource_groups.get(GROUP)
    assert arm.books().left == 0


async def test_put_twice_is_once(sdk: Sdk, arm: AzureArm) -> None:
    await sdk.make_group()
    _, subnet = await sdk.make_network()
    await sdk.make_vm(subnet)
    await sdk.make_vm(subnet)
    assert arm.books().created == 3
    assert vm_body(subnet)["location"] == "westeurope"
    await sdk.delete_group()


async def test_this_machine_moves(sdk: Sdk, arm: AzureArm) -> None:
    await sdk.make_group()
    _, subnet = await sdk.make_network()
    await sdk.make_vm(subnet)
    found = await sdk.network.public_ip_addresses.get(GROUP, "n0-ip")

    async def banner() -> bytes:
        reader, writer = await asyncio.open_connection(found.ip_address, 22)
        try:
            return await reader.read(4)
        finally:
            writer.close()

    assert await banner() == b"SSH-"
    before = arm.egress()
    after = arm.move_egress()
    assert before != after == arm.egress()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(banner(), 0.5)
    await sdk.make_network()
    async with asyncio.timeout(20):
        assert await banner() == b"SSH-"
    # Any time it moves it is somewhere else, and what was open is dead.
    assert arm.move_egress() not in {before, after}
    await sdk.delete_group()


async def test_vms_of_different_networks_do_not_meet(sdk: Sdk, arm: AzureArm) -> None:
    addresses = []
    for group in ("one", "two"):
        await sdk.make_group(group)
        _, subnet = await sdk.make_network(group)
        await sdk.make_vm(subnet, group=group)
        found = await sdk.network.public_ip_addresses.get(group, "n0-ip")
        addresses.append(found.ip_address)
    line = f"timeout 0.5 bash -c 'exec 3<>/dev/tcp/{addresses[1]}/22'"
    code, _ = await asyncio.to_thread(arm.run, "one/n0", line)
    assert code == 124
    code, said = await asyncio.to_thread(arm.run, "two/n0", line)
    assert code == 0, said
    await asyncio.gather(sdk.delete_group("one"), sdk.delete_group("two"))
