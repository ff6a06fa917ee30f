"""A site that lies harms its own jobs and nobody else: no core, no spool, no terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rpc_kit.bundle import Bundle
from skyport.terminal.v1 import catalog_pb2, file_pb2, job_pb2
from tests.cli.terminal import Swm
from tests.security.hostile_gate import DATA
from tests.system.harness.core import Core, running_sites
from tests.system.harness.files import File, Link
from tests.system.harness.jobs import CANCELLED, FAILED, RUNNING, STAGING_OUT, SUCCEEDED, JobHandle
from tests.system.harness.sites import Site, node, static
from tests.system.harness.waiting import eventually

OUTSIDE = [Path("/tmp/swm-owned"), Path("/tmp/up"), Path("/up")]
"""Must not be made."""
LOG_MIB = 1


class HostileSite(Site):
    """A site whose gate is hostile_gate.py."""

    @property
    def command(self) -> list[str]:
        program = str(Path(__file__).with_name("hostile_gate.py"))
        return [sys.executable, program, "--config", str(self.folder / "gate.toml")]

    def faults(self, *faults: Any) -> None:
        """All is faulty already."""

    def holds(self) -> list[str]:
        return []


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    folder = tmp_path_factory.mktemp("hostile")
    sites = [
        HostileSite.make("evil", folder / "evil", {}),
        Site.make("good", folder / "good", static(node("n1"))),
    ]
    limits = {"log_bytes_per_job": f"{LOG_MIB}M"}
    with running_sites(folder, sites, limits=limits) as core:
        yield core


@pytest.fixture(autouse=True)
def _nothing_outside(core: Core) -> Iterator[None]:
    """Nothing appears outside the core's own folders, and the core and its other site go on."""
    before, logged = _tree(core.home.path.parent), len(core.log())
    pid = core.pid
    yield
    assert not [path for path in OUTSIDE if path.exists() or path.is_symlink()]
    made = {path.split("/")[0] for path in _tree(core.home.path.parent) - before}
    assert made <= {"home", "good", "evil"}
    links = [path for path in core.home.path.rglob("*") if path.is_symlink()]
    assert not links, "the core makes no links"
    assert core.pid == pid
    assert core.is_running
    core.user("cy").jobs.ListJobs(job_pb2.ListJobsRequest(), timeout=30)
    # What nobody foresaw ends in a try that is made again and again.
    assert "stumbled" not in core.log()[logged:], core.log()[logged:][-3_000:]


def _tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.glob("*")}


def submitted(core: Core, trick: str, *lines: str, **fields: Any) -> JobHandle:
    text = "\n".join([f"#SWM env TRICK={trick}", "#SWM output *", *lines, "true"])
    return core.user().submit(text, site="evil", **fields)


# What it says that a job has left.


@pytest.mark.parametrize(
    ("trick", "taken"),
    [
        ("paths", {"good"}),
        ("links", {"in", "good"}),
        ("below", {"f", "good"}),
        ("twice", {"good", "Good", "GOOD"}),
        ("kinds", {"good"}),
        ("less", {"short", "good"}),  # the size at its end counts
        ("huge-size", {"good"}),
        ("cut", {"good"}),
        ("digest", {"good"}),
        ("modes", {"good"}),
        ("unknown-field", {"good"}),
    ],
)
def test_what_leads_elsewhere_or_is_not_as_told_is_left_out_and_named(
    core: Core, trick: str, taken: set[str]
) -> None:
    job = submitted(core, trick)
    job.until(SUCCEEDED)
    found = job.outputs()
    assert set(found) == taken
    assert found["good"] == File(DATA, 0o777 if trick == "modes" else 0o644)
    assert found.get("in", Link("good")) == Link("good")


@pytest.mark.parametrize("trick", ["gap", "index", "more", "again", "endless", "no-end"])
def test_what_can_not_be_ends_the_job_and_says_so(core: Core, trick: str) -> None:
    used = _used_bytes(core)
    job = submitted(core, trick)
    ended = job.end(within_s=60)
    if trick == "no-end":
        # A file that did not come whole is left out.
        assert ended.state == SUCCEEDED
        assert not job.outputs()
    else:
        assert (ended.state, ended.failure.reason) == (FAILED, "STAGING_FAILED")
        assert "evil" in ended.failure.message
    assert _used_bytes(core) - used < 1 << 20, "what came is dropped"


def test_what_can_not_be_read_says_nothing_and_is_asked_for_again(core: Core) -> None:
    job = submitted(core, "not-utf8")
    job.until_text("can't be read")
    assert job.get().state == STAGING_OUT
    job.cancel(force=True)
    job.until(CANCELLED)


def _used_bytes(core: Core) -> int:
    return sum(path.stat().st_size for path in core.home.spool.rglob("*") if path.is_file())


def test_remarks_are_bounded_and_can_be_shown(core: Core) -> None:
    job = submitted(core, "remarks")
    job.until(SUCCEEDED)
    told = core.user().files.ListOutputs(file_pb2.ListOutputsRequest(job_id=job.job_id), timeout=20)
    assert 0 < len(told.skipped) <= 100
    assert all(each.path.isprintable() and each.reason.isprintable() for each in told.skipped)
    assert list(told.unmatched_patterns) == ["*"], "only what was asked for"


# What it says that a job writes.


@pytest.mark.parametrize("trick", ["holes", "far", "back", "strangers"])
def test_output_that_can_not_be_costs_no_more_than_its_share(core: Core, trick: str) -> None:
    job = submitted(core, trick)
    job.until(SUCCEEDED, within_s=60)
    job.output()
    folder = next(core.home.spool.glob(f"u-*/jobs/{job.job_id}"))
    assert sum(1 for _ in folder.rglob("*")) < 5_000
    assert _used_bytes(core) < 20 << 20


