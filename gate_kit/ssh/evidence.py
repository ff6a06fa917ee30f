"""What hosts say of an attempt, and what follows from it. Pure.

An attempt's folder on a host:

    labels          base64 of a JobStatus with ref and origin
    workdir         the folder of the user's own that the job works in, if it named one
    spec            base64 of the StartJobRequest, without script and secrets: asked to start
    script hosts    what runs, and the names of its nodes
    manifest        digest of the manifest that was sent: there is only one
    inputs          the same, once it is whole in the work folder
    placed          what was put into a folder of the user's own, to be taken away again
    work stdout.N stderr.N
    claim.N         "BOOT PID START": the runner that has node N; or "cancelled"
    session.N timer.N verdict.N end.N notice.N     see runner.sh
    image.N         digest of the image that it runs in
    container.N     there is a container to be removed; see container.sh

Claims and ends are linked into place, so each is whole, and there is one of each. Of the others
labels, spec and digests are whole when a line of one dot follows.
"""

from __future__ import annotations

import base64
import dataclasses
import re
import time
from collections.abc import Iterator, Mapping, Sequence

from google.protobuf.message import DecodeError

from gate_kit import job_status
from gate_kit.job_status import End, Phase
from gate_kit.ssh.layout import AttemptKey
from gate_kit.ssh.shell import Reply
from skyport.gate.v1 import job_pb2, types_pb2

_NO_RUNNER = "cancelled"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True)
class Lasting:
    """What never changes once it is there."""

    labels: job_pb2.JobStatus | None = None
    spec: job_pb2.StartJobRequest | None = None
    workdir: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class OnHost:
    """What one host has of an attempt, as it is now."""

    node: str
    root_uid: str
    exists: bool
    is_buried: bool
    phase: Phase
    lasting: Lasting
    has_runner_claim: bool = False
    """Whether a runner had claimed, so that something of the script may have run."""
    is_readable: bool = True
    """Whether the claim makes sense."""
    claim_ns: int = 0
    end: End | None = None
    verdict: str = ""
    image_digest: str = ""
    """Of the image that it runs in; empty while that is not known."""

    @property
    def spec(self) -> job_pb2.StartJobRequest | None:
        """What it was asked to start with; None before."""
        return self.lasting.spec


def read_status(
    node: str, reply: Reply, known: Lasting | None = None, *, of: types_pb2.JobRef | None = None
) -> OnHost:
    """What a host answered to `status`.

    Args:
        node: The host's.
        reply: Its answer.
        known: What it said before, where it was asked for what changes alone.
        of: Which attempt was asked for: labels and spec of another one are none of it.
    """
    found = _parse(node, reply.lines, iter(reply.blobs), "", known)
    told = told_ref(found.lasting)
    if of is None or told is None or AttemptKey.of(told) == AttemptKey.of(of):
        return found
    return dataclasses.replace(found, lasting=Lasting())


def told_ref(lasting: Lasting) -> types_pb2.JobRef | None:
    """Whose attempt it is, by what lies there; None if nothing does that tells it."""
    if lasting.spec is not None:
        return lasting.spec.ref
    return None if lasting.labels is None else lasting.labels.ref


def on_lost(
    ref: types_pb2.JobRef,
    node: str,
    reason: str,
    known: Lasting | None,
    seen: job_pb2.JobStatus | None,
) -> OnHost:
    """What is to be said of an attempt on a node that is gone for good, with all that it had.

    Args:
        ref: The attempt.
        node: Which node.
        reason: Why it is gone.
        known: What is remembered of the attempt.
        seen: How it was last seen.
    """
    now_ns = time.time_ns()
    spec = job_pb2.StartJobRequest(ref=ref, spec=job_pb2.JobSpec(node_count=len(ref.nodes)))
    began_ns = seen.start_time.ToNanoseconds() if seen and seen.HasField("start_time") else 0
    roots = {root.node: root.root_uid for root in ref.roots}
    return OnHost(
        node=node,
        root_uid=roots.get(node, ""),
        exists=True,
        is_buried=False,
        phase=Phase.ENDED,
        lasting=known if known and known.spec else Lasting(spec=spec),
        # It may have begun: nobody can tell any more.
        has_runner_claim=True,
        claim_ns=began_ns or now_ns,
        end=End(kind="failure", value=reason, cpu_s=0.0, time_ns=now_ns),
    )


