"""All mistakes of a request at once, each with its field."""

from __future__ import annotations

import pytest

from gate_kit import Fields, Refusal, check_ref
from gate_kit.validation import link_mistake, path_mistake
from skyport.gate.v1 import job_pb2, types_pb2


def _ref(**changes: object) -> types_pb2.JobRef:
    ref = types_pb2.JobRef(
        installation="abc", partition_id="GPU_long", job_id="j-1", attempt=1, owner="ann"
    )
    ref.MergeFrom(types_pb2.JobRef(**changes))  # type: ignore[arg-type]
    return ref


def test_all_mistakes_are_told_with_the_reason_of_the_first() -> None:
    fields = Fields()
    fields.id("a", "")
    fields.id("b", "UPPER")
    fields.port("c", 70_000)
    with pytest.raises(Refusal) as found:
        fields.done()
    assert found.value.reason == "FIELD_REQUIRED"
    assert [violation.field for violation in found.value.violations] == ["a", "b", "c"]
    assert "and 2 more" in found.value.message


def test_nothing_wrong_raises_nothing() -> None:
    Fields().done()
    check_ref(_ref(nodes=["n1", "n2.example"]))


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"job_id": "a/b"}, "ref.job_id", "FIELD_MALFORMED"),
        ({"job_id": "x" * 41}, "ref.job_id", "FIELD_MALFORMED"),
        ({"installation": "a-b"}, "ref.installation", "FIELD_MALFORMED"),
        ({"partition_id": "a/b"}, "ref.partition_id", "FIELD_MALFORMED"),
        ({"owner": "Ann"}, "ref.owner", "FIELD_MALFORMED"),
        ({"nodes": ["../x"]}, "ref.nodes[0]", "FIELD_MALFORMED"),
        ({"nodes": [".hidden"]}, "ref.nodes[0]", "FIELD_MALFORMED"),
        ({"nodes": ["n1", "n1"]}, "ref.nodes", "FIELD_MALFORMED"),
    ],
)
def test_a_malformed_ref_is_refused(changes: dict[str, object], field: str, reason: str) -> None:
    with pytest.raises(Refusal) as found:
        check_ref(_ref(**changes))
    assert (found.value.reason, found.value.violations[0].field) == (reason, field)


def test_an_absent_ref_is_one_mistake() -> None:
    with pytest.raises(Refusal) as found:
        check_ref(types_pb2.JobRef())
    assert [violation.field for violation in found.value.violations] == ["ref"]


def test_variables_show_their_names_and_never_their_values() -> None:
    fields = Fields()
    fields.variables("secret_env", {"A-B": "hush", "OK": "fine", "NUL": "hush\0"})
    with pytest.raises(Refusal) as found:
        fields.done()
    assert "hush" not in found.value.message + str(found.value.violations)
    assert [v.field for v in found.value.violations] == ["secret_env[A-B]", "secret_env[NUL]"]


def test_an_unknown_value_of_an_enum_is_malformed() -> None:
    fields = Fields()
    fields.choice("launch", 77, job_pb2.Launch.values())
    with pytest.raises(Refusal) as found:
        fields.done()
    assert found.value.reason == "FIELD_MALFORMED"


@pytest.mark.parametrize(
    ("path", "is_right"),
    [
        ("a", True),
        ("a/b.c/ü", True),
        ("..a/...", True),
        ("x" * 255, True),
        ("", False),
        ("/a", False),
        ("a/", False),
        ("a//b", False),
        (".", False),
        ("a/..", False),
        ("a\0", False),
        ("x" * 256, False),
        ("ü" * 128, False),
        ("/".join(["abc"] * 1_025), False),
    ],
)
def test_paths_on_the_wire(path: str, *, is_right: bool) -> None:
    assert (path_mistake(path) is None) == is_right


@pytest.mark.parametrize(
    ("path", "target", "is_right"),
    [
        ("l", "a", True),
        ("d/l", "../a", True),
        ("d/e/l", "../../a/./b", True),
        ("d/l", "..", True),
        ("l", ".", True),
        ("l", "a/../b", False),
        ("d/l", "../a/../b", False),
        ("l", "../a", False),
        ("d/l", "../../a", False),
        ("l", "a/../../b", False),
        ("l", "/a", False),
        ("l", "", False),
        ("l", "a\0", False),
    ],
)
def test_a_link_stays_inside_the_tree(path: str, target: str, *, is_right: bool) -> None:
    assert (link_mistake(path, target) is None) == is_right
