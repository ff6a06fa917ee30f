"""What is left at sites and in the core when no job runs any more: it should be nothing."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import grpc

from skyport.terminal.v1 import catalog_pb2
from tests.azure_gate.site import AzureSite
from tests.crash.records import ENDS, Records
from tests.crash.world import World
from tests.system.harness.sites import processes_marked
from tests.testbed.processes import descendants

# What a site keeps on purpose: who it is, what never runs again, and contents that jobs may share.
_KEPT_FAKE = re.compile(
    r"root_uid|scope_uid|runner-\w+\.sh|faults/.*"
    r"|gone_partitions/[\w-]+|tombstones/[\w-]+/[\w-]+/[\w-]+\.\d+"
    r"|cache/\w+/(whole/[0-9a-f]{2}/[0-9a-f]{64}|part/[0-9a-f]{64})"
)
_KEPT_SSH = re.compile(
    r"root_uid|(runner|container|inside)-\w+\.sh|events/[\w-]+\.[\w-]+\.\d+|tombstones/[\w-]+/[\w-]+/[\w-]+\.\d+"
    r"|cache/(whole/\d+/[0-9a-f]{64}|trees/[0-9a-f]{64}/.*|used.*)"
)
_KEPT_AZURE = re.compile(r"id_ed25519|installations|deleted|cache/.*")
_KEPT_SPOOL = re.compile(
    r"spool_uid|u-[^/]+/(blobs/[0-9a-f]{2}/[0-9a-f]{64}|jobs/[\w-]+/\d+/[^/]*\.std(out|err)/(\d+\.seg|end))"
)
_KEPT_HOME = re.compile(
    r"(swm|client)\.toml|pki/(ca|core)\.(crt|key)|pki/gates/[\w-]+\.(crt|key)|spool/.*|log/[\w-]+\.log"
    r"|run/(core\.pid|swm\.lock)|store/(lineage\.json|swm\.db(-wal|-shm)?)"
)
_TOMBSTONE = re.compile(r"(tombstones|gone_partitions)/")


def leftovers(world: World) -> list[str]:
    """Everything that is there and should not be, a line each."""
    return [
        *_in_store(world),
        *_allocations(world),
        *_partitions(world),
        *_processes(world),
        *_listeners(world),
        *_files(world),
        *(f"container {name}" for name in world.containers()),
    ]


def _in_store(world: World) -> Iterator[str]:
    records = Records.read(world.core.home.database)
    for name in records.open_attempts:
        yield f"core: attempt {name} has not ended, or is still to be removed"
    for job in records.jobs.values():
        if job.state not in ENDS:
            yield f"core: job {job.job_id} is {job.state}"
    for partition_id, state in records.partitions.items():
        if state != "DELETED":
            yield f"core: partition {partition_id} is {state}"


def _allocations(world: World) -> Iterator[str]:
    """What the core takes for used on nodes."""
    request = catalog_pb2.ListNodesRequest(page_size=1_000)
    try:
        nodes = world.core.admin.catalog.ListNodes(request, timeout=10).nodes
    except grpc.RpcError as error:
        yield f"core: nobody can say what is allocated: {error.code()}"
        return
    for node in nodes:
        used = (node.allocated_cpus, node.allocated_memory_bytes, node.allocated_gpus)
        if any(used):
            yield f"core: of node {node.site}/{node.partition_id}/{node.name} is allocated: {used}"


def _partitions(world: World) -> Iterator[str]:
    for name in world.gates:
        site = world.site(name)
        # Of a cloud the books tell: what is billed, what is there, and what runs for it here.
        there = site.holds() if isinstance(site, AzureSite) else site.partitions()
        for each in there:
            yield f"site {name}: partition {each}"


def _processes(world: World) -> Iterator[str]:
    """Of jobs, by what their environment says, and those that supervise them, by what they run."""
    found = dict.fromkeys(processes_marked(world.core.installation), "has the mark of an attempt")
    jobs = {f"SWM_JOB_ID={job_id}".encode() for job_id in world.jobs}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if jobs & set((folder / "environ").read_bytes().split(b"\0")):
                found[int(folder.name)] = "has the environment of a job"
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if any(os.fsencode(world.folder) in word and b"/runner-" in word for word in command):
                found[int(folder.name)] = "is a runner"
            if re.search(
                rf"^{re.escape(str(world.folder))}/.*/jobs/", str((folder / "cwd").readlink())
            ):
                found[int(folder.name)] = "works in the folder of an attempt"
    for pid, why in found.items():
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            yield f"process {pid} {why}: {b' '.join(command).decode(errors='replace')[:200]}"


def _listeners(world: World) -> Iterator[str]:
    """Ports that are still listened on for somebody."""
    inodes = _listening()
    owners = {"core": [world.core.pid]} if world.core.is_running else {}
    for name, gate in world.gates.items():
        if gate.is_running:
            owners[f"gate {name}"] = [gate.pid, *descendants(gate.pid)]
    for name, host in world.cluster.hosts.items():
        pid = int((host.folder / "sshd.pid").read_text())
        owners[f"host {name}"] = [pid, *descendants(pid)]
    expected = {world.core.endpoint.port, *(host.port for host in world.cluster.hosts.values())}
    for owner, pids in owners.items():
        for pid in pids:
            ports = {inodes[each] for each in _sockets(pid) if each in inodes}
            for port in sorted(ports - expected):
                yield f"{owner}: process {pid} listens on port {port}"


def _listening() -> dict[str, int]:
    """The ports that are listened on, by the inodes of the sockets."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                found[words[9]] = int(words[1].rpartition(":")[2], 16)
    return found


def _sockets(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if match := re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink())):
                    yield match[1]


def _files(world: World) -> Iterator[str]:
    for name in world.gates:
        site = world.site(name)
        if isinstance(site, AzureSite):
            yield from _unwanted(f"gate {name}", site.state, _KEPT_AZURE)
        else:
            kept = _KEPT_SSH if name == "lab" else _KEPT_FAKE
            yield from _unwanted(f"site {name}", site.root, kept)
        # A gate that runs has one folder, for lists that go on.
        left = sorted(path.name for path in world.gates[name].scratch.glob("*"))
        if len(left) > 1 or not all("-lists-" in each for each in left):
            yield f"gate {name}: {', '.join(left)} for a while only"
    yield from _unwanted("spool", world.core.home.spool, _KEPT_SPOOL)
    yield from _unwanted("home", world.core.home.path, _KEPT_HOME)


def _unwanted(where: str, root: Path, kept: re.Pattern[str]) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            inside = str(path.relative_to(root))
            with contextlib.suppress(FileNotFoundError):
                size = path.lstat().st_size
                if not kept.fullmatch(inside) or (size and _TOMBSTONE.match(inside)):
                    yield f"{where}: {inside} ({size} bytes)"
    for attempt in root.glob("jobs/*/*/*"):
        if attempt.is_dir():
            yield f"{where}: folder {attempt.relative_to(root)}"
