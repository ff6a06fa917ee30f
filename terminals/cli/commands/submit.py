"""`swm submit`: from a script to a job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from terminals.cli.command import Command
from terminals.cli.options import EnvPair, connected, json_option, secret_option

if TYPE_CHECKING:
    from skyport.terminal.v1 import job_pb2
    from terminals.client.connection import Client
    from terminals.client.manifest import Manifest


@click.command(
    cls=Command,
    examples=[
        "swm submit train.sh",
        "id=$(swm submit train.sh -i data --env LR=0.1)",
        "swm submit --follow - <<< 'hostname'",
    ],
)
@click.argument("file", metavar="FILE", type=click.Path(allow_dash=True))
@click.option("-f", "--follow", is_flag=True, help="Show its output; end with its exit code.")
@click.option("-w", "--wait", is_flag=True, help="Come back when it has ended, with its exit code.")
@click.option(
    "-i",
    "--input",
    "inputs",
    multiple=True,
    metavar="PATH",
    help="Take this file, folder or glob along, beside those of the script. May be repeated.",
)
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    metavar="PATTERN",
    help="Collect this, beside what the script names. May be repeated.",
)
@click.option("--name", default="", help="The job's name.")
@click.option("--site", default="", help="Where it runs.")
@click.option(
    "--env", type=EnvPair(), multiple=True, help="Set in the job's environment. May be repeated."
)
@secret_option
@click.option("--dry-run", is_flag=True, help="Only tell what it would become, and where.")
@json_option
def submit(
    file: str,
    follow: bool,
    wait: bool,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    name: str,
    site: str,
    env: tuple[tuple[str, str], ...],
    secret_env: tuple[tuple[str, str], ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Submit a script, and print the id of its job.

    FILE is the script; "-" stands for standard input.

    Input files are found from the current folder. A relative path keeps its folders, an absolute
    one lands under its last name; what the core has already is not sent again.

    With --follow, what the job writes comes here as it is written: its output to standard output,
    its errors and its id to standard error. The exit code is the job's: its script's own, 128 + n
    for signal n, 1 for anything else. Ctrl-C leaves the job running.
    """
    if follow and (wait or as_json):
        raise click.UsageError("--follow shows the job's output; it excludes --wait and --json")
    from skyport.terminal.v1 import job_pb2

    script = _read(file)
    overrides = job_pb2.JobOverrides(
        name=name, site=site, env=dict(env), input_files=inputs, output_files=outputs
    )
    shown = "<stdin>" if file == "-" else file
    with connected() as client:
        checked = _check(client, shown, script, overrides)
        if dry_run:
            from terminals.cli.dry_run import show_dry_run

            sys.exit(show_dry_run(checked, as_json=as_json))
        manifest = _inputs(checked)
        job = _send(client, shown, script, manifest, overrides, dict(secret_env))
        if follow:
            sys.exit(_follow(client, job.job_id))
        if not as_json:
            click.echo(job.job_id)
            sys.stdout.flush()
        code = 0
        if wait:
            job, code = _wait(client, job.job_id)
    if as_json:
        from terminals.cli.tables import show_json

        show_json([job])
    sys.exit(code)


def _read(file: str) -> bytes:
    """The script, as far as any can be long."""
    from terminals.cli.failures import Refused
    from terminals.client.submit import SCRIPT_BYTES

    try:
        if file == "-":
            script = sys.stdin.buffer.read(SCRIPT_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                script = opened.read(SCRIPT_BYTES + 1)
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}; name a script") from None
    if len(script) > SCRIPT_BYTES:
        raise Refused(f"{file}: a script has at most 1 MiB; bring the rest as an input file")
    return script


def _check(
    client: Client, shown: str, script: bytes, overrides: job_pb2.JobOverrides
) -> job_pb2.CheckJobResponse:
    """What it would become; tells warnings, and refuses what no site can give before any upload."""
    from terminals.cli.failures import ScriptRefused
    from terminals.cli.words import plain
    from terminals.client.errors import RequestInvalid
    from terminals.client.submit import check

    try:
        checked = check(client, script, overrides)
    except RequestInvalid as error:
        raise ScriptRefused(shown, error) from None
    for warning in checked.warnings:
        line = f":{warning.line}" if warning.line else ""
        click.echo(f"{shown}{line}: warning: {plain(warning.message)}", err=True)
    return checked


def _inputs(checked: job_pb2.CheckJobResponse) -> Manifest | None:
    """Read the input files, if there are any, and if a site could run the job at all."""
    from terminals.cli.failures import Refused
    from terminals.cli.progress import transfer
    from terminals.cli.tables import note
    from terminals.cli.words import plain

    if checked.obstacles and not checked.candidates:
        raise Refused("; ".join(plain(obstacle.message) for obstacle in checked.obstacles))
    if not checked.spec.input_files:
        return None
    from terminals.client.inputs import select
    from terminals.client.manifest import read_manifest

    selection = select(checked.spec.input_files)
    for line in selection.skipped:
        note(plain(line))
    with transfer() as report:
        return read_manifest(selection, report)


def _send(
    client: Client,
    shown: str,
    script: bytes,
    manifest: Manifest | None,
    overrides: job_pb2.JobOverrides,
    secret_env: dict[str, str],
) -> job_pb2.Job:
    from terminals.cli.failures import ScriptRefused
    from terminals.cli.progress import transfer
    from terminals.cli.tables import note
    from terminals.client.errors import CallFailed, CoreUnreachable, RequestInvalid
    from terminals.client.submit import send

    try:
        with transfer() as report:
            return send(client, script, manifest, overrides, secret_env, report).job
    except RequestInvalid as error:
        raise ScriptRefused(shown, error) from None
    except (KeyboardInterrupt, CallFailed) as error:
        unanswered = not isinstance(error, CallFailed) or error.transient
        if unanswered or isinstance(error, CoreUnreachable):
            note("whether the job was submitted is told by `swm jobs`")
        raise


def _follow(client: Client, job_id: str) -> int:
    from terminals.cli.following import follow
    from terminals.cli.main import INTERRUPTED
    from terminals.cli.outcome import exit_code, explanation
    from terminals.cli.tables import note
    from terminals.client.errors import ClientError

    note(f"job {job_id}")
    try:
        job = follow(client, job_id)
    except KeyboardInterrupt:
        click.echo(err=True)  # after the ^C
        note(f"job {job_id} runs on; cancel it with `swm cancel {job_id}`")
        return INTERRUPTED
    except ClientError:
        note(f"job {job_id} can't be followed any more; see `swm show {job_id}`")
        raise
    if text := explanation(job):
        note(text)
    return exit_code(job)


def _wait(client: Client, job_id: str) -> tuple[job_pb2.Job, int]:
    from terminals.cli.commands.wait import explain, until_ended
    from terminals.cli.main import INTERRUPTED
    from terminals.cli.outcome import exit_code
    from terminals.cli.tables import note

    try:
        ended = until_ended(client, [job_id])
    except KeyboardInterrupt:
        click.echo(err=True)
        note(f"job {job_id} runs on; cancel it with `swm cancel {job_id}`")
        sys.exit(INTERRUPTED)
    explain(ended)
    return ended[0], exit_code(ended[0])
