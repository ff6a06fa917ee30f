from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from terminals.cli.command import Command
from terminals.cli.main import cli
from tests.cli.terminal import Swm

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"
PROMISED = [
    *("init", "up", "down", "status", "backup", "restore"),
    *("submit", "jobs", "show", "logs", "wait", "cancel", "requeue", "delete"),
    *("fetch", "forward", "sites", "flavors", "images", "partitions", "nodes"),
    *("site accept-change", "site check", "site drain", "site resume"),
    *("gate add", "gate list", "gate restart", "orphans"),
    *("user add", "user list", "user renew", "user revoke"),
    *("login", "usage", "whoami", "completion"),
]
CONTEXT = click.Context(cli, info_name="swm")


def command(name: str) -> Command:
    found: click.Command | None = cli
    for word in name.split():
        assert isinstance(found, click.Group)
        found = found.get_command(CONTEXT, word)
    assert isinstance(found, Command)
    return found


def commands(group: click.Group, before: str = "") -> Iterator[str]:
    for name in group.list_commands(CONTEXT):
        found = group.get_command(CONTEXT, name)
        if isinstance(found, click.Group):
            yield from commands(found, f"{before}{name} ")
        else:
            yield f"{before}{name}"


def test_the_commands_are_those_promised() -> None:
    assert list(commands(cli)) == PROMISED


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_without_a_command_the_help_is_shown_grouped(args: list[str]) -> None:
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 0
    for title in ("Core:", "Jobs:", "Files and ports:", "Sites:", "Users:", "You:"):
        assert f"\n{title}\n" in result.output
    for name in PROMISED:
        assert re.search(rf"^  {name.split()[0]} +[A-Z]", result.output, re.MULTILINE)
    assert "..." not in result.output.partition("Core:")[2], "a summary is cut"


@pytest.mark.parametrize("name", ["site", "gate", "user"])
def test_no_summary_of_a_group_is_cut(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert "..." not in result.output.partition("Commands:")[2]


@pytest.mark.parametrize("name", PROMISED)
def test_every_command_has_help_with_an_example_of_itself(name: str) -> None:
    result = CliRunner().invoke(cli, [*name.split(), "--help"])
    assert result.exit_code == 0
    examples = result.output.partition("\nExample")[2]
    assert f"swm {name}" in examples
    for parameter in command(name).params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{parameter.name} has no help"


@pytest.mark.parametrize("name", PROMISED)
def test_every_example_is_one_that_the_command_takes(name: str) -> None:
    """The options of examples exist; what they would do is tested elsewhere."""
    known = {option for parameter in command(name).params for option in parameter.opts}
    for example in command(name).examples:
        for part in re.findall(rf"swm {name}([^|&;<>]*)", example):
            for option in re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", part):
                assert option in known, example


def test_the_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert result.output == f"swm {importlib.metadata.version('skyport')}\n"


# docs/cli.md


def test_every_command_and_option_is_documented() -> None:
    text = DOCS.read_text()
    sections = dict(
        re.findall(r"^### swm ([\w -]+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    )
    assert list(sections) == PROMISED
    for name, section in sections.items():
        for parameter in command(name).params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                for option in parameter.opts:
                    assert f"`{option}" in section, f"{name} {option} is not documented"
        options = set(re.findall(r"`(--?[a-z][a-z-]*)", section))
        known = {option for parameter in command(name).params for option in parameter.opts}
        assert options <= known | {"--help"}, f"{name} has no {options - known}"


def test_the_environment_and_exit_codes_are_documented() -> None:
    text = DOCS.read_text()
    for name in ("SWM_HOME", "SWM_CLIENT", "SWM_DEBUG", "NO_COLOR"):
        assert f"`{name}`" in text
    for code in ("0", "1", "2", "130", "141"):
        assert re.search(rf"^\| {code} ", text, re.MULTILINE), code


# What start-up costs is mostly imports.


def imported(environment: dict[str, str], *args: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "terminals.cli.main", *args],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def test_help_imports_no_grpc_and_nothing_large() -> None:
    found = imported(dict(os.environ), "--help")
    assert "click" in found
    heavy = {"grpc", "google.protobuf", "rich", "pydantic", "cryptography", "asyncio", "swm_core"}
    assert not heavy & found


def test_a_command_imports_no_more_than_it_uses(swm: Swm) -> None:
    found = imported(swm.environment, "jobs")
    assert "grpc" in found
    assert not {"rich", "pydantic", "cryptography", "swm_core"} & found
    assert "skyport.terminal.v1.catalog_pb2" not in found
