"""What an RPC says of a thing of another user is what it says of a thing that there is not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from skyport.terminal.v1 import account_pb2, catalog_pb2, file_pb2, job_pb2
from tests.security.callers import CODE, OK, answered, outcome, refusal
from tests.security.world import TERMINAL, World
from tests.system.harness.files import bring, sha256
from tests.system.harness.jobs import SUCCEEDED
from tests.system.harness.refusals import problem_of
from tests.system.harness.users import submission
from tests.system.test_access import ABOUT_A_JOB


def fields(message: Descriptor, before: str = "") -> Iterator[str]:
    """The paths of all fields of a request that a caller fills."""
    for field in message.fields:
        yield f"{before}{field.name}"
        if (
            field.message_type is not None
            and field.message_type.file.package == message.file.package
        ):
            yield from fields(field.message_type, f"{before}{field.name}.")


ELSEWHERE = {
    "contents.sha256": "FindMissing",
    "pieces.sha256": "Upload",
    "manifest_sha256": "SubmitJob",
    "request_id": "SubmitJob",
    "resume_token": "WatchJobs",
    "open.connection_id": "Accept",
    "partition_id": "ListNodes",
}
"""Other fields that name something; each has a test of its own, here or in test_access.py."""


def test_every_field_that_names_a_thing_is_looked_at() -> None:
    named: dict[str, set[str]] = {}
    for name, method in TERMINAL.items():
        for path in fields(method.input_type):
            last = path.rpartition(".")[2]
            is_name = last.endswith(("_id", "_ids", "_token", "sha256")) or last == "id"
            if is_name and not name.startswith("AdminService."):
                named.setdefault(path, set()).add(name.partition(".")[2])
    about_jobs = [named.pop(path, set()) for path in ("job_id", "job_ids", "open.job_id")]
    assert set().union(*about_jobs) == ABOUT_A_JOB.keys()
    assert named.pop("page_token") == {name.partition(".")[2] for name in LISTS}
    # A part of a listing's question, and of what Download compares, that finds nothing by itself.
    assert named.pop("filter.job_id_prefix", None) is None
    assert named.pop("files.sha256") == {"Download"}
    assert {path: {rpc} for path, rpc in ELSEWHERE.items()} == named


LISTS: dict[str, Message] = {
    "AccountService.GetUsage": account_pb2.GetUsageRequest(group=account_pb2.USAGE_GROUP_JOB),
    "CatalogService.ListSites": catalog_pb2.ListSitesRequest(),
    "CatalogService.ListFlavors": catalog_pb2.ListFlavorsRequest(),
    "CatalogService.ListImages": catalog_pb2.ListImagesRequest(),
    "CatalogService.ListPartitions": catalog_pb2.ListPartitionsRequest(),
    "CatalogService.ListNodes": catalog_pb2.ListNodesRequest(),
    "FileService.ListOutputs": file_pb2.ListOutputsRequest(),
    "JobService.ListJobs": job_pb2.ListJobsRequest(),
}
"""Lists that have more than one entry for bo."""


@pytest.mark.parametrize("name", LISTS)
def test_a_page_token_of_somebody_else_is_none(world: World, name: str) -> None:
    request: Any = type(LISTS[name])()
    request.CopyFrom(LISTS[name])
    request.page_size = 1
    stranger = world.callers["other"]
    if name == "FileService.ListOutputs":
        # Nobody else sees the job, but for an administrator.
        request.job_id, stranger = world.ended, world.callers["admin"]
    first: Any = answered(world.callers["owner"], TERMINAL[name], request)
    assert first.next_page_token
    request.page_token = first.next_page_token
    assert outcome(world.callers["owner"], TERMINAL[name], request) == OK
    told = []
    for token in (first.next_page_token, "nonsense"):
        request.page_token = token
        told.append(refusal(stranger, TERMINAL[name], request))
    assert told[0] == told[1]
    assert told[0][:2] == (CODE.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


def test_contents_of_somebody_else_are_missing_from_their_beginning(world: World) -> None:
    bo, cy = world.core.user("bo"), world.core.user("cy")
    data = b"a part of this is here, of bo's"
    half = file_pb2.UploadPiece(sha256=sha256(data), data=data[:9])
    with contextlib.suppress(grpc.RpcError):  # it is cut, and what has come is kept
        bo.files.Upload(iter([file_pb2.UploadRequest(pieces=[half])]), timeout=20)
    asked = file_pb2.FindMissingRequest(
        contents=[file_pb2.Content(sha256=sha256(data), size=len(data))]
    )
    assert bo.files.FindMissing(asked, timeout=20).missing[0].offset == 9
    for caller in (cy, world.core.admin):
        assert caller.files.FindMissing(asked, timeout=20).missing[0].offset == 0
    # Nor is it gone on with: for others the piece has nothing before it.
    told = []
    for content in (data, b"of nobody, and of the same length"):
        rest = file_pb2.UploadPiece(sha256=sha256(content), offset=9, data=b"rest", last=True)
        sent = file_pb2.UploadRequest(pieces=[rest])
        told.append(refusal(world.callers["other"], TERMINAL["FileService.Upload"], sent))
    assert told[0] == told[1]
    assert told[0][:2] == (CODE.OUT_OF_RANGE, "OFFSET")


def test_an_administrator_has_no_contents_of_others(world: World) -> None:
    digest = bring(world.core.user("bo"), {"secret": b"of bo alone"})
    request = submission("true")
    request.manifest_sha256 = digest
    problem = problem_of(world.core.admin.jobs.SubmitJob, request)
    assert (problem.code, problem.reason) == (CODE.NOT_FOUND, "CONTENT_MISSING")


def test_a_request_id_is_its_user_s_own(world: World) -> None:
    ids = set()
    for name in ("bo", "cy"):
        job = world.core.user(name).submit(f"echo {name}", request_id="the-same", site="lab")
        assert job.until(SUCCEEDED).owner == name
        ids.add(job.job_id)
    assert len(ids) == 2


def test_a_watch_token_of_somebody_else_tells_nothing_of_theirs(world: World) -> None:
    theirs = world.core.user("bo").submit("true", site="lab")
    token = theirs.token
    theirs.until(SUCCEEDED)
    own = world.core.user("cy").submit("true", site="lab")
    own.until(SUCCEEDED)
    request = job_pb2.WatchJobsRequest(resume_token=token)
    call = world.core.user("cy").jobs.WatchJobs(request, timeout=20)
    told = set()
    for answer in call:
        told |= {event.job_id for event in answer.events}
        if answer.caught_up:
            call.cancel()
            break
    assert told == {own.job_id}
