"""The options that every gate has on its command line, and what they stand for."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from gate_kit.serving import Listen
from rpc_kit.endpoint import Endpoint
from rpc_kit.logs import LogFormat, LogLevel
from rpc_kit.tls import KeyPair

_CORE_URI = re.compile(r"spiffe://([a-z0-9]+)\.swm/core", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What the command line of a gate said."""

    config: Path
    listen: Listen
    log_level: LogLevel
    log_format: LogFormat


def parse(program: str, summary: str, arguments: Sequence[str] | None = None) -> Options:
    """The options in `arguments` (default: those of this process).

    It ends the process with a line on standard error and status 2 when they can't be used, and
    with the help and status 0 for `--help`.

    Args:
        program: The gate's name on the command line.
        summary: One line for the help.
        arguments: Without the program's name.
    """
    parser = argparse.ArgumentParser(prog=program, description=summary, allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="a TOML file")
    parser.add_argument(
        "--listen",
        required=True,
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
    parser.add_argument("--log-level", type=LogLevel, default=LogLevel.INFO, choices=list(LogLevel))
    parser.add_argument(
        "--log-format", type=LogFormat, default=LogFormat.AUTO, choices=list(LogFormat)
    )
    given = parser.parse_args(arguments)
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
    keys = KeyPair(
        ca_pem=given.tls_ca.read_bytes(),
        cert_pem=given.tls_cert.read_bytes(),
        key_pem=given.tls_key.read_bytes(),
    )
    return Listen(endpoint, keys, identity[1])
