"""`swm show`: all that is known of one job."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from terminals.cli.command import Command
from terminals.cli.options import connected, job_argument, json_option

if TYPE_CHECKING:
    from skyport.terminal.v1 import job_pb2


@click.command(cls=Command, examples=["swm show k3x9", "swm show k3x9 --json | jq .attempts"])
@job_argument
@json_option
def show(job_text: str, as_json: bool) -> None:
    """Show one job: what it asked for, how it went.

    JOB is its id, or the beginning of it.
    """
    from skyport.terminal.v1 import job_pb2
    from terminals.cli.history import history
    from terminals.cli.tables import show_json

    with connected() as client:
        job_id = client.find_job(job_text).job_id
        answer = client.call(client.jobs.GetJob, job_pb2.GetJobRequest(job_id=job_id))
        job = answer.job
        events = [] if as_json else history(client, job_id, answer.watch_token)
    if as_json:
        show_json([job])
        return
    rows = [*_now(job), *_times(job), *_asked(job), *_files(job), *_warnings(job)]
    width = max(len(title) for title, _ in rows)
    for title, text in rows:
        click.echo(f"{title.ljust(width)}  {text}")
    if job.attempts:
        click.echo()
        _show_attempts(job)
    if events:
        click.echo()
        _show_history(events)


Rows = list[tuple[str, str]]


def _now(job: job_pb2.Job) -> Rows:
    from terminals.cli.outcome import ending
    from terminals.cli.states import ENDED, detail, state_word
    from terminals.cli.words import ago, moment, money, plain

    name = f"  {plain(job.spec.name)}" if job.spec.name else ""
    rows = [
        ("job", f"{job.job_id}{name}"),
        ("owner", plain(job.owner)),
        (
            "state",
            f"{state_word(job.state)} since {moment(job.state_time)} ({ago(job.state_time)})",
        ),
    ]
    if job.cancel_requested and job.state not in ENDED:
        rows.append(("", "a cancel is under way; it ends when its site confirms"))
    if job.state in ENDED and ending(job):
        rows.append(("", ending(job)))
        rows.append(("", f"its output: swm logs {job.job_id}"))
    elif job.text and job.state not in ENDED:
        rows.append(("detail", plain(detail(job))))
    if job.site:
        rows.append(("site", f"{plain(job.site)}  {plain(job.partition_id)}"))
    if job.nodes:
        rows.append(("nodes", ", ".join(plain(node.name) for node in job.nodes)))
    if job.HasField("cost"):
        rows.append(("cost", " + ".join(map(money, [job.cost, *job.other_costs]))))
    return rows


def _times(job: job_pb2.Job) -> Rows:
    from terminals.cli.words import moment, span

    rows = [("submitted", moment(job.submit_time))]
    if job.HasField("start_time"):
        rows.append(("started", moment(job.start_time)))
    if job.HasField("end_time"):
        rows.append(("ended", moment(job.end_time)))
    if job.HasField("start_time"):
        end = job.end_time.seconds if job.HasField("end_time") else time.time()
        rows.append(("ran", span(end - job.start_time.seconds)))
    return rows


def _asked(job: job_pb2.Job) -> Rows:
    from terminals.cli.wishes import ports, resources
    from terminals.cli.words import plain

    spec = job.spec
    rows = [("asked for", resources(spec))]
    for title, value in (
        ("comment", spec.comment),
        ("account", spec.account),
        ("wants site", spec.site),
        ("partition", spec.partition),
        ("flavor", spec.flavor),
        ("cloud image", spec.cloud_image),
        ("container", spec.container_image),
        ("image", job.attempts[-1].image_digest if job.attempts else ""),
        ("storage", " ".join(spec.storage)),
        ("work folder", spec.workdir),
    ):
        if value:
            rows.append((title, plain(value)))
    if spec.env:
        rows.append(("env", " ".join(plain(f"{key}={spec.env[key]}") for key in sorted(spec.env))))
    rows += [("port", line) for line in ports(job)]
    return rows


def _warnings(job: job_pb2.Job) -> Rows:
    from terminals.cli.words import plain

    return [
        ("warning", plain(text)) for text in (job.attempts[-1].warnings if job.attempts else ())
    ]


def _files(job: job_pb2.Job) -> Rows:
    from terminals.cli.words import plain

    rows = []
    if job.spec.input_files:
        rows.append(("inputs", ", ".join(map(plain, job.spec.input_files))))
    if job.spec.output_files:
        where = f"; get them: swm fetch {job.job_id}" if job.outputs_collected else ""
        rows.append(("outputs", ", ".join(map(plain, job.spec.output_files)) + where))
    return rows


def _show_attempts(job: job_pb2.Job) -> None:
    from terminals.cli.tables import Column, show_table
    from terminals.cli.words import NOTHING, cell, short_moment, span

    rows = []
    for attempt in job.attempts:
        began, ended = attempt.HasField("start_time"), attempt.HasField("end_time")
        end = attempt.end_time.seconds if ended else time.time()
        rows.append(
            [
                str(attempt.number),
                cell(attempt.site),
                cell(attempt.partition_id),
                cell(", ".join(node.name for node in attempt.nodes)),
                cell(f"{attempt.flavor} (spot)" if attempt.spot else attempt.flavor),
                short_moment(attempt.place_time),
                span(end - attempt.start_time.seconds) if began else NOTHING,
                span(attempt.cpu_time.seconds) if attempt.HasField("cpu_time") else NOTHING,
                _memory(attempt),
                _end(attempt) if ended else "under way",
            ]
        )
    columns = [
        Column("ATTEMPT", right=True),
        Column("SITE"),
        Column("PARTITION", shrinks=True),
        Column("NODES", shrinks=True),
        Column("FLAVOR", shrinks=True),
        Column("PLACED"),
        Column("RAN", right=True),
        Column("CPU TIME", right=True),
        Column("MEMORY", right=True),
        Column("END", shrinks=True),
    ]
    show_table(columns, rows)


def _show_history(events: list[job_pb2.JobEvent]) -> None:
    from terminals.cli.states import state_word
    from terminals.cli.tables import Column, show_table
    from terminals.cli.words import cell, moment

    rows = [
        [moment(event.time), state_word(event.to_state), cell(event.reason), cell(event.message)]
        for event in events
    ]
    columns = [Column("TIME"), Column("STATE"), Column("REASON"), Column("WHAT", shrinks=True)]
    show_table(columns, rows)


def _memory(attempt: job_pb2.Attempt) -> str:
    from rpc_kit.units import format_size
    from terminals.cli.words import NOTHING

    return format_size(attempt.max_memory_bytes) if attempt.max_memory_bytes else NOTHING


def _end(attempt: job_pb2.Attempt) -> str:
    from terminals.cli.words import plain

    if attempt.HasField("failure") and attempt.failure.reason not in ("EXIT_CODE", "SIGNAL"):
        return plain(f"{attempt.failure.reason}: {attempt.failure.message}")
    if attempt.signal:
        return f"signal {attempt.signal}"
    if attempt.HasField("exit_code"):
        return f"exit code {attempt.exit_code}"
    return "cancelled"
