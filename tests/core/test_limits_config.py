"""What `[limits]` may say."""

from __future__ import annotations

import pytest

from rpc_kit import config_file
from swm_core.config import Config

HEAD = 'listen = "127.0.0.1:7717"\n[limits]\n'


@pytest.mark.parametrize("name", ["active_jobs_per_user", "streams_per_user"])
def test_a_limit_is_no_negative_number(name: str) -> None:
    with pytest.raises(config_file.ConfigError, match=rf"swm\.toml:3: limits\.{name}: -1 is less"):
        config_file.parse(f"{HEAD}{name} = -1\n", Config, "swm.toml")


def test_nothing_said_means_that_jobs_and_streams_are_limited_and_the_spool_is_shared() -> None:
    limits = config_file.parse(HEAD, Config, "swm.toml").limits
    assert (limits.active_jobs_per_user, limits.streams_per_user) == (10_000, 500)
    assert limits.spool_bytes_per_user == 0
