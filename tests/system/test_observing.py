"""What somebody who looks after a core can see: figures and logs."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.system.harness.core import Core, free_port, running
from tests.system.harness.jobs import RUNNING, SUCCEEDED
from tests.system.harness.sites import static
from tests.system.harness.waiting import eventually


def figures(port: int) -> dict[tuple[str, tuple[str, ...]], float]:
    """What the endpoint tells, by name and the values of the labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_figures_tell_of_jobs_sites_and_the_spool(tmp_path: Path) -> None:
    port = free_port()
    with running(
        tmp_path / "core", {"lab": static()}, metrics={"listen": f"127.0.0.1:{port}"}
    ) as core:
        assert figures(port)["skyport_site_ready", ("lab",)] == 1
        job = core.user().submit("sleep 60")
        job.until(RUNNING)
        seen = figures(port)
        assert seen["skyport_jobs", ("RUNNING",)] == 1
        assert seen["skyport_jobs", ("QUEUED",)] == 0
        assert seen["skyport_journal_sequence", ()] > 0
        core.kill_gate("lab")
        eventually(
            lambda: figures(port)["skyport_gate_restarts", ("lab",)] == 1, "the restart is counted"
        )
        job.cancel()


def test_no_figures_are_served_unless_they_are_asked_for(tmp_path: Path) -> None:
    with running(tmp_path / "core", {"lab": static()}) as core:
        listening = Path(f"/proc/{core.pid}/net/tcp").read_text()
        inodes = {
            target.removeprefix("socket:[").rstrip("]")
            for target in (str(link.readlink()) for link in Path(f"/proc/{core.pid}/fd").iterdir())
            if target.startswith("socket:[")
        }
        ports = {
            int(fields[1].rpartition(":")[2], 16)
            for fields in (line.split() for line in listening.splitlines()[1:])
            if fields[3] == "0A" and fields[9] in inodes
        }
        assert ports <= {core.endpoint.port}


@pytest.fixture
def logged(tmp_path: Path) -> Core:
    """A core that has run one job, with its log as JSON."""
    with running(
        tmp_path / "core", {"lab": static()}, log={"level": "debug", "format": "json"}
    ) as core:
        core.user().submit("true").until(SUCCEEDED)
    return core


def test_a_json_log_has_one_object_a_line_and_names_the_job(logged: Core) -> None:
    records = [json.loads(line) for line in logged.log().splitlines()]
    assert all({"time", "level", "logger", "message"} <= record.keys() for record in records)
    assert any(record.get("job") for record in records)
