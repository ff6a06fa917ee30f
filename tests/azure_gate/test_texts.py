"""What is written into tags and machines is read back as it was."""

from __future__ import annotations

import base64
import json
import subprocess
import time
import urllib.parse
from importlib import resources
from pathlib import Path

import yaml

from gates.azure_gate import bodies, schedules
from gates.azure_gate.cloud_init import Boot, mount
from gates.azure_gate.keys import Keys
from gates.azure_gate.lives import group_name
from gates.azure_gate.tags import Tags
from gates.azure_gate.tombstones import Tombstones
from rpc_kit import private_files
from skyport.common.v1 import money_pb2
from skyport.gate.v1 import partition_pb2, types_pb2

NASTY = "a'\"$x `id`\\ {}: #%\n- b\t\u00e9"


def make_tags(**changes: object) -> Tags:
    spec = partition_pb2.PartitionSpec(
        flavor="Standard_D2s_v3",
        location="westeurope",
        node_count=70,
        image="/subscriptions/x/resourceGroups/" + "g" * 300,
        spot=True,
        spot_price_limit=money_pb2.Money(currency_code="USD", units=1, nanos=250_000_000),
        disk_bytes=64 << 30,
        storage=["data", "more"],
        containers=True,
    )
    told = {
        "installation": "i" * 40,
        "partition_id": "p" * 40,
        "owner": "ann",
        "fingerprint": "f" * 64,
        "generation": "g" * 64,
        "spec": spec,
        "host_key": "ssh-ed25519 " + "A" * 68,
        "created_s": 1_795_000_000,
        "expires_s": 1_795_086_400,
    }
    return Tags(**{**told, **changes})  # type: ignore[arg-type]


def test_many_lost_nodes_never_make_a_partition_unreadable() -> None:
    # Evicted here and there: the tag has room for some sixty of them.
    for count in range(1, 400):
        lost = {f"n{2 * index}": "PREEMPTED" for index in range(count)}
        lost["n1001"] = "NODE_FAIL"
        tags = make_tags(is_ready=True, lost=lost)
        told = tags.encode()
        assert len(told["swm-state"]) <= 256
        read = Tags.decode(told)
        assert read is not None, told["swm-state"]
        assert read.is_ready
        assert read.lost.items() <= lost.items(), told["swm-state"]
        assert len(read.lost) >= min(count, 50)


def test_tags_hold_a_partition_within_what_azure_takes() -> None:
    failure = types_pb2.Failure(reason="QUOTA", message="x " * 600, retryable=True)
    lost = {f"n{index}": "PREEMPTED" for index in range(0, 70, 2)}
    for tags in (
        make_tags(),
        make_tags(is_ready=True, lost={"n1": "PREEMPTED", "n2": "PREEMPTED", "n3": "NODE_FAIL"}),
        make_tags(failure=failure, is_empty=True, lost=lost),
    ):
        written = tags.encode()
        assert len(written) <= 15
        assert all(len(value) <= 256 for value in written.values())
        read = Tags.decode({name.upper(): value for name, value in written.items()})
        assert read is not None
        assert read.spec == tags.spec
        assert (read.lost, read.is_ready, read.is_empty) == (
            tags.lost,
            tags.is_ready,
            tags.is_empty,
        )
        if tags.failure is not None and read.failure is not None:
            assert read.failure.reason == "QUOTA"
            assert tags.failure.message.startswith(read.failure.message.rstrip("\u2026").strip())


def test_tags_of_others_are_none_of_ours() -> None:
    assert Tags.decode({}) is None
    assert Tags.decode({"swm-installation": "x"}) is None
    written = make_tags().encode()
    for name in ("swm-times", "swm-nodes", "swm-spec-0"):
        assert Tags.decode({**written, name: "{nonsense"}) is None


def test_nodes_without_an_address_of_their_own_get_out() -> None:
    # Else they could install nothing, and pull no image: Azure's own default is no.
    (subnet,) = bodies.vnet_body("westeurope")["properties"]["subnets"]
    assert subnet["properties"]["defaultOutboundAccess"] is True


def test_names_fit_into_what_azure_takes() -> None:
    assert len(group_name("i" * 40, "p" * 40)) <= 90


