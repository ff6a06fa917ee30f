"""`swm logs`: what a job wrote, or writes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from terminals.cli.command import Command
from terminals.cli.options import connected, job_argument

if TYPE_CHECKING:
    from terminals.client.connection import Client
    from terminals.client.output import OutputReader

_LINE_BYTES = 200  # a guess to begin with
_MOST_TAIL_BYTES = 64 << 20


@click.command(
    cls=Command,
    examples=["swm logs k3x9", "swm logs k3x9 -f -n 20", "swm logs k3x9 --stderr | less"],
)
@job_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("--stdout", "only_stdout", is_flag=True, help="Only standard output.")
@click.option(
    "--stderr", "only_stderr", is_flag=True, help="Only standard error, on our standard output."
)
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), help="Only the last so many lines of each stream."
)
@click.option(
    "--attempt",
    type=click.IntRange(min=1),
    default=None,
    help="Of this start.  [default: the latest]",
)
@click.option("--node", default="", help="Of this node of the job.  [default: the first]")
def logs(
    job_text: str,
    follow: bool,
    only_stdout: bool,
    only_stderr: bool,
    lines: int | None,
    attempt: int | None,
    node: str,
) -> None:
    """Print what a job wrote, or follow what it writes.

    Its output goes to standard output, its errors to standard error. While it runs, that is what it
    has written until now; with -f it goes on to the end of the attempt.
    """
    if only_stdout and only_stderr:
        raise click.UsageError("--stdout and --stderr exclude each other; both is the default")
    streams = []
    if not only_stderr:
        streams.append((False, sys.stdout.buffer))
    if not only_stdout:
        streams.append((True, sys.stdout.buffer if only_stderr else sys.stderr.buffer))
    with connected() as client:
        job = client.find_job(job_text)
        number = attempt or job.attempt  # 0 where there is none yet: then it is the first
        for stderr, sink in [] if follow else streams:
            reader = _reader(client, job.job_id, number, node, stderr=stderr, lines=lines)
            _copy(reader, sink, stderr=stderr)
        if follow:
            _follow(client, job.job_id, number, node, streams, lines)


if TYPE_CHECKING:
    from typing import IO

    Streams = list[tuple[bool, IO[bytes]]]


def _copy(reader: OutputReader, sink: IO[bytes], *, stderr: bool) -> None:
    from terminals.cli.following import show

    for piece in reader:
        show(piece, sink, _name(stderr=stderr))


def _name(*, stderr: bool) -> str:
    return "standard error" if stderr else "standard output"


def _follow(
    client: Client, job_id: str, attempt: int, node: str, streams: Streams, lines: int | None
) -> None:
    """Copy the streams side by side until both are complete."""
    from queue import SimpleQueue

    from terminals.cli.background import INTERRUPTIBLE_S
    from terminals.cli.following import News, Pump

    news: News = SimpleQueue()
    pumps = []
    for stderr, sink in streams:
        reader = _reader(client, job_id, attempt, node, stderr=stderr, lines=lines, follow=True)
        pumps.append(Pump(reader, sink, _name(stderr=stderr), news))
    for pump in pumps:
        pump.start()
    try:
        for pump in pumps:
            while pump.is_alive():  # ends with the job, or Ctrl-C
                pump.join(INTERRUPTIBLE_S)
            if pump.error is not None:
                raise pump.error
    finally:
        for pump in pumps:
            pump.reader.stop()


def _reader(
    client: Client,
    job_id: str,
    attempt: int,
    node: str,
    *,
    stderr: bool,
    lines: int | None,
    follow: bool = False,
) -> OutputReader:
    from terminals.client.output import OutputReader

    offset = 0
    if lines is not None:
        offset = _offset_of_last(client, job_id, attempt, node, lines, stderr=stderr)
    return OutputReader(
        client,
        job_id,
        stderr=stderr,
        attempt=attempt,
        node=node,
        offset=offset,
        follow=follow,
    )


def _offset_of_last(
    client: Client, job_id: str, attempt: int, node: str, lines: int, *, stderr: bool
) -> int:
    """Where the last `lines` lines begin: looked for from the end, in ever larger steps."""
    from terminals.client.output import OutputReader

    tail = max(lines, 1) * _LINE_BYTES
    while True:  # ends with the stream's beginning, or the largest step
        reader = OutputReader(
            client, job_id, stderr=stderr, attempt=attempt, node=node, tail_bytes=tail
        )
        data = b"".join(piece for piece in reader if isinstance(piece, bytes))
        begin = reader.offset - len(data)
        body = data[:-1] if data.endswith(b"\n") else data
        position = len(body) if lines else -1
        for _ in range(lines):
            position = body.rfind(b"\n", 0, position)
            if position < 0:
                break
        if not lines:
            return reader.offset
        if position >= 0:
            return begin + position + 1
        if begin == 0 or tail >= _MOST_TAIL_BYTES:
            return begin
        tail = min(tail * 8, _MOST_TAIL_BYTES)
