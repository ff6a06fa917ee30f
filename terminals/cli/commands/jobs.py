"""`swm jobs`: which jobs there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from terminals.cli.command import Command
from terminals.cli.options import connected, json_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skyport.terminal.v1 import job_pb2
    from terminals.client.connection import Client

_RECENT = 20
_PAGE = 200


@click.command(
    cls=Command,
    examples=[
        "swm jobs",
        "swm jobs --state running,failed",
        "swm jobs --all --json | jq -r .job_id",
    ],
)
@click.option("--all", "all_jobs", is_flag=True, help="Also all that ended long ago.")
@click.option(
    "--state",
    "states",
    multiple=True,
    metavar="STATE",
    help="Only jobs in this state: a name, active, ended, or a letter of Q W T R F C E. "
    "May be repeated, or have commas.",
)
@click.option("--site", default="", help="Only jobs whose latest attempt is at this site.")
@click.option("--owner", default="", help="Only jobs of this user; for administrators.")
@json_option
def jobs(all_jobs: bool, states: tuple[str, ...], site: str, owner: str, as_json: bool) -> None:
    """List jobs, newest first.

    Without options: all that have not ended, and the 20 latest that have.
    """
    from skyport.terminal.v1 import job_pb2
    from terminals.cli.states import chosen
    from terminals.cli.tables import show_json

    wanted = job_pb2.JobFilter(states=chosen(states), site=site, owner=owner)
    with connected() as client:
        if all_jobs or states:
            found = _all(client, wanted)
        else:
            found = iter(_active_and_recent(client, wanted))
        if as_json:
            show_json(found)
        else:
            _show(list(found), client.bundle.user, bool(states or site or owner))


def _all(client: Client, wanted: job_pb2.JobFilter) -> Iterator[job_pb2.Job]:
    from skyport.terminal.v1 import job_pb2

    request = job_pb2.ListJobsRequest(filter=wanted, page_size=_PAGE)
    for page in client.pages(client.jobs.ListJobs, request):
        yield from page.jobs


def _active_and_recent(client: Client, wanted: job_pb2.JobFilter) -> list[job_pb2.Job]:
    """Mostly one page tells it all; otherwise what is older is asked for by itself."""
    from skyport.terminal.v1 import job_pb2
    from terminals.cli.states import ACTIVE, ENDED

    request = job_pb2.ListJobsRequest(filter=wanted, page_size=_PAGE)
    page = client.call(client.jobs.ListJobs, request)
    found = {job.job_id: job for job in page.jobs}
    if page.next_page_token:
        older = job_pb2.JobFilter(states=ACTIVE, site=wanted.site, owner=wanted.owner)
        found.update((job.job_id, job) for job in _all(client, older))
        if sum(job.state in ENDED for job in page.jobs) < _RECENT:
            ended = job_pb2.JobFilter(states=ENDED, site=wanted.site, owner=wanted.owner)
            request = job_pb2.ListJobsRequest(filter=ended, page_size=_RECENT)
            page = client.call(client.jobs.ListJobs, request)
            found.update((job.job_id, job) for job in page.jobs)
    shown = []
    room = _RECENT
    for job in sorted(found.values(), key=lambda each: -each.submit_time.ToNanoseconds()):
        if job.state in ENDED:
            room -= 1
        if job.state not in ENDED or room >= 0:
            shown.append(job)
    return shown


def _show(found: list[job_pb2.Job], user: str, chosen: bool) -> None:
    import time

    from terminals.cli.states import STYLES, detail, state_word
    from terminals.cli.tables import Column, note, show_table
    from terminals.cli.words import NOTHING, cell, short_moment, span

    if not found:
        note("no such jobs" if chosen else "no jobs; submit one with `swm submit FILE`")
        return
    others = any(job.owner != user for job in found)
    columns = [
        Column("JOB"),
        Column("NAME", shrinks=True),
        Column("STATE"),
        Column("SITE", shrinks=True),
        Column("SUBMITTED"),
        Column("TIME", right=True),
        Column("DETAIL", shrinks=True),
    ]
    if others:
        columns.insert(1, Column("OWNER", shrinks=True))
    rows = []
    for job in found:
        end = job.end_time.seconds if job.HasField("end_time") else time.time()
        ran = span(end - job.start_time.seconds) if job.HasField("start_time") else NOTHING
        row = [
            job.job_id,
            cell(job.spec.name),
            state_word(job.state),
            cell(job.site or job.spec.site),
            short_moment(job.submit_time),
            ran,
            cell(job.failure.message or detail(job)),
        ]
        if others:
            row.insert(1, cell(job.owner))
        rows.append(row)
    show_table(columns, rows, styles=STYLES)
