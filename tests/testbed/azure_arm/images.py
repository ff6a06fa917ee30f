"""Images that VMs are made from: of publishers, and one's own."""

from __future__ import annotations

from typing import Any

from tests.testbed.azure_arm.calls import IN_GROUP, IN_SUBSCRIPTION, Answer, Call, Routes, pages
from tests.testbed.azure_arm.cloud import Cloud, Resource
from tests.testbed.azure_arm.errors import ArmError, invalid

__all__ = ["IMAGES", "routes"]

routes = Routes()
IMAGE = "Microsoft.Compute/images"
_PUBLISHED = "Microsoft.Compute/locations/publishers"
# By publisher, offer and SKU: the versions, and for which architecture.
IMAGES: dict[tuple[str, str, str], tuple[tuple[str, ...], str]] = {
    ("Debian", "debian-12", "12-gen2"): (("0.20240211.1654", "0.20240717.1811"), "x64"),
    ("Debian", "debian-12", "12-arm64"): (("0.20240211.1654", "0.20240717.1811"), "Arm64"),
    ("Canonical", "0001-com-ubuntu-server-jammy", "22_04-lts-gen2"): (
        ("22.04.202401010", "22.04.202407160"),
        "x64",
    ),
    ("Canonical", "ubuntu-24_04-lts", "server"): (("24.04.202404230", "24.04.202407160"), "x64"),
    ("microsoft-dsvm", "ubuntu-hpc", "2204"): (("22.04.2024050301",), "x64"),
    ("MicrosoftWindowsServer", "WindowsServer", "2016-Datacenter"): (
        ("14393.3930.2009041537",),
        "x64",
    ),
}
_PUBLISHERS = IN_SUBSCRIPTION + "/providers/Microsoft.Compute/locations/{location}/publishers"
_PATH = _PUBLISHERS + "/{publisher}/artifacttypes/vmimage"


def resolve(cloud: Cloud, reference: Any, location: str) -> dict[str, Any]:
    """What a VM says of its image; an error if there is no such one."""
    if not isinstance(reference, dict):
        raise invalid("Required parameter 'storageProfile.imageReference' is missing (null).")
    if own := reference.get("id"):
        if cloud.find(own) is None:
            raise ArmError(
                404,
                "NotFound",
                f"The image '{own}' was not found. Verify that it exists and that you may read it.",
            )
        return {"id": own}
    names = [str(reference.get(it, "")) for it in ("publisher", "offer", "sku", "version")]
    publisher, offer, sku, version = names
    known, _ = _known(publisher, offer, sku) or ((), "")
    if version.lower() == "latest" and known:
        exact = known[-1]
    elif version in known:
        exact = version
    else:
        raise ArmError(
            404,
            "PlatformImageNotFound",
            f"The platform image '{':'.join(names)}' is not available. Verify that all fields in "
            "the "
            "storage profile are correct. For more details about storage profile information, "
            "please "
            "refer to https://aka.ms/storageprofile",
        )
    return {
        "publisher": publisher,
        "offer": offer,
        "sku": sku,
        "version": version,
        "exactVersion": exact,
    }


def _known(publisher: str, offer: str, sku: str) -> tuple[tuple[str, ...], str] | None:
    wanted = tuple(it.lower() for it in (publisher, offer, sku))
    for key, found in IMAGES.items():
        if tuple(it.lower() for it in key) == wanted:
            return found
    return None


def _artifact(call: Call, path: str, name: str) -> dict[str, Any]:
    place = f"/Subscriptions/{call.cloud.subscription}/Providers/Microsoft.Compute"
    location = call.names["location"]
    return {
        "location": location,
        "name": name,
        "id": f"{place}/Locations/{location}/Publishers/{path}",
    }


@routes.add("GET", _PUBLISHERS, _PUBLISHED)
async def publishers(call: Call) -> Answer:
    """Tell who publishes images."""
    names = dict.fromkeys(it[0] for it in IMAGES)
    return Answer(200, [_artifact(call, it, it) for it in names])


@routes.add("GET", _PATH + "/offers", _PUBLISHED)
async def offers(call: Call) -> Answer:
    """Tell what one offers."""
    publisher = call.names["publisher"]
    names = dict.fromkeys(it[1] for it in IMAGES if it[0].lower() == publisher.lower())
    at = f"{publisher}/ArtifactTypes/VMImage/Offers"
    return Answer(200, [_artifact(call, f"{at}/{it}", it) for it in names])


