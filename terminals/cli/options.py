"""Arguments and options that several commands have."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from terminals.client.connection import Client

F = TypeVar("F", bound=Callable[..., Any])

_COMPLETION_S = 1.0
_COMPLETIONS = 200
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@contextlib.contextmanager
def connected() -> Iterator[Client]:
    """The user's connection to the core."""
    from terminals.client.connection import Client

    with Client.connect() as client:
        yield client


class JobId(click.ParamType[str]):
    """The id of a job, or its beginning; completed from what the core lists."""

    name = "job"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        # Whoever presses Tab wants no error and no waiting.
        with contextlib.suppress(Exception):
            from skyport.terminal.v1 import job_pb2
            from terminals.cli.states import state_word

            chosen = job_pb2.JobFilter(job_id_prefix=incomplete)
            request = job_pb2.ListJobsRequest(filter=chosen, page_size=_COMPLETIONS)
            with connected() as client:
                jobs = client.call(client.jobs.ListJobs, request, timeout_s=_COMPLETION_S).jobs
            return [
                CompletionItem(job.job_id, help=f"{state_word(job.state)} {job.spec.name}".strip())
                for job in jobs
            ]
        return []


def job_argument(function: F) -> F:
    """The argument JOB, as `job_text`."""
    return click.argument("job_text", metavar="JOB", type=JobId())(function)


def jobs_argument(function: F) -> F:
    """The arguments JOB..., as `job_texts`."""
    return click.argument("job_texts", metavar="JOB...", type=JobId(), nargs=-1, required=True)(
        function
    )


def json_option(function: F) -> F:
    """The option --json, as `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print proto JSON, one object a line."
    )(function)


class EnvPair(click.ParamType[tuple[str, str]]):
    """NAME=VALUE."""

    name = "NAME=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        name, equals, content = str(value).partition("=")
        if not equals or not _ENV_NAME.fullmatch(name):
            self.fail(f'"{value}" is not NAME=VALUE', param, ctx)
        return name, content


class SecretName(click.ParamType[tuple[str, str]]):
    """The name of a variable of our environment; converted to the pair with its value."""

    name = "NAME"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        import os

        if isinstance(value, tuple):
            return value
        name = str(value)
        if not _ENV_NAME.fullmatch(name):
            # Not quoted: it may be NAME=SECRET.
            self.fail(
                "give the name alone; the value is taken from your environment, "
                "where other users don't see it",
                param,
                ctx,
            )
        if name not in os.environ:
            self.fail(f"{name} is not set in your environment; `export` it first", param, ctx)
        return name, os.environ[name]


class Duration(click.ParamType[int]):
    """Seconds, as `90`, `MM:SS` or `1h30m`."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from rpc_kit.units import parse_duration

        try:
            return int(parse_duration(str(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()


def secret_option(function: F) -> F:
    """The option --secret-env, as `secret_env`: pairs of names and values."""
    return click.option(
        "--secret-env",
        type=SecretName(),
        multiple=True,
        help="Give the job this variable of your environment, shown nowhere. May be repeated.",
    )(function)
