"""The scripts that run on hosts, as they are sent there. Nothing of them is installed."""

from __future__ import annotations

import functools
from importlib import resources

BOOTSTRAP = "exec {shell} -c 'eval \"$(dd bs={size} count=1 iflag=fullblock 2>/dev/null)\"'"
"""A line for any login shell: a shell that reads `size` bytes of script, and runs them."""


def _text(name: str) -> bytes:
    return resources.files(__package__).joinpath("scripts", f"{name}.sh").read_bytes()


@functools.cache
def agent(shell: str) -> tuple[bytes, bytes]:
    """The shell of a host: what clears the environment of all but a login's, and what serves.

    It begins with LC_ALL=C: a shell may go by what it has begun with when it counts letters.
    """
    text = (
        _text("prelude") + f"IFS= read -r nonce\nposix_shell='{shell}'\n".encode() + _text("agent")
    )
    clean = f"""exec env -i HOME="$HOME" LANG="$LANG" LC_ALL=C LOGNAME="${{LOGNAME:-$USER}}" \\
    PATH="$PATH" SHELL="${{SHELL:-/bin/sh}}" SITE_LC_ALL="$LC_ALL" \\
    SITE_RUNTIME_DIR="$XDG_RUNTIME_DIR" TZ="$TZ" USER="${{USER:-$LOGNAME}}" \\
    {BOOTSTRAP.format(shell=shell, size=len(text)).removeprefix("exec ")}
"""
    return clean.encode(), text


@functools.cache
def for_channel(script: str | bytes) -> bytes:
    """A script that reads its arguments first.

    Args:
        script: The name of one of ours, without `.sh`; or the text of a gate's own.
    """
    head = b"""
IFS= read -r nonce
IFS= read -r count
set --
while [ "$count" -gt 0 ]; do
    read_word || exit
    set -- "$@" "$word"
    count=$((count - 1))
done
root=$1 partition=$2 node=$3
shift 3
cd /
printf '\\n%s\\n' "$nonce"
"""
    return _text("prelude") + head + (_text(script) if isinstance(script, str) else script)