@routes.add("GET", _PATH + "/offers/{offer}/skus", _PUBLISHED)
async def offered(call: Call) -> Answer:
    """Tell of the SKUs of an offer."""
    wanted = (call.names["publisher"].lower(), call.names["offer"].lower())
    names = [it[2] for it in IMAGES if (it[0].lower(), it[1].lower()) == wanted]
    at = f"{call.names['publisher']}/ArtifactTypes/VMImage/Offers/{call.names['offer']}/Skus"
    return Answer(200, [_artifact(call, f"{at}/{it}", it) for it in names])


@routes.add("GET", _PATH + "/offers/{offer}/skus/{sku}/versions", _PUBLISHED)
async def versions(call: Call) -> Answer:
    """Tell of the versions of a SKU."""
    known = list(_require(call)[0])
    if call.query.get("$orderby", "").lower() == "name desc":
        known.reverse()
    if "$top" in call.query:
        known = known[: int(call.query["$top"])]
    return Answer(200, [_artifact(call, f"{_at(call)}/Versions/{it}", it) for it in known])


@routes.add("GET", _PATH + "/offers/{offer}/skus/{sku}/versions/{version}", _PUBLISHED)
async def version(call: Call) -> Answer:
    """Tell of one version."""
    known, architecture = _require(call)
    wanted = call.names["version"]
    if wanted == "latest":
        wanted = known[-1]
    if wanted not in known:
        raise ArmError(404, "NotFound", f"Artifact: VMImage was not found: version {wanted}.")
    found = _artifact(call, f"{_at(call)}/Versions/{wanted}", wanted)
    found["properties"] = {
        "hyperVGeneration": "V2",
        "architecture": architecture,
        "osDiskImage": {"operatingSystem": "Linux", "sizeInGb": 30},
        "dataDiskImages": [],
        "automaticOSUpgradeProperties": {"automaticOSUpgradeSupported": False},
    }
    return Answer(200, found)


def _require(call: Call) -> tuple[tuple[str, ...], str]:
    names = [call.names[it] for it in ("publisher", "offer", "sku")]
    found = _known(*names)
    if found is None:
        raise ArmError(404, "NotFound", f"Artifact: VMImage was not found: {', '.join(names)}.")
    return found


def _at(call: Call) -> str:
    names = call.names
    offer = f"{names['publisher']}/ArtifactTypes/VMImage/Offers/{names['offer']}"
    return f"{offer}/Skus/{names['sku']}"


# One's own.

_OWN = IN_GROUP + "/providers/Microsoft.Compute/images"


@routes.add("PUT", _OWN + "/{name}", IMAGE)
async def put(call: Call) -> Answer:
    """Have an image; nothing is copied for it."""
    cloud = call.cloud
    document, location = call.located()
    group = cloud.group_for_writing(call.names["group"])
    has = document.get("properties") or {}
    if not has.get("sourceVirtualMachine") and not has.get("storageProfile"):
        raise invalid("Required parameter 'sourceVirtualMachine' or 'storageProfile' is missing.")
    image_id = cloud.id_of(group.name, IMAGE, call.names["name"])
    is_new = cloud.find(image_id) is None
    body = {
        "name": call.names["name"],
        "id": image_id,
        "type": IMAGE,
        "location": location,
        "properties": {"hyperVGeneration": "V2", **has, "provisioningState": "Succeeded"},
    }
    cloud.add(Resource(image_id, IMAGE, call.names["name"], group.name, body))
    return Answer(201 if is_new else 200, body)


@routes.add("GET", _OWN + "/{name}", IMAGE)
async def get(call: Call) -> Answer:
    """Tell of one."""
    return Answer(200, call.cloud.resource(call.names["group"], IMAGE, call.names["name"]).body)


@routes.add("GET", _OWN, IMAGE)
async def list_(call: Call) -> Answer:
    """Tell of those of a group."""
    found = [it.body for it in call.cloud.listed(IMAGE, call.names["group"])]
    at = f"/subscriptions/{call.cloud.subscription}/resourceGroups/{call.names['group']}"
    return pages(call, found, f"{at}/providers/{IMAGE}")


@routes.add("GET", f"{IN_SUBSCRIPTION}/providers/{IMAGE}", IMAGE)
async def list_all(call: Call) -> Answer:
    """Tell of all."""
    found = [it.body for it in call.cloud.listed(IMAGE)]
    return pages(call, found, f"/subscriptions/{call.cloud.subscription}/providers/{IMAGE}")


@routes.add("DELETE", _OWN + "/{name}", IMAGE)
async def delete(call: Call) -> Answer:
    """Delete one."""
    cloud = call.cloud
    found = cloud.find(cloud.id_of(call.names["group"], IMAGE, call.names["name"]))
    if found is None:
        return Answer(204)
    cloud.remove(found)
    return Answer(200)
