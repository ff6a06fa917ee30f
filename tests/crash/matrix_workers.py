"""Worlds side by side, each in a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import queue
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.queues import Queue
from types import TracebackType
from typing import Any, Self

from tests.crash import ending
from tests.crash.checks import Verdict, Violation
from tests.crash.matrix_cases import Case
from tests.crash.matrix_points import Point
from tests.crash.matrix_run import Outcome, Stage, stage

_AGAIN = 40
"""After so many tasks a world is made anew: what piles up in one is not what is tested."""

_LOOK_S = 5.0
"""How often it is looked whether all worlds are there."""


@dataclasses.dataclass
class Looked:
    """What a scenario reaches at a site when nothing is killed for it."""

    name: str
    points: set[Point]
    problem: str = ""


class Workers:
    """Some worlds that take what there is to do one after the other.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._tasks: Queue[Any] = context.Queue()
        self._results: Queue[Any] = context.Queue()
        self._processes = [
            context.Process(target=_work, args=(self._tasks, self._results)) for _ in range(count)
        ]

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            for _ in self._processes:
                self._tasks.put(None)
        else:
            self._tasks.cancel_join_thread()  # nobody takes what is left
            for process in self._processes:
                process.terminate()
        for process in self._processes:
            process.join()

    def look(self, plays: Sequence[tuple[str, str]]) -> Iterator[Looked]:
        """What these scenarios reach at these sites, in the order in which that is known."""
        yield from self._all(plays)

    def run(self, cases: Sequence[Case]) -> Iterator[Outcome]:
        """The outcomes of cases, in the order in which they are known."""
        yield from self._all(cases)

    def _all(self, tasks: Sequence[Any]) -> Iterator[Any]:
        for task in tasks:
            self._tasks.put(task)
        for _ in tasks:
            yield self._next()

    def _next(self) -> Any:
        while True:
            with contextlib.suppress(queue.Empty):
                return self._results.get(timeout=_LOOK_S)
            for process in self._processes:
                assert process.is_alive(), f"a world has ended by itself: {process.exitcode}"


class _World:
    """A world that is made when it is needed."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._stage: Stage | None = None
        self._used = 0

    def stage(self) -> Stage:
        self._used += 1
        if self._stage is None or self._used > _AGAIN:
            self.close()
            with ending.held():
                self._stage = self._open.enter_context(stage())
        return self._stage

    def close(self) -> None:
        self._stage, self._used = None, 0
        with ending.held():
            self._open.close()


def _work(tasks: Queue[Any], results: Queue[Any]) -> None:
    ending.heed()
    world = _World()
    try:
        while (task := tasks.get()) is not None:
            results.put(_run(world, task) if isinstance(task, Case) else _look(world, *task))
    finally:
        world.close()


def _run(world: _World, case: Case) -> Outcome:
    try:
        outcome = world.stage().run(case)
    except Exception:  # noqa: BLE001 - whatever it is, the other cases go on
        broken = Verdict(0, 0, lost=[Violation("the case broke off", traceback.format_exc())])
        outcome = Outcome(case, broken, [])
    if not outcome.is_clean:
        world.close()  # what it has left would be found in the next cases too
    return outcome


def _look(world: _World, scenario: str, site: str) -> Looked:
    name = f"{scenario} @ {site}"
    try:
        return Looked(name, world.stage().points(scenario, site))
    except Exception:  # noqa: BLE001 - as above
        world.close()
        return Looked(name, set(), traceback.format_exc())
