from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from google.protobuf import field_mask_pb2 as mask_pb2
from grpc_tools import protoc  # type: ignore[import-untyped]

from rpc_kit.redaction import safe_text
from skyport.gate.v1 import job_pb2
from skyport.terminal.v1 import admin_pb2

SECRET = "hunter2"
PROTOS = Path(__file__).parents[2] / "protos"

BOX = """
syntax = "proto3";
package test.redaction;
import "skyport/common/v1/options.proto";

// Secrets in every place where one can be.
message Box {
  string plain = 1;
  string password = 2 [(skyport.common.v1.secret) = true];
  repeated bytes keys = 3 [(skyport.common.v1.secret) = true];
  int32 pin = 4 [(skyport.common.v1.secret) = true];
  Box vault = 5 [(skyport.common.v1.secret) = true];
  map<string, string> env = 6 [(skyport.common.v1.secret) = true];
  Box inner = 7;
  repeated Box boxes = 8;
  map<string, Box> by_name = 9;
  bytes data = 10;
  repeated int32 numbers = 11;
}
"""


@pytest.fixture(scope="module")
def Box(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The class of the message above."""
    folder = tmp_path_factory.mktemp("protos")
    (folder / "box.proto").write_text(BOX)
    builtin = resources.files("grpc_tools") / "_proto"
    includes = [f"-I{path}" for path in (folder, PROTOS, builtin)]
    out = folder / "box.binpb"
    assert protoc.main(["protoc", *includes, f"--descriptor_set_out={out}", "box.proto"]) == 0
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    pool: Any = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("test.redaction.Box"))


def test_no_secret_is_shown_wherever_it_lies(Box: Any) -> None:  # noqa: N803
    def full(depth: int) -> Any:
        box = Box(password=SECRET, keys=[SECRET.encode()], pin=7_351, env={"TOKEN": SECRET})
        box.vault.plain = SECRET
        if depth:
            box.inner.CopyFrom(full(depth - 1))
            box.boxes.append(full(depth - 1))
            box.by_name["first"].CopyFrom(full(depth - 1))
        return box

    text = safe_text(full(3), limit=1_000_000)
    assert SECRET not in text
    assert "7351" not in text
    # That they are set is told, and the names of the variables.
    assert text.count("password=***") == 1 + 3 + 9 + 27
    assert 'env={"TOKEN": ***}' in text
    assert "vault=***" in text


def test_what_is_no_secret_is_shown(Box: Any) -> None:  # noqa: N803
    box = Box(plain="a\nb", data=b"12345", numbers=[1, 2], inner=Box(plain="deep"))
    box.by_name["k"].plain = "v"
    assert safe_text(box) == (
        'Box{plain="a\\nb" inner={plain="deep"} by_name={"k": {plain="v"}} '
        "data=<5 bytes> numbers=[1, 2]}"
    )
    assert safe_text(Box()) == "Box{}"


def test_enums_have_names_even_those_that_nobody_knows() -> None:
    status = job_pb2.JobStatus(state=job_pb2.JOB_STATE_STARTING)
    assert safe_text(status) == "JobStatus{state=JOB_STATE_STARTING}"
    assert safe_text(job_pb2.JobStatus(state=99)) == "JobStatus{state=99}"  # type: ignore[arg-type]


def test_the_fields_that_the_contracts_mark_are_covered() -> None:
    request = job_pb2.StartJobRequest(secret_env={"TOKEN": SECRET})
    request.registry_logins.add(registry="docker.example", username="ann", password=SECRET)
    text = safe_text(request)
    assert SECRET not in text
    assert "TOKEN" in text
    assert "docker.example" in text
    bundle = admin_pb2.AddUserResponse(bundle=admin_pb2.Bundle(content=SECRET.encode()))
    assert safe_text(bundle) == "AddUserResponse{bundle={content=***}}"


def test_an_any_shows_its_type_only() -> None:
    packed = any_pb2.Any()
    packed.Pack(mask_pb2.FieldMask(paths=[SECRET]))
    text = safe_text(packed)
    assert SECRET not in text
    assert "google.protobuf.FieldMask" in text


def test_a_huge_message_costs_no_more_than_what_is_shown(Box: Any) -> None:  # noqa: N803
    box = Box(numbers=range(1_000_000), plain="x" * 1_000_000)
    text = safe_text(box, limit=200)
    assert len(text) <= 201
    assert text.endswith("…")
