"""Names of hosts in ranges."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gates.ssh_cluster_gate import ranges


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("node", ["node"]),
        ("node[1-3]", ["node1", "node2", "node3"]),
        ("gpu[01-04,07]", ["gpu01", "gpu02", "gpu03", "gpu04", "gpu07"]),
        ("n[8-11]", ["n8", "n9", "n10", "n11"]),
        ("n[008-010].lab", ["n008.lab", "n009.lab", "n010.lab"]),
        ("r[1-2]-[a,b]", ["r1-a", "r1-b", "r2-a", "r2-b"]),
        ("10.0.0.[1, 2]", ["10.0.0.1", "10.0.0.2"]),
        ("[5]", ["5"]),
    ],
)
def test_a_pattern_stands_for_its_names_in_order(pattern: str, names: list[str]) -> None:
    assert ranges.expand(pattern) == names


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("", "is empty"),
        ("a[1-3", "bracket without its other half"),
        ("a1-3]", "bracket without its other half"),
        ("a[[1]]", "bracket without its other half"),
        ("a[]", 'has "" in its brackets'),
        ("a[1-]", 'has "1-" in its brackets'),
        ("a[x y]", 'has "x y" in its brackets'),
        ("a[3-1]", "the range 3-1, which runs backwards"),
        ("a[1-99999]", "more than 4096 hosts"),
        ("a[1-99][1-99]", "more than 4096 hosts"),
    ],
)
def test_what_is_no_pattern_is_told(pattern: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        ranges.expand(pattern)


@given(st.integers(0, 500), st.integers(0, 20), st.integers(1, 4))
def test_a_range_has_as_many_names_as_numbers_each_once(first: int, more: int, width: int) -> None:
    names = ranges.expand(f"n[{first:0{width}}-{first + more}]")
    assert [int(name[1:]) for name in names] == list(range(first, first + more + 1))


@given(st.text(max_size=30))
def test_any_text_is_a_list_of_names_or_a_mistake(text: str) -> None:
    try:
        names = ranges.expand(text)
    except ValueError:
        return
    assert names
