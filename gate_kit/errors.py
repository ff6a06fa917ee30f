"""Every error of the Gate API's tables, each with its code: a gate raises what one of these makes.

The word for an object that is gone is its own NOT_FOUND. Whatever else happened (an unreachable
node, a refused login) must be told with another of these, or the core forgets what still runs.
"""

from __future__ import annotations

from collections.abc import Iterable

from rpc_kit.errors import (
    Refusal,
    Violation,
    aborted,
    data_loss,
    denied,
    exhausted,
    exists,
    invalid,
    not_found,
    out_of_range,
    precondition,
    unavailable,
    unimplemented,
)
from skyport.gate.v1 import types_pb2

DOMAIN = "skyport.gate.v1"
"""The domain of the reasons of every gate."""

__all__ = [
    "DOMAIN",
    "Refusal",
    "Violation",
    "busy",
    "capability_missing",
    "capacity",
    "connection_not_found",
    "credentials_invalid",
    "digest_mismatch",
    "disk_full",
    "file_differs",
    "file_not_found",
    "flavor_not_found",
    "host_key_mismatch",
    "image_auth",
    "image_not_found",
    "inputs_missing",
    "invalid",
    "job_cancelled",
    "job_differs",
    "job_not_found",
    "job_not_running",
    "job_running",
    "job_started",
    "manifest_mismatch",
    "node_unreachable",
    "not_yours",
    "offset_out_of_range",
    "partition_deleted",
    "partition_differs",
    "partition_not_found",
    "partition_not_ready",
    "path_invalid",
    "permission_missing",
    "port_in_use",
    "quota",
    "registry_unreachable",
    "replaced",
    "shutting_down",
    "site_changed",
    "site_queue_full",
    "site_unreachable",
    "target_refused",
    "user_not_mapped",
    "workdir_not_allowed",
]


def _named(ref: types_pb2.JobRef) -> str:
    return f"attempt {ref.attempt} of job {ref.job_id}"


def _ids(ref: types_pb2.JobRef) -> dict[str, str]:
    return {"job_id": ref.job_id, "attempt": str(ref.attempt), "partition_id": ref.partition_id}


# What is malformed. FIELD_* come from gate_kit.validation.


def path_invalid(message: str, *, field: str = "") -> Refusal:
    """A path that is not allowed on the wire: absolute, with `..`, not normal, too long."""
    return invalid(message, field=field, reason="PATH_INVALID")


def manifest_mismatch(message: str) -> Refusal:
    """The pages of a manifest are not what its digest, count or size promised."""
    return invalid(message, reason="MANIFEST_MISMATCH")


def workdir_not_allowed(workdir: str, roots: Iterable[str]) -> Refusal:
    """A job asked for a work folder outside the roots that the site allows."""
    allowed = ", ".join(roots) or "none"
    return invalid(
        f"{workdir} is not below a folder where this site lets jobs work ({allowed})",
        field="spec.workdir",
        reason="WORKDIR_NOT_ALLOWED",
    )


# What is not known now.


def site_unreachable(message: str, *, retry_after_s: float | None = None) -> Refusal:
    """The site does not answer: nothing is known of what it has."""
    return unavailable("SITE_UNREACHABLE", message, retry_after_s=retry_after_s)


def node_unreachable(node: str, message: str, *, retry_after_s: float | None = None) -> Refusal:
    """One node does not answer: nothing is known of what runs there."""
    return unavailable("NODE_UNREACHABLE", message, retry_after_s=retry_after_s, node=node)


def shutting_down() -> Refusal:
    """The gate ends; the next one goes on with everything."""
    return unavailable("SHUTTING_DOWN", "the gate is shutting down; ask the next one")


def busy(message: str, *, retry_after_s: float | None = None, **metadata: str) -> Refusal:
    """Another call works on the same object."""
    return aborted("BUSY", message, retry_after_s=retry_after_s, **metadata)


def replaced(what: str) -> Refusal:
    """The same stream was opened anew; this one is over. `what` names it, as `PutFiles`."""
    return aborted("REPLACED", f"another {what} for the same has come; it goes on there")


