"""What an attempt is started with: whether it may be, and how it is put down."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from gate_kit import Refusal, errors
from gate_kit.bells import Bells
from gates.fake_gate import command, placing
from gates.fake_gate.attempt import Attempt
from gates.fake_gate.site import Site, write
from skyport.gate.v1 import job_pb2, types_pb2


class Specs:
    """Checks and writes specs.

    Args:
        site: Where the attempts are.
        bells: Rung when a folder is made.
        shared: Whether all nodes of a job see one work folder.
    """

    def __init__(self, site: Site, bells: Bells, *, shared: bool) -> None:
        self._site = site
        self._bells = bells
        self._shared = shared

    def is_shared(self, ref: types_pb2.JobRef) -> bool:
        """Whether all nodes see one work folder.

        They do at a queue, whose nodes are not known yet when files come.
        """
        return self._shared or not ref.nodes

    def check(
        self, attempt: Attempt, request: job_pb2.StartJobRequest
    ) -> job_pb2.StartJobRequest | None:
        """What the attempt was started with before; None if it was not, and may be.

        Raises:
            Refusal: JOB_CANCELLED, JOB_DIFFERS; FIELD_REQUIRED for a start without a root;
                INPUTS_MISSING, FILE_NOT_FOUND.
        """
        ref = request.ref
        if self._site.is_buried(attempt.key):
            raise errors.job_cancelled(ref)
        spec = attempt.spec()
        if spec is not None:
            if spec.spec_fingerprint != request.spec_fingerprint:
                raise errors.job_differs(ref)
            return spec
        known = {root.node for root in ref.roots}
        if "" not in known and not (ref.nodes and set(ref.nodes) <= known):
            raise errors.invalid(
                "ref.roots has no root for a node; call PutFiles first",
                field="ref.roots",
                reason="FIELD_REQUIRED",
            )
        wanted = request.spec.manifest_sha256
        if wanted and attempt.inputs() != wanted:
            raise errors.inputs_missing(
                ref, f"manifest {wanted.hex()} is not whole at the site; send it with PutFiles"
            )
        name = request.spec.stdin_path
        for folder in self.work_folders(attempt, ref, request.spec.workdir) if name else ():
            if not (folder / name).is_file():
                raise errors.file_not_found(name)
        return None

    def write(
        self, attempt: Attempt, request: job_pb2.StartJobRequest
    ) -> tuple[job_pb2.StartJobRequest, int]:
        """Write what the attempt is started with.

        Returns:
            The spec, without secrets, and a descriptor of it that is to be synced and closed.

        Raises:
            Refusal: DISK_FULL.
        """
        spec = job_pb2.StartJobRequest()
        spec.CopyFrom(request)
        spec.ClearField("secret_env")
        spec.ClearField("registry_logins")
        spec.ref.ClearField("roots")
        try:
            if attempt.make_folder(spec.spec.workdir):
                self._bells.ring(attempt.key)
            for folder in self.work_folders(attempt, spec.ref, spec.spec.workdir):
                if spec.spec.workdir:
                    placing.make_named_folder(attempt, folder)
                else:
                    folder.mkdir(exist_ok=True)
            hosts = "".join(f"{node}\n" for node in request.ref.nodes)
            write(attempt.folder / "script", spec.spec.script)
            write(attempt.folder / "hosts", hosts.encode())
            return spec, attempt.write_spec(spec)
        except OSError as error:
            raise refusal(error, attempt.folder) from error

    def work_folders(self, attempt: Attempt, ref: types_pb2.JobRef, workdir: str) -> list[Path]:
        """The work folders of an attempt, rank 0 first; one where all nodes share it."""
        shared = self.is_shared(ref)
        names = ["", *ref.nodes][:1] if shared else list(ref.nodes)
        folders = [command.work_folder(attempt, workdir, name, shared=shared) for name in names]
        return folders[:1] if workdir else folders


def sync(descriptor: int) -> None:
    """Wait until a file is on the disk, and close it."""
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refusal(error: OSError, folder: Path) -> Refusal:
    """What to answer when the system refused something for an attempt."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return errors.disk_full(str(folder))
    if error.errno == errno.E2BIG:
        return errors.invalid(
            "arguments and environment are longer than the system takes",
            field="spec.env",
            reason="FIELD_OUT_OF_RANGE",
        )
    if error.errno in {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}:
        return errors.capacity(f"the node starts no more processes: {error.strerror}")
    return errors.site_unreachable(f"{folder}: {error.strerror}")
