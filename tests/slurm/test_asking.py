"""How often the queue is asked, and for what, by a clock of the tests: no cluster is needed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import selectors
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import cast

import pytest

from gate_kit import Refusal
from gate_kit.ssh.host import Host
from gates.ssh_cluster_gate.slurm import pace, unseen, words
from gates.ssh_cluster_gate.slurm.commands import Account, Answer
from gates.ssh_cluster_gate.slurm.judgement import Missing
from gates.ssh_cluster_gate.slurm.pace import Pace
from gates.ssh_cluster_gate.slurm.queue import Row, Sought
from gates.ssh_cluster_gate.slurm.words import Queue

SLOWEST_S = 60.0
MANY = 600
"""More than go into one command."""

InTime = Callable[[Coroutine[object, object, None]], None]


class _Skipping(selectors.DefaultSelector):
    """Waits no time at all, and has it pass."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for ever"
        self.now += max(timeout, 0.0)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.skipping = _Skipping()
        super().__init__(self.skipping)

    def time(self) -> float:
        return self.skipping.now


@pytest.fixture
def in_time(monkeypatch: pytest.MonkeyPatch) -> InTime:
    """Runs something by a clock that goes on as soon as everybody waits for it."""

    def run(todo: Coroutine[object, object, None]) -> None:
        with asyncio.Runner(loop_factory=_Loop) as runner:
            clock = SimpleNamespace(monotonic=runner.get_loop().time)
            for module in (pace, unseen, words):
                monkeypatch.setattr(module, "time", clock)
            runner.run(todo)

    return run


class _Slurm(Account):
    """Slurm as an account has it, but for the commands themselves."""

    def __init__(self, *, accounts: dict[str, str] | None = None) -> None:
        super().__init__(cast(Host, SimpleNamespace(node="login", open=self._open)))
        self.jobs: dict[str, str] = {}
        """The state of each job that the controller knows."""
        self.dropped: set[str] = set()
        """Jobs that are left out of each answer."""
        self.hidden: set[str] = set()
        """Jobs that are left out where all are asked for."""
        self.is_away = False
        self.accounts = accounts
        """What they say of jobs; None: there are none."""
        self.are_accounts_away = False
        self.asked: list[tuple[float, str]] = []
        """When, and for what: an id, "all", or the name of another command."""

    async def _open(self) -> SimpleNamespace:
        return SimpleNamespace(user="ann")

    async def command(self, *line: str, within_s: int = 0) -> Answer:
        name = line[0]
        ids = line[line.index("-j") + 1] if "-j" in line else ""
        what = (ids or "all") if name == "squeue" else name
        self.asked.append((asyncio.get_running_loop().time(), what))
        if name == "scontrol":
            kind = "none" if self.accounts is None else "slurmdbd"
            return Answer((f"AccountingStorageType   = accounting_storage/{kind}",), (), 0)
        if name == "sacct":
            if self.are_accounts_away:
                return Answer((), ("Connection refused",), 1)
            told = self.accounts or {}
            rows = [f"{each}|{told[each]}|swm-{each}.1" for each in ids.split(",") if each in told]
            return Answer(tuple(rows), (), 0)
        if self.is_away:
            return Answer((), ("Unable to contact slurm controller (connect failure)",), 1)
        if ids and ids not in self.jobs:
            return Answer((), ("slurm_load_jobs error: Invalid job id specified",), 1)
        out = self.dropped if ids else self.dropped | self.hidden
        shown = [each for each in self.jobs if each not in out and ids in {"", each}]
        rows = [f"{each}|{self.jobs[each]}|swm-{each}.1||None" for each in shown]
        return Answer((f"last_update_time=1 records={len(self.jobs)}", *rows), (), 0)

    @property
    def times(self) -> list[float]:
        """When squeue was called."""
        return [at for at, what in self.asked if what == "all" or what.isdecimal()]

    @property
    def gaps(self) -> list[float]:
        """How far apart its calls were."""
        return [after - before for before, after in itertools.pairwise(self.times)]

    @property
    def counts(self) -> Counter[str]:
        return Counter(what for _, what in self.asked)


@contextlib.asynccontextmanager
async def _followed(slurm: _Slurm, pace: Pace | None = None) -> AsyncIterator[Queue]:
    queue = Queue(slurm, pace or Pace(), SLOWEST_S, lambda: None, lambda: True)
    task = asyncio.create_task(queue.follow())
    try:
        yield queue
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _sought(number: int) -> Sought:
    return Sought(str(number), f"swm-{number}.1", f"uid/p/i/{number}.1")


def test_the_queue_is_asked_ever_less_often_until_something_changes(in_time: InTime) -> None:
    async def check() -> None:
        slurm = _Slurm()
        slurm.jobs["7"] = "PENDING"
        async with _followed(slurm) as queue:
            await asyncio.sleep(600)
            slower = slurm.gaps
            assert slower[0] == pytest.approx(1)
            assert all(after >= before - 1e-6 for before, after in itertools.pairwise(slower))
            assert slower[-2:] == pytest.approx([SLOWEST_S] * 2)

            slurm.jobs["7"] = "RUNNING"
            await asyncio.sleep(90)
            assert slurm.gaps[len(slower) : len(slower) + 3] == pytest.approx([SLOWEST_S, 1, 1.5])

            await asyncio.sleep(300)
            before = len(slurm.times)
            queue.poke()
            await asyncio.sleep(1)
            assert len(slurm.times) == before + 1

    in_time(check())


