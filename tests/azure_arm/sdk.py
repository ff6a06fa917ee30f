"""The SDK as a client of the stand-in, and what a partition is made of."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.identity.aio import CertificateCredential
from azure.mgmt.compute.aio import ComputeManagementClient
from azure.mgmt.network.aio import NetworkManagementClient
from azure.mgmt.resource.resources.aio import ResourceManagementClient

from tests.testbed.azure_arm import AzureArm

LOCATION = "westeurope"
GROUP = "swm-test-p1"
IMAGE = {"publisher": "Debian", "offer": "debian-12", "sku": "12-gen2", "version": "latest"}
FORCE = "Microsoft.Compute/virtualMachines"


@dataclass
class Sdk:
    """Clients of one stand-in."""

    arm: AzureArm
    credential: CertificateCredential
    compute: ComputeManagementClient
    network: NetworkManagementClient
    resources: ResourceManagementClient

    async def make_group(self, name: str = GROUP, **tags: str) -> None:
        await self.resources.resource_groups.create_or_update(
            name, {"location": LOCATION, "tags": tags}
        )

    async def make_network(
        self, group: str = GROUP, sources: tuple[str, ...] | None = None
    ) -> tuple[str, str]:
        """A security group that lets SSH in, and a network; the ids of the group and the subnet."""
        if sources is None:
            sources = (self.arm.egress(),)
        poller = await self.network.network_security_groups.begin_create_or_update(
            group, "nsg", security_group(sources)
        )
        nsg = (await poller.result()).id
        assert nsg is not None
        wanted: Any = {
            "location": LOCATION,
            "properties": {
                "addressSpace": {"addressPrefixes": ["10.0.0.0/24"]},
                "subnets": [
                    {
                        "name": "nodes",
                        "properties": {
                            "addressPrefix": "10.0.0.0/24",
                            "networkSecurityGroup": {"id": nsg},
                        },
                    }
                ],
            },
        }
        made = await self.network.virtual_networks.begin_create_or_update(group, "vnet", wanted)
        network = await made.result()
        assert network.subnets
        subnet = network.subnets[0].id
        assert subnet is not None
        return nsg, subnet

    async def make_vm(self, subnet: str, name: str = "n0", group: str = GROUP, **more: Any) -> Any:
        """A VM, when its operation has ended."""
        wanted = vm_body(subnet, name, **more)
        poller = await self.compute.virtual_machines.begin_create_or_update(group, name, wanted)
        return await poller.result()

    async def delete_group(self, name: str = GROUP) -> None:
        poller = await self.resources.resource_groups.begin_delete(name, force_deletion_types=FORCE)
        await poller.result()


def security_group(sources: tuple[str, ...]) -> Any:
    return {
        "location": LOCATION,
        "properties": {
            "securityRules": [
                {
                    "name": "ssh",
                    "properties": {
                        "priority": 100,
                        "direction": "Inbound",
                        "access": "Allow",
                        "protocol": "Tcp",
                        "sourceAddressPrefixes": list(sources),
                        "sourcePortRange": "*",
                        "destinationAddressPrefix": "*",
                        "destinationPortRange": "22",
                    },
                }
            ]
        },
    }


def vm_body(
    subnet: str,
    name: str = "n0",
    *,
    size: str = "Standard_D2s_v3",
    public: bool = True,
    data: str = "",
    spot: bool = False,
    key: str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBdead",
    image: dict[str, str] | None = None,
) -> Any:
    """The body of a VM with its interface and address inline."""
    inner: dict[str, Any] = {"primary": True, "subnet": {"id": subnet}}
    if public:
        inner["publicIPAddressConfiguration"] = {
            "name": f"{name}-ip",
            "sku": {"name": "Standard"},
            "properties": {"deleteOption": "Delete", "publicIPAllocationMethod": "Static"},
        }
    properties: dict[str, Any] = {
        "hardwareProfile": {"vmSize": size},
        "storageProfile": {
            "imageReference": image or IMAGE,
            "osDisk": {
                "createOption": "FromImage",
                "deleteOption": "Delete",
                "managedDisk": {"storageAccountType": "StandardSSD_LRS"},
            },
        },
        "osProfile": {
            "computerName": name,
            "adminUsername": "swmadmin",
            "customData": base64.b64encode(data.encode()).decode(),
            "linuxConfiguration": {
                "disablePasswordAuthentication": True,
                "ssh": {
                    "publicKeys": [{"path": "/home/swmadmin/.ssh/authorized_keys", "keyData": key}]
                },
            },
        },
        "networkProfile": {
            "networkApiVersion": "2022-11-01",
            "networkInterfaceConfigurations": [
                {
                    "name": f"{name}-nic",
                    "properties": {
                        "primary": True,
                        "deleteOption": "Delete",
                        "ipConfigurations": [{"name": "ip", "properties": inner}],
                    },
                }
            ],
        },
    }
    if spot:
        properties["priority"] = "Spot"
        properties["evictionPolicy"] = "Delete"
        properties["billingProfile"] = {"maxPrice": -1}
    return {"location": LOCATION, "properties": properties}


@contextlib.asynccontextmanager
async def connect(arm: AzureArm) -> AsyncIterator[Sdk]:
    """Clients that wait for nothing and retry nothing."""
    ready = arm.ready
    credential = CertificateCredential(
        ready.tenant,
        ready.app,
        certificate_data=Path(ready.principal).read_bytes(),
        authority=ready.authority,
        disable_instance_discovery=True,
        connection_verify=ready.ca_file,
    )
    options: dict[str, Any] = {
        "base_url": ready.resource_manager,
        "credential_scopes": [f"{ready.resource_manager}/.default"],
        "connection_verify": ready.ca_file,
        "polling_interval": 0.02,
        "retry_total": 0,
    }
    async with (
        credential,
        ComputeManagementClient(credential, ready.subscription, **options) as compute,
        NetworkManagementClient(credential, ready.subscription, **options) as network,
        ResourceManagementClient(credential, ready.subscription, **options) as resources,
    ):
        yield Sdk(arm, credential, compute, network, resources)
