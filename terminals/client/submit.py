"""From a script to a job on the core's disk."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from skyport.terminal.v1 import job_pb2
from terminals.client.errors import CallFailed
from terminals.client.progress import Report, silent

if TYPE_CHECKING:
    from terminals.client.connection import Client
    from terminals.client.manifest import Manifest

SCRIPT_BYTES = 1 << 20
"""The longest script, by contract."""

_SUBMIT_PATIENCE_S = 60.0
_TRIES = 3


def check(
    client: Client, script: bytes, overrides: job_pb2.JobOverrides | None = None
) -> job_pb2.CheckJobResponse:
    """What the script would become. Changes nothing.

    Raises:
        RequestInvalid: The script has mistakes.
    """
    request = job_pb2.CheckJobRequest(script=script, overrides=overrides)
    return client.call(client.jobs.CheckJob, request)


def submit(
    client: Client,
    script: bytes,
    *,
    overrides: job_pb2.JobOverrides | None = None,
    secret_env: Mapping[str, str] | None = None,
    base: Path | None = None,
    report: Report = silent,
) -> job_pb2.SubmitJobResponse:
    """See `Client.submit`."""
    spec = check(client, script, overrides).spec
    manifest = read_inputs(list(spec.input_files), base, report) if spec.input_files else None
    return send(client, script, manifest, overrides, secret_env, report)


def read_inputs(patterns: list[str], base: Path | None, report: Report = silent) -> Manifest:
    """The manifest of what `patterns` select here.

    Raises:
        InputsInvalid: Inputs are missing, unreadable or in each other's way.
        InputChanged: One is being written to.
    """
    from terminals.client.inputs import select
    from terminals.client.manifest import read_manifest

    return read_manifest(select(patterns, base), report)


def send(
    client: Client,
    script: bytes,
    manifest: Manifest | None,
    overrides: job_pb2.JobOverrides | None,
    secret_env: Mapping[str, str] | None,
    report: Report = silent,
) -> job_pb2.SubmitJobResponse:
    """Bring the inputs and submit. However often a line breaks, there is one job."""
    request = job_pb2.SubmitJobRequest(
        script=script,
        overrides=overrides,
        manifest_sha256=manifest.sha256 if manifest else b"",
        request_id=secrets.token_hex(16),
        secret_env=secret_env,
    )
    for left in reversed(range(_TRIES)):
        if manifest is not None:
            from terminals.client.upload import upload

            upload(client, manifest, report)
        try:
            return client.call(client.jobs.SubmitJob, request, patience_s=_SUBMIT_PATIENCE_S)
        except CallFailed as error:
            # An upload that took longer than contents are pinned.
            if error.reason != "CONTENT_MISSING" or manifest is None or not left:
                raise
    raise AssertionError("the last try returns or raises")
