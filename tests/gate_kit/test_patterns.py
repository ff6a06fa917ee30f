"""Which paths an output pattern matches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate_kit import Refusal
from gate_kit.patterns import Matcher, compile_pattern


def _matches(pattern: str, path: str) -> bool:
    matcher = Matcher([compile_pattern(pattern)])
    for name in path.split("/"):
        if matcher.hopeless:
            return False
        matcher = matcher.enter(name)
    return bool(matcher.matched)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", "a/b", False),
        ("./a", "a", True),
        ("a/", "a", True),
        ("*", "a", True),
        ("*", ".a", False),
        (".*", ".a", True),
        ("?", "ü", True),
        ("?", ".", False),
        ("a*c", "abbc", True),
        ("a*c", "ab/c", False),
        ("*.p*g", "x.png", True),
        ("[abc]", "b", True),
        ("[a-c]", "d", False),
        ("[!a-c]", "d", True),
        ("[!a]", ".", False),
        ("[]]", "]", True),
        ("[^a]", "^", True),
        ("[*]", "*", True),
        ("[*]", "a", False),
        ("[", "[", True),
        ("a[", "a[", True),
        ("a\\b", "a\\b", True),
        ("a.b", "axb", False),
        ("**/x", "x", True),
        ("**/x", "a/b/x", True),
        ("**/x", ".a/x", False),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/c/d/b", True),
        ("a/**", "a", True),
        ("**/**/x", "x", True),
        ("***", "ab", True),
    ],
)
def test_patterns(pattern: str, path: str, *, expected: bool) -> None:
    assert _matches(pattern, path) == expected


def test_dot_is_everything() -> None:
    assert Matcher([compile_pattern(".")]).matched == {0}


@pytest.mark.parametrize("pattern", ["/a", "../a", "a/../b", "a//b", "a\0", "", "[z-a]", "/"])
def test_what_cannot_lie_in_a_work_folder_is_refused(pattern: str) -> None:
    with pytest.raises(Refusal) as found:
        compile_pattern(pattern)
    assert found.value.reason == "PATH_INVALID"


def test_several_patterns_are_told_apart() -> None:
    matcher = Matcher([compile_pattern("a*"), compile_pattern("b"), compile_pattern("?b")])
    assert matcher.enter("ab").matched == {0, 2}


def test_plain_names_have_no_wildcards() -> None:
    plain = [compile_pattern(text).is_plain for text in ("a/b", "a*", "a?", "[a]", "**")]
    assert plain == [True, False, False, False, False]


@given(st.text("ab*?[]!-./", max_size=30), st.text("ab./", min_size=1, max_size=30))
def test_no_pattern_breaks_the_matcher(pattern: str, path: str) -> None:
    try:
        compile_pattern(pattern)
    except Refusal:
        return
    _matches(pattern, path)


def test_many_wildcards_do_not_take_for_ever() -> None:
    assert not _matches("*a" * 30, "b" * 200)
