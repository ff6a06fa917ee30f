"""`make demo-azure` runs a job on two machines of a cloud, and leaves nothing, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_demo import ROOT, processes_with
from tests.testbed.fixtures import need_root

pytestmark = pytest.mark.timeout(900)  # the first time of all, machines' images are made


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The demo; all that it makes lies below the folder of the test."""
    need_root()
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.demo_azure"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        # As from a terminal, whatever the tests were started with.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process:
        yield process
        if process.poll() is None:
            process.kill()
    assert list(processes_with(str(tmp_path))) == []
    assert list(tmp_path.iterdir()) == []


def test_a_job_goes_from_submit_to_nothing_left(demo: subprocess.Popen[str]) -> None:
    said, _ = demo.communicate()
    assert demo.returncode == 0, said
    assert re.search(r"^PROVISIONING  booting [12] of 2 nodes, \d+ s$", said, re.MULTILINE), said
    for rank in (0, 1):
        found = re.search(rf"^node {rank}: (\d+) different words$", said, re.MULTILINE)
        assert found, said
        assert int(found[1]) > 10
    assert "seen from here while the job runs:\n      3 script\n" in said
    assert "results: 2 outputs" in said
    # Two machines with a disk each, and the address of the first.
    assert re.fullmatch(r"created 5, left 0, billed 0\.\d{4} USD", said.splitlines()[-1]), said


def test_one_that_is_interrupted_while_machines_boot_leaves_none(
    demo: subprocess.Popen[str],
) -> None:
    assert demo.stdout is not None
    said = []
    for line in demo.stdout:
        said.append(line)
        if line.startswith("PROVISIONING"):
            demo.send_signal(signal.SIGINT)
            break
    said += demo.stdout
    assert demo.wait() == 130, "".join(said)
    assert re.fullmatch(r"created \d, left 0, billed \d\.\d{4} USD\n", said[-1]), "".join(said)
