"""What a core tells of orphans: what its sites have of it, and it does not know."""

from __future__ import annotations

from skyport.terminal.v1 import admin_pb2
from tests.system.harness.core import Core
from tests.system.harness.waiting import WITHIN_S, eventually

PARTITION = admin_pb2.ORPHAN_KIND_PARTITION
JOB = admin_pb2.ORPHAN_KIND_JOB


def orphans(core: Core) -> dict[str, admin_pb2.Orphan]:
    """All that the core tells of, by id."""
    answer = core.admin.admin.ListOrphans(admin_pb2.ListOrphansRequest(), timeout=20)
    return {orphan.id: orphan for orphan in answer.orphans}


def told(core: Core, *ids: str, within_s: float = WITHIN_S) -> list[admin_pb2.Orphan]:
    """Wait until these are told of."""
    found = eventually(
        lambda: all_ if set(ids) <= set(all_ := orphans(core)) else None,
        f"{ids} are orphans",
        within_s=within_s,
    )
    assert found is not None
    return [found[each] for each in ids]


def until_text(core: Core, orphan_id: str, part: str, *, within_s: float = WITHIN_S) -> None:
    """Wait until the core says `part` of an orphan."""
    told(core, orphan_id, within_s=within_s)
    eventually(
        lambda: part in orphans(core)[orphan_id].message,
        f"{part!r} is said of {orphan_id}",
        within_s=within_s,
    )


def delete(core: Core, orphan: admin_pb2.Orphan) -> None:
    """Have one deleted, as an administrator does."""
    request = admin_pb2.DeleteOrphanRequest(site=orphan.site, kind=orphan.kind, id=orphan.id)
    core.admin.admin.DeleteOrphan(request, timeout=20)
