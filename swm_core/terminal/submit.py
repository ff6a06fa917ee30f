"""From a request to a job: what is checked before a job is stored."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import hashlib
import logging
import re
from collections.abc import Iterable, Iterator

import grpc
from google.protobuf.message import Message

from rpc_kit.errors import (
    Refusal,
    denied,
    exists,
    invalid,
    not_found,
    precondition,
    unavailable,
)
from rpc_kit.units import format_duration
from skyport.terminal.v1 import job_pb2, types_pb2
from swm_core.domain import secrets
from swm_core.domain.addresses import Place, allowed, dialled
from swm_core.domain.ids import new_id
from swm_core.domain.job import Direction, Job, JobSpec
from swm_core.domain.states import JobState
from swm_core.jobscript import (
    ParsedScript,
    ScriptError,
    ScriptErrors,
    check_env_name,
    override,
    parse,
    resolve,
)
from swm_core.jobscript.paths import landing_name
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.costs import CostBook
from swm_core.lifecycle.views import Views
from swm_core.scheduler import Candidate, Problem, SiteView, candidates, feasible
from swm_core.spool import SpoolRefusal
from swm_core.store import RequestIdReused
from swm_core.terminal import convert
from swm_core.terminal.quotas import ActiveJobs

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NOT_ALLOWED = "ADDRESS_NOT_ALLOWED"
_SHA256_BYTES = 32
_GLOB_SIGNS = frozenset("*?[")
_SPOOL_CODES = {
    "QUOTA": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "SPOOL_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "CONTENT_MISSING": grpc.StatusCode.NOT_FOUND,
    "OFFSET": grpc.StatusCode.OUT_OF_RANGE,
    "DIGEST_MISMATCH": grpc.StatusCode.DATA_LOSS,
}

_WithSecrets = job_pb2.SubmitJobRequest | job_pb2.RequeueJobRequest


class Submission:
    """Checks and submits jobs."""

    def __init__(self, context: Context, views: Views, active: ActiveJobs, costs: CostBook) -> None:
        self._context = context
        self._costs = costs
        self._views = views
        self._active = active

    def check(self, owner: str, request: job_pb2.CheckJobRequest) -> job_pb2.CheckJobResponse:
        """What a script would become. Errors as for `submit`, except for what sites lack."""
        parsed = self._parse(request.script, request.overrides)
        views = self._views.empty_sites()
        policy = self._costs.policy([owner])
        answer = job_pb2.CheckJobResponse(
            spec=convert.spec(parsed.spec),
            warnings=[*warning_messages(parsed), *option_warnings(parsed, views)],
        )
        places = candidates(parsed.spec, views, policy=policy, owner=owner)
        answer.warnings.extend(self._expiry_warnings(parsed.spec, places))
        for found in places:
            candidate = answer.candidates.add(
                site=found.site,
                partition_id=found.partition_id,
                location=found.location,
                flavor=found.flavor,
                spot=found.spot,
            )
            if found.time_limit_s:
                candidate.time_limit.CopyFrom(convert.duration(found.time_limit_s))
            if found.price_per_hour is not None and found.currency:
                candidate.price.amount.CopyFrom(convert.money(found.price_per_hour, found.currency))
        answer.obstacles.extend(
            types_pb2.Failure(reason=problem.reason, message=problem.message)
            for problem in feasible(parsed.spec, views, policy, owner)
        )
        if not_allowed := self._address_problem(parsed.spec):
            answer.obstacles.add(reason=_NOT_ALLOWED, message=not_allowed)
        return answer

    async def submit(
        self, owner: str, request: job_pb2.SubmitJobRequest
    ) -> tuple[Job, list[job_pb2.ScriptWarning]]:
        """Store the job that a request asks for, or find the one that it made before.

        Returns:
            The job, and remarks about its script.

        Raises:
            Refusal: With the reasons of the table of SubmitJob in protos/README.md.
        """
        if not _REQUEST_ID.fullmatch(request.request_id):
            raise invalid(
                f"request_id {request.request_id[:80]!r} must be 1 to 64 of A-Z a-z 0-9 . _ -; "
                "choose one for each job",
                field="request_id",
                reason="FIELD_MALFORMED" if request.request_id else "FIELD_REQUIRED",
            )
        parsed = self._parse(request.script, request.overrides)
        check_secrets(request)
        if not_allowed := self._address_problem(parsed.spec):
            raise denied(_NOT_ALLOWED, not_allowed)
        views, policy = self._views.empty_sites(), self._costs.policy([owner])
        problems = feasible(parsed.spec, views, policy, owner)
        if problems:
            raise _infeasible(problems)
        await self._check_inputs(owner, parsed, request.manifest_sha256)
        now = self._context.clock()
        job = Job(
            job_id=new_id(),
            owner=owner,
            spec=parsed.spec,
            manifest_sha256=request.manifest_sha256.hex(),
            state=JobState.QUEUED,
            submit_time=now,
            state_time=now,
            text="queued",
            retries_left=parsed.spec.retries,
        )
        again = self._active.is_full(owner) and self._context.store.jobs.has_request(
            owner, request.request_id
        )
        try:
            # A request of before makes no job: it is answered also where no more are allowed.
            with contextlib.nullcontext() if again else self._active.admit(owner):
                job, created = await self._context.store.jobs.submit(
                    job,
                    request.script,
                    request.request_id,
                    _fingerprint(request),
                    packed_secrets(request),
                )
                if created:
                    self._context.jobs.add(job)
        except RequestIdReused:
            raise exists(
                "REQUEST_ID_REUSED",
                f"request_id {request.request_id} was used for another job; choose a new one",
                request_id=request.request_id,
            ) from None
        warnings = [*warning_messages(parsed), *option_warnings(parsed, views)]
        if any(gate.can("EXPIRY") for gate in self._context.gates.values()):
            places = candidates(parsed.spec, views, policy=policy, owner=owner)
            warnings += self._expiry_warnings(parsed.spec, places)
        return job, warnings

    def _expiry_warnings(
        self, spec: JobSpec, places: Iterable[Candidate]
    ) -> list[job_pb2.ScriptWarning]:
        """Which sites may end the job's nodes before its time, if the core is away meanwhile."""
        limits: dict[str, int] = {}
        for place in places:
            limit_s = spec.time_limit_s or place.time_limit_s
            if not place.partition_id and limit_s:
                limits[place.site] = max(limits.get(place.site, 0), limit_s)
        found = []
        for site, limit_s in limits.items():
            gate = self._context.gates[site]
            longest_s = int(gate.info.longest_expiry_s) if gate.info else 0
            if gate.can("EXPIRY") and 0 < longest_s < limit_s:
                found.append(
                    job_pb2.ScriptWarning(
                        message=f"at site {site} nodes end by themselves when this core was away "
                        f"for {format_duration(longest_s)}: it has to be there in the "
                        f"{format_duration(limit_s)} that the job may run"
                    )
                )
        return found

    def _parse(self, script: bytes, overrides: job_pb2.JobOverrides) -> ParsedScript:
        try:
            parsed = override(
                parse(script),
                name=overrides.name,
                site=overrides.site,
                env=dict(overrides.env),
                input_files=overrides.input_files,
                output_files=overrides.output_files,
            )
        except ScriptErrors as errors:
            raise _script_refused(errors) from None
        return resolve(parsed, self._context.gates.keys())

    def _address_problem(self, spec: JobSpec) -> str:
        """What of the user's side its ports may have nothing to do with; empty: all is allowed."""
        host = dialled(spec.submission_address)
        lists = self._context.ports
        for port in spec.ports:
            if port.direction is Direction.IN and not allowed(lists.in_at, host):
                return (
                    f"in ports may not be reached at {host}; leave submission-address out, or have "
                    f'the administrator add "{host}" to ports.in_at in swm.toml'
                )
            if port.direction is Direction.OUT and not allowed(lists.out_to, host, port.number):
                place = Place(host, port.number)
                return (
                    f"out port {port.number} may not lead to {host}; have the administrator add "
                    f'"{place}" to ports.out_to in swm.toml'
                )
        return ""

    async def _check_inputs(self, owner: str, parsed: ParsedScript, digest: bytes) -> None:
        if not digest:
            if parsed.spec.input_files:
                names = ", ".join(parsed.spec.input_files[:3])
                raise precondition(
                    "INPUTS_MISSING",
                    f"the script names input files ({names}), and the request has no manifest; "
                    "upload them and send manifest_sha256",
                )
            return
        if len(digest) != _SHA256_BYTES:
            raise invalid(
                f"manifest_sha256 has {len(digest)} bytes; a SHA-256 has {_SHA256_BYTES}",
                field="manifest_sha256",
            )
        with spool_refuses():
            await self._context.spool.check_manifest(owner, digest.hex())
            lacking = await asyncio.to_thread(self._lacking, owner, parsed.spec, digest.hex())
        if lacking:
            raise precondition(
                "INPUTS_MISSING",
                f"the script names {', '.join(lacking[:3])}, which the manifest lacks; upload what "
                "the script names under the names where it lands",
            )

    def _lacking(self, owner: str, spec: JobSpec, digest: str) -> list[str]:
        """The inputs that a script names plainly and the manifest lacks. Blocks."""
        wanted = {
            landing_name(path) for path in spec.input_files if not _GLOB_SIGNS.intersection(path)
        }
        wanted = (wanted | {spec.stdin}) - {"", "."}
        for entry in self._context.spool.manifest(owner, digest):
            if not wanted:
                break
            path = entry.path
            while path:
                wanted.discard(path)
                path = path.rpartition("/")[0]
        return sorted(wanted)


