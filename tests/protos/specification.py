"""The contracts as data: descriptors with comments, and what protos/README.md says of them.

    python -m tests.protos.specification > tests/protos/tables.txt

writes down which rows the tables of README.md have, for the test that notices when one goes.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from google.protobuf import descriptor_pb2

PROTOS = Path(__file__).resolve().parents[2] / "protos"
README = PROTOS / "README.md"
WALKS = PROTOS / "WALKS.md"

APIS = {"Gate": "skyport.gate.v1", "Terminal": "skyport.terminal.v1"}
REASON = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*")
_FIELD, _ONEOF, _ENUM_VALUE, _NESTED = 2, 8, 2, 3  # numbers of descriptor.proto: paths of comments
_MESSAGE, _SERVICE, _METHOD = 4, 6, 2


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table whose first four columns are condition, code, reason and what follows."""

    section: str
    cells: tuple[str, ...]

    @property
    def code(self) -> str:
        return self.cells[1]

    @property
    def reasons(self) -> list[str]:
        """What stands in backticks in the column of reasons."""
        return re.findall(r"`([^`]*)`", self.cells[2])


@dataclasses.dataclass(frozen=True)
class Rpc:
    """One RPC, with every comment that belongs to it or its messages."""

    api: str
    service: str
    name: str
    input_type: str
    comments: str
    fields: frozenset[str]
    """Names of the fields of the request's own message."""
    streams_answers: bool

    @property
    def heading(self) -> str:
        return f"{self.api} {self.service}.{self.name}"

    @property
    def changes_something(self) -> bool:
        return (
            not re.match(r"(Get|List|Watch|Read|Probe)[A-Z]?", self.name) or self.name == "Listen"
        )


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a message, as `skyport.gate.v1.JobRef.roots`."""

    name: str
    comment: str
    in_oneof: bool


def sections(text: str) -> dict[str, str]:
    """What stands below each heading, up to the next heading of any level."""
    found: dict[str, str] = {}
    title = ""
    fenced = False
    for line in text.splitlines(keepends=True):
        fenced ^= line.startswith("```")
        if line.startswith("#") and not fenced:
            title = line.lstrip("#").strip()
            assert title not in found, f"two headings are {title!r}"
            found[title] = ""
        elif title:
            found[title] += line
    return found


def tables(section: str, text: str) -> Iterator[tuple[tuple[str, ...], list[Row]]]:
    """Each table of a section: its header, its rows."""
    lines = [*text.splitlines(), ""]
    header: tuple[str, ...] = ()
    rows: list[Row] = []
    for line in lines:
        if not line.startswith("|"):
            if header:
                yield header, rows
            header, rows = (), []
            continue
        cells = tuple(cell.strip() for cell in line.strip().strip("|").split(" | "))
        cells = tuple(cell.strip("| ") for cell in cells)
        if not header:
            header = cells
        elif set("".join(cells)) - set("-:|"):
            rows.append(Row(section, cells))


def error_rows(section: str, text: str) -> list[Row]:
    """The rows of the error tables of a section."""
    return [
        row
        for header, rows in tables(section, text)
        if header[:3] == ("condition", "code", "reason")
        for row in rows
    ]


@functools.cache
def files() -> tuple[descriptor_pb2.FileDescriptorProto, ...]:
    """The descriptors of all our protos, with comments."""
    names = sorted(
        path.relative_to(PROTOS).as_posix() for path in PROTOS.glob("skyport/**/*.proto")
    )
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                f"--proto_path={PROTOS}",
                f"--proto_path={resources.files('grpc_tools') / '_proto'}",
                "--include_source_info",
                f"--descriptor_set_out={out.name}",
                *names,
            ],
            check=True,
        )
        described = descriptor_pb2.FileDescriptorSet.FromString(Path(out.name).read_bytes())
    return tuple(described.file)


def _comments(file: descriptor_pb2.FileDescriptorProto) -> dict[tuple[int, ...], str]:
    return {
        tuple(location.path): " ".join(location.leading_comments.split())
        for location in file.source_code_info.location
    }


@functools.cache
def fields() -> dict[str, tuple[Field, ...]]:
    """The fields of each message, by its full name; members of a oneof have the oneof's comment."""
    found: dict[str, tuple[Field, ...]] = {}
    for file in files():
        comments = _comments(file)
        for at, message in enumerate(file.message_type):
            full = f"{file.package}.{message.name}"
            oneofs = [
                comments.get((_MESSAGE, at, _ONEOF, index), "")
                for index in range(len(message.oneof_decl))
            ]
            found[full] = tuple(
                Field(
                    f"{full}.{field.name}",
                    oneofs[field.oneof_index]
                    if (in_oneof := field.HasField("oneof_index") and not field.proto3_optional)
                    else comments.get((_MESSAGE, at, _FIELD, index), ""),
                    in_oneof,
                )
                for index, field in enumerate(message.field)
            )
    return found


