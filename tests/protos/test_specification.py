"""protos/README.md and protos/WALKS.md say all that the protos need, and nothing that they lack."""

from __future__ import annotations

import hashlib
import re

import grpc
import pytest

from skyport.common.v1.manifest_pb2 import FileType, ManifestEntry
from swm_core.domain.failures import FailureReason
from swm_core.domain.states import JOB_TRANSITIONS
from tests.protos import specification as spec
from tests.protos.specification import Rpc

TEXT = spec.README.read_text(encoding="utf-8")
WALKS = spec.WALKS.read_text(encoding="utf-8")
SECTIONS = spec.sections(TEXT)
COMMON = "Transport and identity"
MASTERS = {"Gate": "Reasons of the Gate API", "Terminal": "Reasons of the Terminal API"}
CODES = {code.name for code in grpc.StatusCode}

ALL_RPCS = pytest.mark.parametrize("rpc", spec.rpcs(), ids=lambda rpc: rpc.heading)


def rows_of(rpc: Rpc) -> list[spec.Row]:
    return spec.error_rows(rpc.heading, SECTIONS.get(rpc.heading, ""))


def master(api: str) -> dict[str, str]:
    """The code of each reason of an API."""
    found: dict[str, str] = {}
    for section in (COMMON, MASTERS[api]):
        for row in spec.error_rows(section, SECTIONS[section]):
            for reason in row.reasons:
                assert found.setdefault(reason, row.code) == row.code, reason
    return found


def for_any_rpc(api: str) -> set[str]:
    """The reasons that any RPC of an API may answer, which its own table need not repeat."""
    return {
        reason
        for section in (COMMON, MASTERS[api])
        for row in spec.error_rows(section, SECTIONS[section])
        if section == COMMON or row.cells[0].startswith("any ")
        for reason in row.reasons
    }


def failure_reasons() -> set[str]:
    """The reasons that objects fail for, of both APIs."""
    found: set[str] = set()
    for section in (MASTERS["Gate"], "Why jobs fail"):
        for header, rows in spec.tables(section, SECTIONS[section]):
            if header[0] == "reason":
                found |= {word for row in rows for word in re.findall(r"`(\w+)`", row.cells[0])}
    for line in re.findall(r"\*\*Failure reasons of.*?\n\n", TEXT, re.DOTALL):
        found |= set(re.findall(r"`([A-Z_]+)`", line))
    return found


def script_reasons() -> set[str]:
    """The reasons for which a job script is refused."""
    *_, (_, rows) = spec.tables("", SECTIONS[MASTERS["Terminal"]])
    return {reason for row in rows for reason in row.reasons}


# ---- every RPC ---------------------------------------------------------------------------------


@ALL_RPCS
def test_every_rpc_has_an_error_table_with_a_code_and_a_reason(rpc: Rpc) -> None:
    assert rpc.heading in SECTIONS
    rows = rows_of(rpc)
    assert rows
    for row in rows:
        assert len(row.cells) == 4, row
        assert all(row.cells), row
        assert row.code in CODES - {"OK"}, row
        assert row.reasons, row
        assert all(spec.REASON.fullmatch(reason) for reason in row.reasons), row


@ALL_RPCS
def test_every_reason_of_an_rpc_is_in_the_table_of_its_api_with_the_same_code(rpc: Rpc) -> None:
    codes = master(rpc.api)
    for row in rows_of(rpc):
        for reason in row.reasons:
            assert codes.get(reason) == row.code, row
    reasons = [reason for row in rows_of(rpc) for reason in row.reasons]
    assert len(reasons) == len(set(reasons)), "one reason, one row"


@ALL_RPCS
def test_what_the_comments_of_a_proto_promise_is_in_the_table_of_the_rpc(rpc: Rpc) -> None:
    told = {(row.code, reason) for row in rows_of(rpc) for reason in row.reasons}
    codes = master(rpc.api)
    told |= {(codes[reason], reason) for reason in for_any_rpc(rpc.api)}
    alternatives = "|".join(sorted(CODES))
    promised = set(re.findall(rf"\b({alternatives}) ([A-Z]+(?:_[A-Z]+)*)\b", rpc.comments))
    assert promised <= told


@ALL_RPCS
def test_the_table_has_the_rows_that_follow_from_what_the_rpc_is(rpc: Rpc) -> None:
    needed = set()
    if "page_token" in rpc.fields:
        needed.add("PAGE_TOKEN_INVALID")
    if rpc.service == "AdminService":
        needed.add("ADMIN_REQUIRED")
    if rpc.name.startswith("Watch") or rpc.name == "Listen":
        needed.add("SHUTTING_DOWN")
    if rpc.api == "Terminal" and ("job_id" in rpc.fields or rpc.name == "Connect"):
        needed.add("JOB_NOT_FOUND")
    if rpc.api == "Gate" and f"{spec.APIS['Gate']}.JobRef" in spec.closure(rpc.input_type):
        needed.add("NODE_UNREACHABLE")
        if rpc.service != "TunnelService":
            needed.add("SITE_CHANGED")
    if rpc.api == "Gate" and "scope_uid" in rpc.fields:
        needed.add("SITE_CHANGED")
    if "site" in rpc.fields:
        needed.add("SITE_NOT_FOUND")
    assert needed <= {reason for row in rows_of(rpc) for reason in row.reasons}


