"""What podman, apptainer and GPUs are asked for: programs in their place write down how they ran.

None of them can be had where these tests run. So it is tested here what is passed to them; that
they do with it what their manuals say is not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fake_gate.harness import end_all_jobs, make_ref, problem, start_request
from tests.ssh.sshd import Sshd
from tests.ssh_gate.conftest import MakeGate, cluster, make_gate
from tests.ssh_gate.harness import Cluster, Gate

__all__ = ["cluster", "make_gate"]

IMAGE = "registry.example/tool:1"
DIGEST = "sha256:" + "5" * 64

# Runs what it is told to run, after the image, on this machine; and keeps how it was called.
FAKE = """#!/usr/bin/env python3
import json, os, sys
words = sys.argv[1:]
with open({calls!r}, "a") as file:
    file.write(json.dumps({{"words": words, "login": os.environ.get("APPTAINER_DOCKER_PASSWORD")}}))
    file.write("\\n")
if words[:2] == ["image", "inspect"]:
    print({digest!r}, "registry.example/tool@" + {digest!r})
elif words[0] == "inspect":
    print("exited 0 false")
elif words[:2] == ["--debug", "pull"]:
    print("DEBUG   [U=0,P=1] f() the source image digest for", words[-1], "is", {hex!r})
    open(words[-2], "w").close()
elif "systemd-run" in sys.argv[0]:
    at = words.index("--") + 1 if "--" in words else len(words) - 1
    os.execvp(words[at], words[at:])
elif words[0] in ("run", "exec"):
    at = next(i for i, word in enumerate(words) if "/inside." in word)
    os.environ["SWM_MARK"] = next(w for w in words if w.startswith("SWM_MARK=")).partition("=")[2]
    script = ["/bin/sh", *words[at:]]
    # Outside of a container there are other processes, which are none of its business.
    script[2] = "exec"
    os.execv("/bin/sh", script)
