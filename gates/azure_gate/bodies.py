"""What Azure is asked to make: the bodies of requests, as its REST API has them.

Names within a group are fixed, so that what was asked for is found again, and deleted, by name.
"""

from __future__ import annotations

import base64
import copy
import datetime
from collections.abc import Sequence
from typing import Any

NSG = "nsg"
VNET = "vnet"
SUBNET = "nodes"
NETWORK = "10.0.0.0/16"
SUBNET_NETWORK = "10.0.0.0/20"
"""Room for 4,091 nodes."""
ADMIN = "skyport"
"""The account that Azure wants to be made; nobody but the gate's key gets in."""
SCHEDULES_VERSION = "2018-09-15"

_NETWORK_API_VERSION = "2022-11-01"
_DISK_KIND = "StandardSSD_LRS"

Body = dict[str, Any]


def nic(node: str) -> str:
    """The name of a node's network interface."""
    return f"{node}-nic"


def address(node: str) -> str:
    """The name of a node's public address; the first alone has one."""
    return f"{node}-ip"


def disk(node: str) -> str:
    """The name of the disk that a node boots."""
    return f"{node}-os"


def schedule(node: str) -> str:
    """The name that Azure demands of what shuts a machine down."""
    return f"shutdown-computevm-{node}"


def group_id(subscription: str, group: str) -> str:
    """The id of a resource group."""
    return f"/subscriptions/{subscription}/resourceGroups/{group}"


def nsg_body(location: str, sources: Sequence[str]) -> Body:
    """Rules that let SSH in from `sources`, and nothing else from outside."""
    return {
        "location": location,
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


def nsg_sources(told: Body) -> tuple[str, ...]:
    """Whom rules let in, as Azure tells them: of one address it makes a single text."""
    for rule in (told.get("properties") or {}).get("securityRules") or ():
        if rule.get("name") == "ssh":
            properties = rule.get("properties") or {}
            several = properties.get("sourceAddressPrefixes") or ()
            single = properties.get("sourceAddressPrefix")
            return tuple(several) or ((single,) if single else ())
    return ()


def vnet_body(location: str) -> Body:
    """A network with room for all nodes."""
    return {
        "location": location,
        "properties": {
            "addressSpace": {"addressPrefixes": [NETWORK]},
            "subnets": [
                {
                    "name": SUBNET,
                    "properties": {
                        "addressPrefix": SUBNET_NETWORK,
                        # Nodes but the first have no address of their own to get out by. Since
                        # version 2025-07-01 of its API Azure lends them one only if it is told to.
                        "defaultOutboundAccess": True,
                    },
                }
            ],
        },
    }


def vm_body(
    *,
    location: str,
    group: str,
    node: str,
    size: str,
    image: str,
    custom_data: str,
    admin_key: str,
    has_address: bool,
    disk_gib: int,
    spot_limit: float | None,
) -> Body:
    """A machine with its interface, its disk and, for the first, its public address.

    Args:
        location: The region.
        group: The id of the group.
        node: Its name.
        size: The flavor.
        image: A URN or an id.
        custom_data: What cloud-init gets.
        admin_key: The public key that gets in as `ADMIN`.
        has_address: Whether it can be reached from outside.
        disk_gib: 0: as large as the image.
        spot_limit: None for a machine that nobody takes away; else the most that an hour may cost
            in US dollars, -1 for the price on demand.
    """
    at: Body = {
        "name": "ip",
        "properties": {
            "primary": True,
            "subnet": {
                "id": f"{group}/providers/Microsoft.Network/virtualNetworks/{VNET}/subnets/{SUBNET}"
            },
        },
    }
    if has_address:
        at["properties"]["publicIPAddressConfiguration"] = {
            "name": address(node),
            "sku": {"name": "Standard", "tier": "Regional"},
            "properties": {
                "deleteOption": "Delete",
                "publicIPAllocationMethod": "Static",
                "publicIPAddressVersion": "IPv4",
            },
        }
    os_disk: Body = {
        "name": disk(node),
        "createOption": "FromImage",
        "deleteOption": "Delete",
        "managedDisk": {"storageAccountType": _DISK_KIND},
    }
    if disk_gib:
        os_disk["diskSizeGB"] = disk_gib
    properties: Body = {
        "hardwareProfile": {"vmSize": size},
        "storageProfile": {"imageReference": image_reference(image), "osDisk": os_disk},
        "osProfile": {
            "computerName": node,
            "adminUsername": ADMIN,
            "customData": base64.b64encode(custom_data.encode()).decode(),
            "linuxConfiguration": {
                "disablePasswordAuthentication": True,
                "ssh": {
                    "publicKeys": [
                        {"path": f"/home/{ADMIN}/.ssh/authorized_keys", "keyData": admin_key}
                    ]
                },
            },
        },
        "networkProfile": {
            "networkApiVersion": _NETWORK_API_VERSION,
            "networkInterfaceConfigurations": [
                {
                    "name": nic(node),
                    "properties": {
                        "primary": True,
                        "deleteOption": "Delete",
                        # Here and not at the subnet: so rules and network are made side by side.
                        "networkSecurityGroup": {
                            "id": f"{group}/providers/Microsoft.Network/networkSecurityGroups/{NSG}"
                        },
                        "ipConfigurations": [at],
                    },
                }
            ],
        },
    }
    if spot_limit is not None:
        # The policy is refused for machines that are not spot.
        properties |= {
            "priority": "Spot",
            "evictionPolicy": "Delete",
            "billingProfile": {"maxPrice": spot_limit},
        }
    return {"location": location, "properties": properties}


def with_disk_of_image(vm: Body) -> Body:
    """A machine with a disk as large as its image, which Azure takes only unsaid."""
    body = copy.deepcopy(vm)
    body["properties"]["storageProfile"]["osDisk"].pop("diskSizeGB", None)
    return body


def image_reference(image: str) -> Body:
    """An image as Azure wants it told."""
    if not image.startswith("/"):
        publisher, offer, sku, version = image.split(":")
        return {"publisher": publisher, "offer": offer, "sku": sku, "version": version}
    kind = image.split("/")[1].lower()
    if kind == "communitygalleries":
        return {"communityGalleryImageId": image}
    if kind == "sharedgalleries":
        return {"sharedGalleryImageId": image}
    return {"id": image}


def schedule_body(location: str, vm: str, fires_s: int) -> Body:
    """What deallocates a machine at the minute of `fires_s`, which is less than a day ahead."""
    at = datetime.datetime.fromtimestamp(fires_s, datetime.UTC)
    return {
        "location": location,
        "properties": {
            "status": "Enabled",
            "taskType": "ComputeVmShutdownTask",
            "dailyRecurrence": {"time": f"{at:%H%M}"},
            "timeZoneId": "UTC",
            "targetResourceId": vm,
            "notificationSettings": {"status": "Disabled", "timeInMinutes": 30},
        },
    }
