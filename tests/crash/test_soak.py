"""The soak in short: what `make soak` does, with few kills."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.crash.soak import soak
from tests.crash.world import running_world

KILLS = 100
SEED = 1


@pytest.mark.timeout(1_800)
def test_nothing_is_lost_or_doubled_or_left_whatever_is_killed(
    tmp_path_factory: pytest.TempPathFactory, record_property: Callable[[str, object], None]
) -> None:
    with running_world(tmp_path_factory.mktemp("soak")) as world:
        found = soak(world, KILLS, SEED, print)
    record_property("told", str(found))
    assert found.is_clean, str(found)
    assert found.kills == KILLS
