"""What scripts on hosts refuse, as the contract has it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from gate_kit import errors
from gate_kit.errors import Refusal
from skyport.gate.v1 import types_pb2

_NO_ROOM = ("no space left", "quota exceeded")
_NO_RIGHT = ("read-only file system", "permission denied", "not permitted")


class HostRefused(Exception):
    """A script refused with a reason; what it means depends on what was asked (`as_refusals`).

    Args:
        node: Who refused.
        reason: UPPER_SNAKE.
        text: What goes with it.
    """

    def __init__(self, node: str, reason: str, text: str) -> None:
        super().__init__(f"{node}: {reason} {text}")
        self.node = node
        self.reason = reason
        self.text = text


def refused(node: str, answer: str) -> Exception:
    """What to raise for the answer "REASON text" of a script on `node`."""
    reason, _, text = answer.partition(" ")
    if reason == "WRITE":
        return write_refused(node, text)
    return HostRefused(node, reason, text)


def write_refused(node: str, text: str) -> Refusal:
    """What to tell where something could not be written.

    Args:
        node: Where.
        text: "PATH: why", as programs say it.
    """
    path, _, why = text.rpartition(": ")
    lowered = why.lower()
    if any(words in lowered for words in _NO_ROOM):
        return errors.disk_full(f"{path} on {node}", node)
    if any(words in lowered for words in _NO_RIGHT):
        # Of this node alone: a right that is missing would be told of the whole site.
        return errors.node_unreachable(node, f"{node} lets nothing be written to {path}: {why}")
    return errors.node_unreachable(node, f"{node} could not write to {path or 'its work root'}")


@contextlib.contextmanager
def as_refusals(ref: types_pb2.JobRef, *, path: str = "") -> Iterator[None]:
    """Tell what scripts refuse about the attempt of `ref` as the contract has it.

    Args:
        ref: Which attempt.
        path: The file that FILE_NOT_FOUND is about.

    Raises:
        Refusal: Instead of `HostRefused`.
    """
    try:
        yield
    except HostRefused as error:
        raise _refusal(error, ref, path) from error


def _refusal(error: HostRefused, ref: types_pb2.JobRef, path: str) -> Refusal:
    match error.reason:
        case "SITE_CHANGED":
            expected = {root.node: root.root_uid for root in ref.roots}
            known = expected.get(error.node) or expected.get("", "")
            return errors.site_changed(known, error.text, node=error.node)
        case "JOB_CANCELLED":
            return errors.job_cancelled(ref)
        case "JOB_STARTED":
            return errors.job_started(ref)
        case "INPUTS_MISSING":
            return errors.inputs_missing(ref, "its inputs are not whole at the site; send them")
        case "FILE_NOT_FOUND":
            return errors.file_not_found(path or error.text)
        case "BUSY":
            return errors.busy(f"{error.node}: {error.text}")
        case _:
            return errors.node_unreachable(error.node, str(error))
