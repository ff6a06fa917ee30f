"""Saves what a job wrote to standard output or standard error as a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from terminals.client.folder import OutputFolder
from terminals.client.output import Gap, OutputReader

if TYPE_CHECKING:
    from terminals.client.connection import Client


def save_output(
    client: Client,
    into: OutputFolder,
    name: str,
    job_id: str,
    *,
    stderr: bool = False,
    attempt: int = 0,
    node: str = "",
) -> int:
    """Write what there is of a stream to a file. Where bytes lack, a line of ours says so.

    Args:
        client: The connection.
        into: The folder.
        name: The file's name in it.
        job_id: The whole id.
        stderr: Standard error instead of standard output.
        attempt: Which start of the job; 0 means the latest.
        node: Which node; empty means the first.

    Returns:
        Bytes that lack.

    Raises:
        OutputRefused: The name leads out of the folder, or can't be written.
        CallFailed: The core refused, or stayed away.
    """
    lacking = 0
    part = into.part(name, b"")
    try:
        for piece in OutputReader(client, job_id, stderr=stderr, attempt=attempt, node=node):
            if isinstance(piece, Gap):
                lacking += piece.size
                part.write(b"\n[%d bytes that the job wrote here were not kept]\n" % piece.size)
            else:
                part.write(piece)
        part.finish(0o644)
    except BaseException:
        part.drop()
        raise
    finally:
        part.close()
    return lacking