@contextlib.contextmanager
def spool_refuses() -> Iterator[None]:
    """Have what the spool refuses, and a disk that it can't use, raise a Refusal."""
    try:
        yield
    except SpoolRefusal as refusal:
        code = _SPOOL_CODES.get(refusal.reason, grpc.StatusCode.INVALID_ARGUMENT)
        raise Refusal(code, refusal.reason, str(refusal), metadata=refusal.metadata) from None
    except OSError as error:
        log.warning("the spool can't be used: %s", error)
        raise unavailable(
            "STORE_UNAVAILABLE",
            f"the core cannot use its spool, so nothing was done: {error.strerror}; "
            "see the core's log",
            retry_after_s=5.0,
        ) from error


def _script_refused(errors: ScriptErrors) -> Refusal:
    first = errors.errors[0]
    more = len(errors.errors) - 1
    return invalid(
        f"{first}" + (f" (and {more} more)" if more else ""),
        reason=first.reason,
        violations=[(_place(error), error.text) for error in errors.errors],
    )


def _place(error: ScriptError) -> str:
    """Where in the request a mistake is."""
    if error.line or not error.directive:
        return f"script:{error.line}"
    return f"overrides.{error.directive.replace('-', '_')}"


def _infeasible(problems: list[Problem]) -> Refusal:
    first = problems[0]
    text = "; ".join(problem.message for problem in problems[:5])
    if first.reason.endswith("_NOT_FOUND"):
        return not_found(first.reason, text)
    if first.reason == "ACCOUNT_NOT_SHARED":
        return denied(first.reason, text)
    return invalid(text, reason=first.reason)


