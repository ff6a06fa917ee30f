"""The engine and the registry are what tests with them believe them to be."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed import images
from tests.testbed.docker import Engine
from tests.testbed.hosts import Bed
from tests.testbed.processes import until
from tests.testbed.registry import Registry


@pytest.fixture
def engine(docker_engine: Engine) -> Iterator[Engine]:
    """The engine, which gets rid of what a test left."""
    yield docker_engine
    docker_engine.start()
    docker_engine.allow(0)
    docker_engine.clear()


def run_as(uid: int, engine: Engine, *words: str) -> subprocess.CompletedProcess[str]:
    """What docker's client says to an account that is nobody's on this machine."""
    return subprocess.run(
        ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "docker", *words],
        env={"PATH": os.environ["PATH"], "DOCKER_HOST": engine.host, "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_account_uses_the_engine_once_it_is_let_in(engine: Engine) -> None:
    image = images.busybox(engine)
    one, other = 61_991, 61_992
    words = ("run", "--rm", "--network", "host", "--user", f"{one}", image, "id", "-u")
    refused = run_as(one, engine, *words)
    assert refused.returncode != 0
    assert "permission denied" in refused.stderr
    engine.allow(one)
    assert run_as(one, engine, *words).stdout == f"{one}\n"
    assert "permission denied" in run_as(other, engine, *words).stderr
    engine.allow(None)
    assert run_as(other, engine, *words).stdout == f"{one}\n"


def test_containers_have_limits_mounts_ports_and_each_other(engine: Engine, tmp_path: Path) -> None:
    image = images.busybox(engine)
    (tmp_path / "file").write_text("seen")
    engine.docker("network", "create", "inner")
    served = ("--publish", "127.0.0.1::80", "--volume", f"{tmp_path}:/www:ro", "--memory", "32m")
    engine.docker(
        *("run", "--detach", "--name", "web", "--network", "inner", *served),
        *(image, "httpd", "-f", "-h", "/www"),
    )
    words = ("run", "--rm", "--network", "inner", image, "wget", "-qO-", "http://web/file")
    assert engine.docker(*words) == "seen"
    address = engine.docker("port", "web", "80").strip()
    fetched = ("run", "--rm", "--network", "host", image, "wget", "-qO-", f"http://{address}/file")
    assert engine.docker(*fetched) == "seen"
    limit = engine.docker("inspect", "--format", "{{.HostConfig.Memory}}", "web")
    assert int(limit) == 32 << 20


def test_an_image_without_a_shell_has_none(engine: Engine) -> None:
    image = images.no_shell(engine)
    assert engine.docker("run", "--rm", "--network", "none", image, "echo", "here") == "here\n"
    failed = engine.attempt("run", "--rm", "--network", "none", image, "sh", "-c", "echo here")
    assert failed.returncode == 127
    assert b'"sh": executable file not found' in failed.stderr


def test_the_registry_takes_and_gives_to_those_who_log_in(
    engine: Engine, registry: Registry, tmp_path: Path
) -> None:
    image = registry.push(engine, images.busybox(engine), "some/tool:3")
    refused = engine.attempt("pull", image)
    assert refused.returncode != 0
    assert b"no basic auth credentials" in refused.stderr
    registry.log_in(engine, tmp_path)
    engine.docker("pull", image, config=tmp_path)
    assert engine.image_id(image) == engine.image_id(images.BUSYBOX)
    engine.docker("rmi", image)
    by_digest = f"{image.rsplit(':', 1)[0]}@{registry.digest(image)}"
    engine.docker("pull", by_digest, config=tmp_path)
    engine.docker("rmi", by_digest)

    registry.stop()
    failed = engine.attempt("pull", image, config=tmp_path)
    assert b"connection refused" in failed.stderr
    registry.start()
    engine.docker("pull", image, config=tmp_path)
    engine.docker("rmi", image)


def test_a_wrong_password_is_refused(engine: Engine, registry: Registry, tmp_path: Path) -> None:
    words = ("login", "--username", registry.user, "--password-stdin", registry.address)
    failed = engine.attempt(*words, config=tmp_path, stdin=b"wrong")
    assert failed.returncode != 0
    assert b"401 Unauthorized" in failed.stderr


def test_a_killed_engine_leaves_containers_running_and_a_crash_none(engine: Engine) -> None:
    image = images.busybox(engine)
    start = ("run", "--detach", "--init", "--network", "none", "--name")
    engine.docker(*start, "first", image, "sleep", "600")
    pid = int(engine.docker("inspect", "--format", "{{.State.Pid}}", "first"))
    engine.kill()
    assert engine.attempt("ps").returncode != 0
    assert is_alive(pid)
    engine.start()
    assert engine.containers() == ["first"]
    assert engine.containers(everything=False) == []
    assert not is_alive(pid)

    engine.docker(*start, "second", image, "sleep", "600")
    pid = int(engine.docker("inspect", "--format", "{{.State.Pid}}", "second"))
    engine.crash()
    assert not is_alive(pid)
    engine.start()
    assert engine.containers(everything=False) == []
    assert sorted(engine.containers()) == ["first", "second"]


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return "\nState:\tZ" not in status


def test_an_engine_on_a_host_of_a_bed_is_of_that_host(hosts: Bed) -> None:
    host, user = hosts["h1"], "alice"
    with Engine(on=host) as engine:
        engine.allow(hosts.uid(user))
        image = images.busybox(engine)
        host.run("echo kept >/home/alice/file", user=user)
        docker = f"DOCKER_HOST={engine.host} docker"
        mount = "--volume /home/alice:/w --user $(id -u)"
        line = f"{docker} run --rm --network host {mount} {image} sh -c 'cat /w/file; hostname'"
        assert host.run(line, user=user) == "kept\nh1\n"
        host.run(f"{docker} run --detach --network none --name stays {image} sleep 600", user=user)
        host.crash()
        assert engine.attempt("ps").returncode != 0
        host.boot()
        engine.start()
        assert engine.containers() == ["stays"]
        assert engine.containers(everything=False) == []


def test_a_second_engine_is_apart_from_the_first_and_leaves_nothing(engine: Engine) -> None:
    engine.docker(
        "run",
        "--detach",
        "--network",
        "none",
        "--name",
        "mine",
        images.busybox(engine),
        "sleep",
        "600",
    )
    with Engine() as other:
        assert other.subnet != engine.subnet
        assert other.containers() == []
        # It ends without being asked twice, and so does what does not heed signals.
        line = "trap '' TERM; sleep 600"
        other.docker(
            "run", "--detach", "--network", "none", images.busybox(other), "sh", "-c", line
        )
        folder, prefix = other.folder, other.prefix
        assert list(traces_of(prefix))
    until(lambda: not list(traces_of(prefix)), f"something is left of {prefix}")
    assert not folder.exists()
    assert engine.containers(everything=False) == ["mine"]


def traces_of(prefix: str) -> Iterator[str]:
    """Where a name of an engine is seen on this machine."""
    yield from (str(it) for it in Path("/sys/class/net").glob(prefix))
    yield from (str(it) for it in Path("/sys/fs/cgroup").glob(f"*/{prefix}"))
    mounts = Path("/proc/mounts").read_text().splitlines()
    yield from (line for line in mounts if f"/{prefix}-" in line)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_text() + (process / "cgroup").read_text()
        except OSError:
            continue
        if f"/{prefix}-" in told or f":/{prefix}/" in told:
            yield told
