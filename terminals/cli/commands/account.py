"""`swm usage`, `whoami`: the caller."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import click

from terminals.cli.command import Command
from terminals.cli.options import connected, json_option

if TYPE_CHECKING:
    from skyport.terminal.v1 import account_pb2


class _Day(click.ParamType[datetime.datetime]):
    """A day, as 2026-11-01; its begin in UTC."""

    name = "DAY"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime.datetime:
        """The day that is written there."""
        try:
            return datetime.datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=datetime.UTC)
        except ValueError:
            self.fail(f'"{value}" is no day; write it as 2026-11-01', param, ctx)


_DAY = _Day()


@click.command(
    cls=Command, examples=["swm usage --by job --from 2026-11-01", "swm usage --by user --user '*'"]
)
@click.option(
    "--by",
    type=click.Choice(["job", "user", "site", "month"]),
    default="month",
    show_default=True,
    help="What the rows are.",
)
@click.option("--from", "from_day", type=_DAY, help="Jobs placed on this day (UTC) or later.")
@click.option("--to", "to_day", type=_DAY, help="Jobs placed on this day (UTC) or earlier.")
@click.option("--user", default="", help='Of this user, or "*" for all; for administrators.')
@json_option
def usage(
    by: str,
    from_day: datetime.datetime | None,
    to_day: datetime.datetime | None,
    user: str,
    as_json: bool,
) -> None:
    """Show what was used, and what it cost.

    Times are from start to end of scripts; cpu and gpu time is that, times what was allocated.
    """
    from skyport.terminal.v1 import account_pb2
    from terminals.cli.tables import Column, note, show_json, show_table
    from terminals.cli.words import NOTHING, cell, counted, money, span

    if from_day and to_day and from_day > to_day:
        raise click.UsageError("--from is after --to, and nothing lies between them")
    group = account_pb2.UsageGroup.Value(f"USAGE_GROUP_{by.upper()}")
    request = account_pb2.GetUsageRequest(group=group, user=user)
    if from_day:
        request.from_time.FromDatetime(from_day)
    if to_day and to_day.date() != datetime.date.max:  # nothing comes after that
        request.to_time.FromDatetime(to_day + datetime.timedelta(days=1))
    with connected() as client:
        pages = client.pages(client.accounts.GetUsage, request)
        found = [row for page in pages for row in page.rows]
    if as_json:
        show_json(found)
        return
    if not found:
        note("nothing was used")
        return
    rows = [
        [
            cell(row.key),
            str(row.jobs),
            str(row.attempts),
            span(row.run_time.seconds),
            span(row.cpu_time_allocated.seconds),
            span(row.gpu_time_allocated.seconds),
            " + ".join(map(money, row.costs)) or NOTHING,
        ]
        for row in found
    ]
    titles = ["JOBS", "ATTEMPTS", "TIME", "CPU TIME", "GPU TIME", "COST"]
    show_table([Column(by.upper()), *(Column(title, right=True) for title in titles)], rows)
    if unpriced := sum(row.unpriced_partitions for row in found):
        what = f"the price of {counted(unpriced, 'partition')} is not known"
        note(f"{what}: what they cost is not in COST")


@click.command(cls=Command, examples=["swm whoami --json | jq -r .user"])
@json_option
def whoami(as_json: bool) -> None:
    """Show who the core takes you for, and your limits."""
    from skyport.terminal.v1 import account_pb2
    from terminals.cli.tables import show_json
    from terminals.cli.words import moment, plain

    with connected() as client:
        me = client.call(client.accounts.WhoAmI, account_pb2.WhoAmIRequest())
        if as_json:
            show_json([me])
            return
        limits = client.call(client.accounts.GetQuotas, account_pb2.GetQuotasRequest())
    role = ", an administrator" if me.admin else ""
    click.echo(f"user          {plain(me.user)}{role}")
    click.echo(f"core          {client.bundle.endpoint}, installation {plain(me.installation)}")
    click.echo(f"certificate   until {moment(me.certificate_expire_time)}")
    for quota in limits.quotas:
        click.echo(f"{plain(quota.name):12}  {_quota(quota)}")
    for budget in limits.budgets:
        whose = f"of site {plain(budget.site)}" if budget.site else "yours"
        click.echo(f"{'budget':12}  {_budget(budget)}, {whose}, for {plain(budget.month)}")


def _budget(budget: account_pb2.Budget) -> str:
    from terminals.cli.words import money

    text = f"{money(budget.spent)} of {money(budget.limit)}"
    promised = budget.promised
    return f"{text} ({money(promised)} more promised)" if promised.units or promised.nanos else text


def _quota(quota: account_pb2.Quota) -> str:
    from rpc_kit.units import format_size

    def shown(value: int) -> str:
        return format_size(value) if quota.name.endswith("_bytes") else str(value)

    limit = f"of {shown(quota.limit)}" if quota.limit else "(no limit)"
    return f"{shown(quota.used)} {limit}"
