"""What Azure demands of a VM that is to be made."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from typing import Any

from tests.testbed.azure_arm import interfaces, network, skus
from tests.testbed.azure_arm.cloud import Cloud, Resource
from tests.testbed.azure_arm.errors import ArmError, invalid
from tests.testbed.azure_arm.faults import MESSAGES, NIC

__all__ = [
    "IMAGE_GB",
    "check_disk",
    "check_network",
    "check_os",
    "check_quota",
    "check_spot",
    "keys_of",
    "size_of",
]

IMAGE_GB = 30
"""Of all images."""

_NETWORK_VERSIONS = {"2020-11-01", "2022-11-01"}
_MAX_DATA = 65535


def size_of(cloud: Cloud, has: dict[str, Any], location: str, zones: list[str]) -> skus.Size:
    name = (has.get("hardwareProfile") or {}).get("vmSize")
    if not name:
        raise invalid("Required parameter 'hardwareProfile.vmSize' is missing (null).")
    size = skus.find(name)
    if size is None:
        raise invalid(
            f"The value {name} provided for the VM size is not valid. The valid sizes in the "
            "current "
            f"region are: {','.join(it.name for it in skus.SIZES)}."
        )
    if location in size.forbidden or any(it in size.zones for it in zones):
        raise ArmError(
            409,
            "SkuNotAvailable",
            "The requested VM size for resource 'Following SKUs have failed for Capacity "
            f"Restrictions: {size.name}' is currently not available in location '{location}'. "
            "Please "
            "try another size or deploy to a different location or different zone. See "
            "https://aka.ms/azureskunotavailable for details.",
        )
    return size


def check_spot(cloud: Cloud, has: dict[str, Any], size: skus.Size) -> bool:
    spot = has.get("priority") in {"Spot", "Low"}
    most = (has.get("billingProfile") or {}).get("maxPrice")
    if not spot:
        for name in ("evictionPolicy", "billingProfile"):
            if has.get(name):
                raise invalid(
                    f"'{name}' can be set only when 'priority' is Spot (the request has "
                    f"'{has.get('priority', 'Regular')}')."
                )
        return False
    if not size.spot:
        raise invalid(
            f"Azure Spot is not supported for this VM size '{size.name}'. Please use a different "
            "VM "
            "size.",
            "AzureSpotIsNotSupportedForThisVMSize",
        )
    if most is not None and most != -1:
        if most <= 0:
            raise invalid(MESSAGES["MaxPriceValueInvalid"][2], "MaxPriceValueInvalid")
        if most < (size.spot_price or size.price or 0):
            raise ArmError(*MESSAGES["SpotPriceGreaterThanProvidedMaxPrice"])
    return True


def check_disk(has: dict[str, Any]) -> None:
    wanted = ((has.get("storageProfile") or {}).get("osDisk") or {}).get("diskSizeGB")
    if wanted is not None and wanted < IMAGE_GB:
        raise ArmError(
            409,
            "OperationNotAllowed",
            f"The specified disk size {wanted} GB is smaller than the size of the corresponding "
            f"disk in the VM image: {IMAGE_GB} GB. This is not allowed. Please choose equal or "
            "greater size or do not specify an explicit size.",
        )


def check_os(has: dict[str, Any]) -> str:
    """The user-data of its guest; an error if its account is not as Azure wants it."""
    profile = has.get("osProfile") or {}
    for name in ("computerName", "adminUsername"):
        if not profile.get(name):
            raise invalid(f"Required parameter 'osProfile.{name}' is missing (null).")
    if profile["adminUsername"].lower() in {
        "root",
        "admin",
        "administrator",
        "user",
        "guest",
        "test",
    }:
        raise invalid(
            "The Admin Username specified is not allowed. For more information about disallowed "
            "usernames, see https://aka.ms/vmosprofile"
        )
    linux = profile.get("linuxConfiguration") or {}
    keys = (linux.get("ssh") or {}).get("publicKeys") or []
    if linux.get("disablePasswordAuthentication"):
        home = f"/home/{profile['adminUsername']}/.ssh/authorized_keys"
        if not keys:
            raise invalid(
                "Authentication using either SSH or by user name and password must be enabled in "
                "Linux profile."
            )
        for key in keys:
            if key.get("path") != home:
                raise invalid(
                    "Destination path for SSH public keys is currently limited to its default "
                    "value "
                    f"{home} due to a known issue in Linux provisioning agent."
                )
            if not re.match(r"(ssh-rsa|ssh-ed25519) [A-Za-z0-9+/=]+", key.get("keyData") or ""):
                raise invalid(
                    "The value of parameter linuxConfiguration.ssh.publicKeys.keyData is invalid."
                )
    elif not profile.get("adminPassword"):
        raise invalid("Required parameter 'osProfile.adminPassword' is missing (null).")
    data = profile.get("customData") or ""
    with contextlib.suppress(binascii.Error, ValueError):
        decoded = base64.b64decode(data, validate=True)
        if len(decoded) <= _MAX_DATA:
            return decoded.decode()
    raise invalid(
        "Custom data in OSProfile must be in Base64 encoding and with a maximum length of 87380 "
        "characters."
    )


def keys_of(profile: dict[str, Any]) -> tuple[str, ...]:
    linux = profile.get("linuxConfiguration") or {}
    return tuple(it["keyData"] for it in (linux.get("ssh") or {}).get("publicKeys") or [])


def check_network(
    cloud: Cloud, has: dict[str, Any], vm: str
) -> tuple[list[dict[str, Any]], list[Resource]]:
    """Interfaces that have to be made, and those that are there."""
    profile = has.get("networkProfile") or {}
    wanted = profile.get("networkInterfaceConfigurations") or []
    there = profile.get("networkInterfaces") or []
    if bool(wanted) == bool(there):
        raise invalid(
            "Required parameter 'networkProfile' must have either networkInterfaces or "
            "networkInterfaceConfigurations."
        )
    if wanted and profile.get("networkApiVersion") not in _NETWORK_VERSIONS:
        raise invalid(
            "Required parameter 'networkProfile.networkApiVersion' is missing or not one of "
            f"{', '.join(sorted(_NETWORK_VERSIONS))}."
        )
    for one in wanted:
        interfaces.check_interface(cloud, one, vm)
        found = cloud.find(cloud.id_of(vm.split("/")[4], NIC, one["name"]))
        if found is not None:
            _check_free(cloud, found, vm)
    ready = []
    for one in there:
        found = cloud.find(one.get("id", ""))
        if found is None:
            raise ArmError(
                404,
                "NotFound",
                f"Resource {one.get('id')} referenced by resource {vm} was not found.",
            )
        _check_free(cloud, found, vm)
        ready.append(found)
    return list(wanted), ready


def _check_free(cloud: Cloud, interface: Resource, vm: str) -> None:
    user = interface.notes.get("vm")
    if user and user.lower() != vm.lower():
        raise ArmError(
            400,
            "NicInUse",
            f"Network Interface {interface.id} is used by existing resource {user}.",
        )
    network.require_not_reserved(cloud, interface, vm)


def check_quota(cloud: Cloud, size: skus.Size, *, spot: bool) -> None:
    cores, spots, families, _ = skus.used(cloud)
    settings = cloud.settings
    if spot:
        checks = [("LowPriorityCores", spots, settings.spot_cores)]
    else:
        checks = [
            (f"{size.family} Family Cores", families.get(size.family, 0), settings.cores),
            ("Total Regional Cores", cores, settings.cores),
        ]
    for what, current, limit in checks:
        if current + size.cpus > limit:
            raise ArmError(
                409,
                "OperationNotAllowed",
                f"Operation could not be completed as it results in exceeding approved {what} "
                "quota. "
                "Additional details - Deployment Model: Resource Manager, Current Limit: "
                f"{limit}, Current Usage: {current}, Additional Required: {size.cpus}, (Minimum) "
                "New "
                f"Limit Required: {current + size.cpus}. Submit a request for Quota increase at "
                "https://aka.ms/ProdportalCRP/.",
            )
