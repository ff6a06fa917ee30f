"""The options that every gate has on its command line, and what they stand for."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from gate_kit.serving import Listen
from rpc_kit.endpoint import Endpoint
from rpc_kit.logs import LogFormat, LogLevel
from rpc_kit.tls import KeyFiles

_CORE_URI = re.compile(r"spiffe://([a-z0-9]+)\.swm/core", re.ASCII)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as those of `swm`."""

    def error(self, message: str) -> NoReturn:
        """End the process with the line on standard error, and status 2."""
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What the command line of a gate said."""

    config: Path
    listen: Listen
    log_level: LogLevel
    log_format: LogFormat


@dataclasses.dataclass(frozen=True, slots=True)
class CheckOptions:
    """The command line asked for a look at the site, and not for a server."""

    config: Path
    as_json: bool
    """Whether what is found is told as JSON, one object a line."""


def parse(program: str, summary: str, arguments: Sequence[str] | None = None) -> Options:
    """The options in `arguments` (default: those of this process).

    It ends the process with a line on standard error and status 2 when they can't be used, and
    with the help and status 0 for `--help`.

    Args:
        program: The gate's name on the command line.
        summary: One line for the help.
        arguments: Without the program's name.
    """
    parser = _parser(program, summary)
    return _options(parser, parser.parse_args(arguments))


def parse_with_check(
    program: str, summary: str, local: Path | None, arguments: Sequence[str] | None = None
) -> Options | CheckOptions:
    """As `parse`, for a gate that can look at its site and tell what is wrong there.

    `swm site check` runs such a gate with `--check`. It prints what it finds and ends with status 0
    if all is well, 1 if something has to be mended, 2 if it can't look at all.

    Args:
        program: The gate's name on the command line.
        summary: One line for the help.
        local: The file that `--local` stands for: a site that needs no configuration. None: there
            is no such site.
        arguments: Without the program's name.
    """
    parser = _parser(program, summary, local)
    parser.add_argument(
        "--check", action="store_true", help="look at the site, tell what is wrong there, and end"
    )
    parser.add_argument(
        "--json", action="store_true", help="with --check: print JSON, one object a line"
    )
    given = parser.parse_args(arguments)
    if given.check:
        return CheckOptions(given.config, given.json)
    if given.json:
        parser.error("--json goes with --check")
    return _options(parser, given)


def _parser(program: str, summary: str, local: Path | None = None) -> argparse.ArgumentParser:
    parser = Parser(prog=program, description=summary, allow_abbrev=False)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", type=Path, metavar="FILE", help="a TOML file")
    if local is not None:
        source.add_argument(
            "--local",
            dest="config",
            action="store_const",
            const=local,
            help="the site is this machine, as the account that the gate runs as",
        )
    parser.add_argument(
        "--listen",
        metavar="ENDPOINT",
        help="unix:///absolute/path, or HOST:PORT, which needs the options below",
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="the gate's certificate, PEM")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM, 0600")
    parser.add_argument("--tls-ca", type=Path, metavar="FILE", help="the installation's CA, PEM")
    parser.add_argument(
        "--core-identity",
        metavar="URI",
        help="the only client that is served, as spiffe://INSTALLATION.swm/core",
    )
    version = f"{parser.prog} {importlib.metadata.version('skyport')}"
    parser.add_argument("--version", action="version", version=version)
    parser.add_argument("--log-level", type=LogLevel, default=LogLevel.INFO, choices=list(LogLevel))
    parser.add_argument(
        "--log-format", type=LogFormat, default=LogFormat.AUTO, choices=list(LogFormat)
    )
    return parser


def _options(parser: argparse.ArgumentParser, given: argparse.Namespace) -> Options:
    if given.listen is None:
        parser.error("the following arguments are required: --listen")
    try:
        listen = _listen(given)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return Options(given.config, listen, given.log_level, given.log_format)


def _listen(given: argparse.Namespace) -> Listen:
    endpoint = Endpoint.parse(given.listen)
    if endpoint.path is not None:
        return Listen(endpoint)
    files = {"--tls-cert": given.tls_cert, "--tls-key": given.tls_key, "--tls-ca": given.tls_ca}
    lacking = [name for name, path in files.items() if path is None]
    if not given.core_identity:
        lacking.append("--core-identity")
    if lacking:
        raise ValueError(f"{endpoint} needs {', '.join(lacking)}; only unix sockets go without")
    identity = _CORE_URI.fullmatch(given.core_identity)
    if not identity:
        raise ValueError(
            f'"{given.core_identity}" is not a core\'s identity; write it as '
            '"spiffe://INSTALLATION.swm/core"'
        )
    if given.tls_key.stat().st_mode & 0o077:
        raise ValueError(f"{given.tls_key} can be read by others; run `chmod 600 {given.tls_key}`")
    keys = KeyFiles(given.tls_ca, given.tls_cert, given.tls_key)
    return Listen(endpoint, keys, identity[1])