def read_list(node: str, reply: Reply) -> dict[str, OnHost]:
    """What a host answered to `list`, by the paths of keys: what can be read of it."""
    found: dict[str, OnHost] = {}
    root_uid, key, lines = "", "", list[str]()
    blobs = iter(reply.blobs)
    for line in (*reply.lines, "key "):
        name, _, value = line.partition(" ")
        if name == "key":
            if key:
                on_host = _parse(node, lines, blobs, root_uid, None)
                told = told_ref(on_host.lasting)
                # What lies under another path than its own was not put there by us.
                if told is not None and AttemptKey.of(told).path == key:
                    found[key] = on_host
            key, lines = value, []
        elif name == "root_uid" and not key:
            root_uid = value.encode(errors="replace").decode()
        else:
            lines.append(line)
    return found


def _parse(
    node: str, lines: Sequence[str], blobs: Iterator[bytes], root_uid: str, known: Lasting | None
) -> OnHost:
    told: dict[str, str] = {"root_uid": root_uid}
    ends, times = list[str](), dict[str, int]()
    for line in lines:
        if not line.isascii():  # what is told of an attempt is; messages take no half letters
            line = line.encode(errors="replace").decode()
        name, _, value = line.partition(" ")
        if name == "end":
            ends.append(value)
        elif name == "at":
            file, _, stamp = value.rpartition(" ")
            times[file] = nanoseconds(stamp)
        else:
            told[name] = value
    lasting = (known or _lasting(told, blobs)) if "folder" in told else Lasting()
    end = job_status.parse_end(ends, times.get(f"end.{node}", 0)) if ends else None
    state, _, claim = told.get("claim", "none").partition(" ")
    words = claim.split()
    is_runner = len(words) == 3 and words[1].isdigit() and words[2].isdigit()
    return OnHost(
        node=node,
        root_uid=told["root_uid"],
        exists="folder" in told,
        is_buried="buried" in told,
        phase=_phase(state, end),
        lasting=lasting,
        has_runner_claim=is_runner,
        is_readable=is_runner or claim == _NO_RUNNER,
        claim_ns=times.get(f"claim.{node}", 0),
        end=end,
        verdict=told.get("verdict", "").partition(" ")[0],
        image_digest=digest(told.get("image", "")),
    )


def _phase(state: str, end: End | None) -> Phase:
    if end is not None:
        return Phase.ENDED
    return {"none": Phase.UNCLAIMED, "alive": Phase.RUNNING}.get(state, Phase.LOST)


def _lasting(told: Mapping[str, str], blobs: Iterator[bytes]) -> Lasting:
    workdir = next(blobs, b"").decode(errors="surrogateescape") if "workdir" in told else ""
    labels = spec = None
    try:
        if "labels" in told:
            labels = job_pb2.JobStatus.FromString(base64.b64decode(told["labels"]))
        if "spec" in told:
            spec = decode_spec(told["spec"])
    except (ValueError, DecodeError):
        # The account's own processes have written there: it is as if there was nothing.
        return Lasting(workdir=workdir)
    return Lasting(labels, spec, workdir)


def encode_spec(request: job_pb2.StartJobRequest) -> str:
    """What is kept of a start: no script, which has a file, and no secrets."""
    spec = job_pb2.StartJobRequest()
    spec.CopyFrom(request)
    spec.ClearField("secret_env")
    spec.ClearField("registry_logins")
    spec.ref.ClearField("roots")
    spec.spec.ClearField("script")
    return base64.b64encode(spec.SerializeToString()).decode()


def decode_spec(text: str) -> job_pb2.StartJobRequest:
    """The other way."""
    return job_pb2.StartJobRequest.FromString(base64.b64decode(text))


def digest(told: str) -> str:
    """The digest of an image as it was written down; empty if it is none."""
    return told if _DIGEST.fullmatch(told) else ""


