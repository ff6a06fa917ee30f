"""The fake core's JobService. Jobs run as processes on this machine."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import IO

import grpc

from rpc_kit.errors import Refusal, exists, invalid, not_found, out_of_range, precondition
from skyport.common.v1 import manifest_pb2
from skyport.terminal.v1 import job_pb2, job_pb2_grpc, types_pb2
from tests.client.fake_call import CutError, handler
from tests.client.fake_core import ENDED, Log, State

_KNOWN = {"name", "input-files", "output-files", "site", "ports", "stdout", "stderr", "cpus"}


class Jobs(job_pb2_grpc.JobServiceServicer):
    def __init__(self, state: State, runs_jobs: bool) -> None:
        self.state = state
        self._runs_jobs = runs_jobs

    @handler
    def CheckJob(
        self, request: job_pb2.CheckJobRequest, context: grpc.ServicerContext
    ) -> job_pb2.CheckJobResponse:
        spec, warnings = _parse(request.script, request.overrides)
        return job_pb2.CheckJobResponse(
            spec=spec,
            warnings=warnings,
            candidates=[job_pb2.Candidate(site="here", partition_id="here-all")],
        )

    @handler
    def SubmitJob(
        self, request: job_pb2.SubmitJobRequest, context: grpc.ServicerContext
    ) -> job_pb2.SubmitJobResponse:
        state = self.state
        content = request.SerializeToString(deterministic=True)
        token = str(len(state.events))
        if request.request_id in state.requests:
            known, job_id = state.requests[request.request_id]
            if known != content:
                raise exists("REQUEST_ID_REUSED", "this request id belongs to another submit")
            self._lose_submit()
            return job_pb2.SubmitJobResponse(job=state.jobs[job_id], watch_token=token)
        spec, warnings = _parse(request.script, request.overrides)
        if request.manifest_sha256 and request.manifest_sha256 not in state.contents:
            raise not_found("CONTENT_MISSING", "the manifest was not uploaded")
        if bool(spec.input_files) != bool(request.manifest_sha256):
            raise precondition("INPUTS_MISSING", "the script names inputs, and none were uploaded")
        job_id = "j" + secrets.token_hex(6)
        state.requests[request.request_id] = (content, job_id)
        state.secrets[job_id] = dict(request.secret_env)
        if request.manifest_sha256:
            state.manifests[job_id] = state.contents[request.manifest_sha256]
        job = state.add(job_id, spec=spec)
        if self._runs_jobs:
            threading.Thread(target=Run(state, job_id, request.script).run, daemon=True).start()
        self._lose_submit()
        return job_pb2.SubmitJobResponse(job=job, warnings=warnings, watch_token=token)

    def _lose_submit(self) -> None:
        if self.state.faults.submit_answers_lost:
            self.state.faults.submit_answers_lost -= 1
            raise CutError

    @handler
    def GetJob(
        self, request: job_pb2.GetJobRequest, context: grpc.ServicerContext
    ) -> job_pb2.GetJobResponse:
        job = job_pb2.Job()
        job.CopyFrom(self.state.job(request.job_id))
        if job.attempt and not job.attempts:
            job.attempts.add(number=job.attempt, site=job.site, partition_id=job.partition_id)
        return job_pb2.GetJobResponse(job=job)

    @handler
    def ListJobs(
        self, request: job_pb2.ListJobsRequest, context: grpc.ServicerContext
    ) -> job_pb2.ListJobsResponse:
        time.sleep(self.state.faults.slow_list_s)
        with self.state.changed:
            jobs = list(reversed(self.state.jobs.values()))
            token = str(len(self.state.events))
        wanted = request.filter
        jobs = [
            job
            for job in jobs
            if job.job_id.startswith(wanted.job_id_prefix)
            and (not wanted.states or job.state in wanted.states)
            and wanted.site in ("", job.site)
            and wanted.owner in ("", job.owner)
        ]
        start = int(request.page_token or 0)
        end = start + (request.page_size or 100)
        return job_pb2.ListJobsResponse(
            jobs=jobs[start:end],
            next_page_token=str(end) if end < len(jobs) else "",
            watch_token="" if start else token,
        )

    @handler
    def WatchJobs(
        self, request: job_pb2.WatchJobsRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.WatchJobsResponse]:
        state = self.state
        if state.faults.watch_expires:
            state.faults.watch_expires -= 1
            raise out_of_range("WATCH_EXPIRED", "the journal begins later than this token")
        seen = int(request.resume_token) if request.resume_token else len(state.events)
        while context.is_active():
            with state.changed:
                if len(state.events) <= seen and not state.stopping.is_set():
                    state.changed.wait(0.5)
                events = state.events[seen:]
            if state.stopping.is_set():
                raise CutError
            seen += len(events)
            wanted = [
                event for event in events if not request.job_ids or event.job_id in request.job_ids
            ]
            if wanted:
                yield job_pb2.WatchJobsResponse(events=wanted, resume_token=str(seen))

    @handler
    def CancelJob(
        self, request: job_pb2.CancelJobRequest, context: grpc.ServicerContext
    ) -> job_pb2.CancelJobResponse:
        job = self.state.job(request.job_id)
        if job.state not in ENDED:
            job.cancel_requested = True
            if not self._runs_jobs or job.state == job_pb2.JOB_STATE_QUEUED or request.force:
                self.state.move(job.job_id, job_pb2.JOB_STATE_CANCELLED)
            with self.state.changed:
                self.state.changed.notify_all()
        return job_pb2.CancelJobResponse(job=job)

    @handler
    def RequeueJob(
        self, request: job_pb2.RequeueJobRequest, context: grpc.ServicerContext
    ) -> job_pb2.RequeueJobResponse:
        job = self.state.job(request.job_id)
        token = str(len(self.state.events))
        if request.attempt and (job.state not in ENDED or job.attempt > request.attempt):
            return job_pb2.RequeueJobResponse(job=job, watch_token=token)
        job = self.state.ended_job(request.job_id)
        if self.state.secrets.get(job.job_id) and not request.secret_env:
            raise precondition("SECRETS_REQUIRED", "the job had secrets; give them again")
        self.state.move(job.job_id, job_pb2.JOB_STATE_QUEUED)
        if self.state.faults.requeue_answers_lost:
            self.state.faults.requeue_answers_lost -= 1
            raise CutError
        return job_pb2.RequeueJobResponse(job=job, watch_token=token)

    @handler
    def ReadOutput(
        self, request: job_pb2.ReadOutputRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.ReadOutputResponse]:
        state = self.state
        job = state.job(request.job_id)
        breaks = state.faults.output_breaks_after
        left = breaks.pop(0) if breaks else -1
        attempt = request.attempt or job.attempt
        log = state.logs.get((job.job_id, attempt, request.kind, request.node), Log())
        offset = request.offset
        if request.tail_bytes:
            offset = max(0, len(log.data) - request.tail_bytes)
        while context.is_active():
            with state.changed:
                attempt = request.attempt or job.attempt
                log = state.logs.get((job.job_id, attempt, request.kind, request.node), Log())
                idle = len(log.data) <= offset and not log.complete and job.state not in ENDED
                if request.follow and idle and not state.stopping.is_set():
                    state.changed.wait(0.2)
                begin = max(offset, log.kept_from)
                data = log.data[begin : begin + (1 << 20)]
                complete = log.complete or job.state in ENDED
            if state.stopping.is_set() or left == 0:
                raise CutError
            if data:
                sent = state.faults.forged_output or data
                yield job_pb2.ReadOutputResponse(offset=begin, data=sent, attempt=attempt)
                offset = begin + len(data)
                left -= 1
            elif complete:
                end = job_pb2.OutputEnd(
                    size=len(log.data), sha256=hashlib.sha256(log.data).digest()
                )
                yield job_pb2.ReadOutputResponse(offset=offset, end=end)
                return
            elif not request.follow:
                return

    @handler
    def DeleteJob(
        self, request: job_pb2.DeleteJobRequest, context: grpc.ServicerContext
    ) -> job_pb2.DeleteJobResponse:
        del self.state.jobs[self.state.ended_job(request.job_id).job_id]
        if self.state.faults.delete_answers_lost:
            self.state.faults.delete_answers_lost -= 1
            raise CutError
        return job_pb2.DeleteJobResponse()


def _parse(
    script: bytes, overrides: job_pb2.JobOverrides
) -> tuple[job_pb2.JobSpec, list[job_pb2.ScriptWarning]]:
    spec = job_pb2.JobSpec(nodes=1, cpus=1, stdout="stdout.log", stderr="stderr.log")
    problems = []
    warnings = []
    if not script.strip():
        raise invalid("the script is empty", reason="SCRIPT_EMPTY")
    for number, line in enumerate(script.decode().splitlines(), 1):
        if not (found := re.match(r"#SWM\s+(\S+)\s*(.*)", line)):
            continue
        name, value = found.groups()
        if name == "warn":
            warnings.append(job_pb2.ScriptWarning(line=number, message=value))
        elif name not in _KNOWN:
            problems.append((f"script:{number}", f'unknown directive "{name}"'))
        elif name == "input-files":
            spec.input_files.extend(value.split())
        elif name == "output-files":
            spec.output_files.extend(value.split())
        elif name == "cpus":
            spec.cpus = int(value)
        elif name == "ports":
            spec.ports.add(number=int(value.split("/")[0]), direction=job_pb2.PORT_DIRECTION_IN)
        else:
            setattr(spec, name, value)
    if problems:
        raise Refusal(
            grpc.StatusCode.INVALID_ARGUMENT,
            "UNKNOWN_DIRECTIVE",
            f"the script has {len(problems)} mistakes",
            violations=problems,
        )
    spec.name = overrides.name or spec.name
    spec.site = overrides.site or spec.site
    if spec.site not in ("", "here"):
        raise not_found("SITE_NOT_FOUND", f'there is no site "{spec.site}"; there is: here')
    spec.env.update(overrides.env)
    spec.input_files.extend(overrides.input_files)
    spec.output_files.extend(overrides.output_files)
    return spec, warnings


class Run:
    """One job as a process here."""

    def __init__(self, state: State, job_id: str, script: bytes) -> None:
        self._state = state
        self._job = state.jobs[job_id]
        self._script = script
        self._folder = state.folder / job_id

    def run(self) -> None:
        state, job_id = self._state, self._job.job_id
        self._folder.mkdir(parents=True)
        self._stage_in()
        state.move(job_id, job_pb2.JOB_STATE_STARTING, attempt=1, site="here")
        (self._folder / ".script").write_bytes(self._script)
        environment = {
            **os.environ,
            **self._job.spec.env,
            **state.secrets[job_id],
            "SWM_JOB_ID": job_id,
        }
        process = subprocess.Popen(
            ["sh", str(self._folder / ".script")],
            cwd=self._folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        state.move(job_id, job_pb2.JOB_STATE_RUNNING)
        assert process.stdout
        assert process.stderr
        pumps = [
            threading.Thread(target=self._pump, args=(process.stdout, False)),
            threading.Thread(target=self._pump, args=(process.stderr, True)),
            threading.Thread(target=self._kill_when_cancelled, args=(process,), daemon=True),
        ]
        for pump in pumps:
            pump.start()
        code = process.wait()
        for pump in pumps[:2]:
            pump.join()
        (self._folder / ".script").unlink()
        self._collect()
        self._end(code)

    def _end(self, code: int) -> None:
        state, job_id = self._state, self._job.job_id
        self._job.outputs_collected = True
        if self._job.cancel_requested:
            state.move(job_id, job_pb2.JOB_STATE_CANCELLED)
        elif code == 0:
            state.move(job_id, job_pb2.JOB_STATE_SUCCEEDED, exit_code=0)
        elif code > 0:
            failure = types_pb2.Failure(reason="EXIT_CODE", message=f"ended with exit code {code}")
            state.move(job_id, job_pb2.JOB_STATE_FAILED, exit_code=code, failure=failure)
        else:
            failure = types_pb2.Failure(reason="SIGNAL", message=f"ended by signal {-code}")
            state.move(job_id, job_pb2.JOB_STATE_FAILED, signal=-code, failure=failure)

    def _pump(self, source: IO[bytes], stderr: bool) -> None:
        while data := os.read(source.fileno(), 65536):
            self._state.write(self._job.job_id, data, stderr=stderr)
        source.close()

    def _kill_when_cancelled(self, process: subprocess.Popen[bytes]) -> None:
        with self._state.changed:
            self._state.changed.wait_for(
                lambda: self._job.cancel_requested or process.poll() is not None, 60
            )
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)

    def _stage_in(self) -> None:
        data = self._state.manifests.get(self._job.job_id, b"")
        for entry in read_manifest(data):
            path = self._folder / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if entry.type == manifest_pb2.FILE_TYPE_FILE:
                path.write_bytes(self._state.contents[entry.sha256])
                path.chmod(entry.mode)
            elif entry.type == manifest_pb2.FILE_TYPE_SYMLINK:
                path.symlink_to(entry.link_target)
            else:
                path.mkdir(exist_ok=True)

    def _collect(self) -> None:
        for pattern in self._job.spec.output_files:
            for path in sorted(self._folder.glob(pattern)):
                if path.is_file():
                    name = str(path.relative_to(self._folder))
                    self._state.output(self._job.job_id, name, path.read_bytes(), 0o644)


def read_manifest(data: bytes) -> list[manifest_pb2.ManifestEntry]:
    """The entries of a manifest file."""
    entries = []
    position = 0
    while position < len(data):
        length = shift = 0
        while True:
            byte = data[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        entries.append(manifest_pb2.ManifestEntry.FromString(data[position : position + length]))
        position += length
    return entries
