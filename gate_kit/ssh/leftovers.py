"""Ends what a lost link has left on a host: the sshd that still waits for it.

A cable that was cut tells the host nothing. Its sshd goes on for hours: it keeps the ports that
were listened on, and the commands that wait for more to read. Each link therefore learns who serves
it, and the next one ends those that served the links that were lost.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

_TOLD = re.compile(rb"^skyport-link (\d{1,10}) (\d{1,20})$", re.MULTILINE)

# One line without single quotes, backslashes and exclamation marks: shells of every kind read it.
_SCRIPT = (
    'born() { at=; { read -r at <"/proc/$1/stat"; } 2>/dev/null; set -- ${at##*) }; '
    'echo "${20}"; }; '
    "for each; do pid=${each%:*}; n=0; "
    'if [ "$(born "$pid")" = "${each#*:}" ]; then kill "$pid"; '
    'while [ "$n" -lt 30 ] && [ "$(born "$pid")" = "${each#*:}" ]; '
    "do n=$((n + 1)); sleep 0.1 || sleep 1; done; fi; done; "
    'echo; echo "skyport-link $PPID $(born "$PPID")"'
)


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """The process on a host that serves a link."""

    pid: int
    born: int
    """In ticks since the host started: with it, the number is never another's."""


def command(lost: Iterable[Served]) -> str:
    """A line for any login shell that ends `lost` and tells who serves the link it runs on.

    It waits until they are gone, for 3 s at most.
    """
    words = " ".join(f"{served.pid}:{served.born}" for served in lost)
    # Without `exec` the parent would be the login shell.
    return f"exec /bin/sh -c '{_SCRIPT}' sh {words}"


def parse(output: bytes) -> Served | None:
    """Who serves the link, out of what `command` printed; None where the host does not tell."""
    told = _TOLD.search(output)
    return Served(int(told[1]), int(told[2])) if told else None
