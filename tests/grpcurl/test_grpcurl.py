"""docs/grpcurl.md is true: it is run from top to bottom against a core and a gate."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import FileDescriptor

from tests.grpcurl.page import Page
from tests.grpcurl.shell import Session
from tests.system.harness.core import running

ROOT = Path(__file__).parents[2]
PAGE = Page(ROOT / "docs" / "grpcurl.md")
PACKAGES = ("skyport.terminal.v1", "skyport.gate.v1")
_WITHIN_S = 90.0


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """The page after somebody has followed it."""
    folder = tmp_path_factory.mktemp("grpcurl")
    environment = {name: value for name, value in os.environ.items() if name != "SWM_CLIENT"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment["SWM_HOME"] = str(folder / "home")
    try:
        with running(folder, {"demo": tomllib.loads(PAGE.gate_configuration)}):
            yield Session(_made(folder / "session"), PAGE.steps, environment, _WITHIN_S)
    finally:
        _end_jobs_below(folder)


def test_each_command_ends_and_prints_as_the_page_says(session: Session) -> None:
    for step in PAGE.steps:
        output = session.output(step)
        context = f"\n{PAGE.path.name}:{step.line}\n{step.script}\n{output}"
        assert session.status(step) == step.status, context
        for text in step.shown:
            assert text in output, f"{text} is not shown{context}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_rpc_is_listed_by_reflection(session: Session, package: str) -> None:
    told = {line for step in PAGE.steps for line in session.output(step).splitlines()}
    wanted = {f"{service}.{method}" for service, method in _rpcs(package)}
    assert wanted <= told, sorted(wanted - told)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_rpc_is_described_by_reflection(session: Session, package: str) -> None:
    told = "\n".join(session.output(step) for step in PAGE.steps)
    described = {
        (service, method)
        for service, body in re.findall(
            r"^(\S+) is a service:\n(.*?)^}", told, re.MULTILINE | re.DOTALL
        )
        for method in re.findall(r"^ *rpc (\w+) \(", body, re.MULTILINE)
    }
    wanted = _rpcs(package)
    assert wanted <= described, sorted(wanted - described)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_rpc_is_called_and_no_other(package: str) -> None:
    called = {
        (service, method)
        for step in PAGE.steps
        for service, method in step.methods
        if service.startswith(f"{package}.")
    }
    assert called == _rpcs(package)


def test_every_call_says_what_to_expect() -> None:
    silent = [step.line for step in PAGE.steps if step.methods and not step.shown]
    assert not silent, f"no arrow after the commands in the lines {silent}"


def _rpcs(package: str) -> set[tuple[str, str]]:
    """All calls of an API: service and method."""
    folder = ROOT / package.replace(".", "/")
    files: list[FileDescriptor] = [
        importlib.import_module(f"{package}.{path.stem}").DESCRIPTOR
        for path in sorted(folder.glob("*_pb2.py"))
    ]
    return {
        (service.full_name, method.name)
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    }


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _end_jobs_below(folder: Path) -> None:
    """Kill what the page has started at the site and, having failed, did not cancel."""
    wanted = f"SWM_WORKDIR={folder}/".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if any(text.startswith(wanted) for text in path.read_bytes().split(b"\0")):
                os.kill(int(path.parent.name), signal.SIGKILL)
