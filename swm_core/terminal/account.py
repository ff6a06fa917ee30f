"""AccountService: who calls, what they used, how much they may."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Generator, Iterable
from decimal import Decimal

from rpc_kit.errors import denied, invalid, not_found
from rpc_kit.interceptor import Context as CallContext
from rpc_kit.paging import page_of
from skyport.terminal.v1 import account_pb2, account_pb2_grpc
from swm_core.domain.costs import Span, billed, cost, month_of, month_span, months
from swm_core.domain.partition import Partition
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.costs import CostBook, add
from swm_core.lifecycle.pieces import Pieces
from swm_core.security.identity import current_caller
from swm_core.store import Attempt
from swm_core.terminal import convert
from swm_core.terminal.quotas import Streams

_EVERYBODY = "*"


@dataclasses.dataclass(slots=True)
class _Row:
    jobs: set[str] = dataclasses.field(default_factory=set)
    attempts: int = 0
    run_s: float = 0.0
    cpu_s: float = 0.0
    gpu_s: float = 0.0
    costs: dict[str, Decimal] = dataclasses.field(default_factory=dict)
    unpriced: int = 0


class AccountService(account_pb2_grpc.AccountServiceServicer):
    """Tells callers of themselves; administrators of others too."""

    def __init__(self, context: Context, streams: Streams, costs: CostBook) -> None:
        self._context = context
        self._costs = costs
        self._streams = streams

    async def WhoAmI(
        self, request: account_pb2.WhoAmIRequest, context: CallContext
    ) -> account_pb2.WhoAmIResponse:
        caller = current_caller()
        return account_pb2.WhoAmIResponse(
            user=caller.user,
            admin=caller.is_admin,
            installation=self._context.installation,
            certificate_expire_time=convert.timestamp(caller.identity.expires_at),
        )

    async def GetUsage(
        self, request: account_pb2.GetUsageRequest, context: CallContext
    ) -> account_pb2.GetUsageResponse:
        caller = current_caller()
        user = request.user or caller.user
        if user != caller.user and not caller.is_admin:
            raise denied("ADMIN_REQUIRED", "only an administrator sees what others used")
        if request.group not in account_pb2.UsageGroup.values()[1:]:
            raise invalid(
                "group must say what the rows are: JOB, USER, SITE or MONTH",
                field="group",
                reason="FIELD_REQUIRED" if not request.group else "FIELD_MALFORMED",
            )
        if user not in (_EVERYBODY, caller.user) and self._context.store.users.get(user) is None:
            raise not_found("USER_NOT_FOUND", f"there is no user {user[:60]}")
        since, before = _seconds(request, "from_time"), _seconds(request, "to_time")
        if since is not None and before is not None and since >= before:
            raise invalid(
                "from_time is not before to_time; nothing lies between them",
                field="from_time",
                reason="FIELD_OUT_OF_RANGE",
            )
        page = page_of(request, caller.user)
        owner = None if user == _EVERYBODY else user
        attempts = self._context.store.attempts.placed(owner=owner, since=since, before=before)
        pieces = Pieces()
        rows = await pieces.all_of(self._rows(attempts, request.group))
        during = Span(since or 0.0, math.inf if before is None else before)
        await pieces.all_of(self._add_costs(rows, owner, during, request.group))
        keys = sorted(rows)
        start = bisect.bisect_right(keys, page.after) if page.after else 0
        shown = keys[start : start + page.size]
        more = start + page.size < len(keys)
        return account_pb2.GetUsageResponse(
            rows=[_message(key, rows[key]) for key in shown],
            next_page_token=page.token(shown[-1]) if more else "",
        )

    async def GetQuotas(
        self, request: account_pb2.GetQuotasRequest, context: CallContext
    ) -> account_pb2.GetQuotasResponse:
        user = current_caller().user
        spool = self._context.spool
        room = spool.room(user)
        return account_pb2.GetQuotasResponse(
            quotas=[
                account_pb2.Quota(
                    name="active_jobs",
                    limit=self._context.limits.active_jobs_per_user,
                    used=self._context.jobs.count(user),
                ),
                account_pb2.Quota(
                    name="spool_bytes",
                    limit=min(room.max_bytes or spool.max_bytes, spool.max_bytes),
                    used=room.used_bytes,
                ),
                account_pb2.Quota(
                    name="streams", limit=self._streams.limit, used=self._streams.used(user)
                ),
            ],
            budgets=self._budgets(user),
        )

    def _budgets(self, user: str) -> list[account_pb2.Budget]:
        policy = self._costs.policy([user])
        mine = policy.users.get(user)
        found = [("", mine, self._costs.spent_by(user, mine.total.currency))] if mine else []
        found += [
            (site, budget, self._costs.spent_at(site, budget.total.currency))
            for site, budget in sorted(policy.sites.items())
        ]
        month = month_of(self._context.clock())
        return [
            account_pb2.Budget(
                site=site,
                month=month,
                limit=convert.money(budget.total.amount, budget.total.currency),
                spent=convert.money(spent, budget.total.currency),
                promised=convert.money(budget.taken - spent, budget.total.currency),
            )
            for site, budget, spent in found
        ]

    def _add_costs(
        self,
        rows: dict[str, _Row],
        owner: str | None,
        during: Span,
        group: account_pb2.UsageGroup.ValueType,
    ) -> Generator[None, None, None]:
        """Add what partitions cost within a time to whom it belongs."""
        now = self._context.clock()
        for partition in self._context.store.partitions.between(during.start, during.end, owner):
            yield
            if not any(span.within(during).seconds for span in billed(partition, now)):
                continue
            shared = self._shared(partition, during, group)
            for key, amount in shared.items():
                row = rows.setdefault(key, _Row())
                if partition.price_per_hour is None:
                    row.unpriced += 1
                else:
                    add(row.costs, partition.currency, amount)

    def _shared(
        self, partition: Partition, during: Span, group: account_pb2.UsageGroup.ValueType
    ) -> dict[str, Decimal]:
        """What it cost, by the keys of the rows that it belongs to."""
        now = self._context.clock()
        match group:
            case account_pb2.USAGE_GROUP_JOB if partition.price_per_hour is None:
                return dict.fromkeys(partition.jobs, Decimal(0))
            case account_pb2.USAGE_GROUP_JOB:
                return self._costs.shares(partition, during)
            case account_pb2.USAGE_GROUP_USER:
                return {partition.owner: cost(partition, now, during)}
            case account_pb2.USAGE_GROUP_SITE:
                return {partition.site: cost(partition, now, during)}
            case _:
                return {
                    month: cost(partition, now, month_span(month).within(during))
                    for month in months(partition, now, during)
                }

    def _rows(
        self, attempts: Iterable[Attempt], group: account_pb2.UsageGroup.ValueType
    ) -> Generator[None, None, dict[str, _Row]]:
        rows: dict[str, _Row] = {}
        now = self._context.clock()
        for attempt in attempts:
            yield
            row = rows.setdefault(_key(attempt, group), _Row())
            row.jobs.add(attempt.job_id)
            row.attempts += 1
            if attempt.start_time is not None:
                ended = attempt.end.end_time if attempt.end else attempt.end_time
                run_s = max(0.0, (ended or now) - attempt.start_time)
                row.run_s += run_s
                row.cpu_s += run_s * sum(part.cpus for part in attempt.allocations)
                row.gpu_s += run_s * sum(len(part.gpu_ids) for part in attempt.allocations)
        return rows


def _key(attempt: Attempt, group: account_pb2.UsageGroup.ValueType) -> str:
    match group:
        case account_pb2.USAGE_GROUP_JOB:
            return attempt.job_id
        case account_pb2.USAGE_GROUP_USER:
            return attempt.owner
        case account_pb2.USAGE_GROUP_SITE:
            return attempt.site
        case _:
            return month_of(attempt.place_time)


def _message(key: str, row: _Row) -> account_pb2.UsageRow:
    return account_pb2.UsageRow(
        key=key,
        jobs=len(row.jobs),
        attempts=row.attempts,
        run_time=convert.duration(row.run_s),
        cpu_time_allocated=convert.duration(row.cpu_s),
        gpu_time_allocated=convert.duration(row.gpu_s),
        costs=[convert.money(amount, currency) for currency, amount in sorted(row.costs.items())],
        unpriced_partitions=row.unpriced,
    )


def _seconds(request: account_pb2.GetUsageRequest, field: str) -> float | None:
    if not request.HasField(field):  # type: ignore[arg-type]
        return None
    value = getattr(request, field)
    return float(value.seconds + value.nanos / 1e9)
