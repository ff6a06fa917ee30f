"""Which addresses are on an administrator's list: as they are written, and nobody is asked."""

from __future__ import annotations

import pytest

from swm_core.domain.addresses import LOOPBACK_ONLY, Place, allowed


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.2", "localhost", "LOCALHOST.", "::1", "[::1]"]
)
def test_by_itself_loopback_is_allowed(host: str) -> None:
    assert allowed(LOOPBACK_ONLY, host, 5432)
    assert allowed(LOOPBACK_ONLY, host)


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",  # noqa: S104 - only compared
        "::", "10.0.0.1", "169.254.169.254", "127.1", "2130706433", "0x7f.1",
        "0x7f000001", "0177.0.0.1", "::ffff:10.0.0.1", "fe80::1%lo", "localhost.evil.example",
        "127.0.0.1.evil.example", "", "a b", "127.0.0.1/8", "127.0.0.1\n",
        "\u0661\u0662\u0667.0.0.1",
    ],
)  # fmt: skip
def test_what_is_not_loopback_is_not_allowed_however_it_is_written(host: str) -> None:
    assert not allowed(LOOPBACK_ONLY, host, 80)


def test_a_mapped_address_is_what_it_maps() -> None:
    assert allowed([Place.parse("10.0.0.1")], "::ffff:10.0.0.1", 80)
    assert allowed([Place.parse("::ffff:10.0.0.1")], "10.0.0.1", 80)


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("192.0.2.7", ("192.0.2.7", 1), ("192.0.2.8", 1)),
        ("192.0.2.0/24", ("192.0.2.255", 1), ("192.0.3.0", 1)),
        ("192.0.2.7:5432", ("192.0.2.7", 5432), ("192.0.2.7", 5433)),
        ("10.0.0.0/8:22", ("10.9.9.9", 22), ("10.9.9.9", 23)),
        ("db.example", ("DB.example.", 1), ("db.example.org", 1)),
        ("db.example:1", ("db.example", 1), ("db.example", 2)),
        ("2001:db8::/32", ("2001:db8::9", 1), ("2001:db9::9", 1)),
        ("[2001:db8::1]:443", ("2001:0db8:0::1", 443), ("2001:db8::1", 444)),
    ],
)
def test_an_entry_allows_what_it_names(
    entry: str, inside: tuple[str, int], outside: tuple[str, int]
) -> None:
    places = [Place.parse(entry)]
    assert allowed(places, *inside)
    assert not allowed(places, *outside)


def test_one_port_does_not_allow_to_listen_on_any() -> None:
    assert not allowed([Place.parse("192.0.2.7:80")], "192.0.2.7")


def test_a_name_is_not_looked_up() -> None:
    # It may well lead to loopback: who answers for it decides that, each time anew.
    assert not allowed(LOOPBACK_ONLY, "localtest.example", 80)


@pytest.mark.parametrize("entry", ["192.0.2.7", "192.0.2.0/24", "db.example:80", "[::1]:80", "::1"])
def test_an_entry_is_told_as_it_is_written(entry: str) -> None:
    assert str(Place.parse(entry)) == entry


@pytest.mark.parametrize(
    "entry",
    ["", "a b", "192.0.2.7/24", "db.example:0", "db.example:x", "db.example:70000", "*", ":80"],
)
def test_what_is_no_address_is_told(entry: str) -> None:
    with pytest.raises(ValueError, match=r"is not an address|has no port"):
        Place.parse(entry)
