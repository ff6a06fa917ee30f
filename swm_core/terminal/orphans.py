"""What sites have that the core does not know: told to administrators, and deleted for them."""

from __future__ import annotations

from rpc_kit.errors import not_found
from rpc_kit.paging import page_of
from skyport.terminal.v1 import admin_pb2
from swm_core.domain.orphans import Orphan, OrphanKind
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.engine import Lifecycle
from swm_core.lifecycle.orphans import Orphans
from swm_core.store import StoreError
from swm_core.terminal import convert
from swm_core.terminal.access import store_unavailable
from swm_core.terminal.sites import gate_of

_KINDS = {
    OrphanKind.PARTITION: admin_pb2.ORPHAN_KIND_PARTITION,
    OrphanKind.JOB: admin_pb2.ORPHAN_KIND_JOB,
}
_FROM_KINDS = {number: kind for kind, number in _KINDS.items()}


class OrphanAdministration:
    """Serves the part of AdminService that is about orphans.

    Args:
        context: The core's parts.
        lifecycle: Has what was found.
    """

    def __init__(self, context: Context, lifecycle: Lifecycle) -> None:
        self._context = context
        self._reconciliations = lifecycle.reconciliations

    def list(self, request: admin_pb2.ListOrphansRequest) -> admin_pb2.ListOrphansResponse:
        """A page of the orphans of all sites."""
        found = [
            (_position(orphan), _message(orphan, each.orphans))
            for each in self._reconciliations.values()
            for orphan in each.orphans.all()
        ]
        shown, token = page_of(request).cut(found)
        return admin_pb2.ListOrphansResponse(
            orphans=shown,
            next_page_token=token,
            unreachable_sites=[
                name
                for name, each in sorted(self._reconciliations.items())
                if not (each.is_complete and self._context.gates[name].ready)
            ],
        )

    async def delete(
        self, request: admin_pb2.DeleteOrphanRequest
    ) -> admin_pb2.DeleteOrphanResponse:
        """Have an orphan deleted, as soon as its site answers."""
        gate = gate_of(self._context, request.site)
        orphans = self._reconciliations[gate.name].orphans
        kind = _FROM_KINDS.get(request.kind)
        try:
            if kind is None or not await orphans.request(kind, request.id):
                raise not_found(
                    "ORPHAN_NOT_FOUND",
                    f"site {gate.name} has no orphan {request.id[:60]!r} (any more);"
                    " `swm orphans` lists them",
                )
        except StoreError as error:
            raise store_unavailable(error) from None
        return admin_pb2.DeleteOrphanResponse()


def _position(orphan: Orphan) -> str:
    # Names of sites and ids hold no blank, so a list sorts by site, kind and id.
    return f"{orphan.site} {_KINDS[orphan.found.kind]} {orphan.found.orphan_id}"


def _message(orphan: Orphan, orphans: Orphans) -> admin_pb2.Orphan:
    message = admin_pb2.Orphan(
        site=orphan.site,
        kind=_KINDS[orphan.found.kind],
        id=orphan.found.orphan_id,
        seen_time=convert.timestamp(orphan.seen_time),
        message=orphans.text(orphan),
    )
    at = orphans.delete_time(orphan)
    if at is not None:
        message.delete_time.CopyFrom(convert.timestamp(at))
    return message
