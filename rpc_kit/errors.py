"""Errors as the contracts have them: a canonical code, one reason, and what waits or mends.

A server raises `Refusal`; `rpc_kit.interceptor` puts it on the wire. A client reads any failed call
back as a `Problem`. A status without a reason was made by the transport or by a foreign server.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

# Clients in any language accept 8 KiB of trailers, where these bytes travel as base64, and the
# message a second time, percent-encoded. A status above that would reach them as a transport error.
_STATUS_BYTES = 3_500
_MESSAGE_BYTES = 1_000
_VALUE_CHARS = 256
_DETAILS_KEY = "grpc-status-details-bin"

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Violation(NamedTuple):
    """What is wrong with one field of a request; `field` is its path, as `spec.ports[0]`."""

    field: str
    description: str


class Refusal(Exception):
    """A call that is answered with an error on purpose.

    Raise it in a handler. `reason` is contract (UPPER_SNAKE, from the tables of protos/README.md);
    `message` is for people: what was wrong, with which value, what to do. Both reach the caller, so
    neither may hold a secret. What is too long for a status is cut, and what can't be printed of
    the message is replaced.

    Args:
        code: The canonical code; never OK.
        reason: The reason within the domain of the server.
        message: One line for people.
        metadata: Ids and values that a program may want.
        retry_after_s: Seconds after which the same call may succeed.
        violations: The fields at fault, for INVALID_ARGUMENT.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        violations: Iterable[Violation | tuple[str, str]] = (),
    ) -> None:
        if code is grpc.StatusCode.OK:
            raise ValueError("a refusal can't be OK")
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s
        self.violations = tuple(Violation(*violation) for violation in violations)

    def __repr__(self) -> str:
        return f"Refusal({self.code.name}, {self.reason}, {self.message!r})"

    def to_status(self, domain: str) -> grpc.Status:
        """The status to abort a call with: code, message, and the details as trailers."""
        text = _cut(_line(self.message), _MESSAGE_BYTES)
        status = status_pb2.Status(code=self.code.value[0], message=text)
        metadata = {key: _cut(value, _VALUE_CHARS) for key, value in self.metadata.items()}
        _attach(
            status,
            error_details_pb2.ErrorInfo(reason=self.reason, domain=domain, metadata=metadata),
        )
        if self.retry_after_s is not None:
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(round(self.retry_after_s * 1e9))
            _attach(status, error_details_pb2.RetryInfo(retry_delay=delay))
        if self.violations:
            _attach(status, _bad_request(self.violations, _STATUS_BYTES - status.ByteSize()))
        return rpc_status.to_status(status)


def _bad_request(violations: Sequence[Violation], room: int) -> error_details_pb2.BadRequest:
    """As many of `violations` as fit into `room` bytes, with a word about the rest."""
    bad = error_details_pb2.BadRequest()
    for index, (field, description) in enumerate(violations):
        shown = bad.field_violations.add(
            field=_cut(field, _VALUE_CHARS), description=_cut(_line(description), _VALUE_CHARS)
        )
        if bad.ByteSize() > room and index:
            shown.Clear()
            shown.description = f"and {len(violations) - index} more"
            break
    return bad