# What an administrator has to mend.


def credentials_invalid(message: str) -> Refusal:
    """The site refused who the gate says it is."""
    return precondition("CREDENTIALS_INVALID", message)


def permission_missing(message: str) -> Refusal:
    """The site knows the gate, and does not let it do this."""
    return precondition("PERMISSION_MISSING", message)


def host_key_mismatch(node: str, message: str) -> Refusal:
    """A node shows a host key that is unknown or has changed."""
    return precondition("HOST_KEY_MISMATCH", message, node=node)


def site_changed(expected: str, found: str, *, node: str = "") -> Refusal:
    """The place is another one than the caller knows: a wrong mount, a replaced host.

    Args:
        expected: The root_uid or scope_uid that the caller sent.
        found: The one that the site has.
        node: The node that the root belongs to; empty for the whole site.
    """
    where = f"node {node}" if node else "the site"
    metadata = {"node": node} if node else {}
    return precondition(
        "SITE_CHANGED",
        f"{where} is not the one that this was kept on: its root is {found or 'missing'}, "
        f"not {expected}; check mounts and addresses",
        expected=expected,
        found=found,
        **metadata,
    )


def user_not_mapped(owner: str) -> Refusal:
    """The owner has no account at this site. Raise it before looking what exists."""
    return denied(
        "USER_NOT_MAPPED",
        f"user {owner} has no account at this site; its administrator can add one",
        owner=owner,
    )


# Capabilities.


def capability_missing(capability: types_pb2.Capability.ValueType, what: str) -> Refusal:
    """The gate does not serve this: `what` names the call or the field that asked for it."""
    name = types_pb2.Capability.Name(capability)
    return unimplemented(
        "CAPABILITY_MISSING",
        f"{what} needs {name}, which this gate does not have",
        capability=name,
    )


# Partitions.


def partition_not_found(partition_id: str) -> Refusal:
    """The partition does not exist here: the only word for gone."""
    return not_found(
        "PARTITION_NOT_FOUND",
        f"there is no partition {partition_id} at this site",
        partition_id=partition_id,
    )


def partition_differs(partition_id: str) -> Refusal:
    """The id belongs to a partition that was asked for with another fingerprint."""
    return exists(
        "PARTITION_DIFFERS",
        f"partition {partition_id} exists and was asked for differently; choose another id",
        partition_id=partition_id,
    )


def partition_deleted(partition_id: str) -> Refusal:
    """A create that came after the delete."""
    return precondition(
        "PARTITION_DELETED",
        f"partition {partition_id} was deleted and is not made again; choose another id",
        partition_id=partition_id,
    )


def partition_not_ready(partition_id: str, text: str) -> Refusal:
    """The partition exists and takes no jobs now; `text` says what it is doing."""
    return precondition(
        "PARTITION_NOT_READY",
        f"partition {partition_id} takes no jobs now: {text}",
        partition_id=partition_id,
    )


def not_yours(partition_id: str) -> Refusal:
    """The partition belongs to another installation."""
    return precondition(
        "NOT_YOURS",
        f"partition {partition_id} belongs to another installation, or to no one; it is left alone",
        partition_id=partition_id,
    )


def flavor_not_found(flavor: str, location: str = "") -> Refusal:
    """The site has no such kind of node, or not in that location."""
    where = f" in {location}" if location else ""
    return not_found(
        "FLAVOR_NOT_FOUND",
        f"this site has no flavor {flavor}{where}; ListFlavors tells those it has",
        flavor=flavor,
        location=location,
    )


def image_not_found(image: str) -> Refusal:
    """The site has no such image."""
    return not_found(
        "IMAGE_NOT_FOUND",
        f"this site has no image {image}; ListImages tells those it has",
        image=image,
    )


def image_auth(image: str) -> Refusal:
    """The registry refuses the login, or wants one."""
    return precondition("IMAGE_AUTH", f"the registry of {image} refuses the login", image=image)


def registry_unreachable(message: str, *, retry_after_s: float | None = None) -> Refusal:
    """The registry does not answer."""
    return unavailable("REGISTRY_UNREACHABLE", message, retry_after_s=retry_after_s)


