"""Files of a job that runs: listed and downloaded from its work folder, as they are just then."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest

from skyport.terminal.v1 import file_pb2
from tests.system.harness.core import Core, running
from tests.system.harness.files import File, download, list_outputs
from tests.system.harness.jobs import RUNNING, SUCCEEDED, JobHandle
from tests.system.harness.latch import Latch
from tests.system.harness.refusals import refused
from tests.system.harness.sites import node, static
from tests.system.harness.waiting import eventually


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    sites = {"lab": static(node("n1"), node("n2"))}
    with running(tmp_path_factory.mktemp("live"), sites) as core:
        yield core
        core.sites["lab"].faults()


def started(core: Core, script: str, hold: Latch) -> JobHandle:
    """A job that has come as far as to wait for the latch."""
    job = core.user().submit(f"{script}\necho ready\n{hold.wait}\n")
    job.until(RUNNING)
    heard = b""
    for answer in job.follow():
        heard += answer.data
        if b"ready\n" in heard:
            return job
    raise AssertionError(heard)


def paths(answer: file_pb2.ListOutputsResponse) -> list[str]:
    return [file.entry.path for file in answer.files]


def test_outputs_are_seen_while_the_job_runs_and_collected_afterwards(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    job = started(
        core, "#SWM output-files out/ *.txt none.*\nmkdir out; echo 1 > out/a; echo x > b.txt", hold
    )
    live = list_outputs(job.user, job.job_id)
    assert paths(live) == ["b.txt", "out", "out/a"]
    assert not live.collected
    assert list(live.unmatched_patterns) == ["none.*"]
    assert all(file.HasField("modify_time") for file in live.files if file.entry.size)
    assert download(job.user, job.job_id, ["out/a", "b.txt"]) == {"out/a": b"1\n", "b.txt": b"x\n"}
    hold.release()
    job.until(SUCCEEDED)
    assert list_outputs(job.user, job.job_id).collected
    assert job.outputs() == {"out/a": File(b"1\n"), "b.txt": File(b"x\n")}


def test_any_file_of_the_work_folder_may_be_asked_for(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    job = started(core, "#SWM output-files final\necho 7 > progress; echo > final", hold)
    assert paths(list_outputs(job.user, job.job_id, "progr*")) == ["progress"]
    asked = list_outputs(job.user, job.job_id, "nothing", "final")
    assert (paths(asked), list(asked.unmatched_patterns)) == (["final"], ["nothing"])
    request = file_pb2.ListOutputsRequest(job_id=job.job_id, patterns=["../x"])
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    refused(job.user.files.ListOutputs, request, invalid, "PATH_INVALID")
    hold.release()
    job.until(SUCCEEDED)


def test_a_file_that_is_gone_ends_with_its_failure_and_others_go_on(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    job = started(core, "echo 1 > a; echo 2 > b", hold)
    request = file_pb2.DownloadRequest(job_id=job.job_id)
    for path in ("gone", "b"):
        request.files.add(path=path)
    pieces = [
        piece for answer in job.user.files.Download(request, timeout=20) for piece in answer.pieces
    ]
    assert pieces[0].end.failure.reason == "FILE_NOT_FOUND"
    assert (pieces[-1].index, pieces[-1].data, pieces[-1].end.size) == (1, b"2\n", 2)
    hold.release()
    job.until(SUCCEEDED)


def test_a_download_goes_on_where_it_was_as_long_as_the_file_is_the_same(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    job = started(core, "printf 0123456789 > a", hold)
    (listed,) = list_outputs(job.user, job.job_id, "a").files
    cursor = file_pb2.DownloadCursor(path="a", offset=4, size=10, modify_time=listed.modify_time)

    def data() -> tuple[int, bytes]:
        request = file_pb2.DownloadRequest(job_id=job.job_id, files=[cursor])
        pieces = [p for a in job.user.files.Download(request, timeout=20) for p in a.pieces]
        return pieces[0].offset, b"".join(piece.data for piece in pieces)

    assert data() == (4, b"456789")
    cursor.modify_time.seconds -= 1
    assert data() == (0, b"0123456789")
    hold.release()
    job.until(SUCCEEDED)


def test_nodes_after_the_first_have_a_folder_and_pages_tell_each_file_once(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    job = core.user().submit(
        "#SWM nodes 2\n#SWM launch every\n#SWM output-files *.txt\n"
        f"for i in 1 2 3; do echo $SWM_NODE_RANK > $i.txt; done; echo > all.there; {hold.wait}"
    )
    job.until(RUNNING)
    first, second = (each.name for each in job.get().nodes)
    wanted = ["1.txt", "2.txt", "3.txt"]
    wanted += [f"{second}/{name}" for name in wanted]
    eventually(
        lambda: len(list_outputs(job.user, job.job_id, "all.there").files) == 2,
        "both nodes have written all",
    )
    request = file_pb2.ListOutputsRequest(job_id=job.job_id, page_size=2)
    found = []
    while True:
        page = job.user.files.ListOutputs(request, timeout=20)
        assert len(page.files) <= 2
        found += paths(page)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == wanted
    assert download(job.user, job.job_id, wanted) == {
        path: b"1\n" if path.startswith(f"{second}/") else b"0\n" for path in wanted
    }
    assert first not in {path.partition("/")[0] for path in found}
    hold.release(2)
    job.until(SUCCEEDED)
    assert sorted(job.outputs()) == wanted


def test_what_cannot_be_had_is_told_by_its_reason(core: Core, latch: Callable[[], Latch]) -> None:
    hold = latch()
    job = started(core, "#SWM cpus 4\n#SWM nodes 2\n#SWM output-files a\necho > a", hold)
    ask = file_pb2.ListOutputsRequest(job_id=job.job_id)
    get = file_pb2.DownloadRequest(job_id=job.job_id, files=[file_pb2.DownloadCursor(path="a")])
    waits = core.user().submit("#SWM output-files a\necho > a")
    queued = file_pb2.ListOutputsRequest(job_id=waits.job_id)
    precondition, absent = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND
    refused(job.user.files.ListOutputs, queued, precondition, "OUTPUTS_NOT_READY", says="QUEUED")
    stranger = core.user("cy")
    refused(stranger.files.ListOutputs, ask, absent, "JOB_NOT_FOUND")
    refused(stranger.files.Download, get, absent, "JOB_NOT_FOUND")
    lost = {"kind": "fail", "code": "UNAVAILABLE", "reason": "SITE_UNREACHABLE"}
    core.sites["lab"].faults({"method": "ListFiles", **lost}, {"method": "GetFiles", **lost})
    unavailable = grpc.StatusCode.UNAVAILABLE
    refused(job.user.files.ListOutputs, ask, unavailable, "SITE_UNREACHABLE", says="site lab")
    refused(job.user.files.Download, get, unavailable, "SITE_UNREACHABLE", says="site lab")
    core.sites["lab"].faults()
    assert paths(list_outputs(job.user, job.job_id)) == ["a"]
    hold.release()
    job.until(SUCCEEDED)
    waits.until(SUCCEEDED)