def test_of_many_accounts_five_are_asked_in_a_second(in_time: InTime) -> None:
    async def check() -> None:
        slurms, common = [_Slurm() for _ in range(20)], Pace()
        async with contextlib.AsyncExitStack() as stack:
            queues = [await stack.enter_async_context(_followed(each, common)) for each in slurms]
            for _ in range(400):
                for queue in queues:
                    queue.poke()
                await asyncio.sleep(0.1)
        times = sorted(at for each in slurms for at in each.times)
        assert all(b - a > 0.999 for a, b in zip(times, times[5:], strict=False))
        for each in slurms:
            assert len(each.times) > 5
            assert min(each.gaps) > 0.999

    in_time(check())


def test_what_the_controller_has_forgotten_costs_nothing_for_each_job(in_time: InTime) -> None:
    async def check() -> None:
        lost = [_sought(number) for number in range(1, MANY + 1)]
        slurm = _Slurm(accounts={"1": "NODE_FAIL", "2": "RUNNING"})
        slurm.jobs = {each.slurm_id: "RUNNING" for each in lost} | {"9999": "PENDING"}
        async with _followed(slurm) as queue:
            await queue.fresh()
            assert queue.missing(lost[0]) == Row("1", "RUNNING", "swm-1.1", "", "None")
            slurm.jobs = {"9999": "PENDING"}
            await asyncio.sleep(0.1)
            await queue.fresh()
            # One word without them is not enough.
            assert {queue.missing(each) for each in lost} == {None}
            await asyncio.sleep(10)
            assert queue.missing(lost[0]) == Row("1", "NODE_FAIL", "swm-1.1")
            assert {queue.missing(each) for each in lost[1:]} == {Missing.UNKNOWN}
            await asyncio.sleep(300)
        assert set(slurm.counts) == {"all", "scontrol", "sacct"}
        assert slurm.counts["sacct"] == 2

    in_time(check())


def test_rows_that_are_dropped_say_nothing_and_cost_one_question_with_each(in_time: InTime) -> None:
    async def check() -> None:
        jobs = [_sought(number) for number in range(1, 31)]
        slurm = _Slurm()
        slurm.jobs = {each.slurm_id: "RUNNING" for each in jobs}
        slurm.dropped = set(slurm.jobs)
        async with _followed(slurm) as queue:
            for _ in range(300):
                await asyncio.sleep(1)
                assert {queue.missing(each) for each in jobs} == {None}
            with pytest.raises(Refusal, match="nobody says"):
                await queue.found_out(jobs[0])
        counts = slurm.counts
        assert 0 < sum(counts[each.slurm_id] for each in jobs) <= counts["all"] < 100
        assert min(slurm.gaps) > 0.999

    in_time(check())


def test_that_slurm_knows_a_job_by_its_id_holds_for_a_while(in_time: InTime) -> None:
    async def check() -> None:
        jobs = [_sought(number) for number in range(1, 4)]
        slurm = _Slurm()
        slurm.jobs = {each.slurm_id: "PENDING" for each in jobs}
        slurm.hidden = set(slurm.jobs)
        async with _followed(slurm) as queue:
            assert await queue.found_out(jobs[0]) == Row("1", "PENDING", "swm-1.1", "", "None")
            for _ in range(30):
                await asyncio.sleep(1)
                for each in jobs:
                    queue.missing(each)
            assert [slurm.counts[each.slurm_id] for each in jobs] == [1, 1, 1]
            del slurm.jobs["1"]
            for _ in range(120):
                await asyncio.sleep(1)
                for each in jobs:
                    queue.missing(each)
            first, *rest = [queue.missing(each) for each in jobs]
            assert first is Missing.UNKNOWN
            assert [row.state for row in rest if isinstance(row, Row)] == ["PENDING"] * 2

    in_time(check())


def test_who_does_not_answer_has_said_nothing(in_time: InTime) -> None:
    async def check() -> None:
        job = _sought(1)
        slurm = _Slurm(accounts={"1": "TIMEOUT"})
        async with _followed(slurm) as queue:
            await queue.fresh()
            slurm.is_away = slurm.are_accounts_away = True
            for _ in range(60):
                await asyncio.sleep(1)
                assert queue.missing(job) is None
            assert not queue.waits_for_accounts(job)
            slurm.is_away = False
            for _ in range(60):
                await asyncio.sleep(1)
                assert queue.missing(job) is None
            assert queue.waits_for_accounts(job)
            assert 1 < slurm.counts["sacct"] <= 7
            slurm.are_accounts_away = False
            assert await queue.found_out(job) == Row("1", "TIMEOUT", "swm-1.1")

    in_time(check())


@pytest.mark.parametrize(
    ("row", "is_of", "may_be"),
    [
        (Row("7", "RUNNING", "swm-j.2", ""), True, True),
        (Row("7", "RUNNING", "swm-j.2", "the site's"), True, True),
        (Row("7", "RUNNING", "renamed", "uid/p/i/j.2"), True, True),
        (Row("7", "RUNNING", "renamed", ""), False, True),
        # The controller has lost its state, and gives ids again.
        (Row("7", "RUNNING", "swm-other.1", "uid/p/i/other.1"), False, False),
        (Row("8", "RUNNING", "swm-j.2", ""), False, False),
    ],
)
def test_a_row_is_of_a_job_whatever_was_done_to_it(row: Row, is_of: bool, may_be: bool) -> None:
    sought = Sought("7", "swm-j.2", "uid/p/i/j.2")
    assert (sought.is_of(row), sought.may_be(row)) == (is_of, may_be)
