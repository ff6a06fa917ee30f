"""What the command tells of machines that cost money."""

from __future__ import annotations

import time

import pytest

from skyport.common.v1.money_pb2 import HourlyPrice, Money
from skyport.terminal.v1 import account_pb2, job_pb2
from terminals.cli.commands.account import _budget
from terminals.cli.dry_run import _show_candidates
from terminals.cli.states import detail
from terminals.cli.wishes import resources


def price(units: int) -> HourlyPrice:
    return HourlyPrice(amount=Money(currency_code="EUR", units=units))


def test_a_dry_run_tells_spot_and_limits_where_there_are_any(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = job_pb2.CheckJobResponse()
    plain.candidates.add(site="lab")
    _show_candidates(plain)
    assert capsys.readouterr().out.split()[-6:] == ["COSTS", "lab", "-", "-", "-", "-"]
    checked = job_pb2.CheckJobResponse()
    candidate = checked.candidates.add(site="cloud", flavor="small", price=price(2), spot=True)
    candidate.time_limit.seconds = 86_400
    _show_candidates(checked)
    title, row = capsys.readouterr().out.strip().splitlines()
    assert title.split()[-3:] == ["SPOT", "ENDS", "AFTER"]
    assert row.split() == ["cloud", "-", "-", "small", "2.00", "EUR/h", "yes", "1d"]


def test_a_job_s_wishes_name_its_cap_and_spot() -> None:
    cap = Money(currency_code="EUR", units=2, nanos=500_000_000)
    text = resources(job_pb2.JobSpec(cpus=1, spot=True, max_cost=cap))
    assert text == "1 cpu; spot; at most 2.50 EUR"


def test_while_machines_are_made_it_is_told_for_how_long() -> None:
    job = job_pb2.Job(state=job_pb2.JOB_STATE_PROVISIONING, text="booting 2 of 4 nodes")
    job.state_time.seconds = int(time.time()) - 3_600
    assert detail(job) == "booting 2 of 4 nodes, 1h"
    job.state = job_pb2.JOB_STATE_RUNNING
    assert detail(job) == "booting 2 of 4 nodes"


def test_a_budget_tells_what_is_spent_and_promised() -> None:
    budget = account_pb2.Budget(
        limit=Money(currency_code="EUR", units=30), spent=Money(currency_code="EUR", units=2)
    )
    assert _budget(budget) == "2.00 EUR of 30.00 EUR"
    budget.promised.CopyFrom(Money(currency_code="EUR", units=5))
    assert _budget(budget) == "2.00 EUR of 30.00 EUR (5.00 EUR more promised)"
