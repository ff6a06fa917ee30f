"""A whole session with a cloud: from a login to a job on two machines, and back to nothing.

The cloud is the stand-in for Azure of the tests, since a demo cannot ask for an account: the gate
and Azure's own client library are the real ones, machines are containers with a real boot by
cloud-init, sshd and a container engine. Needs root, and what `make system-packages` installs.
What it has made is gone when it ends, however it ends; the last line are the books of the cloud.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.testbed import images
from tests.testbed.azure_arm.client import AzureArm
from tests.testbed.docker import Engine
from tests.testbed.registry import Registry

_ROOT = Path(__file__).parents[1]
_PORT = 8099
"""Where the job finds what this machine serves: as in examples/two-nodes/words.sh."""
_LOCATION = "westeurope"
_PAST_BOOT = frozenset({"RUNNING", "STAGING_OUT", "SUCCEEDED", "FAILED", "CANCELLED"})
_GONE_S = 120.0
_DULL = ("", "a", "and", "are", "by", "for", "in", "is", "it", "of", "on", "that", "the", "to")


def main() -> int:
    """Run the demo; returns the exit code."""
    if os.geteuid() != 0:
        print("run it as root: its machines have networks of their own", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    try:
        with tempfile.TemporaryDirectory(prefix="skyport-demo-") as folder:
            return _demo(Path(folder))
    except KeyboardInterrupt:
        return 130


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def _demo(folder: Path) -> int:
    _say("Starting a stand-in for Azure, and a registry of images (some minutes the first time)")
    with AzureArm(folder / "azure", backend="containers") as arm:
        try:
            with _registry(arm.egress()) as (registry, image), _home(folder, arm, registry) as home:
                status = _session(home, arm, image)
        finally:
            # The core is down, so whatever is left now would be left for good.
            books = arm.books()
            print(f"\n{books}", flush=True)
    return status or (1 if books.left else 0)


@contextlib.contextmanager
def _registry(address: str) -> Iterator[tuple[Registry, str]]:
    """A registry that machines of the cloud reach, with the image of the job."""
    # Its own network, so without TLS.
    plain = {"insecure-registries": [f"{address}/32"]}
    with Engine(settings=plain) as engine, Registry(address) as registry:
        yield registry, registry.push(engine, images.busybox(engine))


@contextlib.contextmanager
def _home(folder: Path, arm: AzureArm, registry: Registry) -> Iterator[Path]:
    """A home of a core that knows the cloud; the core is stopped in the end."""
    home = folder / "home"
    os.environ["SWM_HOME"] = str(home)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ.pop("SWM_CLIENT", None)
    _quietly("swm", "init")
    password = folder / "registry-password"
    password.touch(mode=0o600)
    password.write_text(registry.password)
    ready = arm.ready
    (home / "azure.toml").write_text(
        f"""\
subscription_id = "{ready.subscription}"
tenant_id = "{ready.tenant}"
app_id = "{ready.app}"
certificate_file = "{ready.principal}"
state_dir = "{home}/gates/azure"
locations = ["{_LOCATION}"]
description = "a stand-in for Azure"

[registry."{registry.address}"]
username = "{registry.user}"
password_file = "{password}"

[endpoints]
resource_manager = "{ready.resource_manager}"
authority = "{ready.authority}"
prices = "{ready.prices}"
egress = "{ready.egress}"
ca_file = "{ready.ca_file}"
"""
    )
    with (home / "swm.toml").open("a") as settings:
        gate = json.dumps(["swm-azure-gate", "--config", f"{home}/azure.toml"])
        settings.write(f"\n[sites.azure]\ncommand = {gate}\n")
    try:
        yield home
    finally:
        # Nobody who is impatient leaves machines behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _quietly("swm", "down", "--cancel", "--timeout", "120")
        _quietly("swm", "down")  # what is not gone by then is in the books
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _session(home: Path, arm: AzureArm, image: str) -> int:
    served = home.parent / "served"
    served.mkdir()
    (served / "dull.txt").write_text("\n".join(_DULL) + "\n")
    work = home.parent / "two-nodes"
    shutil.copytree(_ROOT / "examples/two-nodes", work)
    script = work / "words.sh"
    # As in the example, but for where the image is.
    script.write_text(script.read_text().replace("busybox:1", image))
    os.chdir(work)

    _run("swm", "up")
    _run("swm", "site", "check", "azure", may_fail=True)
    _run("swm", "submit", "--dry-run", "words.sh")
    with _serving(served):
        job = _run("swm", "submit", "words.sh").strip()
        _follow_boot(job)
        _show_port(job, served)
        status = subprocess.run(["swm", "wait", job], check=False).returncode
    _run("swm", "logs", job)
    _run("swm", "logs", job, "--node", "n1")
    _run("swm", "fetch", job, "-d", "results")
    _run("head", "-n", "3", "results/counts-0.txt", "results/n1/counts-1.txt")
    _run("swm", "show", job)
    _wait_gone(arm)
    _run("swm", "partitions")
    _run("swm", "usage", "--by", "job")
    return status


def _follow_boot(job: str) -> None:
    """Tell what the job waits for, each time that this changes, until it runs or has ended."""
    _say(f"$ swm show {job} --json | …    # what it waits for, as that changes")
    told = ""
    while True:
        now = json.loads(_quietly("swm", "show", job, "--json"))
        state = now["state"].removeprefix("JOB_STATE_")
        text = f"{state}  {now.get('text', '')}".rstrip()
        if text != told:
            print(text, flush=True)
            told = text
        if state in _PAST_BOOT:
            return
        time.sleep(0.3)


def _show_port(job: str, served: Path) -> None:
    """See what the job serves at its port, and let it know."""
    _say(f"$ swm forward {job} WEB &")
    address, log = served.parent / "forwarded", served.parent / "forward.log"
    with address.open("wb") as out, log.open("wb") as errors:
        forward = subprocess.Popen(["swm", "forward", job, "WEB"], stdout=out, stderr=errors)
    try:
        visit = [sys.executable, str(_ROOT / "tools/visit.py")]
        subprocess.run([*visit, str(address), str(forward.pid), "counts-0.txt", "3"], check=False)
    finally:
        (served / "seen.txt").touch()
        forward.terminate()
        forward.wait()


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[None]:
    """Serve a folder on this machine, where the job's out-port leads."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", _PORT), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is called there
        """Say nothing."""


def _wait_gone(arm: AzureArm) -> None:
    """Until the cloud has nothing that costs money."""
    until = time.monotonic() + _GONE_S
    while arm.books().left and time.monotonic() < until:
        time.sleep(0.2)


def _say(text: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}{text}{plain}", flush=True)


def _run(*words: str, may_fail: bool = False) -> str:
    """Show a command and what it says; returns that."""
    _say(f"$ {shlex.join(words)}")
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="", flush=True)
    if done.returncode and not may_fail:
        sys.exit(f"{shlex.join(words)} ended with {done.returncode}")
    return done.stdout


def _quietly(*words: str) -> str:
    return subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    ).stdout


if __name__ == "__main__":
    sys.exit(main())
