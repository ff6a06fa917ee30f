"""The options that every gate has."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from gate_kit import command_line
from rpc_kit.logs import LogFormat, LogLevel
from rpc_kit.tls import KeyFiles


def _parse(*arguments: str) -> command_line.Options:
    return command_line.parse("some-gate", "A gate.", ["--config", "g.toml", *arguments])


def test_a_unix_socket_needs_nothing_else() -> None:
    options = _parse("--listen", "unix:///run/x/g.sock", "--log-level", "debug")
    assert options.config == Path("g.toml")
    assert options.listen.endpoint.path == Path("/run/x/g.sock")
    assert (options.log_level, options.log_format) == (LogLevel.DEBUG, LogFormat.AUTO)


LOCAL = Path("/local.toml")


def _parse_with_check(*arguments: str) -> command_line.Options | command_line.CheckOptions:
    return command_line.parse_with_check("some-gate", "A gate.", LOCAL, arguments)


def test_the_version_is_told_without_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _parse_with_check("--version")
    assert ended.value.code == 0
    assert capsys.readouterr().out.split()[-1] == importlib.metadata.version("skyport")


def test_a_check_needs_no_endpoint() -> None:
    asked = _parse_with_check("--config", "g.toml", "--check", "--json")
    assert asked == command_line.CheckOptions(Path("g.toml"), as_json=True)
    asked = _parse_with_check("--check", "--local")
    assert asked == command_line.CheckOptions(LOCAL, as_json=False)


def test_a_gate_that_can_check_serves_as_others_do() -> None:
    asked = _parse_with_check("--local", "--listen", "unix:///run/x/g.sock")
    assert isinstance(asked, command_line.Options)
    assert asked.config == LOCAL


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--local"], "--listen"),
        (["--check"], "one of the arguments --config --local is required"),
        (["--check", "--local", "--config", "g.toml"], "not allowed with argument"),
        (["--local", "--listen", "unix:///x", "--json"], "--json goes with --check"),
    ],
)
def test_what_is_no_check_and_no_server_ends_with_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        _parse_with_check(*arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.endswith("; see `some-gate --help`\n")
    assert said.count("\n") == 1


def test_a_gate_without_a_check_refuses_to_be_asked_for_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        _parse("--listen", "unix:///x", "--check")
    assert ended.value.code == 2
    assert "--check" in capsys.readouterr().err


def _files(folder: Path, mode: int = 0o600) -> list[str]:
    arguments = []
    for name in ("cert", "key", "ca"):
        path = folder / name
        path.write_bytes(name.encode())
        path.chmod(mode)
        arguments += [f"--tls-{name}", str(path)]
    return arguments


def test_tcp_needs_certificates_and_the_cores_identity(tmp_path: Path) -> None:
    files = _files(tmp_path)
    options = _parse("--listen", "127.0.0.1:0", *files, "--core-identity", "spiffe://abc.swm/core")
    assert options.listen.core_installation == "abc"
    assert isinstance(options.listen.keys, KeyFiles)
    assert options.listen.keys.pair.key_pem == b"key"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--listen", "127.0.0.1:0"], "--tls-cert, --tls-key, --tls-ca, --core-identity"),
        (["--listen", "nonsense"], "is not an address"),
        (["--listen", "unix:relative"], "no absolute path"),
        ([], "--listen"),
        (["--listen", "unix:///x", "--log-level", "loud"], "loud"),
    ],
)
def test_what_cannot_work_ends_with_2_and_says_why(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        _parse(*arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_a_key_that_others_can_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = _files(tmp_path, 0o644)
    with pytest.raises(SystemExit):
        _parse("--listen", "127.0.0.1:0", *files, "--core-identity", "spiffe://abc.swm/core")
    assert "chmod 600" in capsys.readouterr().err


def test_an_identity_that_is_no_cores_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for identity in ("spiffe://abc.swm/user/ann", "abc", "spiffe://a-b.swm/core"):
        with pytest.raises(SystemExit):
            _parse("--listen", "127.0.0.1:0", *_files(tmp_path), "--core-identity", identity)
        assert "is not a core's identity" in capsys.readouterr().err
