"""`swm cancel`, `requeue`, `delete`: what is done to jobs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from terminals.cli.command import Command
from terminals.cli.options import connected, job_argument, jobs_argument, json_option, secret_option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from google.protobuf.message import Message

    from skyport.terminal.v1 import job_pb2


@click.command(cls=Command, examples=["swm cancel k3x9", "swm cancel --wait k3x9 a7"])
@jobs_argument
@click.option("--wait", "until_ended", is_flag=True, help="Come back when they have ended.")
@click.option(
    "--force",
    is_flag=True,
    help="Do not wait for a site that never answers again. The record says so, "
    "and what runs there may run on.",
)
@json_option
def cancel(job_texts: tuple[str, ...], until_ended: bool, force: bool, as_json: bool) -> None:
    """Ask that jobs end.

    A job is CANCELLED when its site confirms that nothing of it runs. One that has ended stays as
    it is.
    """
    from skyport.terminal.v1 import job_pb2

    with connected() as client:
        cancelled: list[job_pb2.Job] = []

        def one(text: str) -> None:
            job_id = client.find_job(text).job_id
            request = job_pb2.CancelJobRequest(job_id=job_id, force=force)
            cancelled.append(client.call(client.jobs.CancelJob, request, timeout_s=60).job)

        failed = _each(job_texts, one)
        if until_ended:
            from terminals.cli.commands.wait import until_ended as wait_until_ended

            ids = list(dict.fromkeys(job.job_id for job in cancelled))
            cancelled = wait_until_ended(client, ids) if ids else []
    _tell(cancelled, _cancelled, as_json=as_json)
    sys.exit(failed)


@click.command(
    cls=Command, examples=["swm requeue k3x9", "TOKEN=... swm requeue k3x9 --secret-env TOKEN"]
)
@job_argument
@secret_option
@json_option
def requeue(job_text: str, secret_env: tuple[tuple[str, str], ...], as_json: bool) -> None:
    """Run a job that has ended once more, as a new attempt.

    Same script, same inputs. Secrets that it had must be given again: they are not kept.
    """
    from skyport.terminal.v1 import job_pb2
    from terminals.cli.states import ENDED

    with connected() as client:
        found = client.find_job(job_text)
        request = job_pb2.RequeueJobRequest(
            job_id=found.job_id,
            secret_env=dict(secret_env),
            # When an answer is lost, the same call again does nothing more. Of one that has not
            # ended it would be answered as if it had been requeued.
            attempt=found.attempt if found.state in ENDED else 0,
        )
        job = client.call(client.jobs.RequeueJob, request, timeout_s=60).job
    _tell([job], lambda each: each.job_id, as_json=as_json)


@click.command(
    cls=Command,
    examples=[
        "swm delete k3x9",
        "swm jobs --state ended --json | jq -r .job_id | xargs swm delete",
    ],
)
@jobs_argument
def delete(job_texts: tuple[str, ...]) -> None:
    """Forget jobs that have ended, with their outputs and logs."""
    from skyport.terminal.v1 import job_pb2
    from terminals.client.errors import NotFound

    with connected() as client:

        def one(text: str) -> None:
            job_id = client.find_job(text).job_id
            request = job_pb2.DeleteJobRequest(job_id=job_id)
            try:
                client.call(client.jobs.DeleteJob, request, timeout_s=60)
            except NotFound as error:
                # It was there: an answer was lost, or somebody else was a moment earlier.
                if error.reason != "JOB_NOT_FOUND":
                    raise

        failed = _each(job_texts, one)
    sys.exit(failed)


def _each(job_texts: Iterable[str], action: Callable[[str], None]) -> int:
    """Do it to each, also when one fails; returns the exit code."""
    from terminals.cli.failures import report
    from terminals.client.errors import ClientError, CoreUnreachable

    failed = 0
    for text in job_texts:
        try:
            action(text)
        except CoreUnreachable:
            raise  # it would be the same for all
        except ClientError as error:
            failed = report(error)
    return failed


def _cancelled(job: job_pb2.Job) -> str:
    from terminals.cli.states import ENDED, state_word

    if job.state in ENDED:
        return f"{job.job_id}  {state_word(job.state)}"
    return f"{job.job_id}  {state_word(job.state)}, to be cancelled"


def _tell(
    jobs: Iterable[job_pb2.Job], words: Callable[[job_pb2.Job], str], *, as_json: bool
) -> None:
    from terminals.cli.tables import show_json

    if as_json:
        messages: Iterable[Message] = jobs
        show_json(messages)
    else:
        for job in jobs:
            click.echo(words(job))
