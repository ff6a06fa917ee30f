from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc_kit.units import (
    MAX_BYTES,
    MAX_SECONDS,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("512", 512),
        ("1K", 1024),
        ("100G", 100 << 30),
        ("100g", 100 << 30),
        (" 2T ", 2 << 40),
        ("1.5M", 3 << 19),
        ("0.5K", 512),
        ("1P", 1 << 50),
        (str(MAX_BYTES), MAX_BYTES),
    ],
)
def test_a_size_is_read(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "G",
        "-1",
        "+1",
        "1.5",
        "100X",
        "100GB",
        "1 G",
        "1e3",
        "0x10",
        ".5G",
        "1.G",
        "\uff11G",
        "1G\n2",
        str(MAX_BYTES + 1),
        "9" * 30 + "T",
        "9" * 5000,
    ],
)
def test_what_is_no_size_is_refused_and_told_how_one_looks(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size; write bytes|more than any disk"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("1:30", 90),
        ("90:00", 5_400),
        ("2:00:00", 7_200),
        ("100:00:00", 360_000),
        ("1d2h30m", 95_400),
        ("1D2H", 93_600),
        ("30d", 2_592_000),
        ("45s", 45),
        ("90m", 5_400),
        (" 6h ", 21_600),
    ],
)
def test_a_duration_is_read(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "1.5h",
        "1h1d",
        "1:60",
        "1:5",
        "1:2:03",
        "1:60:00",
        "1:2:3:4",
        "1d 2h",
        "h",
        "1w",
        "½h",
        "\u0661",
        "9" * 4000,
        "9" * 4000 + "d",
        str(MAX_SECONDS + 1),
        "1h1h",
        ":30",
        "1:",
        "d",
    ],
)
def test_what_is_no_duration_is_refused_and_told_how_one_looks(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration; write seconds|a hundred years"):
        parse_duration(text)


@given(st.integers(0, MAX_SECONDS))
def test_a_duration_is_written_as_it_is_read(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


def test_durations_are_written_for_people() -> None:
    assert format_duration(0) == "0s"
    assert format_duration(95_400) == "1d2h30m"
    assert format_duration(-90) == "-1m30s"


@given(st.integers(0, 2**62))
def test_a_size_is_written_short_and_near_what_it_is(size_bytes: int) -> None:
    text = format_size(size_bytes)
    assert len(text) <= 7
    assert parse_size(text) == pytest.approx(size_bytes, rel=0.05)


@given(st.integers(0, 1023), st.sampled_from(["", "K", "M", "G", "T", "P"]))
def test_a_round_size_is_written_as_it_is_read(number: int, suffix: str) -> None:
    assert parse_size(format_size(parse_size(f"{number}{suffix}"))) == parse_size(
        f"{number}{suffix}"
    )


def test_sizes_are_written_for_people() -> None:
    assert [format_size(n) for n in (0, 1023, 1024, 1536, 100 << 30, (1 << 20) - 1, 3 << 50)] == [
        "0",
        "1023",
        "1K",
        "1.5K",
        "100G",
        "1M",
        "3P",
    ]
