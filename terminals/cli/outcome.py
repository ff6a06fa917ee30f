"""How a job ended, as an exit code and a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skyport.terminal.v1 import job_pb2
from terminals.cli.words import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

FAILED = 1
"""Exit code for a job that was cancelled, or failed otherwise than by its script's exit code."""


def exit_code(job: job_pb2.Job) -> int:
    """The exit code that stands for an ended job: its script's own wherever it has one to tell.

    0 for success; the script's code; 128 + n for signal n; otherwise 1.
    """
    if job.state == job_pb2.JOB_STATE_SUCCEEDED:
        return 0
    if job.state == job_pb2.JOB_STATE_FAILED:
        if job.failure.reason == "EXIT_CODE" and 0 < job.exit_code < 256:
            return job.exit_code
        if job.failure.reason == "SIGNAL" and 0 < job.signal < 128:
            return 128 + job.signal
    return FAILED


def joint_exit_code(jobs: Iterable[job_pb2.Job]) -> int:
    """That of the first job that did not succeed; 0 if all did."""
    return next((code for code in map(exit_code, jobs) if code), 0)


def explanation(job: job_pb2.Job) -> str:
    """One line on a job that did not succeed, and what to do; empty if it did."""
    ended = ending(job)
    return f"job {job.job_id} {ended}" if ended else ""


def ending(job: job_pb2.Job) -> str:
    """How a job that did not succeed ended, as `failed: exit code 3`; empty if it did."""
    if job.state == job_pb2.JOB_STATE_SUCCEEDED:
        return ""
    if job.state == job_pb2.JOB_STATE_CANCELLED:
        forced = " by force: its site never confirmed that nothing runs"
        return f"was cancelled{forced if job.cancel_forced else ''}"
    message = plain(job.failure.message) or job.failure.reason or "nobody knows why"
    if job.failure.reason in ("EXIT_CODE", "SIGNAL"):
        return f"failed: {message}"
    again = f"; run it again with `swm requeue {job.job_id}`" if job.failure.retryable else ""
    if again and job.failure.reason == "START_FAILED":
        again = f"; once that is mended, {again.removeprefix('; ')}"
    return f"failed: {message} ({job.failure.reason}){again}"
