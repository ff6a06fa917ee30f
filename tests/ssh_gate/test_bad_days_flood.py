"""A job that floods its output: all of it is told, and costs the gate no memory."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from pathlib import Path

import pytest

from skyport.gate.v1 import job_pb2, types_pb2
from tests.fake_gate.harness import make_ref
from tests.ssh_gate.bad_days import hosts, site_config
from tests.ssh_gate.conftest import MakeGate
from tests.ssh_gate.harness import Gate
from tests.testbed.hosts import Bed

__all__ = ["hosts"]

log = logging.getLogger(__name__)

MIB = 1 << 20
FLOOD = int(os.environ.get("SWM_TEST_FLOOD", "100")) * MIB
"""1,024 by hand; `-o log_cli=true -o log_cli_level=INFO` tells the figures."""
ROOM = 32 * MIB
"""What the gate may take for it at most, however much it is."""


def peak_of(gate: Gate) -> int:
    """The most memory that it has had since `forget_peak`, in bytes."""
    assert gate.process is not None
    status = Path(f"/proc/{gate.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def forget_peak(gate: Gate) -> int:
    """Have the peak be what it has now; returns that."""
    assert gate.process is not None
    Path(f"/proc/{gate.process.pid}/clear_refs").write_text("5")
    return peak_of(gate)


def flood(node: str) -> tuple[types_pb2.JobRef, str]:
    ref = make_ref(f"flood-{secrets.token_hex(4)}", node, partition="one")
    return ref, f"echo begun; yes 'all work and no play' | head -c {FLOOD}"


@pytest.mark.parametrize("reader", ["quick", "slow"])
async def test_a_flood_is_told_to_its_last_byte_in_little_memory(
    make_gate: MakeGate, hosts: Bed, reader: str
) -> None:
    gate = await make_gate(**site_config(hosts))
    await gate.up("h1")
    ref, script = flood("h1")
    warm = make_ref(f"warm-{reader}", "h1", partition="one")
    await gate.start_job("head -c 1000000 /dev/zero", warm)
    assert len(await gate.output(warm)) == 1_000_000
    before = forget_peak(gate)
    await gate.start_job(script, ref)
    request = job_pb2.ReadOutputRequest(ref=ref, follow=True)
    request.cursors.add(kind=job_pb2.OUTPUT_KIND_STDOUT)
    call = gate.jobs.ReadOutput(request)
    digest, size, end = hashlib.sha256(), 0, None
    async for answer in call:
        for piece in answer.pieces:
            assert piece.at.offset == size
            if reader == "slow" and not size:
                assert not (await gate.ended(ref)).HasField("failure")
            digest.update(piece.data)
            size += len(piece.data)
        for end in answer.ends:
            assert end.at.offset == size
    assert size == FLOOD + len("begun\n")
    assert end is not None
    assert end.sha256 == digest.digest()
    grown = peak_of(gate) - before
    log.info("%d MiB, %s reader: %.1f MiB more memory", FLOOD // MIB, reader, grown / MIB)
    assert grown < ROOM
    await gate.remove(ref)
    await gate.remove(warm)