"""


class Fakes:
    """A host with programs that stand in for the real ones.

    Args:
        folder: Where all of it lies.
    """

    def __init__(self, folder: Path) -> None:
        self._log = folder / "calls"
        self.cluster = Cluster(folder / "hosts", "n1")
        programs = folder / "bin"
        programs.mkdir()
        scripts = dict.fromkeys(("docker", "podman", "apptainer", "systemd-run"), FAKE)
        for name, script in (scripts | {"loginctl": "#!/bin/sh\necho yes\n"}).items():
            program = programs / name
            program.write_text(
                script.format(calls=str(self._log), digest=DIGEST, hex=DIGEST.partition(":")[2])
            )
            program.chmod(0o755)
        environment = {
            "HOME": str(self.cluster.home("n1")),
            "PATH": f"{programs}:{os.environ['PATH']}",
            # Of a systemd of the account's own, as logins are told of it.
            "XDG_RUNTIME_DIR": str(folder),
        }
        self.cluster.hosts["n1"] = Sshd(folder / "n1", environment=environment)
        self.cluster.trust()

    def calls(self, word: str) -> list[list[str]]:
        """The words of calls that begin with one."""
        return [call["words"] for call in self._all() if call["words"][0] == word]

    def logins(self) -> list[str | None]:
        """The passwords that were in the environment of calls."""
        return [call["login"] for call in self._all()]

    def _all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@pytest.fixture
def fakes(tmp_path: Path) -> Iterator[Fakes]:
    fakes = Fakes(tmp_path)
    with fakes.cluster.running():
        yield fakes
    end_all_jobs()


async def ended(
    make_gate: MakeGate, fakes: Fakes, runtime: str, *, gpus: Sequence[str] = (), **config: Any
) -> tuple[Gate, bytes]:
    """The gate and the output of a job on one node with four GPUs."""
    settings = {"containers": {"runtime": runtime}, "gpus": 4} | config
    gate = await make_gate(**fakes.cluster.config(**settings))
    await gate.up("n1")
    ref = make_ref("job-1", "n1", partition="lab")
    await gate.stage(ref)
    script = "echo $SWM_GPUS $CUDA_VISIBLE_DEVICES $SWM_STORAGE_BIG_DATA; exit 3"
    storage = list(config.get("volumes", ()))
    request = start_request(ref, script, container_image=IMAGE, storage=storage)
    request.allocations[0].gpu_ids.extend(gpus)
    request.allocations[0].memory_bytes = 1 << 30
    login = request.registry_logins.add(registry="registry.example")
    login.username, login.password = "ann", "psst"
    await gate.jobs.StartJob(request)
    end = await gate.ended(ref)
    assert end.WhichOneof("outcome") == "exit_code", end
    return gate, await gate.output(ref)


def has(words: Sequence[str], *wanted: str) -> bool:
    """Whether these words stand there one after the other."""
    return any(
        list(words[at : at + len(wanted)]) == list(wanted)
        for at in range(len(words) - len(wanted) + 1)
    )


async def test_docker_gets_just_the_gpus_that_were_given(make_gate: MakeGate, fakes: Fakes) -> None:
    volumes = {"big-data": "/srv/data:ro"}
    _, output = await ended(make_gate, fakes, "auto", gpus=["1", "3"], volumes=volumes)
    (words,) = fakes.calls("run")
    assert has(words, "--gpus", '"device=1,3"')
    assert has(words, "--memory", str(1 << 30), "--memory-swap", str(1 << 30))
    assert has(words, "--network", "host")
    assert has(words, "--volume", "/srv/data:/srv/data:ro")
    assert has(words, "--security-opt", "no-new-privileges")
    assert not any("psst" in word for call in fakes.calls("run") for word in call)
    assert output == b"1,3 0,1 /srv/data\n"


async def test_without_gpus_a_container_sees_none(make_gate: MakeGate, fakes: Fakes) -> None:
    await ended(make_gate, fakes, "docker")
    (words,) = fakes.calls("run")
    assert has(words, "--env", "NVIDIA_VISIBLE_DEVICES=void")
    assert "--gpus" not in words


async def test_podman_is_asked_for_the_same(make_gate: MakeGate, fakes: Fakes) -> None:
    _, output = await ended(make_gate, fakes, "podman", gpus=["0", "2"])
    (words,) = fakes.calls("run")
    assert has(words, "--device", "nvidia.com/gpu=0")
    assert has(words, "--device", "nvidia.com/gpu=2")
    assert not has(words, "--device", "nvidia.com/gpu=")
    assert has(words, "--userns", "keep-id")
    assert has(words, "--pull", "never")
    assert output == b"0,2 0,1\n"


async def test_apptainer_keeps_an_image_in_a_file(make_gate: MakeGate, fakes: Fakes) -> None:
    gate, output = await ended(make_gate, fakes, "apptainer", gpus=["2"])
    (pull,) = fakes.calls("--debug")
    assert pull[-1] == f"docker://{IMAGE}"
    assert "psst" in fakes.logins()
    (words,) = fakes.calls("exec")
    kept = next(word for word in words if word.endswith(".sif"))
    assert Path(kept).is_file()
    # By its digest: what another pull brings doesn't change a file that a job reads.
    assert Path(kept).stem == DIGEST.partition(":")[2]
    assert "--nv" in words
    assert has(words, kept, "/bin/sh")
    # It shows all of them to the script, which is told which ones are its own.
    assert output == b"2 2\n"
    again = make_ref("job-2", "n1", partition="lab")
    await gate.stage(again)
    await gate.jobs.StartJob(start_request(again, "true", container_image=IMAGE))
    assert (await gate.ended(again)).exit_code == 0
    assert (await gate.status(again)).image_digest == DIGEST
    assert len(fakes.calls("--debug")) == 1


async def test_an_image_is_looked_for_anew_where_the_site_says_so(
    make_gate: MakeGate, fakes: Fakes
) -> None:
    await ended(make_gate, fakes, "docker", containers={"runtime": "docker", "pull": "always"})
    assert fakes.calls("--config")[0][2:] == ["pull", IMAGE]


async def test_the_login_of_a_pull_that_was_killed_is_removed_by_the_next_one(
    make_gate: MakeGate, fakes: Fakes
) -> None:
    root = fakes.cluster.home("n1") / ".skyport"
    # Beyond all process ids. Other hosts with the same root may be in the middle of a pull.
    names = [f"login.{node}.4194305" for node in ("n1", "n2", "n1.example")]
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "auth.json").write_text("psst")
    await ended(make_gate, fakes, "podman", containers={"runtime": "podman", "pull": "always"})
    assert sorted(each.name for each in root.glob("login.*")) == sorted(names[1:])


async def test_a_host_without_any_of_them_says_so(make_gate: MakeGate, cluster: Cluster) -> None:
    gate = await make_gate(**cluster.config(containers={"runtime": "podman"}))
    await gate.up("n1")
    ref = make_ref("job-1", "n1", partition="lab")
    await gate.stage(ref)
    await gate.jobs.StartJob(start_request(ref, "true", container_image=IMAGE))
    failure = (await gate.ended(ref)).failure
    assert (failure.reason, failure.message) == (
        "START_FAILED",
        "n1 has no podman, which containers need",
    )


async def test_what_is_no_image_is_refused(make_gate: MakeGate, cluster: Cluster) -> None:
    gate = await make_gate(**cluster.config())
    await gate.up("n1")
    ref = make_ref("job-1", "n1", partition="lab")
    for image in ("--privileged", "a b", "-x", "a;b", "$(id)", "a\n", "x" * 500):
        call = gate.jobs.StartJob(start_request(ref, "true", container_image=image))
        refused = await problem(call)
        assert (refused.code.name, refused.reason) == ("INVALID_ARGUMENT", "FIELD_MALFORMED")
        assert "spec.container_image" in refused.message


async def test_without_a_container_limits_are_set_by_the_accounts_own_systemd(
    make_gate: MakeGate, fakes: Fakes
) -> None:
    gate = await make_gate(**fakes.cluster.config())
    await gate.up("n1")
    ref = make_ref("job-1", "n1", partition="lab")
    await gate.stage(ref)
    request = start_request(ref, "kill -KILL $$", cpus=2)
    request.allocations[0].memory_bytes = 1 << 30
    await gate.jobs.StartJob(request)
    assert (await gate.ended(ref)).signal == 9
    words = fakes.calls("--user")[-1]
    assert words[:4] == ["--user", "--scope", "--quiet", "--collect"]
    assert has(words, "--property", "CPUQuota=200%")
    assert has(words, "--property", f"MemoryMax={1 << 30}", "--property", "MemorySwapMax=0")
    assert has(words, "--", "/bin/sh")


async def test_a_site_may_take_no_containers(make_gate: MakeGate, cluster: Cluster) -> None:
    gate = await make_gate(**cluster.config(containers={"runtime": "none"}))
    await gate.up("n1")
    ref = make_ref("job-1", "n1", partition="lab")
    refused = await problem(gate.jobs.StartJob(start_request(ref, "true", container_image=IMAGE)))
    assert (refused.code.name, refused.reason) == ("UNIMPLEMENTED", "CAPABILITY_MISSING")
