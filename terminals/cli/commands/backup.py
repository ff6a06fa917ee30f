"""`swm backup`, `restore`: all that the core of this machine keeps, in one file."""

from __future__ import annotations

import subprocess
import sys

import click

from terminals.cli.command import Command


@click.command(cls=Command, examples=["swm backup /mnt/usb/core-$(date +%F).tar"])
@click.argument("file")
@click.option("--without-files", is_flag=True, help="Leave inputs, results and logs of jobs out.")
def backup(file: str, without_files: bool) -> None:
    """Write all that the core on this machine keeps to FILE.

    The core may run meanwhile. FILE must be new. It holds all keys, the CA's too: keep it as safe
    as SWM_HOME itself.
    """
    _core("backup", file, *(["--without-files"] if without_files else []))


@click.command(cls=Command, examples=["SWM_HOME=/srv/swm swm restore core-2030-01-31.tar"])
@click.argument("file")
@click.option(
    "--no-core-ran-since",
    is_flag=True,
    help="Take every job up again; only right if no core has run since the backup.",
)
def restore(file: str, no_core_ran_since: bool) -> None:
    """Make SWM_HOME of the backup FILE.

    There must be no SWM_HOME yet. What jobs did since the backup is not known, so the core starts
    none of them again: `swm jobs` tells what became of each, and `swm requeue` runs one again.
    """
    _core("restore", file, *(["--no-core-ran-since"] if no_core_ran_since else []))


def _core(*words: str) -> None:
    """Run a command of the core; ends with its exit code if that is not 0."""
    from terminals.cli.home import CORE_COMMAND, core_environment, core_home

    done = subprocess.run(
        [*CORE_COMMAND, words[0], *words[2:], "--", words[1]],
        env=core_environment(core_home()),
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        sys.exit(min(max(done.returncode, 1), 2))
