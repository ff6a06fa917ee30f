"""The way in: which commands there are, and what becomes of errors."""

from __future__ import annotations

import codecs
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Mapping

import click

_COMMANDS: Mapping[str, Mapping[str, str]] = {
    "Core": {
        "init": "start",
        "up": "start",
        "down": "stop",
        "status": "status",
        "backup": "backup",
        "restore": "backup",
    },
    "Jobs": {
        "submit": "submit",
        "jobs": "jobs",
        "show": "show",
        "logs": "logs",
        "wait": "wait",
        "cancel": "control",
        "requeue": "control",
        "delete": "control",
    },
    "Files and ports": {"fetch": "fetch", "forward": "forward"},
    "Sites": {
        "sites": "catalog",
        "flavors": "catalog",
        "images": "catalog",
        "partitions": "catalog",
        "nodes": "catalog",
        "site": "site",
        "gate": "gate",
        "orphans": "orphans",
    },
    "Users": {"user": "user"},
    "You": {
        "login": "login",
        "usage": "account",
        "whoami": "account",
        "completion": "completion",
    },
}
"""The sections of the help, their commands, and the modules that have them."""

_MODULES = {name: module for section in _COMMANDS.values() for name, module in section.items()}

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
BROKEN_PIPE = 141
"""Exit code when nobody reads our output any more, as shells have it."""


class _Ended(Exception):
    """A command was ended from outside; `code` is the exit code. click has words of its own."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Commands(click.Group):
    """Commands that are imported when they are used."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _Ended(BROKEN_PIPE) from None
        except KeyboardInterrupt:
            raise _Ended(INTERRUPTED) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f"terminals.cli.commands.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _MODULES and not args[0].startswith("-") and not ctx.resilient_parsing:
            import difflib

            near = difflib.get_close_matches(args[0], _MODULES, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise click.UsageError(f'there is no command "{args[0]}"{hint}', ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, _MODULES))
        for title, names in _COMMANDS.items():
            rows = []
            for name in names:
                command = self.get_command(ctx, name)
                text = command.get_short_help_str(formatter.width) if command else ""
                rows.append((name.ljust(width), text))
            with formatter.section(title):
                formatter.write_dl(rows)


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`swm COMMAND --help` tells more, with examples. Begin with `swm up`.",
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.version_option(package_name="skyport", message="swm %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Run jobs at remote sites: scripts in, results out.

    A job is a script with `#SWM` lines that say what it needs. Sky Port finds a place for it,
    brings its files there, shows its output, and brings the results back.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Run the command line of this process, and end it with the exit code."""
    # The lines that grpc writes by itself are for its developers; ours say what happened.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    _open_what_is_closed()
    code = _run()
    try:
        sys.stdout.flush()
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            code = BROKEN_PIPE
        elif not code:
            code = _report(error)
        from rpc_kit import standard_output

        standard_output.drop()
    sys.exit(code)


def _open_what_is_closed() -> None:
    """Have something behind the standard streams, as after `swm jobs >&-`.

    Otherwise the next file or socket would get the number of a stream, and what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdin = sys.stdin or os.fdopen(0)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")
    # What the locale has no letter for, or a path that is not UTF-8, is no reason to fail.
    if isinstance(sys.stdout, io.TextIOWrapper):
        is_utf8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf8 else "replace")


def _run() -> int:
    try:
        # Commands return nothing, or leave with an exit code.
        code = cli.main(prog_name="swm", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "swm"
        text = " ".join(error.format_message().split()).rstrip(".")
        click.echo(f"{where}: {text[:1].lower()}{text[1:]}; see `{where} --help`", err=True)
        return 2
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 0
    except (_Ended, click.Abort) as ended:
        code = ended.code if isinstance(ended, _Ended) else INTERRUPTED
        if code == INTERRUPTED:
            with contextlib.suppress(OSError):
                click.echo("swm: interrupted", err=True)
        return code
    except Exception as error:
        if os.environ.get("SWM_DEBUG"):
            raise
        return _report(error)


def _report(error: Exception) -> int:
    from rpc_kit import standard_output
    from terminals.cli.failures import Refused, report

    text = standard_output.failure_of(error)
    return report(Refused(text) if text else error)


if __name__ == "__main__":
    main()
