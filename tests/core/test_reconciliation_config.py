"""What `[reconciliation]` may say."""

from __future__ import annotations

import pytest

from rpc_kit import config_file
from swm_core.config import Config

HEAD = 'listen = "127.0.0.1:7717"\n[reconciliation]\n'


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('every = "0s"', 'reconciliation.every: "0s" is out of range'),
        ("every = 0", "reconciliation.every"),
        ('every = "2d"', '"2d" is out of range; write one from "1s" to "1d"'),
        ('grace = "400d"', '"400d" is out of range'),
        ('grace = "soon"', '"soon" is not a duration'),
        ("grace = -1", "reconciliation.grace"),
    ],
)
def test_a_time_out_of_range_is_a_mistake(line: str, says: str) -> None:
    with pytest.raises(config_file.ConfigError) as raised:
        config_file.parse(f"{HEAD}{line}\n", Config, "swm.toml")
    assert says in str(raised.value)
    assert str(raised.value).startswith("swm.toml:3: ")


def test_sites_are_compared_every_few_minutes_and_orphans_left_for_an_hour() -> None:
    found = config_file.parse(HEAD, Config, "swm.toml").reconciliation
    assert (found.every, found.grace) == (300, 3_600)
    chosen = config_file.parse(f'{HEAD}every = "1s"\ngrace = 0\n', Config, "swm.toml")
    assert (chosen.reconciliation.every, chosen.reconciliation.grace) == (1, 0)
