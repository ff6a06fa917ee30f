"""Whether jobs may work in a folder of the user's own, as hosts see it."""

from __future__ import annotations

from collections.abc import Sequence

from gate_kit import errors
from gate_kit.ssh.host import Host
from gate_kit.validation import PATH_BYTES


async def check(host: Host, workdir: str, roots: Sequence[str]) -> None:
    """Raise unless the folder is one of `roots`, or lies below one, on the host.

    Args:
        host: The account for which the job is to run.
        workdir: What the job asked for.
        roots: Absolute, or `~` and what begins with `~/`: the account's home.

    Raises:
        Refusal: WORKDIR_NOT_ALLOWED; and as for `Host.run`.
    """
    is_path = workdir.startswith("/") and "\0" not in workdir
    is_short = len(workdir.encode(errors="surrogateescape")) <= PATH_BYTES
    # A part that leads up says nothing about where a folder that is not there yet would lie.
    if not is_path or not is_short or ".." in workdir.split("/"):
        raise errors.workdir_not_allowed(workdir, roots)
    process = await host.run("workdir", workdir, *roots)
    try:
        process.stdin.write_eof()
        answer = await process.stdout.readline()
    except OSError as error:
        raise errors.node_unreachable(host.node, f"the link to {host.node} was lost") from error
    finally:
        process.close()
    if answer.strip() != b"yes":
        raise errors.workdir_not_allowed(workdir, roots)
