"""Files that cannot be taken: manifests, contents, pieces out of order, a spool that is full."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import grpc
import pytest

from skyport.common.v1 import manifest_pb2
from skyport.terminal.v1 import file_pb2, job_pb2, server_pb2
from tests.system.harness.core import Core, running, serves
from tests.system.harness.files import (
    File,
    Link,
    bring,
    encode,
    entry,
    sha256,
    upload,
    upload_requests,
)
from tests.system.harness.jobs import FAILED, SUCCEEDED, JobHandle
from tests.system.harness.refusals import refused
from tests.system.harness.sites import dynamic, static
from tests.system.harness.users import User, submission

INVALID = grpc.StatusCode.INVALID_ARGUMENT
MiB = 1 << 20
SPOOL_MIB = 24


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    sites = {"lab": static(), "cloud": dynamic()}
    with running(
        tmp_path_factory.mktemp("files"), sites, spool={"max_size": f"{SPOOL_MIB}M"}
    ) as core:
        yield core


@pytest.fixture(autouse=True)
def _serves_on(core: Core) -> Iterator[None]:
    pid = core.gate("lab").pid
    yield
    serves(core)
    assert core.gate("lab").pid == pid


def submit_with(user: User, manifest_data: bytes) -> job_pb2.SubmitJobRequest:
    """A submit whose manifest is these bytes, which are uploaded."""
    upload(user, [manifest_data])
    request = submission("true")
    request.manifest_sha256 = sha256(manifest_data)
    return request


# Manifests.

FILE = entry("x", b"data")


def named(path: str) -> manifest_pb2.ManifestEntry:
    return entry(path, b"data")


BAD_PATHS = ["/etc/passwd", "../up", "a/../../up", "a/./b", "a//b", "a/", "", "a\0b", "x" * 256]


@pytest.mark.parametrize("path", BAD_PATHS, ids=[repr(path[:12]) for path in BAD_PATHS])
def test_a_path_that_leads_elsewhere_is_refused(core: Core, path: str) -> None:
    user = core.user()
    upload(user, [b"data"])
    request = submit_with(user, encode([named(path)]))
    refused(user.jobs.SubmitJob, request, INVALID, "PATH_INVALID")


@pytest.mark.parametrize("target", ["/etc/passwd", "../up", "a/../../up", ""])
def test_a_link_that_leads_out_is_refused(core: Core, target: str) -> None:
    user = core.user()
    request = submit_with(user, encode([entry("link", Link(target))]))
    refused(user.jobs.SubmitJob, request, INVALID, "PATH_INVALID", says="link")


@pytest.mark.parametrize(
    "paths", [["x", "x"], ["x", "x/y"], ["a", "a-b", "a/c"]], ids=["twice", "below", "far below"]
)
def test_two_inputs_in_each_other_s_way_are_refused(core: Core, paths: list[str]) -> None:
    user = core.user()
    upload(user, [b"data"])
    request = submit_with(user, encode(map(named, paths)))
    refused(user.jobs.SubmitJob, request, INVALID, "PATH_CONFLICT", says=paths[-1])


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 40,
        encode([named("b"), named("a")]),
        encode([manifest_pb2.ManifestEntry(path="x", type=manifest_pb2.FILE_TYPE_FILE, size=4)]),
        encode([manifest_pb2.ManifestEntry(path="x", sha256=sha256(b"data"), size=4)]),
        encode([entry("x", File(b"data", 0o4755))]),
        encode([manifest_pb2.ManifestEntry(path="d", type=2, size=3)]),  # type: ignore[arg-type]
        encode([FILE])[:-3],
    ],
    ids=["noise", "order", "no digest", "no type", "set-uid", "folder with size", "cut"],
)
def test_what_is_no_manifest_is_refused(core: Core, data: bytes) -> None:
    user = core.user()
    upload(user, [b"data"])
    refused(user.jobs.SubmitJob, submit_with(user, data), INVALID, "MANIFEST_INVALID")


def test_a_manifest_that_was_not_uploaded_is_missing(core: Core) -> None:
    request = submission("true")
    request.manifest_sha256 = sha256(b"nobody has this")
    refused(core.user().jobs.SubmitJob, request, grpc.StatusCode.NOT_FOUND, "CONTENT_MISSING")


def test_a_content_that_was_not_uploaded_is_missing_and_named(core: Core) -> None:
    user = core.user()
    request = submit_with(user, encode([entry("lost.dat", b"nobody brought this")]))
    problem = refused(
        user.jobs.SubmitJob,
        request,
        grpc.StatusCode.NOT_FOUND,
        "CONTENT_MISSING",
        says="lost.dat",
    )
    assert problem.metadata["sha256"] == sha256(b"nobody brought this").hex()


def test_a_content_of_another_size_is_missing(core: Core) -> None:
    user = core.user()
    upload(user, [b"data"])
    wrong = entry("x", b"data")
    wrong.size = 5
    refused(
        user.jobs.SubmitJob,
        submit_with(user, encode([wrong])),
        grpc.StatusCode.NOT_FOUND,
        "CONTENT_MISSING",
    )


def test_a_digest_of_the_wrong_length_is_refused(core: Core) -> None:
    request = submission("true")
    request.manifest_sha256 = b"short"
    refused(core.user().jobs.SubmitJob, request, INVALID, "FIELD_MALFORMED", says="32")


@pytest.mark.parametrize("tree", [None, {"other.txt": b"o"}], ids=["none", "another"])
def test_input_files_that_the_script_names_must_be_in_the_manifest(
    core: Core, tree: dict[str, bytes] | None
) -> None:
    request = submission("#SWM input-files data.txt\ntrue")
    if tree:
        request.manifest_sha256 = bring(core.user(), tree)
    refused(
        core.user().jobs.SubmitJob,
        request,
        grpc.StatusCode.FAILED_PRECONDITION,
        "INPUTS_MISSING",
        says="data.txt",
    )


# Uploads.


def pieces(data: bytes, *spans: tuple[int, int]) -> list[file_pb2.UploadRequest]:
    """Messages with pieces of a content, each from one offset to another."""
    return [
        file_pb2.UploadRequest(
            pieces=[
                file_pb2.UploadPiece(
                    sha256=sha256(data), offset=start, data=data[start:end], last=end == len(data)
                )
            ]
        )
        for start, end in spans
    ]


def test_a_piece_that_leaves_a_gap_is_refused_with_where_to_go_on(core: Core) -> None:
    data = hashlib.sha256(b"gap").digest() * 100
    problem = refused(
        core.user().files.Upload,
        pieces(data, (0, 1_000), (2_000, 3_200)),
        grpc.StatusCode.OUT_OF_RANGE,
        "OFFSET",
        says="1000",
    )
    assert problem.metadata["offset"] == "1000"


def test_a_content_that_is_not_its_digest_is_refused_and_dropped(core: Core) -> None:
    user = core.user()
    wanted = sha256(b"what was announced")
    for last in (3, 6):
        wrong = file_pb2.UploadPiece(sha256=wanted, data=b"others"[:last], last=last == 6)
        rest = file_pb2.UploadPiece(sha256=wanted, offset=3, data=b"ers", last=True)
        sent = [wrong] if last == 6 else [wrong, rest]
        refused(
            user.files.Upload,
            [file_pb2.UploadRequest(pieces=[piece]) for piece in sent],
            grpc.StatusCode.DATA_LOSS,
            "DIGEST_MISMATCH",
        )
    asked = [file_pb2.Content(sha256=wanted, size=18)]
    answer = user.files.FindMissing(file_pb2.FindMissingRequest(contents=asked), timeout=10)
    assert [each.offset for each in answer.missing] == [0]


def test_an_upload_that_was_cut_goes_on_where_it_was(core: Core) -> None:
    user = core.user()
    data = hashlib.sha256(b"cut").digest() * 40_000
    refused(
        user.files.Upload, pieces(data, (0, 600_000)), INVALID, "FIELD_MALFORMED", says="content"
    )
    asked = [file_pb2.Content(sha256=sha256(data), size=len(data))]
    answer = user.files.FindMissing(file_pb2.FindMissingRequest(contents=asked), timeout=10)
    assert [each.offset for each in answer.missing] == [600_000]
    user.files.Upload(upload_requests([(data, 600_000)]), timeout=20)
    answer = user.files.FindMissing(file_pb2.FindMissingRequest(contents=asked), timeout=10)
    assert not answer.missing


def test_a_digest_must_have_32_bytes(core: Core) -> None:
    bad = file_pb2.FindMissingRequest(contents=[file_pb2.Content(sha256=b"x", size=1)])
    refused(core.user().files.FindMissing, bad, INVALID, "FIELD_MALFORMED", says="32")
    piece = file_pb2.UploadPiece(sha256=b"x", data=b"x", last=True)
    refused(
        core.user().files.Upload,
        [file_pb2.UploadRequest(pieces=[piece])],
        INVALID,
        "FIELD_MALFORMED",
    )


def test_too_many_contents_in_one_question_are_refused(core: Core) -> None:
    many = file_pb2.FindMissingRequest(
        contents=[file_pb2.Content(sha256=bytes(32), size=1)] * 10_001
    )
    refused(core.user().files.FindMissing, many, INVALID, "FIELD_OUT_OF_RANGE", says="10001")


def test_the_empty_content_is_one_like_others(core: Core) -> None:
    job = core.user().submit("test -e empty && wc -c < empty", inputs={"empty": b""})
    job.until(SUCCEEDED)
    assert job.output().strip() == b"0"


# Downloads.


@pytest.fixture(scope="module")
def ended(core: Core) -> JobHandle:
    job = core.user().submit("#SWM output r.txt\necho r > r.txt", site="lab")
    job.until(SUCCEEDED)
    return job


@pytest.mark.parametrize(
    ("cursor", "code", "reason"),
    [
        ({"path": "none.txt"}, grpc.StatusCode.NOT_FOUND, "OUTPUT_NOT_FOUND"),
        ({"path": "../../client.toml"}, INVALID, "PATH_INVALID"),
        ({"path": "/etc/passwd"}, INVALID, "PATH_INVALID"),
        (
            {"path": "r.txt", "offset": 3, "sha256": sha256(b"r\n")},
            grpc.StatusCode.OUT_OF_RANGE,
            "OFFSET",
        ),
    ],
)
def test_what_is_no_output_is_not_downloaded(
    core: Core, ended: JobHandle, cursor: dict[str, object], code: grpc.StatusCode, reason: str
) -> None:
    asked = file_pb2.DownloadCursor(**cursor)  # type: ignore[arg-type]
    request = file_pb2.DownloadRequest(job_id=ended.job_id, files=[asked])
    refused(core.user().files.Download, request, code, reason)


def test_a_download_goes_on_at_its_cursor_and_begins_anew_where_the_file_is_another(
    core: Core, ended: JobHandle
) -> None:
    for digest, expected in ((sha256(b"r\n"), b"\n"), (sha256(b"other"), b"r\n")):
        cursor = file_pb2.DownloadCursor(path="r.txt", offset=1, sha256=digest)
        request = file_pb2.DownloadRequest(job_id=ended.job_id, files=[cursor])
        answers = list(core.user().files.Download(request, timeout=10))
        assert b"".join(p.data for answer in answers for p in answer.pieces) == expected


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", "a/../../b"])
def test_a_pattern_that_leads_out_is_refused(core: Core, ended: JobHandle, pattern: str) -> None:
    request = file_pb2.ListOutputsRequest(job_id=ended.job_id, patterns=[pattern])
    refused(core.user().files.ListOutputs, request, INVALID, "PATH_INVALID", says=pattern)


# A spool that is full.


def used(user: User) -> int:
    info = user.server.GetServerInfo(server_pb2.GetServerInfoRequest(), timeout=10)
    assert info.spool_limit_bytes == SPOOL_MIB * MiB
    return int(info.spool_used_bytes)


def test_when_the_spool_is_full_uploads_are_refused_and_nothing_is_lost(core: Core) -> None:
    user = core.user()
    before = used(user)
    data = hashlib.sha256(b"full").digest() * (SPOOL_MIB * MiB // 32)
    refused(
        user.files.Upload,
        list(upload_requests([(data, 0)])),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "SPOOL_FULL",
        says="spool",
    )
    assert used(user) >= before


def test_outputs_that_do_not_fit_fail_the_job_and_do_not_bill_for_ever(core: Core) -> None:
    job = core.user().submit(
        f"#SWM output big.bin\nhead -c {SPOOL_MIB * MiB} /dev/urandom > big.bin; echo said",
        site="cloud",
    )
    ended = job.until(FAILED, within_s=40)
    assert ended.failure.reason == "SPOOL_FULL"
    assert job.output() == b"said\n"
    core.site("cloud").given_back()
