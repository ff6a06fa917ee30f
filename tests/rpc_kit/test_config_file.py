from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rpc_kit import config_file
from rpc_kit.config_file import ConfigError
from rpc_kit.endpoint import Endpoint
from rpc_kit.units import Bytes, Seconds


class Colour(enum.StrEnum):
    RED = "red"
    GREEN = "green"


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    address: str
    user: str = "swm"
    ports: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Gate:
    name: str
    ratio: float = 1.0
    strict: bool = False
    colour: Colour = Colour.RED
    cache: Bytes = Bytes(0)  # noqa: RUF009
    timeout: Seconds = Seconds(60)  # noqa: RUF009
    listen: Endpoint | None = None
    main: Host | None = None
    hosts: dict[str, Host] = dataclasses.field(default_factory=dict)
    spare: tuple[Host, ...] = ()

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
        if table.get("name") == "core":
            yield ("name",), '"core" is taken; choose another'


def parse(text: str) -> Gate:
    return config_file.parse(text, Gate, "gate.toml")


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse(text)
    return str(raised.value).splitlines()


def test_every_kind_of_value_is_read() -> None:
    assert parse(
        """
        name = "lab"
        ratio = 2
        strict = true
        colour = "green"
        cache = "1.5G"
        timeout = "1d2h"
        listen = "unix:///run/lab.sock"
        main = { address = "a.example" }
        [hosts.b]
        address = "b.example"
        ports = [22, 2222]
        [[spare]]
        address = "c.example"
        """
    ) == Gate(
        "lab",
        2.0,
        True,
        Colour.GREEN,
        Bytes(3 << 29),
        Seconds(93_600),
        Endpoint(path=Path("/run/lab.sock")),
        Host("a.example"),
        {"b": Host("b.example", ports=(22, 2222))},
        (Host("c.example"),),
    )


def test_what_is_not_said_has_its_default() -> None:
    assert parse('name = "lab"\nlisten = ""\ncache = 512\ntimeout = 90') == Gate(
        "lab", cache=Bytes(512), timeout=Seconds(90)
    )


def test_all_mistakes_are_told_at_once_with_line_field_and_mend() -> None:
    text = """# A comment.
nme = "lab"
strict = "yes"
colour = "gren"
cache = "100X"
timeout = [
  "several",
  "lines",
]
listen = "here"
main = { address = 5, "user name" = "x" }

[hosts]
a = "a.example"
[hosts.b]
ports = [22, "80", true]
addres = "b.example"
[hosts."c.d"]

[[spare]]
address = "e.example"
[[spare]]
address = "f.example"
user = 7 # here
"""
    assert mistakes(text) == [
        "gate.toml:1: name: is missing; add it",
        'gate.toml:2: nme: there is no such setting; did you mean "name"?',
        'gate.toml:3: strict: "yes" is not a choice; write true or false, without quotes',
        'gate.toml:4: colour: "gren" is not known; did you mean "green"?',
        (
            'gate.toml:5: cache: "100X" is not a size; write bytes, or a number with K M G T, '
            'as "100G"'
        ),
        'gate.toml:6: timeout: a list is not a duration; write it as "1d2h30m"',
        (
            'gate.toml:10: listen: "here" is not an address; write "127.0.0.1:7717" or '
            '"unix:///path/of/socket"'
        ),
        'gate.toml:11: main.user name: there is no such setting; did you mean "user"?',
        'gate.toml:11: main.address: 5 is not text; write it in quotes, as "…"',
        'gate.toml:14: hosts.a: "a.example" is not a table; write it as [hosts.a]',
        "gate.toml:15: hosts.b.address: is missing; add it",
        'gate.toml:16: hosts.b.ports[1]: "80" is not a whole number; write it without quotes',
        "gate.toml:16: hosts.b.ports[2]: true is not a whole number; write it without quotes",
        'gate.toml:17: hosts.b.addres: there is no such setting; did you mean "address"?',
        "gate.toml:18: hosts.c.d.address: is missing; add it",
        'gate.toml:24: spare[1].user: 7 is not text; write it in quotes, as "…"',
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("hosts.a.x = 1", "gate.toml:2: hosts.a.x: there is no such setting; known: address"),
        (
            "[hosts.a]\naddress = 'x'\n[main]\naddress = 'y'\n[hosts.b]\nx = 1",
            "gate.toml:7: hosts.b.x",
        ),
        ("hosts = 3", "gate.toml:2: hosts: 3 is not a table; use [hosts.NAME]"),
        ("[[main]]", "gate.toml:2: main: a list is not a table; write it as [main]"),
        (
            "[spare]\naddress = 'x'",
            'gate.toml:2: spare: a table is not a list; write it as ["…", "…"]',
        ),
        ('text = """\na\nb\n"""\ncache = -1', 'gate.toml:6: cache: "-1" is not a size'),
        ("'timeout' = 1.5", "gate.toml:2: timeout: 1.5 is not a duration"),
        ("colour = 1", "gate.toml:2: colour: 1 is not known; choose one of: red, green"),
        ("strict = 1", "gate.toml:2: strict: 1 is not a choice"),
        ("ratio = true", "gate.toml:2: ratio: true is not a number"),
        ("listen = 2026-01-01", "gate.toml:2: listen: 2026-01-01 is not text"),
    ],
)
def test_a_mistake_is_found_where_it_stands(text: str, line: str) -> None:
    assert any(told.startswith(line) for told in mistakes(f'name = "lab"\n{text}'))


def test_a_rule_over_several_keys_is_told_beside_other_mistakes() -> None:
    assert mistakes('strict = 1\n\nname = "core"') == [
        "gate.toml:1: strict: 1 is not a choice; write true or false, without quotes",
        'gate.toml:3: name: "core" is taken; choose another',
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('name = "lab"\nstrict = yes', "gate.toml:2: is not TOML: Invalid value"),
        ('name = "a"\nname = "b"', "gate.toml:2: is not TOML: Cannot overwrite a value"),
        ('name = "lab', "gate.toml:1: is not TOML: "),
        ("a = [1,\n2", "gate.toml:2: is not TOML: "),
    ],
)
def test_what_is_not_toml_is_told_with_its_line(text: str, told: str) -> None:
    (line,) = mistakes(text)
    assert line.startswith(told)


def test_a_file_that_can_not_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    with pytest.raises(ConfigError, match=r"gate.toml:1: can't be read: No such file"):
        config_file.load(path, Gate)
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match="it is not UTF-8"):
        config_file.load(path, Gate)
    path.write_text("name = 'lab'")
    assert config_file.load(path, Gate) == Gate("lab")


def test_a_long_wrong_value_is_cut() -> None:
    (line,) = mistakes(f"name = 'lab'\ncolour = '{'x' * 1_000}'")
    assert len(line) < 150
