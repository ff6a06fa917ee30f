"""A registry of images that asks for a login: a real one, on this machine alone.

with Registry() as registry:
    image = registry.push(engine, "busybox:1")            # 127.0.0.1:PORT/busybox:1
    registry.log_in(engine, home / ".docker")
    engine.docker("pull", image, config=home / ".docker")
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.testbed.docker import Engine
from tests.testbed.processes import until

__all__ = ["Registry"]

_CONFIG = """\
version: 0.1
log: {{level: info}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}
http: {{addr: "{address}"}}
auth: {{htpasswd: {{realm: testbed, path: {folder}/htpasswd}}}}
"""


class Registry:
    """One registry, which can be stopped and started again at the same address.

    Args:
        address: Where it listens. An engine takes it without TLS on loopback and on addresses of
            beds of hosts.
    """

    user = "tester"

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.password = secrets.token_hex(12)
        self._host = address
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="swmregistry-"))
        try:
            self._configure()
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    @property
    def log(self) -> Path:
        """What it says."""
        return self.folder / "log"

    def image(self, name: str) -> str:
        """How an image is called that is in this registry."""
        return f"{self.address}/{name}"

    def push(self, engine: Engine, image: str, name: str = "") -> str:
        """Put an image of an engine here, by `name` if it is given; what it is called then.

        The engine keeps the image, not under that name.
        """
        there = self.image(name or image)
        own = self.folder / "client"
        if not own.exists():
            self.log_in(engine, own)
        engine.docker("tag", image, there)
        engine.docker("push", "--quiet", there, config=own)
        engine.docker("rmi", there)
        return there

    def digest(self, image: str) -> str:
        """The digest of an image that is here, by what it is called: `sha256:...`."""
        name, tag = image.removeprefix(f"{self.address}/").rsplit(":", 1)
        link = self.folder / "data/docker/registry/v2/repositories" / name
        return (link / "_manifests/tags" / tag / "current/link").read_text()

    def log_in(self, engine: Engine, config: Path) -> None:
        """Write a login into a folder with configuration of docker's client, as `docker login`."""
        words = ("--username", self.user, "--password-stdin", self.address)
        engine.docker("login", *words, config=config, stdin=self.password.encode())

    def start(self) -> None:
        """Start it, if it does not run."""
        if self._process is not None:
            return
        with self.log.open("ab") as log:
            process = self._process = subprocess.Popen(
                ["docker-registry", "serve", str(self.folder / "config.yml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        def up_or_ended() -> bool:
            assert process.poll() is None, f"the registry has ended: {self.log.read_text()[-500:]}"
            with contextlib.suppress(OSError), socket.create_connection((self._host, self._port)):
                return True
            return False

        until(up_or_ended, "the registry does not answer")

    def stop(self) -> None:
        """Stop it; nobody gets an answer until it is started."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Have it take connections and answer nothing while the context lasts."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _configure(self) -> None:
        with socket.create_server((self._host, 0)) as free:
            self._port = int(free.getsockname()[1])
        self.address = f"{self._host}:{self._port}"
        self.folder.joinpath("config.yml").write_text(
            _CONFIG.format(folder=self.folder, address=self.address)
        )
        hashed = subprocess.run(
            ["htpasswd", "-iBn", self.user],
            input=self.password,
            capture_output=True,
            text=True,
            check=True,
        )
        self.folder.joinpath("htpasswd").write_text(hashed.stdout)

    def _remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)