def _attach(status: status_pb2.Status, detail: message.Message) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def _line(text: str) -> str:
    """One line that does nothing to a terminal: messages quote what callers sent."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def _cut(text: str, limit_bytes: int) -> str:
    data = text.encode(errors="replace")
    if len(data) <= limit_bytes:
        return data.decode()
    return data[: limit_bytes - 3].decode(errors="ignore") + "…"


def invalid(
    message: str,
    *,
    field: str = "",
    reason: str = "FIELD_MALFORMED",
    violations: Iterable[Violation | tuple[str, str]] = (),
    **metadata: str,
) -> Refusal:
    """INVALID_ARGUMENT; `field` alone stands for one violation with the same message."""
    named = [(field, message)] if field else []
    return Refusal(
        grpc.StatusCode.INVALID_ARGUMENT,
        reason,
        message,
        metadata=metadata,
        violations=[*named, *violations],
    )


def not_found(reason: str, message: str, **metadata: str) -> Refusal:
    """NOT_FOUND: the object itself is gone; with its own reason this is the only word for gone."""
    return Refusal(grpc.StatusCode.NOT_FOUND, reason, message, metadata=metadata)


def exists(reason: str, message: str, **metadata: str) -> Refusal:
    """ALREADY_EXISTS: the id is taken by something else."""
    return Refusal(grpc.StatusCode.ALREADY_EXISTS, reason, message, metadata=metadata)


def precondition(reason: str, message: str, **metadata: str) -> Refusal:
    """FAILED_PRECONDITION: repeating does not help before something else has changed."""
    return Refusal(grpc.StatusCode.FAILED_PRECONDITION, reason, message, metadata=metadata)


def denied(reason: str, message: str, **metadata: str) -> Refusal:
    """PERMISSION_DENIED; raise it before looking whether the object exists."""
    return Refusal(grpc.StatusCode.PERMISSION_DENIED, reason, message, metadata=metadata)


def unauthenticated(reason: str, message: str, **metadata: str) -> Refusal:
    """UNAUTHENTICATED: who calls is not known, or is not to be believed any more."""
    return Refusal(grpc.StatusCode.UNAUTHENTICATED, reason, message, metadata=metadata)


def out_of_range(reason: str, message: str, **metadata: str) -> Refusal:
    """OUT_OF_RANGE: an offset, or a resume token older than what is kept."""
    return Refusal(grpc.StatusCode.OUT_OF_RANGE, reason, message, metadata=metadata)


def data_loss(reason: str, message: str, **metadata: str) -> Refusal:
    """DATA_LOSS: bytes whose digest is wrong."""
    return Refusal(grpc.StatusCode.DATA_LOSS, reason, message, metadata=metadata)


def unimplemented(reason: str, message: str, **metadata: str) -> Refusal:
    """UNIMPLEMENTED: not served, or not by this kind of gate."""
    return Refusal(grpc.StatusCode.UNIMPLEMENTED, reason, message, metadata=metadata)


def aborted(
    reason: str, message: str, *, retry_after_s: float | None = None, **metadata: str
) -> Refusal:
    """ABORTED: the object is busy with another call."""
    return Refusal(
        grpc.StatusCode.ABORTED, reason, message, metadata=metadata, retry_after_s=retry_after_s
    )


def exhausted(
    reason: str, message: str, *, retry_after_s: float | None = None, **metadata: str
) -> Refusal:
    """RESOURCE_EXHAUSTED: capacity, quota, disk or queue is used up."""
    return Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        reason,
        message,
        metadata=metadata,
        retry_after_s=retry_after_s,
    )


def unavailable(
    reason: str, message: str, *, retry_after_s: float | None = None, **metadata: str
) -> Refusal:
    """UNAVAILABLE: the state is not known now; the transport repeats it by itself."""
    return Refusal(
        grpc.StatusCode.UNAVAILABLE, reason, message, metadata=metadata, retry_after_s=retry_after_s
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """A failed call as a client sees it. Without `reason` the transport made the status."""

    code: grpc.StatusCode
    reason: str | None
    domain: str | None
    message: str
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    retry_after_s: float | None = None
    violations: tuple[Violation, ...] = ()

    @classmethod
    def from_error(cls, error: grpc.RpcError) -> Problem:
        """What `error` says. Details that can't be read are left out, never raised about.

        Args:
            error: What a call of a stub raised, sync or asyncio.
        """
        call = cast("Any", error)  # grpc raises it as a Call too, and types it as neither
        code: grpc.StatusCode = call.code()
        text: str = call.details() or ""
        found = cls(code, None, None, text)
        for key, value in call.trailing_metadata() or ():
            if key == _DETAILS_KEY:
                try:
                    status = status_pb2.Status.FromString(value)
                    return _with_details(found, status.details)
                except message.DecodeError:
                    break
        return found

    @classmethod
    def from_status(cls, status: status_pb2.Status) -> Problem:
        """What a `google.rpc.Status` says that came inside an answer."""
        code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
        return _with_details(cls(code, None, None, status.message), status.details)

    def is_reason(self, domain: str, *reasons: str) -> bool:
        """Whether this is one of `reasons` of that domain: the same word elsewhere is not it."""
        return self.domain == domain and self.reason in reasons


def _with_details(problem: Problem, details: Iterable[any_pb2.Any]) -> Problem:
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    bad = error_details_pb2.BadRequest()
    for detail in details:
        if problem.reason is None and detail.Unpack(info):
            problem = dataclasses.replace(
                problem, reason=info.reason, domain=info.domain, metadata=dict(info.metadata)
            )
        elif detail.Unpack(retry):
            problem = dataclasses.replace(
                problem, retry_after_s=retry.retry_delay.ToNanoseconds() / 1e9
            )
        elif detail.Unpack(bad):
            shown = tuple(Violation(v.field, v.description) for v in bad.field_violations)
            problem = dataclasses.replace(problem, violations=shown)
    return problem
