"""With machines that boot for real: cloud-init, accounts, an engine, a job in a container."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.azure_gate.harness import FAILED, READY, Gate, group_of, new_id
from tests.fake_gate.harness import make_ref
from tests.testbed.azure_arm.client import AzureArm
from tests.testbed.azure_arm.faults import GuestFault
from tests.testbed.fixtures import need_root

pytestmark = pytest.mark.timeout(900)  # the first time of all, the image of machines is made


@pytest.fixture(scope="module")
def real_arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureArm]:
    need_root()
    with AzureArm(tmp_path_factory.mktemp("azure"), backend="containers") as arm:
        yield arm


@pytest.fixture
async def real_gate(real_arm: AzureArm) -> AsyncIterator[Gate]:
    folder = Path(tempfile.mkdtemp(prefix="gate"))
    gate = Gate(folder, real_arm)
    await gate.start()
    yield gate
    await gate.close()
    shutil.rmtree(folder, ignore_errors=True)
    real_arm.faults.clear()
    real_arm.books().require_nothing_left()


async def test_a_plain_partition_boots_and_keeps_its_job_apart(
    real_gate: Gate, real_arm: AzureArm
) -> None:
    name = new_id()
    await real_gate.create(name)
    await real_gate.until_state(name, READY)
    # The metadata service hands out what the machine may do.
    script = """
id -un
id -nG
exec 2>/dev/null
timeout 5 bash -c 'exec 3<>/dev/tcp/169.254.169.254/80' && echo can reach the metadata
cat /var/lib/cloud/instance/user-data.txt /etc/ssh/ssh_host_ed25519_key
grep -rls "PRIVATE KEY" /etc /run /var
exit 0
"""
    ref = make_ref("job-1", "n0", partition=name)
    ref, _ = await real_gate.start_job(f"#!/bin/bash\n{script}", ref)
    assert (await real_gate.ended(ref)).exit_code == 0
    said = await real_gate.output(ref)
    assert said.split() == [b"job", b"job"], said
    # As root it is there: so it was closed, and not absent.
    status, _ = real_arm.run(
        f"{group_of(name)}/n0", "bash -c 'exec 3<>/dev/tcp/169.254.169.254/80'"
    )
    assert status == 0
    await real_gate.delete_for_good(name)


async def test_a_partition_for_containers_has_an_engine_on_each_node(
    real_gate: Gate, real_arm: AzureArm
) -> None:
    name = new_id()
    await real_gate.create(name, nodes=2, containers=True)
    await real_gate.until_state(name, READY)
    for node in ("n0", "n1"):
        status, told = real_arm.run(f"{group_of(name)}/{node}", "su - swm -c 'docker info'")
        assert status == 0, told
    await real_gate.delete_for_good(name)


async def test_a_set_up_that_fails_is_told_with_its_last_words(
    real_gate: Gate, real_arm: AzureArm
) -> None:
    real_arm.faults.add(GuestFault("cloud-init fails"))
    name = new_id()
    await real_gate.create(name)
    told = await real_gate.until_partition(name, lambda it: it.state in {FAILED, READY})
    assert told.state == FAILED
    assert told.failure.reason == "PROVISIONING_FAILED"
    await real_gate.delete_for_good(name)
