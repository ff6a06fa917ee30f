"""`swm-azure-gate`: the gate of an Azure subscription, as a process of its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence

from gate_kit import command_line
from gate_kit.command_line import CheckOptions
from rpc_kit import logs
from rpc_kit.config_file import ConfigError
from rpc_kit.server import ServeError

_PROGRAM = "swm-azure-gate"
_SUMMARY = "A site of virtual machines that are made in Azure for jobs, and deleted after them."


def main() -> None:
    """Serve until told to end, or do what the first word says and end.

    Serving ends with status 0 when it was told to end, and with 2 and one line for each mistake
    when the configuration or the endpoint can't be used.
    """
    words = sys.argv[1:]
    command = _COMMANDS.get(words[0]) if words else None
    if words and not command and not words[0].startswith("-"):
        known = ", ".join(_COMMANDS)
        sys.stderr.write(f"{_PROGRAM}: there is no command {words[0]!r}; there are {known}\n")
        sys.exit(2)
    try:
        sys.exit(command(words[1:]) if command else _serve(words))
    except (ConfigError, ServeError) as error:
        sys.stderr.write(f"{_PROGRAM}: {error}\n")
        sys.exit(2)


def _serve(words: Sequence[str]) -> int:
    also = f"Other commands, each with a --help of its own: {', '.join(_COMMANDS)}."
    options = command_line.parse_with_check(_PROGRAM, f"{_SUMMARY} {also}", None, words)
    if isinstance(options, CheckOptions):
        # None of these loads what the others need: it takes time, and memory all along.
        from gates.azure_gate import check

        return check.run(options)
    from gates.azure_gate import app

    logs.configure(options.log_level, options.log_format)
    asyncio.run(app.run(options))
    return 0


def _check(words: Sequence[str]) -> int:
    return _serve(["--check", *words])


def _set_up(words: Sequence[str]) -> int:
    from gates.azure_gate import set_up

    return set_up.set_up(words)


def _new_certificate(words: Sequence[str]) -> int:
    from gates.azure_gate import set_up

    return set_up.new_certificate(words)


def _sweep(words: Sequence[str]) -> int:
    from gates.azure_gate import sweep

    return sweep.main(words)


_COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "check": _check,
    "set-up": _set_up,
    "new-certificate": _new_certificate,
    "sweep": _sweep,
}


if __name__ == "__main__":
    main()
