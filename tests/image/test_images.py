"""The project's images do what docs/docker.md says, and no more is in them than belongs there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.image.conftest import SECRET, Images, Page, variables
from tests.testbed.docker import Engine
from tests.testbed.processes import until

# Whichever comes first builds.
pytestmark = pytest.mark.timeout(1000)

WITHIN_S = 60.0
CONTAINED = "opt/skyport/bin/swm-ssh-gate"
GATES = ("skyport-ssh-gate", "skyport-azure-gate")
UID = "10001"
# Beyond what they are made of. They are at 72, 85 and, with the libraries of Azure, some 145 MB.
# Ten more would be a library too many.
MOST_BYTES = {
    "skyport-core": 82 << 20,
    "skyport-ssh-gate": 95 << 20,
    "skyport-azure-gate": 160 << 20,
    "skyport": 95 << 20,
}

JOB = """\
#!/bin/sh
#SWM input-files words.txt
#SWM output-files counted.txt
wc -w <words.txt >counted.txt
echo "as $(id -u)"
"""


def inspect(engine: Engine, what: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.docker("inspect", what))[0]
    return found


@pytest.mark.parametrize("name", ["skyport-core", *GATES, "skyport"])
def test_an_image_is_small_told_of_and_not_root(built: Images, name: str) -> None:
    engine = built.engine
    told = inspect(engine, name)
    config = told["Config"]
    assert config["User"] == f"{UID}:{UID}"
    assert list(config["Volumes"]) == ["/var/lib/swm"]
    assert ("Healthcheck" in config) == (name not in GATES)
    labels = config["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "BSD-3-Clause"
    assert labels["org.opencontainers.image.title"].startswith("Sky Port")
    version = labels["org.opencontainers.image.version"]
    assert engine.image_id(f"{name}:{version}") == told["Id"]
    own = told["Size"] - inspect(engine, built.base)["Size"]
    assert 0 < own < MOST_BYTES[name]


def test_images_have_nothing_that_was_left_in_the_checkout(built: Images) -> None:
    # All layers, none compressed: also what a later one has removed.
    save = f"docker save {' '.join(built.names)} | grep -aoF -e {SECRET} -e {CONTAINED} | sort -u"
    done = subprocess.run(
        ["sh", "-c", save],
        env={**os.environ, **variables(built.engine)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stdout.split() == [CONTAINED]
    for name in built.names:
        home = ("run", "--rm", "--network", "none", name, "ls", "-A", "/var/lib/swm")
        assert built.engine.docker(*home) == ""


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("skyport-core", "asyncssh"),
        ("skyport-core", "pip"),
        ("skyport-core", "azure"),
        ("skyport-ssh-gate", "pip"),
        ("skyport-ssh-gate", "azure"),
        ("skyport-azure-gate", "pip"),
        ("skyport-azure-gate", "fabric"),
    ],
)
def test_an_image_has_no_library_that_it_does_not_need(
    engine: Engine, name: str, lacking: str
) -> None:
    found = "import importlib.util, sys; print(importlib.util.find_spec(sys.argv[1]), sys.prefix)"
    words = ("run", "--rm", "--network", "none", name, "python", "-c", found, lacking)
    assert engine.docker(*words) == "None /opt/skyport\n"


def test_a_gate_of_azure_is_set_up_in_its_volume(page: Page, engine: Engine) -> None:
    told = page.do("A gate of Azure")
    assert "az ad sp create-for-rbac --name swm-cloud --role Contributor" in told
    words = ("run", "--rm", "--volume", "cloud:/var/lib/swm", "skyport-azure-gate")
    check = engine.attempt(*words, "swm-azure-gate", "check", "--config", "azure.toml")
    # Three ids are lacking, and nothing else.
    assert check.returncode == 2
    assert check.stderr.decode().count("is not an id of Azure") == 3


def test_core_and_gate_run_apart_and_end_in_order(
    page: Page, engine: Engine, tmp_path: Path
) -> None:
    page.do("Core and gate apart")
    until(
        lambda: inspect(engine, "core")["State"]["Health"]["Status"] == "healthy",
        "the core is not healthy",
        within_s=WITHIN_S,
    )
    assert processes_of(engine, "core") == {UID}
    page.sh("(umask 077; docker exec core cat client.toml >client.toml)")
    (tmp_path / "words.txt").write_text("one two three\n")
    (tmp_path / "job.sh").write_text(JOB)
    submit = "SWM_CLIENT=client.toml swm submit --wait job.sh"
    job = page.sh(submit).strip()
    told = page.sh(
        f"SWM_CLIENT=client.toml; export SWM_CLIENT; swm logs {job}; swm fetch {job} -d r"
    )
    assert told.startswith(f"as {UID}\n")
    assert (tmp_path / "r" / "counted.txt").read_text().strip() == "3"
    assert processes_of(engine, "lab") == {UID}

    engine.docker("stop", "--time", "30", "lab", "core")
    for name in ("lab", "core"):
        assert inspect(engine, name)["State"]["ExitCode"] == 0
        log = engine.attempt("logs", name)
        assert "SIGTERM: ending" in (log.stdout + log.stderr).decode()
        engine.docker("rm", name)
    # All that lasts is in the volumes: other containers go on with it.
    engine.docker("network", "rm", "swm")
    page.do("Core and gate apart")
    assert page.sh(f"SWM_CLIENT=client.toml swm show {job} --json").count("JOB_STATE_SUCCEEDED")
    page.sh(submit)


def test_all_in_one_runs_jobs_and_buries_what_they_leave(page: Page, engine: Engine) -> None:
    told = page.do("All in one container")
    assert "in the container as swm\n" in told
    assert told.splitlines()[-1].split()[:2] == ["here", "READY"]
    states = engine.docker("top", "skyport", "-eo", "pid,stat").splitlines()[1:]
    assert not [line for line in states if "Z" in line]
    page.sh("printf '#!/bin/sh\\necho runs; sleep 600\\n' >job.sh")
    job = page.sh("docker exec -i skyport swm submit - <job.sh").strip()
    until(
        lambda: page.sh(f"docker exec skyport swm logs {job}") == "runs\n",
        "the job does not run",
        within_s=WITHIN_S,
    )
    assert processes_of(engine, "skyport") == {UID}
    engine.docker("stop", "--time", "30", "skyport")
    assert inspect(engine, "skyport")["State"]["ExitCode"] == 0
    engine.docker("start", "skyport")
    until(
        lambda: b"NODE_FAIL" in engine.attempt("exec", "skyport", "swm", "show", job).stdout,
        "the job that ended with its container has not failed",
        within_s=WITHIN_S,
    )


def processes_of(engine: Engine, container: str) -> set[str]:
    """The accounts of all that runs in a container."""
    lines = engine.docker("top", container, "-eo", "pid,uid").splitlines()[1:]
    return {line.split()[1] for line in lines}
