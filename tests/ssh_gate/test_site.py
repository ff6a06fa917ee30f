"""What the gate tells of its site: hosts that answer and hosts that don't, from the beginning."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from skyport.gate.v1 import identity_pb2, inventory_pb2, job_pb2, partition_pb2, types_pb2
from tests.fake_gate.harness import ORIGIN, fingerprint, make_ref, refused
from tests.ssh_gate.conftest import MakeGate
from tests.ssh_gate.harness import Cluster, Gate, is_down, is_up


async def test_this_machine_is_a_site_without_any_configuration(gate: Gate) -> None:
    request = identity_pb2.GetGateInfoRequest(core_version="1", api_versions=["v1"])
    info = await gate.identity.GetGateInfo(request)
    assert info.name == "ssh"
    assert types_pb2.CAPABILITY_STATIC_PARTITIONS in info.capabilities
    assert types_pb2.CAPABILITY_USER_MAPPING not in info.capabilities
    (node,) = (await gate.nodes()).values()
    assert (node.name, node.partition_id) == ("localhost", "local")
    assert is_up(node)
    assert 1 <= node.cpus <= (os.cpu_count() or 1)
    assert 1 << 20 < node.memory_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert node.disk_bytes > 0
    assert list(node.addresses) == ["127.0.0.1"]


async def test_a_host_has_what_is_configured_and_what_is_found(
    make_gate: MakeGate, cluster: Cluster
) -> None:
    config = cluster.config(
        flavor="box", labels={"room": "1"}, cpus=64, memory="1T", first_port=5_000, last_port=5_009
    )
    config["host"]["n2"] |= {"gpus": 2, "gpu_model": "H100", "cpus": 32}
    gate = await make_gate(**config)
    await gate.up("n1", "n2")
    nodes = await gate.nodes("lab")
    assert list(nodes) == ["n1", "n2"]
    first, second = nodes.values()
    assert (first.cpus, second.cpus) == (64, 32)
    assert first.memory_bytes == 1 << 40
    assert (list(first.gpu_ids), list(second.gpu_ids)) == ([], ["0", "1"])
    assert (first.ports.first, first.ports.last) == (5_000, 5_009)
    assert dict(first.labels) == {"room": "1"}
    assert first.disk_bytes > 0
    assert list(first.addresses) == ["127.0.0.1"]
    answer = await gate.inventory.ListFlavors(inventory_pb2.ListFlavorsRequest())
    (flavor,) = answer.flavors
    assert (flavor.name, flavor.cpus, flavor.gpus) == ("box", 32, 0)
    assert flavor.architecture == platform.machine()
    assert not flavor.HasField("on_demand_price")
    assert list(flavor.partition_ids) == ["lab"]


async def test_gpus_are_found_by_their_tool(make_gate: MakeGate, cluster: Cluster) -> None:
    tool = cluster.folder / "n1" / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(
        "#!/bin/sh\n"
        '[ "$*" = "--query-gpu=index,name --format=csv,noheader" ] || exit 1\n'
        "echo 0, NVIDIA A100-SXM4-40GB; echo 1, NVIDIA A100-SXM4-40GB\n"
    )
    tool.chmod(0o755)
    host = cluster.hosts["n1"]
    host.stop()
    config = host.folder / "sshd_config"
    text = config.read_text().replace("SetEnv ", f"SetEnv PATH={tool.parent}:{os.environ['PATH']} ")
    config.write_text(text)
    host.start()
    gate = await make_gate(**cluster.config(flavor="box"))
    await gate.up("n1", "n2")
    nodes = await gate.nodes()
    assert [list(node.gpu_ids) for node in nodes.values()] == [["0", "1"], []]


async def test_a_host_that_is_down_is_told_and_found_again(
    make_gate: MakeGate, cluster: Cluster
) -> None:
    cluster.hosts["n2"].stop()
    gate = await make_gate(**cluster.config())
    answer = await gate.ready()
    assert answer.message.startswith("1 of 2 hosts is down; n2: ")
    down = (await gate.nodes())["n2"]
    assert is_down(down)
    assert "can't be reached" in down.message
    cluster.hosts["n2"].start()
    assert (await gate.until_node("n2", is_up)).cpus > 0
    assert (await gate.probe()).message == ""
    cluster.hosts["n2"].stop()
    lost = await gate.until_node("n2", is_down)
    # What it has is known still: a job that fits there may wait for it.
    assert lost.cpus > 0
    assert (await gate.probe()).ready


async def test_a_site_none_of_whose_hosts_answers_is_unreachable(
    make_gate: MakeGate, cluster: Cluster
) -> None:
    gate = await make_gate(**cluster.config())
    await gate.up("n1", "n2")
    watch = gate.partitions.WatchPartitions(partition_pb2.WatchPartitionsRequest())
    for host in cluster.hosts.values():
        host.stop()
    # The end of a watch, after all that was told on it.
    await refused(watch, "SITE_UNREACHABLE", grpc.StatusCode.UNAVAILABLE)
    for node in (await gate.nodes()).values():
        assert is_down(node)
    found = await refused(gate.probe(), "SITE_UNREACHABLE", grpc.StatusCode.UNAVAILABLE)
    assert found.message.startswith("none of 2 hosts answers; ")


async def test_a_key_that_all_hosts_refuse_breaks_the_site(
    make_gate: MakeGate, cluster: Cluster
) -> None:
    keys = [host.folder / "authorized_keys" for host in cluster.hosts.values()]
    good = [key.read_text() for key in keys]
    for key in keys:
        key.write_text("")
    gate = await make_gate(**cluster.config())
    for name in cluster.hosts:
        await gate.until_node(name, is_down)
    await refused(gate.probe(), "CREDENTIALS_INVALID", grpc.StatusCode.FAILED_PRECONDITION)
    # One host is enough for the site to work; the other one is out of order alone.
    keys[0].write_text(good[0])
    await gate.until_node("n1", is_up)
    answer = await gate.probe()
    assert answer.ready
    assert "n2" in answer.message


async def test_a_changed_host_key_takes_the_host_out_and_says_what_mends_it(
    make_gate: MakeGate, cluster: Cluster
) -> None:
    host = cluster.hosts["n1"]
    host.stop()
    host.change_host_key()
    host.start()
    gate = await make_gate(**cluster.config())
    node = await gate.until_node("n1", is_down)
    assert "ssh-keygen -R" in node.message
    await gate.up("n2")
    assert (await gate.probe()).ready
    cluster.hosts["n2"].stop()
    await gate.until_node("n2", is_down)
    cluster.hosts["n2"].change_host_key()
    cluster.hosts["n2"].start()
    await gate.until_node("n2", lambda node: is_down(node) and "ssh-keygen" in node.message)
    await refused(gate.probe(), "HOST_KEY_MISMATCH", grpc.StatusCode.FAILED_PRECONDITION)


@pytest.fixture
def mute() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def test_a_probe_answers_at_once_while_hosts_do_not(make_gate: MakeGate, mute: int) -> None:
    gate = await make_gate(
        hosts=["n1"], shared_account=True, host={"n1": {"address": "127.0.0.1", "port": mute}}
    )
    answer = await gate.probe()
    assert not answer.ready
    assert answer.message == "looks for 1 of 1 host"
    (node,) = (await gate.nodes()).values()
    assert node.state == inventory_pb2.NODE_STATE_STARTING
    # It is in nobody's way for longer than a moment, and may come yet.
    node = await gate.until_node("n1", is_down)
    assert node.message == "n1 has not answered yet"
    assert not (await gate.probe()).ready


async def test_a_host_that_says_nothing_does_not_hold_up_the_others(
    make_gate: MakeGate, cluster: Cluster, mute: int
) -> None:
    config = cluster.config()
    config["host"]["n2"]["port"] = mute
    gate = await make_gate(**config)
    await gate.up("n1")
    answer = await gate.ready()
    assert answer.message == "1 of 2 hosts is down; n2: n2 has not answered yet"
    boundary = await gate.jobs_boundary()
    assert [(node.name, node.partition_id) for node in boundary.unreachable] == [("n2", "lab")]


async def test_a_host_is_up_if_one_of_its_accounts_is(
    make_gate: MakeGate, cluster: Cluster
) -> None:
    config = cluster.config()
    del config["shared_account"]
    users = {"ann": "no-such-account", "bo": cluster.hosts["n1"].user}
    gate = await make_gate(**config, users=users)
    await gate.up("n1", "n2")
    # What one account is refused says nothing about the site.
    ref = make_ref("job-1", "n1", partition="lab", owner="ann")
    await refused(gate.jobs.GetJob(job_pb2.GetJobRequest(ref=ref)), "NODE_UNREACHABLE")
    assert (await gate.probe()).ready


async def test_partitions_are_always_there_and_can_be_neither_made_nor_ended(gate: Gate) -> None:
    answer = await gate.partitions.ListPartitions(partition_pb2.ListPartitionsRequest())
    (partition,) = answer.partitions
    assert partition.partition_id == "local"
    assert partition.kind == types_pb2.PARTITION_KIND_STATIC
    assert partition.state == partition_pb2.PARTITION_STATE_READY
    assert [node.name for node in partition.nodes] == ["localhost"]
    got = await gate.partitions.GetPartition(
        partition_pb2.GetPartitionRequest(partition_id="local")
    )
    assert got.partition.partition_id == "local"

    def create(name: str) -> partition_pb2.CreatePartitionRequest:
        return partition_pb2.CreatePartitionRequest(
            partition_id=name,
            spec_fingerprint=fingerprint(name),
            spec=partition_pb2.PartitionSpec(flavor="x", node_count=1),
            origin=ORIGIN,
            owner="ann",
        )

    for name, reason in (("local", "PARTITION_DIFFERS"), ("other", "CAPABILITY_MISSING")):
        await refused(gate.partitions.CreatePartition(create(name)), reason)
    for name, reason in (("local", "NOT_YOURS"), ("other", "CAPABILITY_MISSING")):
        delete = partition_pb2.DeletePartitionRequest(partition_id=name, installation="x")
        await refused(gate.partitions.DeletePartition(delete), reason)
        renew = partition_pb2.RenewPartitionRequest(partition_id=name)
        await refused(gate.partitions.RenewPartition(renew), reason)
    unknown = partition_pb2.GetPartitionRequest(partition_id="other")
    await refused(gate.partitions.GetPartition(unknown), "PARTITION_NOT_FOUND")
    scoped = partition_pb2.GetPartitionRequest(partition_id="local", scope_uid="s")
    await refused(gate.partitions.GetPartition(scoped), "SITE_CHANGED")
    nodes = inventory_pb2.ListNodesRequest(partition_id="other")
    await refused(gate.inventory.ListNodes(nodes), "PARTITION_NOT_FOUND")


@pytest.mark.parametrize("size", [1, 2])
async def test_lists_come_in_pages(make_gate: MakeGate, size: int) -> None:
    gate = await make_gate(local=True, hosts=["a[1-3]"], shared_account=True)
    seen: list[str] = []
    request = inventory_pb2.ListNodesRequest(page_size=size)
    while True:
        answer = await gate.inventory.ListNodes(request)
        seen += [f"{node.partition_id}/{node.name}" for node in answer.nodes]
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert seen == ["default/a1", "default/a2", "default/a3", "local/localhost"]
    images = await gate.inventory.ListImages(inventory_pb2.ListImagesRequest())
    assert not images.images


def test_a_mistake_in_the_file_ends_the_gate_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text('shared_account = true\nhosts = ["a[1-"]\n')
    command = [sys.executable, "-m", "gates.ssh_cluster_gate", "--config", "lab.toml"]
    ended = subprocess.run(
        [*command, "--listen", f"unix://{tmp_path}/g.sock"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr == (
        'swm-ssh-gate: lab.toml:2: hosts[0]: "a[1-" has a bracket without its other half; write it '
        'as "node[1-8]" or "gpu[01-04,07]"\n'
    )
