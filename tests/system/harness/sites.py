"""Sites that are pretended: a fake gate's configuration, its faults, and what lies at the site."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomlkit

from tests.system.harness.waiting import eventually

_names = itertools.count()


@dataclasses.dataclass(frozen=True)
class Site:
    """One fake gate: its files, and the folder that plays the site.

    Attributes:
        name: In the core's configuration.
        folder: Holds `gate.toml`, `control.toml` and `site/`.
        endpoint: Where a gate of this site listens that the test starts itself; empty: the core
            starts it.
        more: More of its table in swm.toml.
    """

    name: str
    folder: Path
    endpoint: str = ""
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def make(
        cls, name: str, folder: Path, config: Mapping[str, Any], *, endpoint: str = ""
    ) -> Site:
        """Write the configuration of a gate; what it has under `swm` is for swm.toml."""
        folder.mkdir(parents=True)
        own = {key: value for key, value in config.items() if key != "swm"}
        settings = {"state_dir": "site", "control": "control.toml", **own}
        (folder / "gate.toml").write_text(tomlkit.dumps(settings))
        return cls(name, folder, endpoint, config.get("swm", {}))

    @property
    def command(self) -> list[str]:
        """What starts its gate; `--listen` is to be appended."""
        return [sys.executable, "-m", "gates.fake_gate", "--config", str(self.folder / "gate.toml")]

    @property
    def settings(self) -> dict[str, Any]:
        """Its table in swm.toml."""
        gate = {"endpoint": self.endpoint} if self.endpoint else {"command": self.command}
        return {**gate, **self.more}

    # What goes wrong.

    def faults(self, *faults: Mapping[str, Any]) -> None:
        """Have these go wrong from now on, and nothing else. Each is counted by itself."""
        named = [{"name": f"{next(_names)}", **fault} for fault in faults]
        self._control({"faults": named})

    def unreachable(self, *nodes: str) -> None:
        """Have these nodes not answer from now on."""
        self._control({"unreachable": list(nodes)})

    def lost(self, **nodes: str) -> None:
        """Have these nodes of dynamic partitions be gone for good: NODE_FAIL or PREEMPTED."""
        self._control({"lost": nodes})

    def _control(self, table: Mapping[str, Any]) -> None:
        fresh = self.folder / "control.new"
        fresh.write_text(tomlkit.dumps(dict(table)))
        fresh.replace(self.folder / "control.toml")

    # What lies there.

    @property
    def root(self) -> Path:
        return self.folder / "site"

    def attempts(self) -> list[str]:
        """The attempts that have a folder, as `JOB.ATTEMPT`."""
        return [name for name in self._names("jobs/*/*/*") if name[0] != "."]

    def attempt_folder(self, job_id: str, attempt: int = 1) -> Path:
        """Where an attempt lies."""
        (found,) = self.root.glob(f"jobs/*/*/{job_id}.{attempt}")
        return found

    def partitions(self) -> list[str]:
        """The dynamic partitions that exist, in whatever state."""
        return [name for name in self._names("partitions/*") if name[0] != "."]

    def holds(self) -> list[str]:
        """All attempts and dynamic partitions that are there, also what is made or removed now."""
        return [*self._names("jobs/*/*/*"), *self._names("partitions/*")]

    def _names(self, pattern: str) -> list[str]:
        while True:
            # A folder may go while it is looked into.
            with contextlib.suppress(FileNotFoundError):
                return sorted(path.name for path in self.root.glob(pattern))

    def holds_no_more_than(self, before: set[str]) -> None:
        """Wait until the site holds nothing but some of what it held before."""
        eventually(lambda: set(self.holds()) <= before, f"site {self.name} has nothing new left")

    def cleared(self, job_id: str = "") -> None:
        """Wait until the site holds nothing of the job (or of any), and nothing of it runs."""
        eventually(
            lambda: not [name for name in self.attempts() if name.startswith(job_id)],
            f"site {self.name} has no attempts left",
        )
        if job_id:
            eventually(lambda: not processes_of(job_id), f"nothing of job {job_id} runs")

    def given_back(self) -> None:
        """Wait until the site has no dynamic partition any more."""
        eventually(lambda: not self.partitions(), f"site {self.name} has no partitions left")


def processes_of(job_id: str) -> list[int]:
    """The processes of a job's attempts, wherever they run."""
    wanted = f"SWM_JOB_ID={job_id}".encode()
    return _with_variable(lambda variable: variable == wanted)


def processes_marked(installation: str) -> list[int]:
    """The processes of all attempts of an installation."""
    part = f"{installation}/".encode()
    return _with_variable(lambda variable: variable.startswith(b"SWM_MARK=") and part in variable)


def _with_variable(fits: Callable[[bytes], bool]) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(fits(variable) for variable in variables):
            found.append(int(folder.name))
    return found


# Sites as most tests want them.


def node(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "cpus": 4, "memory": "8G", **fields}


def static(*nodes: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """A configuration with one static partition, `hosts`."""
    given = list(nodes) or [node("n1"), node("n2")]
    return {"partitions": {"hosts": {"kind": "static", "nodes": given}}, **fields}


def queue(slots: int = 1, **fields: Any) -> dict[str, Any]:
    """A configuration with one queue, `batch`."""
    return {"partitions": {"batch": {"kind": "queue", "slots": slots, **fields}}}


def dynamic(*flavors: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """A configuration with partitions on demand."""
    given = list(flavors) or [{"name": "small", "cpus": 2, "memory": "4G", "price": "0.10"}]
    return {"dynamic": {"flavors": given, "boot_s": 0.05, **fields}}


class GateProcess:
    """A gate that a test starts itself, for a site with an endpoint.

    Args:
        site: Whose it is.
        options: Of its command line, beside `--config` and `--listen`.
    """

    def __init__(self, site: Site, *options: str) -> None:
        self.site = site
        self._command = [*site.command, "--listen", site.endpoint, *options]
        self._log = site.folder / "gate.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._keeping: threading.Thread | None = None
        self._closed = threading.Event()
        self.starts = 0
        """How often it was started."""

    def keep_running(self) -> None:
        """Start it, and again at once whenever it has ended, until it is closed."""
        self.start()
        self._keeping = threading.Thread(target=self._keep, daemon=True)
        self._keeping.start()

    def _keep(self) -> None:
        while self._process is not None:
            self._process.wait()
            if self._closed.is_set():
                return
            self.start()

    def start(self) -> None:
        self.starts += 1
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def stop(self) -> int:
        """End it; returns its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(20)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(20)

    def close(self) -> None:
        """End it, however."""
        self._closed.set()
        if self._process is not None and self._process.poll() is None:
            self.kill()
        if self._keeping is not None:
            self._keeping.join(20)
            self.kill()
