"""An open store on a fresh file, and jobs to put into it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from swm_core.domain.job import Job, JobSpec
from swm_core.domain.states import JobState
from swm_core.store import Store

MakeJob = Callable[..., Job]


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    return tmp_path / "swm.db"


@pytest_asyncio.fixture
async def store(store_path: Path) -> AsyncIterator[Store]:
    opened = Store.open(store_path)
    yield opened
    await opened.close()


@pytest.fixture
def make_job() -> MakeJob:
    numbers = itertools.count(1)

    def make(**fields: Any) -> Job:
        number = next(numbers)
        values: dict[str, Any] = {
            "job_id": f"job-{number}",
            "owner": "alice",
            "spec": JobSpec(name=f"name {number}"),
            "manifest_sha256": "",
            "state": JobState.QUEUED,
            "submit_time": 1000.0 + number,
            "state_time": 1000.0 + number,
        }
        return Job(**(values | fields))

    return make
