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

    from rpc_kit.bundle import Bundle
    from terminals.client.connection import Client

F = TypeVar("F", bound=Callable[..., Any])

_COMPLETION_S = 1.0
_COMPLETIONS = 200
_WARNED_S = 14 * 86_400.0
"""How long before its end a certificate is told of."""
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def quietly_connected() -> Client:
    """The user's connection for completions: what was said would land in the line being typed."""
    from terminals.client.connection import Client

    return Client.connect()


@contextlib.contextmanager
def connected() -> Iterator[Client]:
    """The user's connection to the core; a certificate that ends soon is told of."""
    from terminals.client.connection import Client

    with Client.connect() as client:
        _warn_of_its_end(client.bundle)
        yield client


def _warn_of_its_end(bundle: Bundle) -> None:
    """Tell of a certificate that will have to be renewed by somebody.

    The core renews the one in its own home long before.
    """
    import time

    ends = bundle.expire_time
    left_s = _WARNED_S if ends is None else ends - time.time()
    if 0 < left_s < _WARNED_S:
        from terminals.cli.words import span

        click.echo(
            f"swm: your certificate ends in {span(left_s)}; ask the administrator for a new bundle "
            f"(`swm user renew {bundle.user}`)",
            err=True,
        )


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
            with quietly_connected() as client:
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


class SiteName(click.ParamType[str]):
    """The name of a site; completed from what the core lists."""

    name = "site"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        with contextlib.suppress(Exception):
            from skyport.terminal.v1 import catalog_pb2

            request = catalog_pb2.ListSitesRequest(page_size=_COMPLETIONS)
            with quietly_connected() as client:
                answer = client.call(client.catalog.ListSites, request, timeout_s=_COMPLETION_S)
            return [
                CompletionItem(site.name, help=site.summary)
                for site in answer.sites
                if site.name.startswith(incomplete)
            ]
        return []


def site_argument(function: F) -> F:
    """The argument NAME, a site's, as `name`."""
    return click.argument("name", metavar="NAME", type=SiteName())(function)


def json_option(function: F) -> F:
    """The option --json, as `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print proto JSON, one object a line."
    )(function)


def _is_utf8(text: str) -> bool:
    """Whether an argument or variable of this process can be sent."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class EnvPair(click.ParamType[tuple[str, str]]):
    """NAME=VALUE."""

    name = "NAME=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        name, equals, content = str(value).partition("=")
        if not equals or not _ENV_NAME.fullmatch(name):
            self.fail(f'"{value}" is not NAME=VALUE', param, ctx)
        if not _is_utf8(content):
            self.fail(f"the value of {name} is not UTF-8; jobs get no other text", param, ctx)
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
        if not _is_utf8(os.environ[name]):
            self.fail(f"the value of {name} is not UTF-8; jobs get no other text", param, ctx)
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
