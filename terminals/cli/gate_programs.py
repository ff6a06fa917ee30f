"""The programs of gates, run as the core would run them, for what needs no core."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from terminals.cli.failures import Refused
from terminals.cli.home import core_environment
from terminals.cli.words import plain

_HELP_S = 30.0
_END_S = 5.0
"""How long one that was interrupted may take to end."""
_PROGRAM = re.compile(r"swm-([a-z0-9-]+)-gate", re.ASCII)


class GateProgram:
    """A gate's command, run in a home.

    Args:
        command: Program and arguments.
        home: The core's.
        what: What it is to people, as "the gate of site lab".
    """

    def __init__(self, command: Sequence[str], home: Path, what: str) -> None:
        self._command = list(command)
        self._home = home
        self._what = what
        # Programs beside ours are found without a PATH.
        self._environment = core_environment(home)
        beside = str(Path(sys.executable).parent)
        self._environment["PATH"] = f"{beside}:{self._environment.get('PATH', os.defpath)}"

    @property
    def name(self) -> str:
        """The program's."""
        return Path(self._command[0]).name

    def help(self) -> str:
        """What it says of itself: by this is known what it can do, before it might do it.

        Raises:
            Refused: It can't be run, or says nothing.
        """
        try:
            done = subprocess.run(
                [*self._command, "--help"],
                executable=self._found(),
                cwd=self._home,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_HELP_S,
                check=False,
            )
        except OSError as error:
            self._not_run(error)
        except subprocess.TimeoutExpired:
            raise Refused(f"{self._what} does not answer to `{self._command[0]} --help`") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
            raise Refused(
                f"{self._what} ended with exit code {done.returncode} when asked for its help; it "
                f"said: {plain(said[-1])}"
            )
        return done.stdout.decode(errors="replace")

    def run(self, *arguments: str) -> int:
        """Run it with our own input and output; returns its exit code."""
        process = subprocess.Popen(
            [*self._command, *arguments],
            executable=self._found(),
            cwd=self._home,
            env=self._environment,
        )
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The terminal has told it as well.
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise

    def _found(self) -> str:
        """Where it is: Popen would look along our own PATH."""
        return shutil.which(self._command[0], path=self._environment["PATH"]) or self._command[0]

    def _not_run(self, error: OSError) -> NoReturn:
        program = _PROGRAM.fullmatch(self.name)
        extra = program[1] if program and program[1] in {"azure", "ssh"} else "ssh"
        which = f"That of {extra.upper() if extra == 'ssh' else extra.capitalize()}"
        raise Refused(
            f"{self._what} can't be run: {self._command[0]}: {error.strerror}; is it installed? "
            f'{which} comes with `make setup`, or `pip install ".[{extra}]"`, in a checkout'
        )