def encode_labels(ref: types_pb2.JobRef, origin: types_pb2.Origin) -> str:
    """What is told of an attempt that has not been asked to start."""
    labels = job_pb2.JobStatus(ref=ref, origin=origin)
    labels.ref.ClearField("roots")
    return base64.b64encode(labels.SerializeToString()).decode()


def nanoseconds(stamp: str) -> int:
    """A time as `stat` tells it; 0 for one before 1970."""
    whole, _, part = stamp.partition(".")
    if not (whole + part).isdigit():
        return 0  # before 1970
    return int(whole or 0) * 1_000_000_000 + int(part.ljust(9, "0")[:9] or 0)


# What follows.


def nodes_of(spec: job_pb2.StartJobRequest) -> list[str]:
    """The nodes on which the script runs."""
    nodes = list(spec.ref.nodes)
    return nodes if spec.spec.launch == job_pb2.LAUNCH_EVERY else nodes[:1]


def vanished(on_hosts: Sequence[OnHost]) -> list[OnHost]:
    """The nodes of an attempt that have lost all that told of its run there.

    A script is run nowhere before all of its nodes have what they need: once one of them has
    claimed, another without a folder has had one.
    """
    spec = next((host.spec for host in on_hosts if host.spec), None)
    if spec is None:
        return []
    wanted = nodes_of(spec)
    running = [host for host in on_hosts if host.node in wanted]
    if not any(host.has_runner_claim for host in running):
        return []
    return [host for host in running if not host.exists]


def judge(
    on_hosts: Sequence[OnHost], *, is_starting: bool, is_shared: bool, now_ns: int
) -> job_pb2.JobStatus | None:
    """The attempt as it is now; None if nothing of it is there.

    Args:
        on_hosts: What its hosts say, rank 0 first: all those on which its script runs.
        is_starting: Whether a runner is on its way to a node that has no claim.
        is_shared: Whether all nodes have one root.
        now_ns: For an end that has no time of its own.
    """
    spec = next((host.spec for host in on_hosts if host.spec), None)
    roots = _roots(on_hosts, is_shared=is_shared)
    is_buried = any(host.is_buried for host in on_hosts)
    if spec is None:
        labels = next((host.lasting.labels for host in on_hosts if host.lasting.labels), None)
        if labels is None:
            return None
        status = job_pb2.JobStatus()
        status.CopyFrom(labels)
        status.state = job_pb2.JOB_STATE_STAGED
        status.roots.extend(roots)
        if is_buried:
            job_status.end_unstarted(status, now_ns)
        return status
    status = job_status.beginning(spec, roots)
    wanted = set(nodes_of(spec))
    running = [host for host in on_hosts if host.node in wanted]
    no_evidence = End("failure", job_status.END_UNKNOWN, 0.0, now_ns)
    untold = {host.node for host in vanished(on_hosts) if host.is_buried}
    found = [(host.node, no_evidence if host.node in untold else host.end) for host in running]
    ends = [(node, end) for node, end in found if end]
    if len(ends) == len(wanted):
        job_status.end(status, ends)
    elif any(host.phase is not Phase.UNCLAIMED for host in running):
        status.state = job_pb2.JOB_STATE_RUNNING
    elif is_starting:
        status.state = job_pb2.JOB_STATE_STARTING
    elif is_buried:
        job_status.end_unstarted(status, now_ns)
    else:
        # The start was lost on its way; the core asks again.
        status.state = job_pb2.JOB_STATE_STAGED
    status.image_digest = next((host.image_digest for host in running if host.image_digest), "")
    for host in running:
        if host.has_runner_claim and not (host.end and host.end.kind == "unstarted"):
            job_status.add_start(status, host.claim_ns)
            break
    return status


def _roots(on_hosts: Sequence[OnHost], *, is_shared: bool) -> list[types_pb2.SiteRoot]:
    if is_shared:
        return [types_pb2.SiteRoot(root_uid=on_hosts[0].root_uid)] if on_hosts else []
    return [types_pb2.SiteRoot(node=host.node, root_uid=host.root_uid) for host in on_hosts]
