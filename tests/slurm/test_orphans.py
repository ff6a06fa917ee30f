"""Attempts at a Slurm site that the core does not know: told, and ended by the queue's word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import environment
from tests.cli.terminal import Swm
from tests.slurm.harness import LONG_S, SITE, SlurmSite, replaced, site_config
from tests.system.harness.core import Core, running_sites
from tests.system.harness.orphans import JOB, orphans, told, until_text
from tests.system.harness.sites import Site, processes_of
from tests.system.harness.strays import Strays
from tests.system.harness.waiting import eventually
from tests.testbed.slurm import Slurm

SOON = {"every": 1, "grace": 1}
LATER = {"every": 1, "grace": 3600}
PARTITION = "debug"
LATE = {"begin": "now+1hour"}
ELSE = "somebodyelse"
SCANCEL = 'exec /usr/bin/scancel "$@"'
LOST = "0123456789abcdef"
"""A generation of the store that this one does not know."""


@pytest.fixture(scope="module")
def core(cluster: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    folder = tmp_path_factory.mktemp("orphans")
    site = SlurmSite.make(SITE, folder / SITE, site_config(cluster, "~/.orphans"))
    # What the login node calls so.
    site.root.symlink_to(cluster.login.home() / ".orphans")
    with (
        # Before the gate's shell has looked for the other one, where it stays then.
        replaced(cluster, "scancel", SCANCEL),
        running_sites(folder, [site], reconciliation=SOON) as core,
    ):
        yield core


@pytest.fixture
def site(core: Core, slurm: Slurm) -> Iterator[Site]:
    """The site, without jobs before and after a test."""
    yield core.site(SITE)
    leave(core, SOON)
    core.site(SITE).cleared()


@pytest.fixture
def swm(core: Core, tmp_path: Path) -> Swm:
    """The command, for the administrator."""
    return Swm(environment(core.home.path), tmp_path)


def leave(core: Core, reconciliation: dict[str, int]) -> None:
    """Have another core go on, which leaves orphans for another time."""
    if core.settings["reconciliation"] != reconciliation:
        core.configure(reconciliation=reconciliation)
        core.restart()
        core.wait_ready(within_s=LONG_S)


def attempt(core: Core, script: str = "sleep 600", **more: str | dict[str, str]) -> str:
    """An attempt that this core did not ask for."""
    return Strays(core, SITE).attempt(script=script, partition=PARTITION, node="", **more)  # type: ignore[arg-type]


def queued(slurm: Slurm) -> dict[str, str]:
    """The states of jobs that the queue knows, by their names."""
    return dict(line.split() for line in slurm.jobs("%j %T"))


def state(slurm: Slurm, job_id: str) -> str:
    """How the queue has an attempt; empty: not yet."""
    return queued(slurm).get(f"swm-{job_id}.1", "")


def until(slurm: Slurm, job_id: str, wanted: str) -> None:
    eventually(lambda: state(slurm, job_id) == wanted, f"it is {wanted}", within_s=LONG_S)


def is_over(slurm: Slurm, job_id: str) -> bool:
    return state(slurm, job_id) not in {"", "PENDING", "CONFIGURING", "RUNNING", "COMPLETING"}


def is_cleared(site: Site, job_id: str) -> None:
    eventually(
        lambda: f"{job_id}.1" not in site.attempts(), "its folder is removed", within_s=LONG_S
    )
    assert not processes_of(job_id)


def test_what_waits_runs_or_has_ended_is_told_at_once_and_removed_after_the_grace_time(
    core: Core, slurm: Slurm, site: Site, swm: Swm
) -> None:
    leave(core, LATER)
    waits, runs, ended = attempt(core, options=LATE), attempt(core), attempt(core, "exit 3")
    until(slurm, runs, "RUNNING")
    eventually(lambda: is_over(slurm, ended), "one has ended", within_s=LONG_S)
    ids = [f"{each}/1" for each in (waits, runs, ended)]
    for orphan in told(core, *ids):
        assert (orphan.site, orphan.kind) == (SITE, JOB)
        assert orphan.delete_time.seconds - orphan.seen_time.seconds == LATER["grace"]
    listed = [line.split()[:3] for line in swm.ok("orphans").splitlines()[1:]]
    assert sorted(listed) == sorted([each, SITE, "job"] for each in ids)
    assert f"site {SITE} has 3 orphans; see `swm orphans`" in swm.ok("status")
    assert (state(slurm, waits), state(slurm, runs)) == ("PENDING", "RUNNING")
    assert processes_of(runs)
    # The next core knows since when, and that it is long enough.
    leave(core, SOON)
    for each in (waits, runs, ended):
        is_cleared(site, each)
    assert state(slurm, waits) == "CANCELLED"
    assert is_over(slurm, runs)
    eventually(lambda: not orphans(core), "nothing is told of any more")
    assert "no orphans" in swm("orphans").err


def test_jobs_of_others_are_neither_told_nor_ended(core: Core, slurm: Slurm, site: Site) -> None:
    other = attempt(core, installation=ELSE)
    wrap = "sbatch --parsable -o /dev/null --wrap 'sleep 600' -J"
    # Of the same account; one has a name such as ours have.
    own = {name: slurm.ask(f"{wrap} {name}").strip() for name in ("mine", "swm-mine.1")}
    until(slurm, other, "RUNNING")
    try:
        # Once these are gone, the site was compared and cleaned.
        strays = Strays(core, SITE).staged(partition=PARTITION, node=""), attempt(core, "true")
        for each in strays:
            is_cleared(site, each)
        assert f"attempt {strays[1]}/1 in" in core.log()
        eventually(lambda: not orphans(core), "nothing else is told of")
        assert other not in core.log()
        names = [f"swm-{other}.1", *own]
        assert {name: queued(slurm)[name] for name in names} == dict.fromkeys(names, "RUNNING")
        assert processes_of(other)
    finally:
        slurm.ask(f"scancel {' '.join(own.values())}")
        Strays(core, SITE).end(other, installation=ELSE, partition=PARTITION, node="")


def test_what_the_queue_does_not_confirm_stays_and_is_asked_for_again(
    core: Core, slurm: Slurm, site: Site
) -> None:
    asked = slurm.login.home() / "asked"
    away = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    # One says nothing, and nothing comes of it.
    slurm.replace("scancel", f'echo "$@" >>~/{asked.name}')
    try:
        job_id = attempt(core, options=LATE)
        until(slurm, job_id, "PENDING")
        eventually(
            lambda: asked.exists() and len(asked.read_text().splitlines()) > 2,
            "it is to be ended",
            within_s=LONG_S,
        )
        assert f"{job_id}.1" in site.attempts()
        with replaced(slurm, "squeue", f"echo '{away}' >&2; exit 1"):
            until_text(core, f"{job_id}/1", "Unable to contact", within_s=LONG_S)
        assert state(slurm, job_id) == "PENDING"
        assert f"{job_id}.1" in site.attempts()
    finally:
        slurm.replace("scancel", SCANCEL)
    is_cleared(site, job_id)
    assert state(slurm, job_id) == "CANCELLED"


def test_what_an_administrator_wants_deleted_goes_at_once(
    core: Core, slurm: Slurm, site: Site, swm: Swm
) -> None:
    leave(core, LATER)
    chosen, kept = attempt(core), attempt(core)
    told(core, f"{chosen}/1", f"{kept}/1")
    until(slurm, kept, "RUNNING")
    said = swm.ok("orphans", "--delete", "--yes", f"{chosen}/1")
    assert said == f"{chosen}/1  to be deleted at site {SITE}\n"
    is_cleared(site, chosen)
    assert state(slurm, kept) == "RUNNING"
    eventually(lambda: list(orphans(core)) == [f"{kept}/1"], "the other is told of still")
    leave(core, SOON)
    is_cleared(site, kept)


def test_what_another_store_generation_made_is_only_told(
    core: Core, slurm: Slurm, site: Site, swm: Swm
) -> None:
    job_id = attempt(core, generation=LOST)
    until(slurm, job_id, "RUNNING")
    (orphan,) = told(core, f"{job_id}/1")
    assert not orphan.HasField("delete_time")
    is_cleared(site, attempt(core, "true"))
    (line,) = swm.ok("orphans").splitlines()[1:]
    assert " never " in line
    assert "backup" in orphan.message
    assert state(slurm, job_id) == "RUNNING"
    assert processes_of(job_id)
    swm.ok("orphans", "--delete", "--yes")
    is_cleared(site, job_id)
    assert is_over(slurm, job_id)
