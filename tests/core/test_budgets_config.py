"""What `swm.toml` may say of money, and of partitions that the core makes."""

from __future__ import annotations

from decimal import Decimal

import pytest

from rpc_kit import config_file
from swm_core.config import Config
from swm_core.domain.money import Money

HEAD = 'listen = "127.0.0.1:7717"\n'
SITE = '[sites.cloud]\ncommand = ["x"]\n'


def test_budgets_are_of_users_and_sites() -> None:
    text = (
        f'{HEAD}[budgets]\nper_user = "100 EUR"\ndefault_time = "8h"\n[budgets.users]\n'
        f'ann = "250 EUR"\n{SITE}monthly_budget = "999.50"\nidle_time = "10m"\nmax_partitions = 4\n'
    )
    config = config_file.parse(text, Config, "swm.toml")
    assert config.budgets.per_user == Money(Decimal(100), "EUR")
    assert config.budgets.users == {"ann": Money(Decimal(250), "EUR")}
    assert config.budgets.default_time == 8 * 3600
    site = config.sites["cloud"]
    assert site.monthly_budget == Money(Decimal("999.50"), "USD")
    assert (site.idle_time, site.max_partitions) == (600, 4)


def test_nothing_said_means_no_budget_a_day_and_nothing_kept() -> None:
    config = config_file.parse(f"{HEAD}{SITE}", Config, "swm.toml")
    assert (config.budgets.per_user, config.budgets.users) == (None, {})
    assert config.budgets.default_time == 86_400
    site = config.sites["cloud"]
    assert (site.monthly_budget, site.idle_time, site.max_partitions) == (None, 0, 0)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('monthly_budget = "much"', r'monthly_budget: "much" is not an amount'),
        ("monthly_budget = 5", r"monthly_budget: 5 is not text"),
        ("max_partitions = -1", r"max_partitions: -1 is less than nothing"),
        ('idle_time = "400d"', r'idle_time: "400d" is out of range'),
    ],
)
def test_a_mistake_is_told_with_its_line(line: str, says: str) -> None:
    with pytest.raises(config_file.ConfigError, match=rf"swm\.toml:4: sites\.cloud\.{says}"):
        config_file.parse(f"{HEAD}{SITE}{line}\n", Config, "swm.toml")
