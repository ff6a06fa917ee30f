"""The subscription itself, its resource providers, and what its user may do."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.testbed.azure_arm.calls import IN_SUBSCRIPTION, Answer, Call, Routes
from tests.testbed.azure_arm.cloud import Cloud
from tests.testbed.azure_arm.errors import ArmError

__all__ = ["routes"]

routes = Routes()
_PROVIDER = "Microsoft.Resources/providers"


@routes.add("GET", IN_SUBSCRIPTION, "Microsoft.Resources/subscriptions")
async def subscription(call: Call) -> Answer:
    """Tell of the subscription."""
    cloud = call.cloud
    return Answer(
        200,
        {
            "id": f"/subscriptions/{cloud.subscription}",
            "authorizationSource": "RoleBased",
            "managedByTenants": [],
            "subscriptionId": cloud.subscription,
            "tenantId": cloud.tenant,
            "displayName": "Stand-in",
            "state": cloud.subscription_state,
            "subscriptionPolicies": {
                "locationPlacementId": "Public_2014-09-01",
                "quotaId": "PayAsYouGo_2014-09-01",
                "spendingLimit": "Off",
            },
        },
    )


def _named(cloud: Cloud, name: str) -> str:
    for known in cloud.providers:
        if known.lower() == name.lower():
            return known
    raise ArmError(404, "InvalidResourceNamespace", f"The resource namespace '{name}' is invalid.")


def _body(cloud: Cloud, name: str) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{cloud.subscription}/providers/{name}",
        "namespace": name,
        "resourceTypes": [],
        "registrationState": cloud.providers[name],
        "registrationPolicy": "RegistrationRequired",
    }


@routes.add("GET", IN_SUBSCRIPTION + "/providers", _PROVIDER)
async def list_(call: Call) -> Answer:
    """Tell of all."""
    return Answer(200, {"value": [_body(call.cloud, it) for it in call.cloud.providers]})


@routes.add("GET", IN_SUBSCRIPTION + "/providers/{name}", _PROVIDER)
async def get(call: Call) -> Answer:
    """Tell of one, and whether it is registered."""
    return Answer(200, _body(call.cloud, _named(call.cloud, call.names["name"])))


@routes.add("POST", IN_SUBSCRIPTION + "/providers/{name}/register", f"{_PROVIDER}/register")
async def register(call: Call) -> Answer:
    """Register one, which takes a while."""
    cloud = call.cloud
    name = _named(cloud, call.names["name"])
    if cloud.providers[name] != "Registered":
        cloud.providers[name] = "Registering"

        async def go() -> None:
            await asyncio.sleep(cloud.settings.write_s)
            cloud.providers[name] = "Registered"

        cloud.run(go())
    return Answer(200, _body(cloud, name))


@routes.add(
    "GET",
    IN_SUBSCRIPTION + "/providers/Microsoft.Authorization/permissions",
    "Microsoft.Authorization/permissions",
)
async def permissions(call: Call) -> Answer:
    """Tell what the caller may do."""
    value = [{"dataActions": [], "notDataActions": [], **it} for it in call.cloud.permissions]
    return Answer(200, {"value": value})
