"""A Docker engine of a test's own: real dockerd and containerd, apart from any the machine has.

All that it keeps lies in one folder, it listens on a socket there alone, and touches no firewall
rule: its containers reach each other and what runs on the host network, but nothing outside. Needs
root. Several may be up at a time. Other accounts than root get at it once they are let in.

    with Engine() as engine:
        engine.docker("run", "--rm", images.busybox(engine), "echo", "hello")
        subprocess.run(["docker", "ps"], env={**os.environ, "DOCKER_HOST": engine.host})
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.testbed.host import BedHost
from tests.testbed.processes import descendants, until

__all__ = ["Engine"]

_ENGINES = 40
_WITHIN_S = 90.0
_CGROUPS = Path("/sys/fs/cgroup")

_CONTAINERD = """\
version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-run"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{folder}/containerd.sock"
[ttrpc]
address = "{folder}/containerd.sock.ttrpc"
"""


class Engine:
    """One engine, which can be killed and started again.

    Args:
        on: The host of a bed that it runs on; this machine if it is none. The host can be down when
            the engine is stopped, not when it is started.
        settings: Further ones of its daemon.json.
    """

    def __init__(
        self, on: BedHost | None = None, settings: Mapping[str, object] | None = None
    ) -> None:
        self._on = on
        self._settings = dict(settings or {})
        self._group: int | None = 0
        self._containerd: subprocess.Popen[bytes] | None = None
        self._dockerd: subprocess.Popen[bytes] | None = None
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            number = undo.enter_context(_number())
            self.prefix = f"swmdk{number}"
            self.subnet = f"10.82.{number}"
            _clear(self.prefix)
            # Short, since sockets lie there; and not below /tmp, of which each host has its own.
            self.folder = Path(tempfile.mkdtemp(prefix=f"{self.prefix}-", dir="/var/tmp"))
            undo.callback(self._remove)
            self.folder.chmod(0o755)
            self._configure()
            self.start()
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / "docker.sock"

    @property
    def host(self) -> str:
        """What DOCKER_HOST is for it."""
        return f"unix://{self.socket}"

    @property
    def log(self) -> Path:
        """What the engine says."""
        return self.folder / "dockerd.log"

    def docker(
        self,
        *words: str,
        config: Path | None = None,
        stdin: bytes | IO[bytes] = b"",
        buildkit: bool = False,
        timeout_s: float = 300,
    ) -> str:
        """What docker's client says on standard output; an error if it fails.

        Args:
            words: Its arguments.
            config: The folder of its configuration (logins); an empty one of the engine by default.
            stdin: What it reads.
            buildkit: Whether it builds by BuildKit.
            timeout_s: How long it may take.
        """
        done = self.attempt(
            *words, config=config, stdin=stdin, buildkit=buildkit, timeout_s=timeout_s
        )
        output = (done.stdout + done.stderr).decode(errors="replace")
        assert done.returncode == 0, f"docker {' '.join(words)}: {output}"
        return done.stdout.decode()

    def attempt(
        self,
        *words: str,
        config: Path | None = None,
        stdin: bytes | IO[bytes] = b"",
        buildkit: bool = False,
        timeout_s: float = 300,
    ) -> subprocess.CompletedProcess[bytes]:
        """As `docker`, when it may fail."""
        environment = {
            **os.environ,
            "DOCKER_HOST": self.host,
            "DOCKER_CONFIG": str(config or self.folder / "client"),
            "DOCKER_BUILDKIT": str(int(buildkit)),
        }
        command = ["docker", *words]
        if isinstance(stdin, bytes):
            return subprocess.run(
                command,
                env=environment,
                input=stdin,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        return subprocess.run(
            command,
            env=environment,
            stdin=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )

    def image_id(self, image: str) -> str:
        """The identity of an image, `sha256:...`."""
        return self.docker("image", "inspect", "--format", "{{.Id}}", image).strip()

    def has(self, image: str) -> bool:
        """Whether it has an image."""
        return self.attempt("image", "inspect", image).returncode == 0

    def containers(self, *, everything: bool = True) -> list[str]:
        """The names of its containers; only of those that run unless it is `everything`."""
        words = ["ps", "--format", "{{.Names}}", *(["--all"] if everything else [])]
        return self.docker(*words).split()

    def clear(self) -> None:
        """Remove all containers, volumes and networks. Images stay."""
        if found := self.docker("ps", "--all", "--quiet").split():
            self.docker("rm", "--force", "--volumes", *found)
        self.docker("volume", "prune", "--force")
        self.docker("network", "prune", "--force")

    def allow(self, group: int | None) -> None:
        """Have a group use it besides root, or everybody if it is None, until told otherwise."""
        self._group = group
        self._open()

    # Its life.

    def start(self) -> None:
        """Start it, if it does not run."""
        if self._containerd is None or self._containerd.poll() is not None:
            self._containerd = self._spawn(
                "containerd", "--config", f"{self.folder}/containerd.toml"
            )
            address = self.folder / "containerd.sock"
            self._until_up(self._containerd, "containerd", address.exists)
        if self._dockerd is None or self._dockerd.poll() is not None:
            self._make_bridge()
            # That of one that was killed would name a process which may be another by now.
            (self.folder / "dockerd.pid").unlink(missing_ok=True)
            self._dockerd = self._spawn("dockerd", "--config-file", f"{self.folder}/daemon.json")
            self._until_up(self._dockerd, "dockerd", self._answers)
            self._open()

    def stop(self) -> None:
        """Stop it, as a service is stopped: its containers end first."""
        for process in (self._dockerd, self._containerd):
            _signal(process, signal.SIGTERM)
        self._dockerd = self._containerd = None

    def kill(self) -> None:
        """Kill dockerd alone. Containers go on until it is started again, which ends them."""
        _signal(self._dockerd, signal.SIGKILL)
        self._dockerd = None

    def crash(self) -> None:
        """Kill it and all its containers, as a loss of power does."""
        self.kill()
        _signal(self._containerd, signal.SIGKILL)
        self._containerd = None
        _end_processes(self.prefix)

    def _configure(self) -> None:
        (self.folder / "client").mkdir()
        settings = {
            "hosts": [self.host],
            "data-root": str(self.folder / "data"),
            "exec-root": str(self.folder / "run"),
            "pidfile": str(self.folder / "dockerd.pid"),
            "containerd": str(self.folder / "containerd.sock"),
            "group": "0",
            "cgroup-parent": f"/{self.prefix}",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "bridge": self.prefix,
            "default-address-pools": [{"base": f"{self.subnet}.128/25", "size": 28}],
            # The rules of this machine are not its own to change.
            "iptables": False,
            "ip-forward": False,
            "ip-masq": False,
            # Where a registry listens for hosts of a bed; loopback is known without.
            "insecure-registries": ["10.81.0.0/16"],
            "shutdown-timeout": 2,
            **self._settings,
        }
        (self.folder / "daemon.json").write_text(json.dumps(settings))
        (self.folder / "containerd.toml").write_text(_CONTAINERD.format(folder=self.folder))

    def _command(self, *words: str) -> list[str]:
        return list(words) if self._on is None else self._on.command(*words)

    def _spawn(self, program: str, *words: str) -> subprocess.Popen[bytes]:
        path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin:/usr/local/sbin"
        with (self.folder / f"{program}.log").open("ab") as log:
            return subprocess.Popen(
                self._command("env", f"PATH={path}", program, *words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _until_up(
        self, process: subprocess.Popen[bytes], program: str, is_up: Callable[[], bool]
    ) -> None:
        log = self.folder / f"{program}.log"

        def up_or_ended() -> bool:
            assert process.poll() is None, f"{program} has ended: {_end(log)}"
            return is_up()

        until(up_or_ended, f"{program} does not answer: {log}", within_s=_WITHIN_S)

    def _answers(self) -> bool:
        return self.socket.exists() and self.attempt("version").returncode == 0

    def _open(self) -> None:
        os.chown(self.socket, 0, self._group or 0)
        self.socket.chmod(0o666 if self._group is None else 0o660)

    def _make_bridge(self) -> None:
        name = self.prefix
        line = (
            f"ip link show {name} >/dev/null 2>&1 || {{ ip link add {name} type bridge && "
            f"ip addr add {self.subnet}.1/25 dev {name} && ip link set {name} up; }}"
        )
        done = subprocess.run(
            self._command("sh", "-c", line), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def _remove(self) -> None:
        if self._dockerd is not None and self._dockerd.poll() is None:
            # What does not heed SIGTERM would be waited for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                running = self.attempt("ps", "--quiet", timeout_s=20).stdout.decode().split()
                self.attempt("kill", *running, timeout_s=20)
        self.stop()
        _clear(self.prefix)


def _signal(process: subprocess.Popen[bytes] | None, number: signal.Signals) -> None:
    """Signal a program that was started, perhaps by way of another; wait until it has ended."""
    if process is None:
        return
    with contextlib.suppress(ProcessLookupError):
        # On a host it is the child of what entered there, and that ends with it.
        for pid in _program_of(process.pid):
            os.kill(pid, number)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _program_of(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        if Path(f"/proc/{pid}/comm").read_text().strip() == "nsenter":
            return descendants(pid)[:1]
    return [pid]


def _end(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-5:])


@contextlib.contextmanager
def _number() -> Iterator[int]:
    """A number that no other engine has meanwhile."""
    for number in range(_ENGINES):
        with Path("/var/tmp", f"swmdk{number}.lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield number
            return
    raise AssertionError(f"{_ENGINES} engines are up")


def _clear(prefix: str) -> None:
    """Remove all that is of an engine: also of one whose test was killed."""
    _end_processes(prefix)
    folders = [str(path) for path in Path("/var/tmp").glob(f"{prefix}-*")]
    for place in reversed(_mounts(folders)):
        subprocess.run(["umount", "--lazy", place], check=False)
    for name in Path("/sys/class/net").glob(prefix):
        subprocess.run(["ip", "link", "del", name.name], check=True)
    for tree in [*_CGROUPS.glob(f"*/{prefix}"), *_CGROUPS.glob(prefix)]:
        _remove_cgroups(tree)
    for folder in folders:
        shutil.rmtree(folder)


def _mounts(folders: Sequence[str]) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    places = [line.split(" ")[4] for line in lines]
    return [place for place in places if any(place.startswith(f"{it}/") for it in folders)]


def _remove_cgroups(tree: Path) -> None:
    for folder, _, _ in os.walk(tree, topdown=False):
        with contextlib.suppress(FileNotFoundError):
            Path(folder).rmdir()


def _end_processes(prefix: str) -> None:
    """End the daemons of an engine, what these started, and all that runs in its containers."""

    def ended() -> bool:
        found = list(_processes(prefix))
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    until(ended, f"processes of {prefix} do not end")


def _processes(prefix: str) -> Iterator[int]:
    argument, cgroup = f"/var/tmp/{prefix}-", f":/{prefix}/"
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            # Only what the engine started itself, and not whoever reads one of its files.
            words = (folder / "cmdline").read_text(errors="replace").split("\0")
            daemon = Path(words[0]).name in {"dockerd", "containerd", "containerd-shim-runc-v2"}
            if (daemon and argument in " ".join(words)) or (
                words[0] and cgroup in (folder / "cgroup").read_text()
            ):
                yield int(folder.name)