# What it says of a job.


def test_nodes_that_can_be_none_are_left_out(core: Core) -> None:
    job = submitted(core, "nodes", "#SWM partition batch")
    job.until(SUCCEEDED)
    assert [each.name for each in job.get().nodes] == ["ok"]
    assert not job.get().nodes[0].ports


def test_times_that_no_calendar_has_can_be_shown(core: Core, swm: Swm) -> None:
    job = submitted(core, "times")
    job.until(SUCCEEDED)
    assert job.job_id[:6] in swm.ok("jobs", "--all")
    assert job.job_id in swm.ok("show", job.job_id)


def test_its_words_are_one_line_that_moves_no_cursor(core: Core, swm: Swm) -> None:
    job = submitted(core, "words")
    ended = job.until(FAILED)
    told = [ended.text, ended.failure.message, *(event.message for event in job.seen)]
    request = catalog_pb2.ListSitesRequest()
    (site,) = (
        s for s in core.admin.catalog.ListSites(request, timeout=20).sites if s.name == "evil"
    )
    told.append(site.message)
    assert all(text.isprintable() and len(text) <= 1_000 for text in told), told
    for shown in (swm.ok("show", job.job_id), swm.ok("sites"), swm.ok("nodes"), core.log()):
        assert "\x1b" not in shown
        assert "\x07" not in shown
        assert "\nline two" not in shown


def test_roots_without_end_are_not_all_kept(core: Core) -> None:
    submitted(core, "roots").until(SUCCEEDED)
    assert core.home.database.stat().st_size < 8 << 20


# What it asks for.


@pytest.mark.parametrize("name", ["stranger", "far", "many", "path"])
def test_it_gets_only_inputs_of_the_job(core: Core, name: str) -> None:
    other = core.user("cy")
    other.submit("true", inputs={"secret.txt": b"a stranger's content"}, site="good").until(
        SUCCEEDED
    )
    job = submitted(core, "", f"#SWM workdir /tmp/{name}", inputs={"in.txt": b"in"})
    ended = job.until(FAILED)
    assert ended.failure.reason == "STAGING_FAILED"
    assert "must not" in ended.failure.message


# What a terminal fetches.


@pytest.fixture(scope="module")
def swm(core: Core, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swm]:
    """The command of the user whose jobs these are."""
    folder = tmp_path_factory.mktemp("swm")
    keys = core.user().keys
    bundle = Bundle(
        str(core.endpoint),
        core.installation,
        "bo",
        *(pem.decode() for pem in (keys.ca_pem, keys.cert_pem, keys.key_pem)),
    )
    file = folder / "client.toml"
    file.write_text(bundle.to_toml())
    file.chmod(0o600)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "SWM_HOME": str(folder)}
    made = Swm(environment, folder)
    yield made
    made.close()


@pytest.mark.parametrize("trick", ["paths", "links", "below"])
def test_a_running_job_s_files_land_in_the_folder_alone(
    core: Core, swm: Swm, tmp_path: Path, trick: str
) -> None:
    job = submitted(core, f"live-{trick}")
    job.until(RUNNING)
    into = tmp_path / "into"
    swm("fetch", job.job_id, "-d", str(into))
    # Its output never ends: only who gives up on the site need not wait for it.
    job.cancel(force=True)
    job.until(CANCELLED)
    if trick != "below":  # which no folder can hold: it is refused as a whole
        assert (into / "good").read_bytes() == DATA
    for path in into.rglob("*"):
        assert path.resolve().is_relative_to(into.resolve())
    assert {path.name for path in tmp_path.iterdir()} == {"into"}


def test_links_that_lie_in_the_folder_are_not_written_through(
    core: Core, swm: Swm, tmp_path: Path
) -> None:
    job = submitted(core, "below")
    job.until(SUCCEEDED)
    into, victim = tmp_path / "into", tmp_path / "victim"
    victim.mkdir()
    into.mkdir()
    (victim / "keep").write_text("mine")
    (into / "good").symlink_to(victim / "keep")
    (into / "stdout.log").symlink_to(victim / "log")
    (into / f".good.{'0' * 16}.part").symlink_to(victim / "part")
    (into / "f").symlink_to(victim)
    swm("fetch", job.job_id, "-d", str(into))
    assert (victim / "keep").read_text() == "mine"
    assert [path.name for path in victim.iterdir()] == ["keep"]


def test_a_folder_that_is_a_link_is_not_entered(core: Core, swm: Swm, tmp_path: Path) -> None:
    job = core.user().submit("#SWM output d\nmkdir d; echo x >d/x", site="good")
    job.until(SUCCEEDED)
    into, victim = tmp_path / "into", tmp_path / "victim"
    victim.mkdir()
    into.mkdir()
    (into / "d").symlink_to(victim)
    result = swm("fetch", job.job_id, "-d", str(into))
    assert result.code == 1
    assert "link" in result.err
    assert not list(victim.iterdir())


def test_the_core_stays_small(core: Core) -> None:
    """After all of it: what was sent without end has not been held."""
    status = Path(f"/proc/{core.pid}/status").read_text()
    (peak,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 1_500_000, peak


def test_watches_and_lists_go_on(core: Core) -> None:
    assert eventually(
        lambda: core.gate("evil").state == catalog_pb2.SITE_STATE_READY, "evil serves"
    )
    request = job_pb2.ListJobsRequest(page_size=1_000)
    assert core.user().jobs.ListJobs(request, timeout=20).jobs
    core.user("cy").submit("true", site="good").until(SUCCEEDED, within_s=60)
