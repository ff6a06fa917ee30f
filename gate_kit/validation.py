"""Checks of request fields that tell all mistakes at once, as BadRequest violations."""

from __future__ import annotations

import re
from collections.abc import Collection

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from gate_kit.errors import Violation, invalid
from skyport.gate.v1 import types_pb2

_ID = re.compile(r"[a-z0-9-]{1,40}", re.ASCII)
_PARTITION = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_INSTALLATION = re.compile(r"[a-z0-9]{1,40}", re.ASCII)
_USER = re.compile(r"[a-z0-9._-]{1,32}", re.ASCII)
_FINGERPRINT = re.compile(r"[0-9a-f]{64}", re.ASCII)
# A name becomes part of file names and of variables' values; none begins with a dot.
_NODE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

PATH_BYTES = 4096
NAME_BYTES = 255
VARIABLE_BYTES = 131_072
"""Of `NAME=VALUE` with the NUL that ends it: what the kernel takes."""


def path_mistake(path: str) -> str | None:
    """What is wrong with a path on the wire, or None: relative, normal, UTF-8, not too long."""
    raw = path.encode(errors="surrogatepass")
    if not raw:
        return "is empty"
    if len(raw) > PATH_BYTES:
        return f"is longer than {PATH_BYTES} bytes"
    if b"\0" in raw:
        return "holds NUL"
    for part in raw.split(b"/"):
        if not part:
            return "is absolute" if raw.startswith(b"/") else "has an empty component"
        if part in {b".", b".."}:
            return f"has the component {part.decode()}"
        if len(part) > NAME_BYTES:
            return f"has a component of more than {NAME_BYTES} bytes"
    return None


def link_mistake(path: str, target: str) -> str | None:
    """What is wrong with the target of the link at `path`, or None.

    A target is relative to the link's own folder and may climb at its beginning, but not out of the
    tree. Behind another part `..` means one thing by text and another where that part is a link.
    """
    raw = target.encode(errors="surrogatepass")
    if not raw:
        return "is empty"
    if len(raw) > PATH_BYTES:
        return f"is longer than {PATH_BYTES} bytes"
    if b"\0" in raw:
        return "holds NUL"
    if raw.startswith(b"/"):
        return "is absolute"
    parts = [part for part in raw.split(b"/") if part not in {b"", b"."}]
    ups = 0
    while ups < len(parts) and parts[ups] == b"..":
        ups += 1
    if ups > path.count("/"):
        return "leads out of the tree"
    if b".." in parts[ups:]:
        return 'has ".." behind another part'
    return None


