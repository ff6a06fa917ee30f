"""Readers of what others say refuse what they can't read, and never fail otherwise."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, Target

EXAMPLES = 150


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Bytes of any kind, words in any order, and whole inputs that were damaged."""
    word = st.one_of(st.sampled_from(target.words), st.binary(max_size=12))
    words = st.lists(word, max_size=30).map(b"".join)

    def damaged(parts: tuple[bytes, int, int, bytes]) -> bytes:
        seed, start, length, fresh = parts
        start %= len(seed) + 1
        return seed[:start] + fresh + seed[start + length :]

    cut = st.integers(0, 2_000)
    hurt = st.tuples(st.sampled_from(target.seeds), cut, st.integers(0, 40), word).map(damaged)
    return st.one_of(st.binary(max_size=200), words, words, hurt, hurt)


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_takes_whatever_comes(name: str) -> None:
    target = TARGETS[name]
    profile = settings.default
    few = profile is None or profile.derandomize

    @settings(max_examples=EXAMPLES if few else 200 * EXAMPLES)
    @given(inputs(target))
    def reads(data: bytes) -> None:
        target.run(data)

    for seed in target.seeds:
        reads = example(seed)(reads)
    reads()