def test_every_heading_that_looks_like_an_rpc_is_one_and_every_service_has_its_own() -> None:
    named = {title for title in SECTIONS if re.fullmatch(r"(Gate|Terminal) \w+Service\.\w+", title)}
    assert named == {rpc.heading for rpc in spec.rpcs()}
    services = {title for title in SECTIONS if re.fullmatch(r"(Gate|Terminal) \w+Service", title)}
    assert services == {f"{rpc.api} {rpc.service}" for rpc in spec.rpcs()}


@pytest.mark.parametrize("api", spec.APIS)
def test_every_error_table_says_what_the_caller_does(api: str) -> None:
    caller = {"Gate": "the core then", "Terminal": "the terminal then"}[api]
    for title, text in SECTIONS.items():
        if title.startswith(f"{api} ") or title == MASTERS[api]:
            for header, _ in spec.tables(title, text):
                if header[0] == "condition":
                    assert header == ("condition", "code", "reason", caller), title


@pytest.mark.parametrize("api", spec.APIS)
def test_every_documented_reason_can_happen_in_some_rpc(api: str) -> None:
    used = for_any_rpc(api) | failure_reasons()
    for rpc in spec.rpcs():
        if rpc.api == api:
            used |= {reason for row in rows_of(rpc) for reason in row.reasons}
    assert set(master(api)) <= used | script_reasons()


def test_no_row_of_a_table_goes_or_comes_unnoticed() -> None:
    written = (spec.PROTOS.parent / "tests/protos/tables.txt").read_text(encoding="utf-8")
    assert spec.outline(TEXT) == written, (
        "a row is a promise to callers: tell of it in protos/CHANGES.md, then run "
        "`python -m tests.protos.specification > tests/protos/tables.txt`"
    )


def test_the_reasons_of_a_refused_script_are_those_of_the_parser() -> None:
    code = "".join(
        path.read_text(encoding="utf-8")
        for path in (spec.PROTOS.parent / "swm_core/jobscript").glob("*.py")
        if path.name != "__init__.py"
    )
    given = set(re.findall(r'"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)"', code))
    assert given <= set(master("Terminal"))
    assert script_reasons() <= given


def test_every_change_of_the_gate_api_has_its_key_in_the_idempotency_table() -> None:
    (_, rows), *_ = spec.tables("Idempotency", SECTIONS["Idempotency"])
    told = [name.strip() for row in rows for name in row.cells[0].split(",")]
    changing = [rpc.name for rpc in spec.rpcs() if rpc.api == "Gate" and rpc.changes_something]
    assert sorted(told) == sorted(changing)


# ---- words ---------------------------------------------------------------------------------------


def test_words_in_capitals_are_documented_reasons_values_or_variables() -> None:
    known = set(master("Gate")) | set(master("Terminal")) | failure_reasons()
    known |= spec.all_enum_values() | CODES
    known |= {"CUDA_VISIBLE_DEVICES", "LC_ALL", "SKYPORT_SUPERVISED"}
    for name, text in (("README.md", TEXT), ("WALKS.md", WALKS)):
        for word in re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)`", text):
            assert word in known or word.startswith("SWM_"), f"{name}: {word}"


def test_every_capability_is_described() -> None:
    (_, rows), *_ = spec.tables("Capabilities", SECTIONS["Capabilities"])
    told = {f"CAPABILITY_{row.cells[0]}" for row in rows}
    assert told == spec.enum_values("skyport.gate.v1.Capability") - {"CAPABILITY_UNSPECIFIED"}


def test_every_state_of_a_partition_node_and_attempt_is_in_its_chapter() -> None:
    for enum, chapter in (
        ("PartitionState", "The life of a partition"),
        ("NodeState", "The life of a partition"),
        ("JobState", "The life of an attempt"),
    ):
        for value in spec.enum_values(f"skyport.gate.v1.{enum}"):
            state = re.sub(r"^(PARTITION|NODE|JOB)_STATE_", "", value)
            if state != "UNSPECIFIED":
                assert re.search(rf"\b{state}\b", SECTIONS[chapter]), f"{enum} {state}"


def test_the_table_of_job_states_is_the_one_that_the_core_obeys() -> None:
    (_, rows), *_ = spec.tables("", SECTIONS["The life of a job"])
    told = {row.cells[0]: set(row.cells[1].split(", ")) for row in rows}
    assert told == {
        state.value: {after.value for after in afters} for state, afters in JOB_TRANSITIONS.items()
    }


def test_the_reasons_of_failed_jobs_are_those_that_the_core_gives() -> None:
    (_, rows), *_ = spec.tables("", SECTIONS["Why jobs fail"])
    assert [row.cells[0].strip("`") for row in rows] == [reason.value for reason in FailureReason]


