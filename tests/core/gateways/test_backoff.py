"""The waits between tries: from short to long, spread, and short again after a success."""

from __future__ import annotations

from swm_core.gateways.backoff import Backoff


def test_waits_double_up_to_a_limit_within_their_jitter() -> None:
    backoff = Backoff(first_s=1.0, most_s=10.0)
    for middle in (1.0, 2.0, 4.0, 8.0, 10.0, 10.0):
        assert 0.75 * middle <= backoff.next() <= 1.25 * middle


def test_many_do_not_ask_at_once() -> None:
    waits = [Backoff(first_s=1.0).next() for _ in range(200)]
    assert max(waits) - min(waits) > 0.25


def test_what_the_other_side_asks_for_is_waited_at_least() -> None:
    backoff = Backoff(first_s=1.0, most_s=10.0)
    assert backoff.next(at_least_s=7.0) == 7.0
    assert backoff.next(at_least_s=0.1) >= 1.5


def test_a_success_begins_anew() -> None:
    backoff = Backoff(first_s=1.0, most_s=10.0)
    for _ in range(5):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 1.25
