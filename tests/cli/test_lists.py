from __future__ import annotations

import json

import pytest

from tests.cli.terminal import Swm


@pytest.mark.parametrize(
    ("command", "title", "values"),
    [
        (
            "sites",
            "SITE",
            ["here", "READY", "storage data", "there", "BROKEN", "its key is refused"],
        ),
        ("flavors", "FLAVOR", ["big", "64", "256G", "4 A100", "1.75 USD/h"]),
        ("images", "IMAGE", ["debian", "node", "Debian 12"]),
        ("partitions", "PARTITION", ["here-all", "static", "READY"]),
        ("nodes", "NODE", ["n1", "UP", "2/8", "0/16G"]),
        ("usage", "MONTH", ["2h2m", "12.34 EUR"]),
    ],
)
def test_a_list_has_its_titles_and_values(
    swm: Swm, command: str, title: str, values: list[str]
) -> None:
    out = swm.ok(command)
    assert out.startswith(title)
    for value in values:
        assert value in out
    assert "\x08" not in out, "what sites say does not move a cursor"


@pytest.mark.parametrize(
    ("command", "field"),
    [
        ("sites", "name"),
        ("flavors", "memory_bytes"),
        ("images", "description"),
        ("partitions", "partition_id"),
        ("nodes", "allocated_cpus"),
        ("usage", "run_time"),
        ("whoami", "certificate_expire_time"),
        ("status", "api_versions"),
    ],
)
def test_every_list_has_json(swm: Swm, command: str, field: str) -> None:
    for line in swm.ok(command, "--json").splitlines():
        assert field in json.loads(line)


def test_sites_that_were_not_told_of_are_named(swm: Swm) -> None:
    result = swm("flavors")
    assert result.err == "swm: not told by there: what is theirs may be missing; see `swm sites`\n"


@pytest.mark.parametrize("by", ["job", "user", "site", "month"])
def test_usage_has_rows_of_each_kind(swm: Swm, by: str) -> None:
    assert swm.ok("usage", "--by", by, "--from", "2026-01-01").startswith(by.upper())


def test_whoami_tells_user_and_limits(swm: Swm) -> None:
    out = swm.ok("whoami")
    assert "ann, an administrator" in out
    assert "active_jobs   1 of 10" in out


def test_status_tells_core_jobs_and_sites(swm: Swm) -> None:
    out = swm.ok("status")
    assert out.startswith("core    up at 127.0.0.1:")
    assert "there  BROKEN" in out


def test_usage_may_be_asked_for_to_the_last_day_there_is(swm: Swm) -> None:
    assert "12.34 EUR" in swm.ok("usage", "--from", "2026-11-01", "--to", "9999-12-31")
