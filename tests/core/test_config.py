from __future__ import annotations

from pathlib import Path

import pytest

from rpc_kit.config_file import ConfigError
from rpc_kit.endpoint import Endpoint
from rpc_kit.logs import LogFormat, LogLevel
from swm_core import config
from swm_core.config import Config


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "swm.toml"


def mistakes(file: Path, text: str) -> list[str]:
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        config.load(file)
    return str(raised.value).splitlines()


def test_an_address_is_all_that_must_be_said(file: Path) -> None:
    file.write_text('listen = "127.0.0.1:7717"')
    assert config.load(file) == Config(Endpoint("127.0.0.1", 7717))


def test_every_setting_is_read(file: Path) -> None:
    file.write_text(
        """
        listen = "0.0.0.0:7717"
        allow_remote = true
        spool = { max_size = "2T", job_retention = "7d" }
        log = { level = "debug", format = "json" }
        metrics.listen = "127.0.0.1:9177"
        limits.log_bytes_per_job = "1G"
        [deadlines]
        site_lost = "2d"
        [sites.lab]
        command = ["swm-fake-gate", "--config", "fake.toml"]
        [sites.far]
        endpoint = "gate.example.com:443"
        """
    )
    read = config.load(file)
    assert read.listen == Endpoint("0.0.0.0", 7717)  # noqa: S104
    assert (read.spool.max_size, read.spool.job_retention) == (2 << 40, 7 * 86_400)
    assert (read.log.level, read.log.format) == (LogLevel.DEBUG, LogFormat.JSON)
    assert read.metrics.listen == Endpoint("127.0.0.1", 9177)
    assert read.limits.log_bytes_per_job == 1 << 30
    assert (read.deadlines.site_lost, read.deadlines.starting) == (2 * 86_400, 600)
    assert read.sites["lab"].command == ("swm-fake-gate", "--config", "fake.toml")
    assert read.sites["far"].endpoint == Endpoint("gate.example.com", 443)


def test_all_mistakes_are_told_each_with_its_line_and_mend(file: Path) -> None:
    told = mistakes(
        file,
        """\
listen = "10.0.0.1:7717"
lisen = 1
[spool]
max_size = "100X"
job_retention = "a month"
[log]
level = "verbose"
[metrics]
listen = "0.0.0.0:9177"
[sites.both]
command = ["swm-fake-gate"]
endpoint = "unix:///run/gate.sock"
[sites.none]
[sites."my lab"]
command = "swm-fake-gate"
[sites.empty]
command = []
""",
    )
    assert told == [
        (
            'swm.toml:1: listen: "10.0.0.1:7717" can be reached from other machines; '
            "use 127.0.0.1, or set allow_remote = true"
        ),
        'swm.toml:2: lisen: there is no such setting; did you mean "listen"?',
        (
            'swm.toml:4: spool.max_size: "100X" is not a size; '
            'write bytes, or a number with K M G T, as "100G"'
        ),
        (
            'swm.toml:5: spool.job_retention: "a month" is not a duration; '
            'write seconds, MM:SS, HH:MM:SS, or as "1d2h30m"'
        ),
        'swm.toml:7: log.level: "verbose" is not known; choose one of: debug, info, warning, error',
        (
            'swm.toml:9: metrics.listen: "0.0.0.0:9177" can be reached from other machines; '
            "use 127.0.0.1"
        ),
        "swm.toml:12: sites.both.endpoint: stands beside a command; keep one of the two",
        (
            'swm.toml:13: sites.none: has no gate; add command = ["…"], which is started, '
            'or endpoint = "…"'
        ),
        (
            "swm.toml:14: sites.my lab: can't be the name of a site; "
            'use up to 32 of a-z, 0-9 and "-", a letter first'
        ),
        'swm.toml:15: sites.my lab.command: "swm-fake-gate" is not a list; write it as ["…", "…"]',
        'swm.toml:17: sites.empty.command: is empty; name a program, as ["swm-fake-gate"]',
    ]


@pytest.mark.parametrize(
    ("listen", "told"),
    [
        ('"7717"', "is not an address"),
        ('"127.0.0.1:0"', "names no port"),
        ('"unix:///run/core.sock"', "is a unix socket"),
        ('""', "is not an address"),
        ("7717", "7717 is not text"),
    ],
)
def test_a_bad_address_to_listen_on_is_told_once(file: Path, listen: str, told: str) -> None:
    (line,) = mistakes(file, f"listen = {listen}")
    assert line.startswith("swm.toml:1: listen: ")
    assert told in line


def test_a_missing_address_is_told(file: Path) -> None:
    assert mistakes(file, "") == ["swm.toml:1: listen: is missing; add it"]
