"""VMs that are containers: a root file system, cloud-init, sshd and an engine of their own.

Cloud-init is the real one; it has the user-data by a seed (NoCloud) where Azure has a disk. The
engine within is real too, so that what it runs ends with the VM. What a VM is not: it has the
kernel and the clock of this machine, no systemd (a `systemctl` that knows docker and ssh alone is
there), and no way out to the internet. Its private address and its public one are the same.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import yaml

from tests.testbed.azure_arm.vms import image
from tests.testbed.azure_arm.vms.backend import Machine
from tests.testbed.azure_arm.vms.fabric import Fabric
from tests.testbed.azure_arm.vms.guests import Guest, Guests
from tests.testbed.docker import Engine

__all__ = ["Containers"]

_SYS_RESOURCE = 24


class Containers(Guests):
    """Makes such VMs, by an engine of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._engine = Engine()
        self._image = ""
        self._last = 0

    async def open(self) -> None:
        await asyncio.to_thread(self._open)
        try:
            await super().open()
        except BaseException:
            self._engine.__exit__(None, None, None)
            raise

    def _open(self) -> None:
        self._engine.__enter__()
        try:
            self._image = image.make(self._engine)
        except BaseException:
            self._engine.__exit__(None, None, None)
            raise

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            await asyncio.to_thread(self._engine.__exit__, None, None, None)

    def new(self, machine: Machine) -> Guest:
        self._last += 1
        return _Container(self._engine, self._image, self.fabric, machine, self._last)

    async def boot(self, machine: Machine, guest: Guest, began: float) -> None:
        assert isinstance(guest, _Container)
        await self.do(machine, guest.boot)
        while not guest.is_up():  # noqa: ASYNC110 - another process tells by a file
            await asyncio.sleep(0.05)

    def live(self) -> list[str]:
        volumes = self._engine.docker("volume", "ls", "--quiet").split()
        return [*self._engine.containers(), *volumes]


class _Container(Guest):
    """One such VM."""

    def __init__(
        self, engine: Engine, image_name: str, fabric: Fabric, machine: Machine, number: int
    ) -> None:
        self._engine = engine
        self._image = image_name
        self._fabric = fabric
        self._machine = machine
        self._name = f"{fabric.prefix}-{number}"
        self._port = f"to-{number}"
        self._folder = fabric.folder / str(number)
        self._running = False

    def make(self) -> None:
        self._write_seed()
        words = ["create", "--name", self._name, "--hostname", self._machine.name]
        words += ["--network", "none", *_rights()]
        words += ["--volume", f"{self._name}:/var/lib/docker", *image.mounts()]
        words += ["--volume", f"{self._folder}/seed:/var/lib/cloud/seed/nocloud:ro"]
        words += ["--volume", f"{self._folder}/report:/run/testbed"]
        account = "/etc/cloud/cloud.cfg.d/95_account.cfg"
        words += ["--volume", f"{self._folder}/account.cfg:{account}:ro"]
        for name, value in self._environment().items():
            words += ["--env", f"{name}={value}"]
        self._engine.docker(*words, self._image)

    def _environment(self) -> dict[str, str]:
        machine = self._machine
        found = {}
        if machine.suffers("never boots"):
            found["NEVER_BOOTS"] = "1"
        if machine.suffers("no docker"):
            found["NO_DOCKER"] = "1"
        if (late := machine.suffers("late")) is not None:
            found["SSHD_LATE"] = str(late.seconds)
        return found

    def _write_seed(self) -> None:
        machine = self._machine
        seed = self._folder / "seed"
        seed.mkdir(parents=True, mode=0o700)  # it has secrets, as the disk of Azure
        (self._folder / "report").mkdir()
        meta = {
            "instance-id": machine.instance,
            "local-hostname": machine.name,
            "public-keys": list(machine.keys),
        }
        (seed / "meta-data").write_text(json.dumps(meta))
        user_data = machine.user_data or "#cloud-config\n{}\n"
        if machine.suffers("cloud-init fails"):
            user_data = _failing(user_data)
        (seed / "user-data").write_text(user_data)
        (seed / "instance.json").write_text(json.dumps(self._facts()))
        account = {
            "system_info": {
                "default_user": {
                    "name": machine.admin,
                    "lock_passwd": True,
                    "shell": "/bin/bash",
                    "sudo": ["ALL=(ALL) NOPASSWD:ALL"],
                }
            }
        }
        (self._folder / "account.cfg").write_text(json.dumps(account))

    def _facts(self) -> dict[str, Any]:
        machine = self._machine
        address = {"privateIpAddress": machine.address, "publicIpAddress": machine.address}
        return {
            "compute": {
                "azEnvironment": "AzurePublicCloud",
                "location": machine.location,
                "name": machine.id.rpartition("/")[2],
                "osType": "Linux",
                "resourceGroupName": machine.resource_group,
                "resourceId": machine.id,
                "subscriptionId": machine.id.split("/")[2],
                "vmId": machine.instance,
                "vmSize": machine.size,
            },
            "network": {"interface": [{"ipv4": {"ipAddress": [address]}}]},
        }

    def boot(self) -> None:
        if self._running:
            return
        (self._folder / "report/up").unlink(missing_ok=True)
        self._engine.docker("start", self._name)
        self._running = True
        self.filter()
        self._fabric.attach(self._space(), self._port, self._machine.address)

    def is_up(self) -> bool:
        """Whether its guest has said so."""
        return (self._folder / "report/up").exists()

    def _space(self) -> str:
        said = self._engine.docker("inspect", "--format", "{{.State.Pid}}", self._name)
        return f"/proc/{said.strip()}/ns/net"

    def filter(self) -> None:
        if self._running:
            self._fabric.filter(self._space(), self._machine.address, self._machine.rules)

    def crash(self) -> None:
        if self._running:
            self._running = False
            self._engine.docker("stop", "--time", "3", self._name)
            self._fabric.detach(self._port)

    def remove(self) -> None:
        self._running = False
        self._engine.attempt("rm", "--force", "--volumes", self._name)
        self._engine.attempt("volume", "rm", "--force", self._name)

    def run(self, line: str) -> tuple[int, str]:
        done = self._engine.attempt("exec", self._name, "sh", "-c", line)
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace")

    def load_image(self, archive: str) -> None:
        last = time.monotonic() + 60
        while self.run("docker version")[0] != 0:
            assert time.monotonic() < last, f"the engine in {self._name} does not answer"
            time.sleep(0.1)
        with Path(archive).open("rb") as file:
            self._engine.docker("exec", "--interactive", self._name, "docker", "load", stdin=file)


def _rights() -> list[str]:
    """All that an engine within needs, which is not `--privileged` where this machine has less."""
    words = ["--cap-add", "ALL"]
    if not _may_have_more():
        words += ["--cap-drop", "SYS_RESOURCE"]
    for one in ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"):
        words += ["--security-opt", one]
    return [*words, "--device-cgroup-rule", "a *:* rwm"]


def _may_have_more() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return bool(int(line.split()[1], 16) >> _SYS_RESOURCE & 1)
    return False


def _failing(user_data: str) -> str:
    """User-data of which the commands end before the first of them."""
    found = yaml.safe_load(user_data) or {}
    assert isinstance(found, dict), "only cloud-config can be made to fail"
    bad = "echo 'E: Failed to fetch archives: no space left on device' >&2; exit 100"
    found["runcmd"] = [bad, *(found.get("runcmd") or [])]
    return f"#cloud-config\n{yaml.safe_dump(found)}"