def capacity(message: str, *, retry_after_s: float | None = None) -> Refusal:
    """The site has nothing of this kind left now."""
    return exhausted("CAPACITY", message, retry_after_s=retry_after_s)


def quota(message: str) -> Refusal:
    """The account may not have more of this."""
    return exhausted("QUOTA", message)


# Jobs.


def job_not_found(ref: types_pb2.JobRef) -> Refusal:
    """Nothing of the attempt is at the site: the only word for gone."""
    return not_found("JOB_NOT_FOUND", f"{_named(ref)} is not at this site", **_ids(ref))


def job_differs(ref: types_pb2.JobRef) -> Refusal:
    """The attempt was made with another fingerprint or manifest."""
    return exists(
        "JOB_DIFFERS",
        f"{_named(ref)} was made with other contents; make another attempt instead",
        **_ids(ref),
    )


def job_cancelled(ref: types_pb2.JobRef) -> Refusal:
    """A start or an upload after cancel or remove."""
    return precondition(
        "JOB_CANCELLED", f"{_named(ref)} was cancelled or removed, and never starts", **_ids(ref)
    )


def job_started(ref: types_pb2.JobRef) -> Refusal:
    """Inputs that came after the start."""
    return precondition(
        "JOB_STARTED", f"{_named(ref)} has been started: its inputs can't change", **_ids(ref)
    )


def job_not_running(ref: types_pb2.JobRef) -> Refusal:
    """The attempt has no node yet, or has ended: there is nothing to connect with."""
    return precondition("JOB_NOT_RUNNING", f"{_named(ref)} does not run", **_ids(ref))


def job_running(ref: types_pb2.JobRef) -> Refusal:
    """The attempt has not ended, so it can't be removed."""
    return precondition("JOB_RUNNING", f"{_named(ref)} has not ended; cancel it first", **_ids(ref))


def inputs_missing(ref: types_pb2.JobRef, message: str) -> Refusal:
    """The manifest that a start names is not whole at the site."""
    return precondition("INPUTS_MISSING", message, **_ids(ref))


def site_queue_full(message: str, *, retry_after_s: float | None = None) -> Refusal:
    """The site's own queue takes no more jobs now."""
    return exhausted("SITE_QUEUE_FULL", message, retry_after_s=retry_after_s)


# Files and connections.


def disk_full(where: str, node: str = "") -> Refusal:
    """No space is left where the attempt's files go."""
    text = f"no space is left in {where}; free some, or ask for less"
    return exhausted("DISK_FULL", text, node=node) if node else exhausted("DISK_FULL", text)


def file_not_found(path: str) -> Refusal:
    """No such file in the work folder."""
    return not_found("FILE_NOT_FOUND", f"{path} is not in the work folder", path=path)


def offset_out_of_range(message: str, *, expected: int) -> Refusal:
    """An offset past the end, or a gap; `expected`: the end, or where the next piece begins."""
    return out_of_range("OFFSET", message, offset=str(expected))


def digest_mismatch(message: str, sha256: bytes) -> Refusal:
    """Bytes that arrived are not those that their digest promised."""
    return data_loss("DIGEST_MISMATCH", message, sha256=sha256.hex())


def file_differs(path: str) -> Refusal:
    """A work folder of the user's holds another file where an input goes."""
    return exists(
        "FILE_DIFFERS", f"{path} is there already, with another content; it is left alone"
    )


def port_in_use(node: str, port: int) -> Refusal:
    """Somebody else listens on the port."""
    return precondition("PORT_IN_USE", f"port {port} of {node} is in use by another", node=node)


def target_refused(node: str, port: int) -> Refusal:
    """Nothing of the job listens on the port."""
    return precondition(
        "TARGET_REFUSED",
        f"nothing of the job listens on port {port} of {node}",
        node=node,
        port=str(port),
    )


def connection_not_found() -> Refusal:
    """A connection id that is unknown, taken, or older than 30 s."""
    return not_found("CONNECTION_NOT_FOUND", "no connection with this id waits to be accepted")
