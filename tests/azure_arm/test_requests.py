"""What is refused, and in which words; by plain requests where the SDK would not ask so."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
)
from azure.identity.aio import CertificateCredential

from tests.azure_arm.sdk import GROUP, LOCATION, Sdk, vm_body
from tests.testbed.azure_arm import AzureArm
from tests.testbed.azure_arm.certificates import make
from tests.testbed.azure_arm.versions import SERVED


async def ask(
    sdk: Sdk, method: str, path: str, body: Any = None, *, token: str | None = None
) -> tuple[int, Any]:
    """The status and the JSON of a plain request."""
    ready = sdk.arm.ready
    if token is None:
        token = (await sdk.credential.get_token(f"{ready.resource_manager}/.default")).token
    context = ssl.create_default_context(cafile=ready.ca_file)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
        session.request(
            method,
            f"{ready.resource_manager}{path}",
            json=body,
            headers={"Authorization": f"Bearer {token}"} if token else {},
        ) as response,
    ):
        return response.status, await response.json() if response.content_type else None


def code_of(error: HttpResponseError) -> str | None:
    assert error.error is not None
    return error.error.code


async def test_who_has_no_right_certificate_gets_no_token(arm: AzureArm, tmp_path: Path) -> None:
    stranger = make(tmp_path)

    async def token_of(**other: Any) -> None:
        ready = arm.ready
        wanted: dict[str, Any] = {
            "tenant_id": ready.tenant,
            "client_id": ready.app,
            "certificate_data": Path(ready.principal).read_bytes(),
        }
        async with CertificateCredential(
            **{**wanted, **other},
            authority=ready.authority,
            disable_instance_discovery=True,
            connection_verify=ready.ca_file,
        ) as credential:
            await credential.get_token("https://management.azure.com/.default")

    await token_of()
    with pytest.raises(ClientAuthenticationError, match="AADSTS700027"):
        await token_of(certificate_data=stranger.principal.read_bytes())
    with pytest.raises(ClientAuthenticationError, match="AADSTS700016"):
        await token_of(client_id="00000000-0000-0000-0000-0000000000ff")
    with pytest.raises((ClientAuthenticationError, ValueError)):
        await token_of(tenant_id="00000000-0000-0000-0000-0000000000ff")
    arm.register(stranger.principal.read_text())
    await token_of(certificate_data=stranger.principal.read_bytes())


async def test_tokens_expire(sdk: Sdk, arm: AzureArm) -> None:
    path = f"/subscriptions/{arm.ready.subscription}?api-version=2022-12-01"
    status, found = await ask(sdk, "GET", path)
    assert (status, found["state"]) == (200, "Enabled")
    status, found = await ask(sdk, "GET", path, token="")
    assert (status, found["error"]["code"]) == (401, "AuthenticationFailed")
    status, found = await ask(sdk, "GET", path, token="made-up")
    assert (status, found["error"]["code"]) == (401, "InvalidAuthenticationToken")
    arm.revoke_tokens()
    status, found = await ask(sdk, "GET", path)
    assert (status, found["error"]["code"]) == (401, "ExpiredAuthenticationToken")


async def test_bad_requests(sdk: Sdk, arm: AzureArm) -> None:
    at = f"/subscriptions/{arm.ready.subscription}"
    group = f"{at}/resourcegroups/x?api-version="
    nic = f"{at}/resourceGroups/x/providers/Microsoft.Network/networkInterfaces/n"
    for method, path, body, status, code in (
        ("PUT", f"{at}/resourcegroups/x", {}, 400, "MissingApiVersionParameter"),
        ("PUT", f"{group}2019-01-01", {}, 400, "InvalidApiVersionParameter"),
        ("PUT", f"{group}2025-04-01", None, 400, "InvalidRequestContent"),
        ("PUT", f"{group}2025-04-01", {}, 400, "LocationRequired"),
        ("GET", f"{nic}?api-version=1999-01-01", None, 400, "NoRegisteredProviderFound"),
        ("GET", f"{nic}?api-version=2020-06-01", None, 404, "ResourceGroupNotFound"),
        ("GET", f"{at}/nothing?api-version=2025-04-01", None, 404, "InvalidResourceType"),
        ("GET", "/subscriptions/other?api-version=2022-12-01", None, 404, "SubscriptionNotFound"),
    ):  # fmt: skip
        answered, found = await ask(sdk, method, path, body)
        assert (answered, found["error"]["code"]) == (status, code), path


async def test_tags_have_limits(sdk: Sdk) -> None:
    groups = sdk.resources.resource_groups

    async def put(tags: dict[str, str]) -> None:
        await groups.create_or_update(GROUP, {"location": LOCATION, "tags": tags})

    for tags, code in (
        ({f"t{i}": "" for i in range(51)}, "InvalidTags"),
        ({"t": "x" * 257}, "InvalidTagValueLength"),
        ({"a<b": ""}, "InvalidTagNameCharacters"),
        ({"n" * 513: ""}, "InvalidTagNameLength"),
        ({"microsoft-x": ""}, "ReservedTagName"),
    ):
        with pytest.raises(HttpResponseError) as caught:
            await put(tags)
        assert code_of(caught.value) == code
    await put({f"t{i}": "x" * 256 for i in range(50)})
    await put({"installation": "one's", "owner": "a"})
    await groups.create_or_update("other", {"location": LOCATION, "tags": {"installation": "two"}})
    sdk.arm.clock.advance(1)

    async def named(text: str) -> list[str | None]:
        return [it.name async for it in groups.list(filter=text)]

    assert await named("tagName eq 'installation'") == [GROUP, "other"]
    assert await named("tagName eq 'INSTALLATION' and tagValue eq 'one''s'") == [GROUP]
    assert await named("tagName eq 'installation' and tagValue eq 'Two'") == []
    sdk.arm.set(page=1)
    assert await named("tagName eq 'installation'") == [GROUP, "other"]
    changed = await groups.update(GROUP, {"tags": {"only": "this"}})
    assert changed.tags == {"only": "this"}
    await sdk.delete_group()
    await sdk.delete_group("other")


async def test_roles_and_providers(sdk: Sdk, arm: AzureArm) -> None:
    arm.set_permissions(["*/read"])
    with pytest.raises(HttpResponseError) as caught:
        await sdk.make_group()
    assert caught.value.status_code == 403
    assert code_of(caught.value) == "AuthorizationFailed"
    assert "resourceGroups/write" in str(caught.value)
    at = f"/subscriptions/{arm.ready.subscription}/providers/Microsoft.Authorization/permissions"
    _, found = await ask(sdk, "GET", f"{at}?api-version=2022-04-01")
    assert found["value"][0]["actions"] == ["*/read"]
    arm.set_permissions(["*"])
    arm.set_provider("Microsoft.Compute", "NotRegistered")
    status, found = await ask(sdk, "PUT", await _vm_path(sdk, arm), {"location": LOCATION})
    assert (status, found["error"]["code"]) == (409, "MissingSubscriptionRegistration")
    registered = await sdk.resources.providers.register("Microsoft.Compute")
    assert registered.registration_state == "Registering"
    while (
        await sdk.resources.providers.get("Microsoft.Compute")
    ).registration_state != "Registered":
        pass
    await sdk.delete_group()


async def _vm_path(sdk: Sdk, arm: AzureArm) -> str:
    await sdk.make_group()
    at = f"/subscriptions/{arm.ready.subscription}/resourceGroups/{GROUP}"
    return f"{at}/providers/Microsoft.Compute/virtualMachines/n0?api-version=2026-04-01"


async def test_vms_that_cannot_be(sdk: Sdk) -> None:
    await sdk.make_group()
    _, subnet = await sdk.make_network()

    async def code_for(body: Any) -> str | None:
        with pytest.raises(HttpResponseError) as caught:
            await sdk.compute.virtual_machines.begin_create_or_update(GROUP, "n0", body)
        return code_of(caught.value)

    def without(*path: str) -> Any:
        body = vm_body(subnet)
        inner = body
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        return body

    assert await code_for(vm_body(subnet, size="Standard_X1")) == "InvalidParameter"
    assert await code_for(vm_body(subnet, size="Standard_D13_v2_Promo")) == "SkuNotAvailable"
    assert await code_for(vm_body(f"{subnet}x")) == "InvalidResourceReference"
    assert (
        await code_for(without("properties", "networkProfile", "networkApiVersion"))
        == "InvalidParameter"
    )
    assert await code_for(without("properties", "osProfile", "adminUsername")) == "InvalidParameter"
    body = vm_body(subnet)
    body["properties"]["osProfile"]["customData"] = "not base64!"
    assert await code_for(body) == "InvalidParameter"
    body = vm_body(subnet)
    body["properties"]["evictionPolicy"] = "Delete"
    assert await code_for(body) == "InvalidParameter"
    spot = vm_body(subnet, spot=True, size="Standard_B2s")
    assert await code_for(spot) == "AzureSpotIsNotSupportedForThisVMSize"
    spot = vm_body(subnet, spot=True)
    spot["properties"]["billingProfile"]["maxPrice"] = 0.001
    assert await code_for(spot) == "SpotPriceGreaterThanProvidedMaxPrice"
    spot["properties"]["billingProfile"]["maxPrice"] = -2
    assert await code_for(spot) == "MaxPriceValueInvalid"
    image = {"publisher": "Debian", "offer": "debian-12", "sku": "none", "version": "latest"}
    assert await code_for(vm_body(subnet, image=image)) == "PlatformImageNotFound"
    sdk.arm.set(cores=1)
    with pytest.raises(HttpResponseError, match="Family Cores quota"):
        await sdk.make_vm(subnet)
    sdk.arm.set(spot_cores=1)
    with pytest.raises(HttpResponseError, match="LowPriorityCores"):
        await sdk.make_vm(subnet, spot=True)
    assert sdk.arm.books().created == 0
    await sdk.delete_group()
    with pytest.raises(ResourceNotFoundError):
        await sdk.compute.virtual_machines.get(GROUP, "n0")


def test_the_versions_of_the_sdk_are_served() -> None:
    from azure.mgmt import compute, network
    from azure.mgmt.resource import resources

    for package, provider in (
        (compute, "Microsoft.Compute"),
        (network, "Microsoft.Network"),
        (resources, "Microsoft.Resources"),
    ):
        folder = Path(str(package.__file__)).parent / "operations"
        text = "".join(it.read_text() for it in folder.glob("_operations*.py"))
        default = re.search(
            r'def build_\w+_create_or_update_request.*?"api-version", "([\d-]+)"', text, re.DOTALL
        )
        assert default is not None
        assert default[1] in SERVED[provider], provider