def test_cloud_init_gets_each_value_as_one_value() -> None:
    key = "A" * 43 + "="
    boot = Boot(
        login="swm",
        client_key=NASTY,
        host_key=NASTY,
        host_key_public="ssh-ed25519 AAAA",
        containers=True,
        mounts=[mount("data", "acct", "blobs", "core.windows.net", key, 1_795_000_000)],
    )
    text = boot.render()
    assert text.startswith("#cloud-config\n")
    read = yaml.safe_load(text)
    assert read["users"] == [
        {
            "name": "swm",
            "gecos": "Sky Port",
            "shell": "/bin/bash",
            "lock_passwd": True,
            "ssh_authorized_keys": [NASTY],
        }
    ]
    assert read["ssh_keys"]["ed25519_private"] == NASTY
    files = {file["path"]: file for file in read["write_files"]}
    assert files["/etc/skyport/storage"]["content"] == "data\n"
    storage = files["/etc/skyport/storage.data.yaml"]
    assert storage["permissions"] == "0600"
    blobfuse = json.loads(storage["content"])
    assert blobfuse["read-only"] is True
    # A pass to read and list, over https, and not the key itself.
    sas = urllib.parse.parse_qs(blobfuse["azstorage"]["sas"])
    assert (sas["sp"], sas["spr"], sas["sr"]) == (["rl"], ["https"], ["c"])
    assert key not in text
    script = files["/var/lib/cloud/scripts/per-boot/skyport.sh"]
    assert script["content"] == resources.files("gates.azure_gate").joinpath("boot.sh").read_text()
    assert len(base64.b64encode(text.encode())) < 65_535
    assert NASTY not in repr(boot)


def test_boot_sh_is_posix_sh() -> None:
    with resources.as_file(resources.files("gates.azure_gate").joinpath("boot.sh")) as script:
        subprocess.run(["dash", "-n", str(script)], check=True, timeout=30)


def test_a_host_key_is_the_same_again_and_another_for_each_partition(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "state")
    again = Keys(tmp_path / "state")
    assert again.public == keys.public
    assert again.host_key("a") == keys.host_key("a")
    # As OpenSSH reads it.
    for name in "abc":
        written = keys.host_key(name)
        file = tmp_path / f"key-{name}"
        private_files.write_new(file, written.private.encode())
        read = subprocess.run(
            ["ssh-keygen", "-y", "-P", "", "-f", str(file)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert read.stdout.split()[:2] == written.public.split()
    assert keys.host_key("b").public != keys.host_key("a").public
    assert Keys(tmp_path / "other").host_key("a").public != keys.host_key("a").public
    assert keys.file.stat().st_mode & 0o077 == 0
    assert "PRIVATE" not in keys.known_hosts("a", keys.host_key("a").public).read_text()


def test_tombstones_outlast_the_process_as_far_as_they_can(tmp_path: Path) -> None:
    before = Tombstones(tmp_path / "deleted")
    before.bury("swm-i-p")
    assert "swm-i-p" in Tombstones(tmp_path / "deleted")
    (tmp_path / "deleted").write_bytes(b"\xff\xfe nonsense")
    assert "swm-i-p" not in Tombstones(tmp_path / "deleted")


def test_an_end_is_not_before_it_was_wanted_by_a_part_of_a_second() -> None:
    minute_s = (int(time.time()) // 60 + 10) * 60
    assert schedules.end(minute_s + 0.5) == minute_s + 60
    assert schedules.end(float(minute_s)) == minute_s


def test_an_end_is_a_minute_that_has_not_come_yet_today() -> None:
    now = time.time()
    assert now + 60 <= schedules.end(now) <= now + 121
    assert now + 3_600 <= schedules.end(now + 3_600) <= now + 3_661
    assert schedules.end(now + schedules.LONGEST_S) < now + schedules.LONGEST_S - 120


def test_spot_alone_has_what_azure_refuses_for_others() -> None:
    more = {"location": "l", "group": "/g", "node": "n0", "size": "s", "image": "a:b:c:d"}
    more |= {"custom_data": "", "admin_key": "k"}
    plain = bodies.vm_body(**more, has_address=True, disk_gib=0, spot_limit=None)
    assert not {"priority", "evictionPolicy", "billingProfile"} & plain["properties"].keys()
    spot = bodies.vm_body(**more, has_address=False, disk_gib=64, spot_limit=-1.0)
    assert spot["properties"]["billingProfile"] == {"maxPrice": -1.0}
    interface = spot["properties"]["networkProfile"]["networkInterfaceConfigurations"][0]
    at = interface["properties"]["ipConfigurations"][0]["properties"]
    assert "publicIPAddressConfiguration" not in at


def test_rules_let_in_ssh_from_named_addresses_alone() -> None:
    body = bodies.nsg_body("l", ["203.0.113.7"])
    (rule,) = body["properties"]["securityRules"]
    assert rule["properties"]["destinationPortRange"] == "22"
    assert bodies.nsg_sources(body) == ("203.0.113.7",)
    assert bodies.nsg_sources({}) == ()
