from __future__ import annotations

import os
from pathlib import Path

import grpc
import pytest

from rpc_kit.errors import Refusal
from skyport.terminal.v1 import job_pb2
from terminals.client import CallFailed, Client, InputChanged, Progress, RequestInvalid
from terminals.client.inputs import select
from terminals.client.manifest import read_manifest
from terminals.client.upload import upload
from tests.client.fake_core import FakeCore
from tests.client.fake_jobs import read_manifest as decode

SCRIPT = b"#!/bin/sh\n#SWM input-files in\n"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    (folder / "in").mkdir(parents=True)
    return folder


@pytest.fixture(autouse=True)
def contact(client: Client) -> None:
    """A core that has never answered is not waited for."""
    client.call(client.jobs.ListJobs, job_pb2.ListJobsRequest())


def arrived(core: FakeCore, data: bytes) -> dict[str, bytes]:
    return {entry.path: core.state.contents[entry.sha256] for entry in decode(data)}


def test_files_of_all_sizes_arrive(client: Client, core: FakeCore, here: Path) -> None:
    sizes = [0, 1, 4096, (1 << 20) - 64, 1 << 20, (1 << 20) + 1, 3_500_000]
    for size in sizes:
        (here / f"in/{size}").write_bytes(os.urandom(size))
    manifest = read_manifest(select(["in"], here))
    upload(client, manifest)
    assert arrived(core, manifest.data) == {
        f"in/{size}": (here / f"in/{size}").read_bytes() for size in sizes
    }


def test_small_files_share_messages_and_tiny_ones_stay_under_the_limit(
    client: Client, core: FakeCore, here: Path
) -> None:
    for number in range(2_000):
        (here / f"in/{number}").write_bytes(b"%d" % number)
    manifest = read_manifest(select(["in"], here))
    upload(client, manifest)
    assert len(arrived(core, manifest.data)) == 2_000
    assert len(core.state.upload_messages) <= 2


def test_what_the_core_has_is_not_sent_again(client: Client, core: FakeCore, here: Path) -> None:
    (here / "in/a").write_bytes(b"a" * 100_000)
    (here / "in/same").write_bytes(b"a" * 100_000)
    manifest = read_manifest(select(["in"], here))
    upload(client, manifest)
    assert core.state.received_bytes == 100_000 + len(manifest.data)
    upload(client, manifest)
    assert core.state.received_bytes == 100_000 + len(manifest.data)
    assert core.state.calls.count("Upload") == 1


def test_a_broken_upload_goes_on_where_it_was(client: Client, core: FakeCore, here: Path) -> None:
    (here / "in/large").write_bytes(os.urandom(5 << 20))
    core.state.faults.upload_breaks_after = [2, 1]
    manifest = read_manifest(select(["in"], here))
    upload(client, manifest)
    assert len(arrived(core, manifest.data)["in/large"]) == 5 << 20
    assert core.state.received_bytes == (5 << 20) + len(manifest.data)
    assert core.state.calls.count("Upload") == 3


def test_an_upload_that_never_gets_further_ends(client: Client, core: FakeCore, here: Path) -> None:
    (here / "in/x").write_bytes(b"x")
    core.state.faults.upload_breaks_after = [0] * 100
    with pytest.raises(CallFailed, match="shutting down"):
        upload(client, read_manifest(select(["in"], here)))
    assert core.state.calls.count("FindMissing") < 12


def test_an_upload_outlives_a_restart_of_the_core(
    client: Client, core: FakeCore, here: Path
) -> None:
    (here / "in/large").write_bytes(os.urandom(4 << 20))
    restarted: list[bool] = []

    def restart(progress: Progress) -> None:
        if progress.done_bytes > 2 << 20 and not restarted:
            restarted.append(True)
            core.restart()

    manifest = read_manifest(select(["in"], here))
    upload(client, manifest, restart)
    assert restarted
    assert len(arrived(core, manifest.data)["in/large"]) == 4 << 20


def test_a_file_that_changed_before_it_was_sent_is_an_error(
    client: Client, core: FakeCore, here: Path
) -> None:
    (here / "in/x").write_bytes(b"one")
    manifest = read_manifest(select(["in"], here))
    (here / "in/x").write_bytes(b"another")
    with pytest.raises(InputChanged, match="in/x changed while"):
        upload(client, manifest)


def test_a_file_that_is_gone_before_it_was_sent_is_an_error(
    client: Client, core: FakeCore, here: Path
) -> None:
    (here / "in/x").write_bytes(b"one")
    manifest = read_manifest(select(["in"], here))
    (here / "in/x").unlink()
    with pytest.raises(InputChanged, match="in/x: can't be read any more"):
        upload(client, manifest)


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(
    client: Client, core: FakeCore, here: Path
) -> None:
    path = here / "in/x"
    path.write_bytes(os.urandom(5 << 20))
    manifest = read_manifest(select(["in"], here))
    with pytest.raises(InputChanged):
        upload(client, manifest, lambda _: os.truncate(path, 2 << 20))


def test_a_content_whose_digest_is_wrong_is_told_as_a_change(
    client: Client, core: FakeCore, here: Path
) -> None:
    path = here / "in/x"
    path.write_bytes(b"one")
    manifest = read_manifest(select(["in"], here))
    told = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))
    with pytest.raises(InputChanged, match="another digest"):
        upload(client, manifest)


def test_a_full_spool_is_told_as_it_is(client: Client, core: FakeCore, here: Path) -> None:
    (here / "in/x").write_bytes(b"x")
    core.state.faults.upload_refusal = Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "SPOOL_FULL", "the spool is full; delete old jobs"
    )
    with pytest.raises(CallFailed, match="the spool is full") as caught:
        upload(client, read_manifest(select(["in"], here)))
    assert caught.value.reason == "SPOOL_FULL"


def test_submit_brings_the_inputs_with_their_modes(
    client: Client, core: FakeCore, here: Path
) -> None:
    (here / "in/run").write_bytes(b"#!/bin/sh\n")
    (here / "in/run").chmod(0o755)
    job = client.submit(SCRIPT, base=here).job
    (entry,) = decode(core.state.manifests[job.job_id])
    assert (entry.path, entry.mode) == ("in/run", 0o755)


def test_a_submit_whose_answer_is_lost_makes_one_job(client: Client, core: FakeCore) -> None:
    core.state.faults.submit_answers_lost = 6  # more than the channel repeats by itself
    client.submit(b"true")
    assert len(core.state.jobs) == 1


def test_a_script_with_mistakes_names_their_lines(client: Client, core: FakeCore) -> None:
    with pytest.raises(RequestInvalid) as caught:
        client.submit(b"#!/bin/sh\n#SWM nmae x\n\n#SWM bogus y\n")
    assert [violation.field for violation in caught.value.violations] == ["script:2", "script:4"]
    assert not core.state.jobs
