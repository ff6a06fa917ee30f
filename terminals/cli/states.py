"""The states of a job in words, and the words (and letters) that choose them."""

from __future__ import annotations

import time
from collections.abc import Iterable

import click

from skyport.terminal.v1 import job_pb2
from terminals.cli.words import span

_PREFIX = "JOB_STATE_"

ENDED = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)
ACTIVE = tuple(state for state in job_pb2.JobState.values() if state and state not in ENDED)

# What users of the original system type.
_LETTERS = {
    "Q": ("QUEUED", "QUEUED_AT_SITE"),
    "W": ("PROVISIONING",),
    "T": ("STAGING_IN", "STARTING", "STAGING_OUT"),
    "R": ("RUNNING",),
    "F": ("SUCCEEDED",),
    "C": ("CANCELLED",),
    "E": ("FAILED",),
}

STYLES = {
    "RUNNING": "green",
    "SUCCEEDED": "dim",
    "CANCELLED": "dim",
    "FAILED": "red",
}


def state_word(state: job_pb2.JobState.ValueType) -> str:
    """`RUNNING`; of a newer core's state its number."""
    try:
        return job_pb2.JobState.Name(state).removeprefix(_PREFIX)
    except ValueError:
        return f"STATE_{int(state)}"


def detail(job: job_pb2.Job) -> str:
    """What a job is doing; while its machines are made, also for how long by now."""
    if job.state != job_pb2.JOB_STATE_PROVISIONING or not job.text:
        return job.text
    return f"{job.text}, {span(time.time() - job.state_time.seconds)}"


def names() -> list[str]:
    """All that `chosen` understands, letters apart."""
    words = [name.removeprefix(_PREFIX) for name, state in job_pb2.JobState.items() if state]
    return [*words, "ACTIVE", "ENDED"]


def chosen(texts: Iterable[str]) -> list[job_pb2.JobState.ValueType]:
    """The states that `running`, `Q,R`, `active` or `ended` stand for.

    Raises:
        click.BadParameter: One stands for none.
    """
    states: dict[job_pb2.JobState.ValueType, None] = {}
    for text in ",".join(texts).split(","):
        word = text.strip().upper().replace("-", "_")
        if word == "ACTIVE":
            states.update(dict.fromkeys(ACTIVE))
        elif word == "ENDED":
            states.update(dict.fromkeys(ENDED))
        elif word in _LETTERS:
            found = [job_pb2.JobState.Value(_PREFIX + name) for name in _LETTERS[word]]
            states.update(dict.fromkeys(found))
        elif word in names():
            states[job_pb2.JobState.Value(_PREFIX + word)] = None
        elif word:
            known = ", ".join(names()).lower()
            raise click.BadParameter(
                f'"{text}" is no state; there are {known}, and the letters Q W T R F C E'
            )
    return list(states)