class Fields:
    """Collects what is wrong with a request; `done` raises all of it.

    Each check takes the field's path in the request, as `spec.resources.cpus`, and its value.
    """

    def __init__(self) -> None:
        self._wrong: list[tuple[str, Violation]] = []

    def wrong(self, field: str, text: str, reason: str = "FIELD_MALFORMED") -> None:
        """Note one mistake: `text` continues a sentence that begins with the field."""
        self._wrong.append((reason, Violation(field, f"{field} {text}")))

    def done(self) -> None:
        """Raise what was noted, if anything was.

        Raises:
            Refusal: INVALID_ARGUMENT with the reason of the first mistake and all as violations.
        """
        if not self._wrong:
            return
        reason, first = self._wrong[0]
        more = len(self._wrong) - 1
        text = first.description + (f", and {more} more" if more else "")
        raise invalid(text, reason=reason, violations=[violation for _, violation in self._wrong])

    def present(self, field: str, value: object) -> bool:
        """Required: a message that is set, a text or list that is not empty, a number not 0."""
        there = value is not None and bool(value)
        if isinstance(value, Message):
            there = bool(value.ListFields())
        if not there:
            self.wrong(field, "is required", "FIELD_REQUIRED")
        return there

    def id(self, field: str, value: str) -> None:
        """Required: an id, `[a-z0-9-]{1,40}`."""
        if self.present(field, value) and not _ID.fullmatch(value):
            self.wrong(field, "is not an id: 1 to 40 of a-z, 0-9 and -")

    def installation(self, field: str, value: str) -> None:
        """Required: an installation, `[a-z0-9]{1,40}`."""
        if self.present(field, value) and not _INSTALLATION.fullmatch(value):
            self.wrong(field, "is not an installation: 1 to 40 of a-z and 0-9")

    def partition(self, field: str, value: str) -> None:
        """Required: the id of a partition of any kind. It may be `.` or `..`: no file name yet."""
        if self.present(field, value) and not _PARTITION.fullmatch(value):
            self.wrong(field, "is not a partition's id: 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'")

    def user(self, field: str, value: str) -> None:
        """Required: a user, `[a-z0-9._-]{1,32}`."""
        if self.present(field, value) and not _USER.fullmatch(value):
            self.wrong(field, "is not a user: 1 to 32 of a-z, 0-9, '.', '_' and '-'")

    def name(self, field: str, value: str, *, limit: int = 128) -> None:
        """Required: a name for people, on one line."""
        if self.present(field, value):
            self.text(field, value, limit=limit)

    def text(self, field: str, value: str, *, limit: int = 4096) -> None:
        """Optional: one line without control characters."""
        if len(value) > limit:
            self.wrong(field, f"is longer than {limit} characters", "FIELD_OUT_OF_RANGE")
        elif not value.isprintable():
            self.wrong(field, "holds control characters")

    def fingerprint(self, field: str, value: str) -> None:
        """Required: a SHA-256 in lower-case hex."""
        if self.present(field, value) and not _FINGERPRINT.fullmatch(value):
            self.wrong(field, "is not a SHA-256 in lower-case hex")

    def digest(self, field: str, value: bytes, *, required: bool = True) -> None:
        """A SHA-256 of 32 bytes."""
        if (required or value) and self.present(field, value) and len(value) != 32:
            self.wrong(field, f"has {len(value)} bytes, not the 32 of a SHA-256")

    def at_least(self, field: str, value: int, least: int) -> None:
        """Required: a number that is not too small."""
        if value == 0 and least > 0:
            self.wrong(field, "is required", "FIELD_REQUIRED")
        elif value < least:
            self.wrong(field, f"is {value}; the least is {least}", "FIELD_OUT_OF_RANGE")

    def at_most(self, field: str, value: int, most: int) -> None:
        """A number that is not too large."""
        if value > most:
            self.wrong(field, f"is {value}; the most is {most}", "FIELD_OUT_OF_RANGE")

    def port(self, field: str, value: int) -> None:
        """Required: a TCP port."""
        self.at_least(field, value, 1)
        self.at_most(field, value, 65_535)

    def choice(self, field: str, value: int, known: Collection[int]) -> None:
        """Required: a value of an enum, one of `known`."""
        if value == 0:
            self.wrong(field, "is required", "FIELD_REQUIRED")
        elif value not in known:
            self.wrong(field, f"is {value}, which is not known here")

    def path(self, field: str, value: str, *, required: bool = True) -> None:
        """A relative path, with the reason PATH_INVALID."""
        if not value and not required:
            return
        mistake = path_mistake(value)
        if mistake:
            self.wrong(field, mistake, "PATH_INVALID")

    def duration(self, field: str, value: Duration, *, longest_s: float) -> None:
        """Optional: a span of time that is not negative."""
        seconds = value.seconds + value.nanos / 1e9
        if seconds < 0 or seconds > longest_s:
            self.wrong(field, f"is {seconds:g} s; 0 to {longest_s:g} s serve", "FIELD_OUT_OF_RANGE")

    def time(self, field: str, value: Timestamp) -> int:
        """Required: a time; returns it in nanoseconds, 0 for one that is wrong."""
        if not value.seconds and not value.nanos:
            self.wrong(field, "is required", "FIELD_REQUIRED")
            return 0
        try:
            return value.ToNanoseconds()
        except ValueError:
            text = f"is no time: {value.seconds} s and {value.nanos} ns"
            self.wrong(field, text, "FIELD_OUT_OF_RANGE")
            return 0

    def variables(self, field: str, names_and_values: dict[str, str]) -> None:
        """Environment variables: names that every shell takes, values that a process can have."""
        for name, value in names_and_values.items():
            at = f"{field}[{name[:200]}]"
            if not _VARIABLE.fullmatch(name):
                self.wrong(at, "is not a name for a variable: letters, digits and _")
            elif "\0" in value:
                self.wrong(at, "holds NUL")
            elif len(name) + 2 + len(value.encode()) > VARIABLE_BYTES:
                self.wrong(at, f"is longer than {VARIABLE_BYTES} bytes", "FIELD_OUT_OF_RANGE")

    def node(self, field: str, value: str) -> None:
        """Required: the name of a node."""
        if self.present(field, value) and not _NODE.fullmatch(value):
            self.wrong(field, "is not a node's name: letters, digits, '.', '_' and '-'")

    def ref(self, ref: types_pb2.JobRef, field: str = "ref") -> None:
        """Required: a JobRef. Whether it needs nodes depends on its partition."""
        if not self.present(field, ref):
            return
        self.installation(f"{field}.installation", ref.installation)
        self.partition(f"{field}.partition_id", ref.partition_id)
        self.id(f"{field}.job_id", ref.job_id)
        self.at_least(f"{field}.attempt", ref.attempt, 1)
        self.user(f"{field}.owner", ref.owner)
        for index, node in enumerate(ref.nodes):
            self.node(f"{field}.nodes[{index}]", node)
        if len(set(ref.nodes)) != len(ref.nodes):
            self.wrong(f"{field}.nodes", "names a node twice")

    def origin(self, origin: types_pb2.Origin, installation: str, field: str = "origin") -> None:
        """Required: an Origin of the same installation as the object."""
        if not self.present(field, origin):
            return
        self.installation(f"{field}.installation", origin.installation)
        self.name(f"{field}.store_generation", origin.store_generation, limit=64)
        if origin.installation and installation and origin.installation != installation:
            self.wrong(f"{field}.installation", f"is not {installation}, whose object this is")


def check_ref(ref: types_pb2.JobRef) -> None:
    """Raise unless `ref` is a complete JobRef.

    Raises:
        Refusal: INVALID_ARGUMENT FIELD_*.
    """
    fields = Fields()
    fields.ref(ref)
    fields.done()
