"""The HTTPS server that the SDK talks to."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import ssl
import time
import uuid
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.testbed.azure_arm import (
    disks,
    groups,
    images,
    interfaces,
    machine_power,
    machine_views,
    machines,
    network,
    operations_calls,
    prices,
    providers,
    public_addresses,
    schedules,
    security_groups,
    skus,
    versions,
    virtual_networks,
)
from tests.testbed.azure_arm.calls import Answer, Call, Route
from tests.testbed.azure_arm.certificates import Certificates
from tests.testbed.azure_arm.cloud import Cloud
from tests.testbed.azure_arm.errors import ArmError
from tests.testbed.azure_arm.faults import EGRESS, OPERATION, PRICES, TOKEN, Fault
from tests.testbed.azure_arm.tokens import TokenError, Tokens

__all__ = ["Asked", "Logged", "Server"]

_ROUTES: list[Route] = [
    route
    for module in (
        groups, network, security_groups, virtual_networks, public_addresses, interfaces,
        machines, machine_views, machine_power, disks, skus, images, providers, schedules,
        operations_calls,
    )
    for route in module.routes.all
]  # fmt: skip
_FRESH = 15_000
_WRITES = 1_200
_BODIES = 500


@dataclass(frozen=True)
class Logged:
    """A call that was answered.

    Attributes:
        method: Of HTTP.
        kind: What it was about, as faults name it.
        name: Of the resource.
        path: With the query.
        status: That was answered; 0 is a connection that was cut.
        at: When it came, in seconds since 1970 (of the real clock).
    """

    method: str
    kind: str
    name: str
    path: str
    status: int
    at: float


@dataclass(frozen=True)
class Asked:
    """What a call has brought.

    Attributes:
        method: Of HTTP.
        kind: What it was about, as faults name it.
        path: With the query.
        body: As it came.
    """

    method: str
    kind: str
    path: str
    body: str


class Server:
    """Answers calls.

    Args:
        cloud: What is in the subscription.
        tokens: Who may call.
    """

    def __init__(self, cloud: Cloud, tokens: Tokens) -> None:
        self.cloud = cloud
        self.tokens = tokens
        self.log: list[Logged] = []
        self.asked: deque[Asked] = deque(maxlen=_BODIES)
        self.egress: str | None = None
        self._counts: Counter[str] = Counter()
        self._runner: web.AppRunner | None = None
        self._watch: asyncio.Task[None] | None = None

    async def open(self, certificates: Certificates) -> str:
        """Listen; where."""
        app = web.Application(client_max_size=1 << 22)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates.server)
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        self.cloud.base = f"https://127.0.0.1:{self._runner.addresses[0][1]}"
        self._watch = asyncio.get_running_loop().create_task(schedules.watch(self.cloud))
        return self.cloud.base

    async def close(self) -> None:
        """Listen no more."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        if self._runner is not None:
            await self._runner.cleanup()

    # One call.

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        at = time.time()
        kind, name, route, names = self._kind_of(request)
        if body := await request.text():
            self.asked.append(Asked(request.method, kind, request.path_qs, body))
        faults = self.cloud.faults.of_call(request.method, kind, name)
        try:
            for fault in faults:
                await self._before(request, fault)
            response = await self._answer(request, kind, route, names, faults)
        except ArmError as error:
            response = self._respond(
                request, kind, Answer(error.status, error.body(), error.headers)
            )
        except TokenError as error:
            response = web.json_response(error.body, status=error.status)
        except _Cut:
            response = None
        if any(it.does == "lose" for it in faults):
            response = None
        status = response.status if response is not None else 0
        self.log.append(Logged(request.method, kind, name, request.path_qs, status, at))
        if response is None:
            _cut(request)
            return web.Response(status=500)
        return response

    async def _before(self, request: web.Request, fault: Fault) -> None:
        if fault.does == "slow":
            await asyncio.sleep(fault.delay_s)
        elif fault.does == "cut":
            raise _Cut
        elif fault.does == "error":
            raise fault.raised()

    def _kind_of(self, request: web.Request) -> tuple[str, str, Route | None, dict[str, str]]:
        path = request.path.rstrip("/")
        if path.endswith(("/oauth2/v2.0/token", "/.well-known/openid-configuration")):
            return TOKEN, "", None, {}
        if path == "/api/retail/prices":
            return PRICES, "", None, {}
        if path == "/egress":
            return EGRESS, "", None, {}
        for route in _ROUTES:
            if route.method == request.method and (found := route.pattern.fullmatch(path)):
                names = found.groupdict()
                return route.kind, names.get(route.name, ""), route, names
        return "unknown", "", None, {}

    async def _answer(
        self,
        request: web.Request,
        kind: str,
        route: Route | None,
        names: dict[str, str],
        faults: list[Fault],
    ) -> web.Response:
        query = {key.lower(): value for key, value in request.query.items()}
        if kind == TOKEN:
            return await self._token(request)
        if kind == EGRESS:
            return web.Response(text=f"{self.egress or self.cloud.backend.gateway}\n")
        if kind == PRICES:
            page = self.cloud.settings.prices_page
            body = prices.answer(self.cloud.base, request.path, query, page)
            return web.json_response(body)
        self.tokens.check(request.headers.get("Authorization"))
        if route is None:
            raise ArmError(
                404,
                "InvalidResourceType",
                f"The stand-in does not serve {request.method} {request.path}.",
            )
        if names["subscription"].lower() != self.cloud.subscription.lower():
            raise ArmError(
                404,
                "SubscriptionNotFound",
                f"The subscription '{names['subscription']}' could not be found.",
            )
        versions.check(kind, query.get("api-version"))
        self._require_registered(route)
        self._require_permission(request, route, names)
        body = await _json_of(request)
        failing = next((it for it in faults if it.does == "operation"), None)
        call = Call(self.cloud, request.method, kind, names, query, body, failing)
        return self._respond(request, kind, await route.answer(call))

    async def _token(self, request: web.Request) -> web.Response:
        tenant = request.path.split("/")[1]
        if request.path.endswith("/openid-configuration"):
            return web.json_response(self.tokens.configuration(tenant, self.cloud.base))
        form = {key: str(value) for key, value in (await request.post()).items()}
        given = self.tokens.give(tenant, form, self.cloud.base, self.cloud.settings.token_s)
        return web.json_response(given, headers={"Cache-Control": "no-store, no-cache"})

    def _require_registered(self, route: Route) -> None:
        provider = route.kind.split("/", 1)[0]
        state = self.cloud.providers.get(provider, "Registered")
        if state == "Registered" or provider == "Microsoft.Resources" or route.method == "GET":
            return
        raise ArmError(
            409,
            "MissingSubscriptionRegistration",
            f"The subscription is not registered to use namespace '{provider}'. See "
            "https://aka.ms/rps-not-found for how to register subscriptions.",
        )

    def _require_permission(
        self, request: web.Request, route: Route, names: dict[str, str]
    ) -> None:
        if self.cloud.subscription_state != "Enabled" and route.method not in {"GET", "HEAD"}:
            raise ArmError(
                409,
                "ReadOnlyDisabledSubscription",
                f"The subscription '{self.cloud.subscription}' is disabled and therefore marked as "
                "read only. You cannot perform any write actions on this subscription until it is "
                "re-enabled.",
            )
        action = route.action.replace(
            "Microsoft.Resources/", "Microsoft.Resources/subscriptions/", 1
        )
        for one in self.cloud.permissions:
            if _covers(one["actions"], action) and not _covers(one.get("notActions", []), action):
                return
        scope = f"/subscriptions/{self.cloud.subscription}"
        if "group" in names:
            scope += f"/resourceGroups/{names['group']}"
        raise ArmError(
            403,
            "AuthorizationFailed",
            f"The client '{self.tokens.app}' with object id '{self.tokens.app}' does not have "
            f"authorization to perform action '{action}' over scope '{scope}' or the scope is "
            "invalid. If access was recently granted, please refresh your credentials.",
        )

    def _respond(self, request: web.Request, kind: str, answer: Answer) -> web.Response:
        headers = {
            "Cache-Control": "no-cache",
            "Pragma": "no-cache",
            "Expires": "-1",
            "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
            "X-Content-Type-Options": "nosniff",
            "x-ms-request-id": str(uuid.uuid4()),
            "x-ms-correlation-request-id": str(uuid.uuid4()),
            **self._quota_headers(request.method, kind),
            **answer.headers,
        }
        if kind.startswith("Microsoft.Network") or "/Microsoft.Network/" in request.path:
            headers["x-ms-arm-service-request-id"] = str(uuid.uuid4())
        if answer.body is None:
            return web.Response(status=answer.status, headers=headers)
        return web.Response(
            status=answer.status,
            headers=headers,
            text=json.dumps(answer.body),
            content_type="application/json",
            charset="utf-8",
        )

    def _quota_headers(self, method: str, kind: str) -> dict[str, str]:
        what = {"GET": "reads", "HEAD": "reads", "DELETE": "deletes"}.get(method, "writes")
        self._counts[what] += 1
        most = _WRITES if what == "writes" else _FRESH
        left = most - self._counts[what] % most
        headers = {f"x-ms-ratelimit-remaining-subscription-{what}": str(left)}
        if kind.startswith("Microsoft.Compute") or kind == OPERATION:
            name = {"PUT": "PutVM", "DELETE": "DeleteVM", "POST": "UpdateVM"}.get(
                method, "LowCostGet"
            )
            if kind == OPERATION:
                name = "GetOperation"
            self._counts[name] += 1
            short, long = 240 - self._counts[name] % 240, 1200 - self._counts[name] % 1200
            headers["x-ms-ratelimit-remaining-resource"] = (
                f"Microsoft.Compute/{name}3Min;{short},Microsoft.Compute/{name}30Min;{long}"
            )
        return headers


class _Cut(Exception):
    """No answer, but the end of the connection."""


def _cut(request: web.Request) -> None:
    transport = request.transport
    if transport is not None:
        transport.abort() if hasattr(transport, "abort") else transport.close()


async def _json_of(request: web.Request) -> Any:
    raw = await request.read()
    if not raw.strip():
        return None
    try:
        return json.loads(raw)
    except ValueError as error:
        raise ArmError(
            400,
            "InvalidRequestContent",
            f"The request content was invalid and could not be deserialized: '{error}'.",
        ) from None


def _covers(patterns: list[str], action: str) -> bool:
    return any(fnmatch.fnmatchcase(action.lower(), it.lower()) for it in patterns)