@functools.cache
def _texts() -> dict[str, str]:
    """All comments of each message: its own, its fields', its oneofs'."""
    found: dict[str, str] = {}
    for file in files():
        comments = _comments(file)
        for at, message in enumerate(file.message_type):
            found[f"{file.package}.{message.name}"] = " ".join(
                text for path, text in comments.items() if path[:2] == (_MESSAGE, at)
            )
    return found


@functools.cache
def parts() -> dict[str, frozenset[str]]:
    """The messages of ours that a message has fields of, by full names."""
    return {
        f"{file.package}.{message.name}": frozenset(
            field.type_name.removeprefix(".")
            for field in message.field
            if field.type == field.TYPE_MESSAGE and field.type_name.startswith(".skyport.")
        )
        for file in files()
        for message in file.message_type
    }


def closure(message: str) -> set[str]:
    """A message and all messages of ours that can travel inside it."""
    found: set[str] = set()
    waiting = [message]
    while waiting:
        name = waiting.pop()
        if name not in found and name in parts():
            found.add(name)
            waiting += parts()[name]
    return found


@functools.cache
def rpcs() -> tuple[Rpc, ...]:
    """Every RPC of both APIs."""
    api_of = {package: api for api, package in APIS.items()}
    found = []
    for file in files():
        comments = _comments(file)
        for at, service in enumerate(file.service):
            for index, method in enumerate(service.method):
                asked = method.input_type.removeprefix(".")
                texts = [comments.get((_SERVICE, at, _METHOD, index), "")]
                texts += [_texts()[name] for name in sorted(closure(asked))]
                found.append(
                    Rpc(
                        api=api_of[file.package],
                        service=service.name,
                        name=method.name,
                        input_type=asked,
                        comments=" ".join(texts),
                        fields=frozenset(
                            field.name.rpartition(".")[2] for field in fields()[asked]
                        ),
                        streams_answers=method.server_streaming,
                    )
                )
    return tuple(found)


@functools.cache
def enum_values(full_name: str) -> frozenset[str]:
    """The names of the values of an enum of ours, as `skyport.gate.v1.Capability`."""
    for file in files():
        for enum in file.enum_type:
            if f"{file.package}.{enum.name}" == full_name:
                return frozenset(value.name for value in enum.value)
    raise LookupError(full_name)


def all_enum_values() -> set[str]:
    """The names of all enum values, with and without the prefix of their enum."""
    found = set()
    for file in files():
        for enum in file.enum_type:
            prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.name).upper() + "_"
            found |= {value.name for value in enum.value}
            found |= {value.name.removeprefix(prefix) for value in enum.value}
    return found


def outline(text: str) -> str:
    """A line for each table: its section, and its reasons, or its first cells where it has none."""
    lines = []
    for title, section in sections(text).items():
        for header, rows in tables(title, section):
            if header[:3] == ("condition", "code", "reason"):
                names = [" ".join(row.reasons) for row in rows]
            else:
                names = [row.cells[0].replace("`", "") for row in rows]
            lines.append(f"{title}: {' | '.join(names)}\n")
    return "".join(lines)


if __name__ == "__main__":
    sys.stdout.write(outline(README.read_text(encoding="utf-8")))
