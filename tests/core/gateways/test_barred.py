"""Where nothing new is placed, and until when."""

from __future__ import annotations

import pytest

from skyport.gate.v1 import types_pb2
from swm_core.gateways.barred import BarredNodes


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def barred(clock: Clock) -> BarredNodes:
    return BarredNodes(clock)


def ref(*nodes: str, owner: str = "ann", partition: str = "hosts") -> types_pb2.JobRef:
    return types_pb2.JobRef(partition_id=partition, owner=owner, nodes=nodes)


def told(barred: BarredNodes) -> list[tuple[str, str, str]]:
    return [(bar.partition_id, bar.node, bar.why) for bar in barred.now()]


def test_a_root_is_its_owner_s_and_a_machine_is_everybody_s(barred: BarredNodes) -> None:
    barred.bar(ref("n1"), "n1", "another root", everyone=False)
    (root,) = barred.now()
    assert [root.keeps_out(owner) for owner in ("ann", "bo")] == [True, False]
    barred.bar(ref("n1"), "n1", "another key", everyone=True)
    (key,) = barred.now()
    assert [key.keeps_out(owner) for owner in ("ann", "bo")] == [True, True]


@pytest.mark.parametrize(
    ("nodes", "named", "meant"),
    [
        (["n1", "n2"], "n2", "n2"),
        (["n1"], "", ""),
        # The site's queue chooses; what is named is where the gate has asked it.
        ([], "login", ""),
    ],
)
def test_what_is_named_is_meant_if_the_core_chooses_it(
    barred: BarredNodes, nodes: list[str], named: str, meant: str
) -> None:
    barred.bar(ref(*nodes), named, "another root", everyone=False)
    assert told(barred) == [("hosts", meant, "another root")]


@pytest.mark.parametrize(
    ("through", "opens"),
    [
        (ref("n1"), True),
        (ref("n2"), False),
        (ref("n1", owner="bo"), False),
        (ref("n1", partition="others"), False),
        # Which of them was asked is not known.
        (ref("n1", "n2"), False),
    ],
)
def test_what_goes_through_there_opens_it(
    barred: BarredNodes, through: types_pb2.JobRef, opens: bool
) -> None:
    barred.bar(ref("n1", "n2"), "n1", "another root", everyone=False)
    assert barred.lift(through) is opens
    assert (not barred.now()) is opens


def test_a_shared_root_is_opened_by_any_attempt_of_its_owner(barred: BarredNodes) -> None:
    barred.bar(ref("n1"), "", "another root", everyone=False)
    assert not barred.lift(ref("n2", owner="bo"))
    assert barred.lift(ref("n2", "n3"))
    assert not barred.now()


def test_it_is_forgotten_two_minutes_after_it_was_last_said(
    barred: BarredNodes, clock: Clock
) -> None:
    for _ in range(3):
        barred.bar(ref("n1"), "n1", "another root", everyone=False)
        clock.now += 105  # as late as an attempt that waits asks again
        assert told(barred)
    clock.now += 15
    assert not barred.now()
    # Nor does a clock that was set back keep it for long.
    barred.bar(ref("n1"), "n1", "another root", everyone=False)
    clock.now -= 10
    assert not barred.now()


def test_a_node_that_is_told_anew_is_asked_anew(barred: BarredNodes) -> None:
    for node in ("n1", "n2"):
        for owner in ("ann", "bo"):
            barred.bar(ref(node, owner=owner), node, "another root", everyone=False)
    barred.clear_node("hosts", "n1")
    assert {bar.node for bar in barred.now()} == {"n2"}
    barred.clear()
    assert not barred.now()
