"""VMs that are containers: a real cloud-init, a real sshd, a real engine within."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncssh
import pytest

from tests.azure_arm.sdk import GROUP, Sdk, connect
from tests.testbed import images
from tests.testbed.azure_arm import AzureArm, GuestFault
from tests.testbed.fixtures import need_root

pytestmark = pytest.mark.timeout(900)  # the first time of all, the image of machines is made


WITHIN_S = 60


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureArm]:
    need_root()
    with AzureArm(tmp_path_factory.mktemp("azure"), backend="containers") as arm:
        yield arm


@pytest.fixture
async def sdk(containers: AzureArm) -> AsyncIterator[Sdk]:
    containers.reset()
    async with connect(containers) as clients:
        yield clients
    containers.books().require_nothing_left()


class Keys:
    """The key of a client, and that of a host."""

    def __init__(self) -> None:
        self.client = asyncssh.generate_private_key("ssh-ed25519")
        self.host = asyncssh.generate_private_key("ssh-ed25519")

    def user_data(self) -> str:
        text = json.dumps(
            {
                "users": [
                    {
                        "name": "swm",
                        "shell": "/bin/bash",
                        "groups": ["docker"],
                        "ssh_authorized_keys": [self.client.export_public_key().decode().strip()],
                    }
                ],
                "ssh_deletekeys": True,
                "ssh_keys": {
                    "ed25519_private": self.host.export_private_key().decode(),
                    "ed25519_public": self.host.export_public_key().decode().strip(),
                },
                "write_files": [{"path": "/etc/marker", "content": "written\n"}],
                "runcmd": ["date +%s%N >> /var/tmp/ran"],
            }
        )
        return f"#cloud-config\n{text}"

    async def connect(self, address: str) -> asyncssh.SSHClientConnection:
        """A connection as soon as there is one."""
        public = self.host.export_public_key().decode().strip()
        trusted = asyncssh.import_known_hosts(f"{address} {public}\n")
        async with asyncio.timeout(WITHIN_S):
            while True:
                try:
                    return await asyncssh.connect(
                        address, username="swm", client_keys=[self.client], known_hosts=trusted
                    )
                except ConnectionRefusedError:
                    await asyncio.sleep(0.05)


async def address_of(sdk: Sdk, name: str = "n0-ip") -> str:
    found = await sdk.network.public_ip_addresses.get(GROUP, name)
    assert found.ip_address is not None
    return str(found.ip_address)


async def said(connection: asyncssh.SSHClientConnection, line: str) -> str:
    done = await asyncio.wait_for(connection.run(line), WITHIN_S)
    assert done.returncode == 0, f"{line}: {done.stdout!r}{done.stderr!r}"
    return str(done.stdout).strip()


async def test_a_vm_boots_stops_starts_and_goes(
    sdk: Sdk, containers: AzureArm, tmp_path: Path
) -> None:
    keys = Keys()
    await sdk.make_group()
    _, subnet = await sdk.make_network()
    await asyncio.gather(
        sdk.make_vm(subnet, "n0", data=keys.user_data()),
        sdk.make_vm(subnet, "n1", data=keys.user_data(), public=False),
    )
    address = await address_of(sdk)
    connection = await keys.connect(address)
    async with connection:
        assert "status: done" in await said(connection, "cloud-init status --wait --long")
        assert await said(connection, "hostname; cat /etc/marker") == "n0\nwritten"
        facts = "http://169.254.169.254/metadata/instance?api-version=2021-02-01"
        told = json.loads(await said(connection, f"curl -sf -H Metadata:true '{facts}'"))
        assert told["compute"]["name"] == "n0"
        assert (
            await said(connection, f"curl -s -o /dev/null -w '%{{http_code}}' '{facts}'") == "400"
        )
        # An engine of its own: what it runs ends with the VM.
        archive = tmp_path / "busybox.tar"
        name = images.save_busybox(archive)
        await asyncio.to_thread(containers.load_image, f"{GROUP}/n0", archive)
        assert await said(connection, f"docker run --rm -p 8001:80 {name} echo within") == "within"
        nic = await sdk.network.network_interfaces.get(GROUP, "n1-nic")
        assert nic.ip_configurations
        inner = nic.ip_configurations[0].private_ip_address
        # Node to node all is open; from here the second is not to be reached at all.
        assert "SSH-2.0" in await said(
            connection, f"exec 3<>/dev/tcp/{inner}/22 && head -c 8 <&3 | tr -d '\\0'"
        )
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.open_connection(inner, 22), 0.5)
        # Of the first only port 22 is open from here, whatever listens.
        await said(connection, "setsid python3 -m http.server 8000 >/dev/null 2>&1 </dev/null &")
        await said(connection, "until curl -sf 127.0.0.1:8000 >/dev/null; do sleep 0.1; done")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.open_connection(address, 8000), 0.5)

    poller = await sdk.compute.virtual_machines.begin_deallocate(GROUP, "n0")
    await poller.result()
    view = await sdk.compute.virtual_machines.instance_view(GROUP, "n0")
    assert [it.code for it in view.statuses or []][-1] == "PowerState/deallocated"
    with pytest.raises((TimeoutError, OSError)):
        await asyncio.wait_for(asyncio.open_connection(address, 22), 0.5)
    poller = await sdk.compute.virtual_machines.begin_start(GROUP, "n0")
    await poller.result()
    async with await keys.connect(address) as connection:
        # The same disk, and cloud-init does not do twice what is to be done once.
        assert len((await said(connection, "cat /var/tmp/ran")).splitlines()) == 1
        assert "status: done" in await said(connection, "cloud-init status --wait --long")
    assert len(containers.books().processes) == 4
    await sdk.delete_group()


async def test_a_guest_that_fails(sdk: Sdk, containers: AzureArm) -> None:
    keys = Keys()
    containers.faults.add(GuestFault("cloud-init fails", name="n0"))
    containers.faults.add(GuestFault("no docker", name="n0"))
    await sdk.make_group()
    _, subnet = await sdk.make_network()
    await sdk.make_vm(subnet, "n0", data=keys.user_data())
    async with await keys.connect(await address_of(sdk)) as connection:
        done = await connection.run("cloud-init status --wait --long")
        assert "status: error" in str(done.stdout)
        assert (await connection.run("test -e /var/tmp/ran")).returncode == 1
        assert (await connection.run("command -v docker")).returncode != 0
    await sdk.delete_group()
