"""A specification in the making: takes values one by one, keeps every mistake."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from swm_core.domain.job import JobSpec, Port, Resources
from swm_core.domain.words import words
from swm_core.jobscript import paths, values
from swm_core.jobscript.results import ScriptError, ScriptErrors, ScriptWarning
from swm_core.jobscript.words import split_words

MAX_ERRORS = 100
"""A file with more mistakes is not a job script; the rest of it is not read."""
_MAX_WARNINGS = 100
_MAX_STORAGE = 32
_MAX_PORTS = 100
_GLOB_CHARS = frozenset("*?[")
_DEFAULTS = JobSpec()


class Draft:
    """A JobSpec as far as it is known. `line` and `directive` say whose value is being read."""

    __slots__ = (
        "directive",
        "env",
        "errors",
        "fields",
        "input_files",
        "landings",
        "line",
        "lines",
        "options",
        "output_files",
        "ports",
        "resources",
        "spellings",
        "storage",
        "warnings",
    )

    def __init__(self) -> None:
        self.line = 0
        self.directive = ""
        self.fields: dict[str, Any] = {}
        self.resources: dict[str, Any] = {}
        self.ports: list[Port] = []
        self.input_files: dict[str, None] = {}
        self.landings: dict[str, str] = {}
        self.output_files: dict[str, None] = {}
        self.env: dict[str, str] = {}
        self.options: dict[str, str] = {}
        self.storage: dict[str, None] = {}
        self.lines: dict[str, int] = {}
        self.spellings: dict[str, str] = {}
        self.errors: list[ScriptError] = []
        self.warnings: list[ScriptWarning] = []

    def refuse(self, reason: str, message: str) -> None:
        """Keep a mistake of the value being read.

        Raises:
            ScriptErrors: There are too many already.
        """
        # They quote the script, which may hold what no terminal should be sent.
        error = ScriptError(self.line, words(self.directive), reason, words(message))
        self.errors.append(error)
        if len(self.errors) >= MAX_ERRORS:
            self.errors.append(
                ScriptError(
                    self.line,
                    "",
                    "TOO_MANY_ERRORS",
                    f"these are {MAX_ERRORS} mistakes; the script was not read further",
                )
            )
            raise ScriptErrors(self.errors)

    def warn(self, message: str) -> None:
        """Keep a remark about the line being read; the first hundred count."""
        if len(self.warnings) < _MAX_WARNINGS:
            self.warnings.append(ScriptWarning(self.line, words(message)))

    def add_ports(self, value: str) -> None:
        """Take ports, with commas between them."""
        for item in value.split(","):
            try:
                port = values.port(item.strip(" \t"))
                self._check_port_free(port)
            except values.Refused as refused:
                self.refuse(refused.reason, refused.message)
            else:
                self.ports.append(port)

    def _check_port_free(self, port: Port) -> None:
        if len(self.ports) >= _MAX_PORTS:
            raise values.Refused("PORT_INVALID", f"a job has at most {_MAX_PORTS} ports")
        for other in self.ports:
            # An out port is listened on at the node as well, so one number serves one of them.
            if port.number and port.number == other.number:
                raise values.Refused(
                    "PORT_DUPLICATE",
                    f"port {port.number} is asked for twice; each number can be used once on a node"
                    + ("" if port.direction is other.direction else ", either in or out"),
                )
            if port.name and port.name == other.name:
                raise values.Refused(
                    "PORT_DUPLICATE",
                    f'two ports have the name "{port.name}"; name them differently',
                )

    def add_inputs(self, value: str) -> None:
        """Take input files, as shell words."""
        words = self._words(value)
        self._warn_of_commas(words)
        for path in words:
            self.add_input(path)

    def add_input(self, path: str) -> None:
        """Take one input file or pattern of the terminal's."""
        try:
            name = paths.landing_name(path)
        except values.Refused as refused:
            self.refuse(refused.reason, refused.message)
            return
        # What a pattern stands for is known to the terminal only, and checked there.
        other = path
        if _GLOB_CHARS.isdisjoint(path):
            other = self.landings.setdefault(name, path)
        # Two relative ones under one name are one file.
        if other != path and (other[0] in "/~" or path[0] in "/~"):
            self.refuse(
                "INPUT_COLLISION",
                f"{values.shown(other)} and {values.shown(path)} both land as "
                f"{values.shown(name)} in the work folder; rename one, or give it relative to "
                "where you submit",
            )
        elif path in self.input_files or other != path:
            self.warn(f"{self.directive}: {values.shown(path)} is named twice; once is enough")
        else:
            self.input_files[path] = None

    def add_outputs(self, value: str) -> None:
        """Take patterns of output files, as shell words."""
        words = self._words(value)
        self._warn_of_commas(words)
        for pattern in words:
            self.add_output(pattern)

    def add_output(self, pattern: str) -> None:
        """Take one pattern of output files; the same one again changes nothing."""
        try:
            self.output_files[paths.relative_path(pattern)] = None
        except values.Refused as refused:
            self.refuse(refused.reason, refused.message)

    def add_storage(self, value: str) -> None:
        """Take names of storage, as shell words; the same one again changes nothing."""
        words = self._words(value)
        self._warn_of_commas(words)
        for name in words:
            try:
                self.storage[values.word(name)] = None
            except values.Refused as refused:
                self.refuse(refused.reason, refused.message)
            if len(self.storage) > _MAX_STORAGE:
                self.refuse("VALUE_INVALID", f"a job has at most {_MAX_STORAGE} storages")
                return

    def add_variables(self, value: str) -> None:
        """Take variables of the environment, as shell words NAME=VALUE."""
        for item in self._words(value):
            try:
                name, content = values.variable(item)
            except values.Refused as refused:
                self.refuse(refused.reason, refused.message)
                continue
            if name in self.env:
                self.refuse("ENV_INVALID", f"{name} is set twice; keep one of them")
            self.env[name] = content

    def add_options(self, value: str) -> None:
        """Take `KIND.NAME VALUE`, or shell words KIND.NAME=VALUE, for sites of a kind."""
        words = self._words(value)
        if len(words) > 1 and "=" not in words[0]:
            words = [f"{words[0]}={' '.join(words[1:])}"]
        for item in words:
            try:
                name, content = values.option(item)
            except values.Refused as refused:
                self.refuse(refused.reason, refused.message)
                continue
            if name in self.options:
                self.refuse("OPTION_INVALID", f"{name} is set twice; keep one of them")
            self.options[name] = content

    def _words(self, value: str) -> list[str]:
        try:
            words = split_words(value)
        except ValueError as error:
            self.refuse("VALUE_INVALID", f"{values.shown(value)}: {error}")
            return []
        if "$" in value and "'" not in value and "\\" not in value:
            self.warn(
                f'{self.directive}: "$" stays as it is, no variable is put in its place; '
                "quote the word with ' if that is meant"
            )
        return words

    def _warn_of_commas(self, words: Iterable[str]) -> None:
        for path in words:
            if "," in path:
                self.warn(
                    f"{self.directive}: blanks separate names, so {values.shown(path)} is one "
                    "file; "
                    "put blanks in place of the commas if several are meant"
                )
                return

    def finish(self) -> JobSpec:
        """The specification.

        Raises:
            ScriptErrors: There were mistakes.
        """
        fields = self.fields
        if "stdout" in fields or "stderr" in fields:
            out, err = (
                fields.get("stdout", _DEFAULTS.stdout),
                fields.get("stderr", _DEFAULTS.stderr),
            )
            self.line = self.lines.get("stderr", 0) or self.lines.get("stdout", 0)
            self.directive = "stderr" if "stderr" in fields else "stdout"
            if out == err:
                self.refuse(
                    "PATH_INVALID",
                    f"stdout and stderr would both be saved as {values.shown(out)}; give them "
                    "different names",
                )
        if self.errors:
            raise ScriptErrors(self.errors)
        if self.resources:
            fields["resources"] = Resources(**self.resources)
        if self.ports:
            fields["ports"] = tuple(self.ports)
        if self.input_files:
            fields["input_files"] = tuple(self.input_files)
        if self.output_files:
            fields["output_files"] = tuple(self.output_files)
        if self.env:
            fields["env"] = self.env
        if self.options:
            fields["site_options"] = self.options
        if self.storage:
            fields["storage"] = tuple(self.storage)
        return JobSpec(**fields)
