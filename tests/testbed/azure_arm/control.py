"""What tests tell the stand-in, and ask it: a second server on loopback, with a secret."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from aiohttp import web

from tests.testbed.azure_arm import machines
from tests.testbed.azure_arm.cloud import Resource
from tests.testbed.azure_arm.faults import VM, Fault, GuestFault
from tests.testbed.azure_arm.server import Server

__all__ = ["Control"]

_Command = Callable[[dict[str, Any]], Awaitable[Any]]


class Control:
    """Answers tests.

    Args:
        server: What they tell.
        principal: The certificate that is registered at first.
    """

    def __init__(self, server: Server, principal: bytes) -> None:
        self.secret = secrets.token_urlsafe(16)
        self._principal_pem = principal
        self._server = server
        self._cloud = server.cloud
        self._runner: web.AppRunner | None = None
        self._commands: dict[str, _Command] = {
            "advance": self._advance,
            "asked": self._asked,
            "books": self._books,
            "boots": self._boots,
            "clear_faults": self._clear_faults,
            "evict": self._evict,
            "fault": self._fault,
            "guest_fault": self._guest_fault,
            "hits": self._hits,
            "image": self._image,
            "load_image": self._load_image,
            "log": self._log,
            "egress": self._egress,
            "permissions": self._permissions,
            "principal": self._principal,
            "provider": self._provider,
            "remove_fault": self._remove_fault,
            "remove_group": self._remove_group,
            "reset": self._reset,
            "revoke": self._revoke,
            "run": self._run,
            "settings": self._settings,
            "subscription": self._subscription,
            "tokens": self._tokens,
        }

    async def open(self) -> str:
        """Listen; where."""
        app = web.Application(client_max_size=1 << 22)
        app.router.add_post("/{command}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self.secret}":
            return web.json_response({"error": "the secret is missing or wrong"}, status=401)
        command = self._commands.get(request.match_info["command"])
        if command is None:
            return web.json_response({"error": "no such command"}, status=404)
        try:
            return web.json_response({"value": await command(await request.json())})
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)

    # What there is to tell.

    async def _advance(self, what: dict[str, Any]) -> float:
        self._cloud.clock.advance(what["seconds"])
        return self._cloud.clock.now()

    async def _asked(self, _: dict[str, Any]) -> Any:
        return [asdict(it) for it in self._server.asked]

    async def _tokens(self, _: dict[str, Any]) -> list[str]:
        return self._server.tokens.all

    async def _books(self, _: dict[str, Any]) -> Any:
        return asdict(self._cloud.books())

    async def _boots(self, _: dict[str, Any]) -> Any:
        return [asdict(it) for it in self._cloud.boots]

    async def _fault(self, what: dict[str, Any]) -> int:
        return self._cloud.faults.add(Fault(**{**what, "details": tuple(what["details"])}))

    async def _guest_fault(self, what: dict[str, Any]) -> int:
        return self._cloud.faults.add_guest(GuestFault(**what))

    async def _remove_fault(self, what: dict[str, Any]) -> None:
        self._cloud.faults.remove(what["number"])

    async def _clear_faults(self, _: dict[str, Any]) -> None:
        self._cloud.faults.clear()

    async def _hits(self, what: dict[str, Any]) -> int:
        return self._cloud.faults.hits().get(what["number"], 0)

    async def _evict(self, what: dict[str, Any]) -> None:
        await machines.evict(self._cloud, self._vm(what["vm"]))

    async def _egress(self, what: dict[str, Any]) -> str:
        """Move, or only say something else, or say the truth again."""
        if what.get("move"):
            self._server.egress = None
            return await self._cloud.backend.move_gateway()
        if what.get("ask"):
            return self._cloud.backend.gateway
        self._server.egress = what.get("say")
        return self._server.egress or self._cloud.backend.gateway

    async def _settings(self, what: dict[str, Any]) -> Any:
        for key, value in what.items():
            assert hasattr(self._cloud.settings, key), f"no such setting: {key}"
            setattr(self._cloud.settings, key, value)
        return asdict(self._cloud.settings)

    async def _log(self, what: dict[str, Any]) -> Any:
        since = what.get("since", 0)
        return [asdict(it) for it in self._server.log[since:]]

    async def _provider(self, what: dict[str, Any]) -> None:
        assert what["name"] in self._cloud.providers, what["name"]
        self._cloud.providers[what["name"]] = what["state"]

    async def _permissions(self, what: dict[str, Any]) -> None:
        self._cloud.permissions = what["permissions"]

    async def _subscription(self, what: dict[str, Any]) -> None:
        self._cloud.subscription_state = what["state"]

    async def _principal(self, what: dict[str, Any]) -> None:
        """Register a certificate, or forget all."""
        if what.get("certificate"):
            self._server.tokens.register(what["certificate"].encode())
        else:
            self._server.tokens.forget_certificates()

    async def _revoke(self, _: dict[str, Any]) -> None:
        self._server.tokens.revoke()

    async def _image(self, what: dict[str, Any]) -> None:
        """Have an own image by its id, of whatever kind (of a gallery too)."""
        words = what["id"].split("/")
        body = {"id": what["id"], "name": words[-1], "properties": {}, "location": "westeurope"}
        group, kind = words[4], "/".join(words[6:-1:2])
        self._cloud.add(Resource(what["id"], kind, words[-1], group, body))

    async def _run(self, what: dict[str, Any]) -> Any:
        vm = self._vm(what["vm"])
        return list(await self._cloud.backend.run(vm.notes["machine"], what["line"]))

    async def _load_image(self, what: dict[str, Any]) -> None:
        vm = self._vm(what["vm"])
        await self._cloud.backend.load_image(vm.notes["machine"], what["archive"])

    async def _remove_group(self, what: dict[str, Any]) -> None:
        """Remove a group at once, with all that is in it."""
        cloud, name = self._cloud, self._cloud.group(what["name"]).name
        for vm in cloud.of_kind(VM, name):
            await machines.remove(cloud, vm)
        for resource in list(cloud.resources.values()):
            if resource.group.lower() == name.lower():
                cloud.free_address(resource)
                cloud.remove(resource)
        del cloud.groups[name.lower()]

    async def _reset(self, _: dict[str, Any]) -> None:
        """Remove all there is, and be as at first."""
        cloud = self._cloud
        for vm in cloud.of_kind(VM):
            await machines.remove(cloud, vm)
        for resource in list(cloud.resources.values()):
            cloud.free_address(resource)
            cloud.remove(resource)
        cloud.reset()
        self._server.egress = None
        self._server.tokens.forget_certificates()
        self._server.tokens.register(self._principal_pem)
        self._server.log.clear()
        self._server.asked.clear()

    def _vm(self, name: str) -> Resource:
        """A VM by its id, or by its group and name with a slash between."""
        found = self._cloud.find(name)
        if found is None and name.count("/") == 1:
            found = self._cloud.find(self._cloud.id_of(name.split("/")[0], VM, name.split("/")[1]))
        assert found is not None, f"there is no VM {name}"
        assert found.kind == VM, f"{name} is no VM"
        return found