@pytest.mark.parametrize("name", ["README.md", "WALKS.md"])
def test_fields_that_the_text_names_exist(name: str) -> None:
    text = (spec.PROTOS / name).read_text(encoding="utf-8")
    known = {field.name for fields in spec.fields().values() for field in fields}
    messages = {full.rpartition(".")[2] for full in spec.fields()}
    short = {".".join(full.rsplit(".", 2)[1:]) for full in known}
    for message, field in re.findall(r"`([A-Z]\w+)\.([a-z_]+)`", text):
        if message in messages:
            assert f"{message}.{field}" in short


@pytest.mark.parametrize("name", ["README.md", "WALKS.md", "CHANGES.md"])
def test_links_lead_somewhere(name: str) -> None:
    text = (spec.PROTOS / name).read_text(encoding="utf-8")
    for label, target in re.findall(r"\[([^\]]+)\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        there = spec.PROTOS / path if path else spec.PROTOS / name
        assert there.exists(), label
        if anchor:
            titles = spec.sections(there.read_text(encoding="utf-8"))
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, label


# ---- comments ------------------------------------------------------------------------------------


def test_every_field_says_whether_it_is_required() -> None:
    silent = [
        field.name
        for fields in spec.fields().values()
        for field in fields
        if not re.search(r"\b(REQUIRED|OPTIONAL)\b", field.comment)
    ]
    assert silent == []


# ---- manifests -----------------------------------------------------------------------------------


def example_manifest() -> bytes:
    (block,) = re.findall(r"```text manifest\n(.*?)```", TEXT, re.DOTALL)
    codes = re.findall(r"^ *((?:[0-9a-f]{2} )*[0-9a-f]{2})(?:   .*)?$", block, re.MULTILINE)
    assert len(codes) == len(block.strip().splitlines())
    return bytes.fromhex("".join(codes))


def test_the_manifest_of_the_example_is_what_the_text_says() -> None:
    data = example_manifest()
    assert f"{len(data)} bytes; the digest of this manifest is" in TEXT
    assert hashlib.sha256(data).hexdigest() in TEXT
    script = b"#!/bin/sh\necho hello\n"
    assert list(entries(data)) == [
        ManifestEntry(
            path="bin/run.sh",
            type=FileType.FILE_TYPE_FILE,
            size=len(script),
            mode=0o755,
            sha256=hashlib.sha256(script).digest(),
        ),
        ManifestEntry(path="empty", type=FileType.FILE_TYPE_DIRECTORY),
        ManifestEntry(path="latest.sh", type=FileType.FILE_TYPE_SYMLINK, link_target="bin/run.sh"),
    ]


def test_a_protobuf_library_writes_the_entries_of_the_example_byte_for_byte() -> None:
    data = example_manifest()
    written = b""
    for entry in entries(data):
        body = entry.SerializeToString()
        written += bytes([len(body)]) + body
    assert written == data


def test_the_digest_of_the_empty_manifest_is_in_the_text() -> None:
    empty = hashlib.sha256(b"").hexdigest()
    assert f"The digest of the empty manifest is `{empty}`" in " ".join(TEXT.split())


def entries(data: bytes) -> list[ManifestEntry]:
    found, at = [], 0
    while at < len(data):
        size, at = data[at], at + 1
        assert size < 128, "a length of one byte is enough for the example"
        found.append(ManifestEntry.FromString(data[at : at + size]))
        at += size
    return found


# ---- walks ---------------------------------------------------------------------------------------

WALK_TITLES = (
    "Three jobs packed on one host, one cancelled during upload",
    "A two-node job",
    "A Slurm job: answer lost, gate restarted, record aged out",
    "A cloud partition: create answer lost, core restarted, deleted while the gate is down",
    "Reuse by a second job",
    "100,000 input files, cut and resumed, 90 % already there",
    "Outputs as globs, one missing",
    "Watch across restarts of gate and core",
    "An in-port and an out-port with a lost link",
    "Follow of a log across gate restart and teardown",
    "Secrets and registry logins",
    "Two users",
    "An old core with a new gate",
)


@pytest.mark.parametrize("title", WALK_TITLES)
def test_every_walk_is_there_as_a_table_of_calls(title: str) -> None:
    section = spec.sections(WALKS)[title]
    (header, rows), *_ = spec.tables(title, section)
    assert header == ("#", "commits", "call", "answer")
    assert len(rows) >= 5
    assert all(len(row.cells) == 4 for row in rows)
    assert len(re.findall(r"`[GT]\.[A-Z]\w+", section)) >= 3


def test_every_rpc_that_a_walk_names_exists() -> None:
    known = {f"{rpc.api[0]}.{rpc.name}" for rpc in spec.rpcs()}
    named = set(re.findall(r"\b([GT]\.[A-Z]\w+)", WALKS)) - {"G.X", "T.X"}
    assert named <= known
    assert len(named) > 25