def packed_secrets(request: _WithSecrets) -> dict[str, str]:
    """The secrets of a request, for the store."""
    return secrets.pack(
        request.secret_env,
        [
            secrets.Login(login.registry, login.username, login.password)
            for login in request.registry_logins
        ],
    )


def check_secrets(request: _WithSecrets) -> None:
    """Raise a Refusal unless names can be of the environment and logins are whole."""
    for login in request.registry_logins:
        if not (login.registry and login.username and login.password):
            raise invalid(
                "a registry login needs registry, username and password",
                field="registry_logins",
                reason="FIELD_REQUIRED",
            )
    for name in request.secret_env:
        try:
            check_env_name(name)
        except ValueError as error:
            raise invalid(str(error), field="secret_env") from None


def warning_messages(parsed: ParsedScript) -> list[job_pb2.ScriptWarning]:
    """The script's warnings as messages."""
    return [
        job_pb2.ScriptWarning(line=warning.line, message=warning.message)
        for warning in parsed.warnings
    ]


def option_warnings(parsed: ParsedScript, sites: Iterable[SiteView]) -> list[job_pb2.ScriptWarning]:
    """Options of a kind that no site has: such as are misspelt, since others see none of them."""
    known = list(sites)
    if not all(site.ready or site.option_prefix for site in known):
        return []  # one that did not answer yet may take them
    kinds = {site.option_prefix for site in known} - {""}
    found = []
    for name in parsed.spec.site_options:
        kind = name.partition(".")[0]
        if kind not in kinds:
            near = difflib.get_close_matches(kind, kinds, 1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            text = f'site-option: no site takes options of "{kind}", so {name} is not used{hint}'
            line = parsed.lines.get("site-option", 0)
            found.append(job_pb2.ScriptWarning(line=line, message=text))
    return found


def _fingerprint(request: Message) -> str:
    """SHA-256 of the request: the same id with other content is told apart by it.

    It covers secrets, and as a digest of all of the request it does not tell them.
    """
    return hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
