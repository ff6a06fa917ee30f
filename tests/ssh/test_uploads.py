"""PutFiles on hosts: all arrives as it was, nothing travels twice, nothing is seen half."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gate_kit import Refusal, errors
from gate_kit.ssh import named_inputs
from gate_kit.ssh.connection import SshTransport
from gate_kit.ssh.host import Host
from gate_kit.ssh.layout import AttemptKey
from gate_kit.ssh.local import LocalTransport
from gate_kit.ssh.transport import Transport
from tests.fake_gate.harness import Tree, make_ref
from tests.ssh.inputs import BrokenError, BusyboxTransport, Put, Rig, check_found, found_in
from tests.ssh.sshd import Sshd


@pytest.fixture(params=["ssh", "dash", "bash", "busybox"])
async def rig(
    request: pytest.FixtureRequest, shared_sshd: Sshd, tmp_path: Path
) -> AsyncIterator[Rig]:
    """One host, by SSH and in each of the shells."""
    transport: Transport
    shell = "/bin/sh"
    if request.param == "ssh":
        transport = SshTransport("n1", shared_sshd.target)
    elif request.param == "busybox":
        transport = busybox = BusyboxTransport("n1", tmp_path)
        shell = busybox.shell
    else:
        transport, shell = LocalTransport("n1"), f"/bin/{request.param}"
    root = tmp_path / "root"
    rig = Rig([Host(transport, "local", str(root), shell=shell)], [root])
    yield rig
    await rig.close()


ODD_NAMES = (
    "plain",
    "with space",
    "-dash",
    "--",
    "a'b\"c",
    "new\nline",
    "new\n3line",
    "back\\slash",
    "$HOME `id`;*?[x]",
    "é" * 127,
    "x" * 255,
    "tab\there",
    "#hash",
    "~",
)


async def test_files_folders_links_and_modes_arrive_as_they_were(rig: Rig) -> None:
    tree = Tree(
        files={
            "a/b/data": b"data",
            "run.sh": b"#!/bin/sh\n",
            "empty": b"",
            "same": b"data",
            "shut": b"shut",
            "shut too/x": b"data",
            "open": b"data",
        },
        links={"a/link": "b/data", "up": "a", "nowhere": "none"},
        folders=["void", "a/locked", "shut too", "closed"],
        modes={
            "run.sh": 0o755,
            "a/locked": 0o500,
            "same": 0o400,
            "shut": 0o200,
            "shut too": 0o555,
            "closed": 0o011,
            "open": 0o666,
        },
    )
    ref = rig.ref()
    put = await rig.put(ref, tree)
    assert len(put.needed) == 3
    assert put.result is not None
    assert put.result.received_bytes == len(b"data") + len(b"#!/bin/sh\n") + len(b"shut")
    for attempt in (1, 2):
        again = rig.ref(attempt=attempt)
        if attempt == 2:
            assert (await rig.put(again, tree)).needed == []
        work = rig.work(again)
        paths = [path for path in work.rglob("*") if not path.is_symlink()]
        modes = {str(path.relative_to(work)): path.stat().st_mode & 0o777 for path in paths}
        assert modes == {
            "a": 0o755, "a/b": 0o755, "a/b/data": 0o644, "a/locked": 0o500, "run.sh": 0o755,
            "empty": 0o644, "same": 0o400, "shut": 0o200, "shut too": 0o555, "void": 0o755,
            "shut too/x": 0o644, "closed": 0o011, "open": 0o666,
        }  # fmt: skip
        (work / "shut").chmod(0o600)
        found = found_in(work)
        for path, data in tree.files.items():
            assert found[path] == data
        for path, target in tree.links.items():
            assert found[path] == target
        # A job may write to its inputs: no file shares its blocks by a hard link.
        assert {(work / path).stat().st_nlink for path in tree.files} == {1}


async def test_any_name_arrives(rig: Rig) -> None:
    tree = Tree(files={f"{name}/{name}": name.encode() for name in ODD_NAMES})
    tree.files |= {f"top {name}": b"x" + name.encode() for name in ODD_NAMES if len(name) < 100}
    tree.modes = {f"{name}/{name}": 0o200 for name in ODD_NAMES}
    tree.links = {f"l{name}"[:100]: name for name in ODD_NAMES}
    ref = rig.ref()
    await rig.put(ref, tree)
    work = rig.work(ref)
    for name in ODD_NAMES:
        path = work / name / name
        assert path.stat().st_mode & 0o777 == 0o200
        path.chmod(0o600)
        assert path.read_bytes() == name.encode()
        assert str((work / f"l{name}"[:100]).readlink()) == name
    assert len(list(work.iterdir())) == len(ODD_NAMES) * 2 + len(tree.files) - len(ODD_NAMES)


async def test_large_and_small_contents_arrive(rig: Rig) -> None:
    sizes = (
        0,
        1,
        511,
        512,
        513,
        65_535,
        65_536,
        65_537,
        1 << 20,
        (1 << 20) + 1,
        2 << 20,
        9_876_543,
    )
    tree = Tree(files={f"f{size}": os.urandom(size) for size in sizes})
    ref = rig.ref()
    put = await rig.put(ref, tree)
    assert put.result is not None
    assert put.result.received_bytes == sum(sizes)
    check_found(rig.work(ref), tree.files)


async def test_a_content_under_thousands_of_names_arrives(rig: Rig) -> None:
    tree = Tree(files={f"f{number}": b"same" for number in range(20_500)})
    tree.files["other"] = b"same"
    tree.modes["other"] = 0o755
    ref = rig.ref()
    put = await rig.put(ref, tree)
    assert len(put.needed) == 1
    work = rig.work(ref)
    assert {path.read_bytes() for path in work.iterdir()} == {b"same"}
    assert len(list(work.iterdir())) == 20_501
    assert (work / "other").stat().st_mode & 0o777 == 0o755


async def test_only_what_the_cache_lacks_is_needed(rig: Rig) -> None:
    tree = Tree(files={f"f{number}": os.urandom(100) for number in range(50)})
    await rig.put(rig.ref(), tree)
    tree.files["new"] = b"new"
    tree.files["moved"] = tree.files.pop("f1")
    tree.modes["f2"] = 0o755
    ref = rig.ref("job-2")
    put = await rig.put(ref, tree)
    assert [want.sha256 for want in put.needed] == [hashlib.sha256(b"new").digest()]
    check_found(rig.work(ref), tree.files)
    assert (rig.work(ref) / "f2").stat().st_mode & 0o777 == 0o755


async def test_a_broken_upload_goes_on_where_it_was(rig: Rig) -> None:
    files = {f"s{number}": os.urandom(50_000) for number in range(200)}
    tree = Tree(files=files | {"big": os.urandom(40 << 20)})
    total = sum(map(len, tree.files.values()))
    ref = rig.ref()
    sent = 35 << 20
    with pytest.raises(BrokenError):
        await rig.put(ref, tree, stop_after=sent)
    assert not rig.work(ref).exists()
    again = await rig.put(ref, tree)
    assert again.result is not None
    # What had been handed over is there, but for what was on its way.
    assert total - sent <= again.result.received_bytes <= total - sent + (20 << 20)
    check_found(rig.work(ref), tree.files)


async def test_what_was_acknowledged_is_never_sent_again(rig: Rig) -> None:
    tree = Tree(files={"big": os.urandom(64 << 20)})
    ref = rig.ref()
    broken = Put()
    with pytest.raises(BrokenError):
        await rig.put(ref, tree, stop_after=60 << 20, into=broken)
    assert broken.acknowledged > 0
    again = await rig.put(ref, tree)
    assert again.needed[0].offset >= broken.acknowledged
    check_found(rig.work(ref), tree.files)


async def test_a_wrong_content_is_data_loss_and_nothing_of_it_is_kept(rig: Rig) -> None:
    for size in (100, 3 << 20):
        tree = Tree(files={"a": os.urandom(size)})
        ref = rig.ref(f"job-{size}")
        for _ in range(2):
            with pytest.raises(Refusal) as caught:
                await rig.put(ref, tree, wrong=os.urandom(size), piece=1 << 19)
            assert caught.value.reason == "DIGEST_MISMATCH"
            assert caught.value.metadata["sha256"] == next(iter(tree.contents)).hex()
        put = await rig.put(ref, tree)
        assert put.needed[0].offset == 0
        check_found(rig.work(ref), tree.files)


async def test_a_resumed_content_is_verified_on_the_host(rig: Rig) -> None:
    tree = Tree(files={"big": os.urandom(20 << 20)})
    ref = rig.ref()
    with pytest.raises(BrokenError):
        await rig.put(ref, tree, stop_after=17 << 20)
    (part,) = rig.roots[0].glob("cache/in/*/part/*")
    with part.open("r+b") as file:
        file.write(b"damaged")
    with pytest.raises(Refusal) as caught:
        await rig.put(ref, tree)
    assert caught.value.reason == "DIGEST_MISMATCH"
    put = await rig.put(ref, tree)
    assert put.needed[0].offset == 0
    check_found(rig.work(ref), tree.files)


async def test_what_the_cache_has_not_kept_well_is_asked_for_again(rig: Rig) -> None:
    tree = Tree(files={f"f{number}": os.urandom(100) for number in range(10)})
    await rig.put(rig.ref("first"), tree)
    digest = hashlib.sha256(tree.files["f3"]).digest()
    for job, change in (("same", {}), ("more", {"new": b"new"})):
        (kept,) = rig.roots[0].glob(f"cache/whole/*/{digest.hex()}")
        kept.write_bytes(os.urandom(100))
        tree.files |= change
        ref = rig.ref(job)
        with pytest.raises(Refusal) as caught:
            await rig.put(ref, tree)
        assert caught.value.reason == "DIGEST_MISMATCH"
        assert not rig.work(ref).exists()
        put = await rig.put(ref, tree)
        assert digest in {want.sha256 for want in put.needed}
        check_found(rig.work(ref), tree.files)


async def test_the_same_call_again_needs_nothing_and_makes_nothing(rig: Rig) -> None:
    tree = Tree(files={"a": b"a"})
    ref = rig.ref()
    first = await rig.put(ref, tree)
    (rig.work(ref) / "a").write_bytes(b"changed by the job")
    again = await rig.put(ref, tree)
    assert again.needed == []
    assert again.result is not None
    assert first.result is not None
    assert list(again.result.roots) == list(first.result.roots)
    assert (rig.work(ref) / "a").read_bytes() == b"changed by the job"


async def test_another_manifest_or_a_late_one_is_refused(rig: Rig) -> None:
    ref = rig.ref()
    await rig.put(ref, Tree(files={"a": b"a"}))
    with pytest.raises(Refusal) as caught:
        await rig.put(ref, Tree(files={"a": b"b"}))
    assert caught.value.reason == "JOB_DIFFERS"
    key = AttemptKey.of(ref)
    tombstone = rig.roots[0] / "tombstones" / key.path
    tombstone.parent.mkdir(parents=True, exist_ok=True)
    tombstone.touch()
    with pytest.raises(Refusal) as caught:
        await rig.put(ref, Tree(files={"a": b"a"}))
    assert caught.value.reason == "JOB_CANCELLED"


async def test_an_empty_manifest_makes_the_attempt_and_its_work_folder(rig: Rig) -> None:
    ref = rig.ref()
    put = await rig.put(ref, Tree())
    assert put.result is not None
    uid = (rig.roots[0] / "root_uid").read_text().strip()
    assert [(root.node, root.root_uid) for root in put.result.roots] == [("n1", uid)]
    check_found(rig.work(ref), {})


async def test_another_place_than_the_known_one_is_left_alone(rig: Rig) -> None:
    ref = rig.ref()
    ref.roots.add(node="n1", root_uid="another")
    with pytest.raises(Refusal) as caught:
        await rig.put(ref, Tree(files={"a": b"a"}))
    assert caught.value.reason == "SITE_CHANGED"
    assert not (rig.roots[0] / "root_uid").exists()


async def test_a_later_call_takes_over_and_the_first_is_replaced(rig: Rig) -> None:
    tree = Tree(files={"big": os.urandom(8 << 20)})
    ref = rig.ref()
    is_waiting = asyncio.Event()
    first = asyncio.create_task(rig.put(ref, tree, before_pieces=is_waiting, hang=True))
    await asyncio.wait_for(is_waiting.wait(), 20)
    await rig.put(ref, tree)
    with pytest.raises(Refusal) as caught:
        await first
    assert caught.value.reason == "REPLACED"
    check_found(rig.work(ref), tree.files)


async def test_a_cancel_ends_an_upload_that_is_under_way(rig: Rig) -> None:
    ref = rig.ref()
    is_waiting = asyncio.Event()
    tree = Tree(files={"a": b"a"})
    call = asyncio.create_task(rig.put(ref, tree, before_pieces=is_waiting, hang=True))
    await asyncio.wait_for(is_waiting.wait(), 20)
    await rig.uploads.end(AttemptKey.of(ref), errors.job_cancelled(ref))
    with pytest.raises(Refusal) as caught:
        await call
    assert caught.value.reason == "JOB_CANCELLED"


async def test_of_several_with_the_same_inputs_one_brings_them(rig: Rig) -> None:
    tree = Tree(files={f"f{number}": os.urandom(10_000) for number in range(100)})
    refs = [rig.ref(f"job-{number}") for number in range(5)]
    puts = await asyncio.gather(*(rig.put(ref, tree) for ref in refs))
    assert sorted(len(put.needed) for put in puts) == [0, 0, 0, 0, 100]
    for ref in refs:
        check_found(rig.work(ref), tree.files)


async def test_a_named_folder_keeps_what_is_the_users(rig: Rig, tmp_path: Path) -> None:
    workdir = tmp_path / "mine" / "deep er"
    (tmp_path / "mine").mkdir()
    tree = Tree(
        files={"a/b/c": b"c", "a/d": b"d", "top": b"top", "new\n3line": b"odd", "b\\s/x": b"x"},
        links={"a/link": "d"},
        folders=["void", "shut"],
        modes={"shut": 0o500, "top": 0o755},
    )
    ref = rig.ref()
    await rig.put(ref, tree, workdir=str(workdir))
    found = found_in(workdir)
    assert {name for name in found if ".swm" in name} == set()
    assert {name: found[name] for name in tree.files} == tree.files
    assert found["a/link"] == "d"
    assert (workdir / "top").stat().st_mode & 0o777 == 0o755
    assert (workdir / "shut").stat().st_mode & 0o777 == 0o500
    assert (workdir / "top").stat().st_nlink == 1
    (workdir / "a" / "own").write_text("the user's")
    await named_inputs.take_back(rig.hosts[0], AttemptKey.of(ref))
    assert found_in(workdir) == {"a": None, "a/own": b"the user's"}


async def test_the_same_file_of_the_users_stays_and_another_differs(
    rig: Rig, tmp_path: Path
) -> None:
    workdir = tmp_path / "mine"
    (workdir / "d").mkdir(parents=True)
    (workdir / "d" / "same").write_bytes(b"same")
    (workdir / "d" / "other").write_bytes(b"theirs")
    tree = Tree(files={"d/same": b"same", "d/other": b"ours", "d/new": b"new"})
    with pytest.raises(Refusal) as caught:
        await rig.put(rig.ref("job-1"), tree, workdir=str(workdir))
    assert caught.value.reason == "FILE_DIFFERS"
    assert (workdir / "d" / "other").read_bytes() == b"theirs"
    del tree.files["d/other"]
    ref = rig.ref("job-2")
    await rig.put(ref, tree, workdir=str(workdir))
    assert (workdir / "d" / "new").read_bytes() == b"new"
    await named_inputs.take_back(rig.hosts[0], AttemptKey.of(ref))
    check_found(workdir / "d", {"same": b"same", "other": b"theirs"})


async def test_another_attempt_of_the_job_takes_over_what_the_first_has_placed(
    rig: Rig, tmp_path: Path
) -> None:
    workdir = tmp_path / "mine"
    first, second = rig.ref(attempt=1), rig.ref(attempt=2)
    await rig.put(first, Tree(files={"d/a": b"1"}), workdir=str(workdir))
    await rig.put(second, Tree(files={"d/a": b"2"}), workdir=str(workdir))
    assert (workdir / "d" / "a").read_bytes() == b"2"
    await named_inputs.take_back(rig.hosts[0], AttemptKey.of(first))
    assert (workdir / "d" / "a").read_bytes() == b"2"
    await named_inputs.take_back(rig.hosts[0], AttemptKey.of(second))
    assert not workdir.exists()


async def test_nothing_is_placed_through_a_link(rig: Rig, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for number, link in enumerate(("mine/d", "mine/f", "mine")):
        if "/" in link:
            (tmp_path / "mine").mkdir(exist_ok=True)
        else:
            (tmp_path / "mine").rmdir()
        (tmp_path / link).symlink_to(outside)
        tree = Tree(files={"d/x": b"x", "f": b"f"})
        with pytest.raises(Refusal) as caught:
            await rig.put(rig.ref(f"job-{number}"), tree, workdir=str(tmp_path / "mine"))
        assert caught.value.reason == "FILE_DIFFERS"
        assert list(outside.iterdir()) == []
        (tmp_path / link).unlink()


async def test_the_cache_is_bounded(tmp_path: Path) -> None:
    root = tmp_path / "root"
    rig = Rig([Host(LocalTransport("n1"), "local", str(root))], [root], cache_bytes=2 << 20)
    for number in range(6):
        tree = Tree(files={"a": os.urandom(1 << 20)})
        ref = rig.ref(f"job-{number}")
        await rig.put(ref, tree)
        check_found(rig.work(ref), tree.files)
    await rig.close()
    kept = {path.stat().st_ino: path.stat().st_size for path in root.glob("cache/**/*")}
    assert sum(kept.values()) <= 3 << 20


async def test_several_nodes_each_get_everything(tmp_path: Path) -> None:
    roots = [tmp_path / "one", tmp_path / "two"]
    hosts = [
        Host(LocalTransport(f"n{number}"), "local", str(root))
        for number, root in enumerate(roots, 1)
    ]
    rig = Rig(hosts, roots)
    tree = Tree(files={f"f{number}": os.urandom(1000) for number in range(20)})
    tree.files["big"] = os.urandom(5 << 20)
    alone = make_ref("job-0", "n1")
    await rig.put(alone, tree)
    tree.files["new"] = b"new"
    ref = rig.ref()
    put = await rig.put(ref, tree)
    # The second node has nothing yet: what it lacks is needed, once.
    assert len(put.needed) == len(tree.contents)
    assert put.result is not None
    assert [root.node for root in put.result.roots] == ["n1", "n2"]
    for host in (0, 1):
        check_found(rig.work(ref, host), tree.files)
    assert (await rig.put(rig.ref(attempt=2), tree)).needed == []
    await rig.close()


async def test_hosts_with_one_root_get_everything_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    hosts = [Host(LocalTransport(node), "local", str(root)) for node in ("n1", "n2")]
    rig = Rig(hosts, [root, root], is_shared=True)
    tree = Tree(files={f"f{number}": os.urandom(10_000) for number in range(100)})
    ref = rig.ref()
    refs = [make_ref(f"many-{number}", f"n{1 + number % 2}") for number in range(4)]
    try:
        put = await rig.put(ref, tree)
        before = dict(tree.files)
        tree.files["new"] = os.urandom(2 << 20)
        # Jobs that come to both of them at the same moment.
        puts = await asyncio.gather(*(rig.put(each, tree) for each in refs))
    finally:
        await rig.close()
    assert len(put.needed) == 100
    assert put.result is not None
    (told,) = put.result.roots
    assert (told.node, told.root_uid) == ("", (root / "root_uid").read_text().strip())
    assert sorted(len(each.needed) for each in puts) == [0, 0, 0, 1]
    check_found(rig.work(ref), before)
    for each in refs:
        check_found(rig.work(each), tree.files)
