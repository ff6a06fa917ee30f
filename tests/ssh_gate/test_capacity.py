"""What a host says that it has."""

from __future__ import annotations

import contextlib
import os
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from gate_kit.ssh import capacity
from gate_kit.ssh.capacity import Capacity, Gpu
from gate_kit.ssh.host import Host
from gate_kit.ssh.local import LocalTransport

_SHELLS = (["dash"], ["bash", "--posix"], ["busybox", "sh"])


def test_limits_of_control_groups_count_and_nonsense_does_not() -> None:
    told = """cpus 64
memory 1000000
memory_limit max
memory_limit 400000
memory_limit 9223372036854771712
cpu_limit 250000 100000
cpu_limit max 100000
cpu_limit -1 100000
gpu 0 NVIDIA A100-SXM4-40GB
gpu 3 NVIDIA\tA100
disk 5000
architecture x86_64
address 10.0.0.7
unwritable /work
trouble something\x1b[31m odd
colour blue"""
    assert capacity.parse(told.splitlines()) == Capacity(
        cpus=3,
        memory_bytes=400_000,
        gpus=(Gpu("0", "NVIDIA A100-SXM4-40GB"), Gpu("3", "NVIDIA\tA100")),
        disk_bytes=5_000,
        architecture="x86_64",
        address="10.0.0.7",
        unwritable="/work",
        trouble="something[31m odd",
    )
    assert capacity.parse(["cpus many", "memory", "disk -3"]) == Capacity()


def _run(shell: list[str], root: Path, path: str, asks: str = "") -> list[list[str]]:
    """The reports of the script, as a shell runs it that is asked so often."""
    script = resources.files("gate_kit.ssh").joinpath("scripts", "capacity.sh").read_text()
    ended = subprocess.run(
        [*shell, "-c", f"root='{root}'\n{script}"],
        input=asks,
        env={"PATH": path, "SSH_CONNECTION": "10.0.0.1 40000 10.0.0.7 22"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr == ""
    *reports, rest = ended.stdout.split("\n.\n")
    assert rest == ""
    return [report.splitlines() for report in reports]


@pytest.mark.parametrize("shell", _SHELLS, ids=lambda shell: shell[0])
def test_every_shell_tells_it_once_for_each_time_that_it_is_asked(
    shell: list[str], tmp_path: Path
) -> None:
    reports = _run(shell, tmp_path / "not" / "there", os.environ["PATH"], "\n\n")
    assert len(reports) == 3
    for lines in reports:
        found = capacity.parse(lines)
        assert found.cpus >= 1
        assert found.memory_bytes > 1 << 20
        assert found.disk_bytes > 0
        assert (found.architecture, found.address) == (os.uname().machine, "10.0.0.7")


@pytest.mark.parametrize("shell", _SHELLS, ids=lambda shell: shell[0])
def test_a_driver_that_does_not_work_is_a_trouble_and_no_gpu(
    shell: list[str], tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho NVIDIA-SMI has failed; echo more; exit 9\n")
    tool.chmod(0o755)
    (lines,) = _run(shell, tmp_path, f"{tmp_path}:{os.environ['PATH']}")
    found = capacity.parse(lines)
    assert found.gpus == ()
    assert found.trouble == "nvidia-smi: NVIDIA-SMI has failed"


async def test_reports_come_again_and_again(tmp_path: Path) -> None:
    host = Host(LocalTransport("n1"), "local", str(tmp_path))
    seen = 0
    async with contextlib.aclosing(capacity.reports(host, every_s=0.05)) as reports:
        async for found in reports:
            assert found.cpus
            seen += 1
            if seen == 3:
                break
    await host.close()
    assert seen == 3
