"""What is kept of jobs and partitions in memory, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from swm_core.lifecycle.live import LiveJobs, LivePartitions, NotLive


async def test_nothing_is_kept_of_what_has_ended() -> None:
    store: Any = None
    jobs, partitions = LiveJobs(store), LivePartitions(store)
    with pytest.raises(NotLive):
        await jobs.note("j1", "cancel requested")
    with pytest.raises(NotLive):
        await partitions.note("p1", text="idle")
    assert not jobs._locks
    assert not partitions._locks
