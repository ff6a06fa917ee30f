"""What administrators do to sites: drain them, start their gates anew, take their changes."""

from __future__ import annotations

from rpc_kit.errors import not_found, precondition, unavailable
from skyport.terminal.v1 import admin_pb2
from swm_core.gateways.gate import Gate
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.engine import Lifecycle
from swm_core.lifecycle.site_change import NotTold, SiteChange
from swm_core.store import StoreError
from swm_core.terminal.access import store_unavailable


class SiteAdministration:
    """Serves the part of AdminService that is about sites.

    Args:
        context: The core's parts.
        lifecycle: Told of what changes.
    """

    def __init__(self, context: Context, lifecycle: Lifecycle) -> None:
        self._context = context
        self._lifecycle = lifecycle

    def restart_gate(self, request: admin_pb2.RestartGateRequest) -> admin_pb2.RestartGateResponse:
        """Have a gate end and start anew."""
        gate = gate_of(self._context, request.site)
        if gate.process is None:
            raise precondition(
                "NOT_SUPERVISED",
                f"the gate of site {gate.name} was not started by the core; have whoever runs it"
                " start it anew",
            )
        gate.process.restart()
        return admin_pb2.RestartGateResponse()

    async def drain(self, request: admin_pb2.DrainSiteRequest) -> admin_pb2.DrainSiteResponse:
        """Have a site take no new jobs, or take them again."""
        gate = gate_of(self._context, request.site)
        try:
            await self._context.store.sites.set_drained(gate.name, drained=request.drained)
        except StoreError as error:
            raise store_unavailable(error) from None
        gate.drained = request.drained
        gate.on_change()
        # What waits for a next job is given back, and need not be found so by the clock.
        self._context.partitions.touch(gate.name)
        return admin_pb2.DrainSiteResponse()

    async def accept_change(
        self, request: admin_pb2.AcceptSiteChangeRequest
    ) -> admin_pb2.AcceptSiteChangeResponse:
        """Take the roots, or the account scope, that a site has now."""
        gate = gate_of(self._context, request.site)
        change = SiteChange(self._context, gate, self._lifecycle.lose)
        if request.partition_id and not change.knows(request.partition_id):
            raise not_found(
                "PARTITION_NOT_FOUND",
                f"site {gate.name} has no partition {request.partition_id[:60]!r};"
                " `swm partitions` lists what there is",
            )
        try:
            await change.accept(request.partition_id, request.node)
        except NotTold as error:
            raise unavailable("SITE_UNREACHABLE", str(error), retry_after_s=5.0) from None
        except StoreError as error:
            raise store_unavailable(error) from None
        return admin_pb2.AcceptSiteChangeResponse()


def gate_of(context: Context, site: str) -> Gate:
    """The gate of a site.

    Raises:
        Refusal: SITE_NOT_FOUND.
    """
    gate = context.gates.get(site)
    if gate is None:
        known = ", ".join(sorted(context.gates)) or "none"
        raise not_found("SITE_NOT_FOUND", f"there is no site {site[:60]!r}; configured: {known}")
    return gate
