"""The project's images, built once by `make image`, and the page that tells how to use them."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed import images
from tests.testbed.docker import Engine
from tests.testbed.fixtures import docker_engine

__all__ = ["docker_engine"]

ROOT = Path(__file__).parents[2]
BUILD_WITHIN_S = 900
SECRET = "left-by-mistake-in-the-checkout"
# What lies about in a checkout, and belongs into no image.
_LEFT = (
    ".env",
    ".git/config",
    "client.toml",
    "swm_core/.netrc",
    "gates/ssh_cluster_gate/id_ed25519.key",
    "terminals/user.pem",
    "rpc_kit/__pycache__/old.pyc",
)


@dataclasses.dataclass(frozen=True)
class Images:
    """What `make image` has built."""

    engine: Engine
    base: str
    names: tuple[str, ...] = ("skyport-core", "skyport-ssh-gate", "skyport-azure-gate", "skyport")


@pytest.fixture(scope="session")
def built(docker_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Images:
    """The images, of a checkout in which something lies about that is nobody's business."""
    base = images.python(docker_engine)
    checkout = tmp_path_factory.mktemp("image") / "checkout"
    passed_over = shutil.ignore_patterns(".*cache*", ".git", ".venv*", "__pycache__", "tests")
    shutil.copytree(ROOT, checkout, ignore=passed_over)
    for name in _LEFT:
        file = checkout / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(SECRET)
    done = subprocess.run(
        ["make", "image", f"IMAGE_FLAGS=--network host --build-arg BASE={base}"],
        cwd=checkout,
        env={**os.environ, "DOCKER_BUILDKIT": _buildkit(), **variables(docker_engine)},
        capture_output=True,
        text=True,
        timeout=BUILD_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return Images(docker_engine, base)


@pytest.fixture
def engine(built: Images) -> Iterator[Engine]:
    """The engine with the images, which gets rid of what a test left."""
    yield built.engine
    built.engine.clear()
    for volume in built.engine.docker("volume", "ls", "--quiet").split():
        built.engine.docker("volume", "rm", volume)


@pytest.fixture
def page(built: Images, engine: Engine, tmp_path: Path) -> Page:
    """The page, whose commands are run in a folder of the test."""
    return Page(engine, tmp_path)


class Page:
    """docs/docker.md, done by somebody who copies its commands."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._text = (ROOT / "docs" / "docker.md").read_text()
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        # Whoever else uses this machine may have the usual one.
        self._text = self._text.replace("7717", port)
        # The image's own is half a minute.
        self._text = self._text.replace(
            "docker run --detach", "docker run --detach --health-interval 1s"
        )
        self._environment = {
            "HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **variables(engine),
        }

    def do(self, section: str) -> str:
        """What the commands of a section say, all in one go."""
        found = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", self._text, re.MULTILINE | re.DOTALL)
        assert found, section
        commands = "".join(re.findall(r"^```sh\n(.*?)^```$", found[1], re.MULTILINE | re.DOTALL))
        assert commands
        return self.sh(commands)

    def sh(self, commands: str) -> str:
        """What further commands say."""
        done = subprocess.run(
            ["sh", "-eu"],
            input=commands,
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def variables(engine: Engine) -> dict[str, str]:
    """What docker's client needs to know of an engine."""
    return {"DOCKER_HOST": engine.host, "DOCKER_CONFIG": str(engine.folder / "client")}


def _buildkit() -> str:
    """1 if the client can build by BuildKit: up to 22 by itself, later with a plug-in."""
    told = subprocess.run(
        ["docker", "--version"], capture_output=True, text=True, check=True
    ).stdout
    version = re.search(r"version (\d+)", told)
    assert version, told
    if int(version[1]) < 23:
        return "1"
    plugin = subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False)
    return str(int(plugin.returncode == 0))
