"""Scripts that cannot be jobs: refused with line and mend, and core and gate serve on."""

from __future__ import annotations

import re
from collections.abc import Iterator

import grpc
import pytest

from skyport.terminal.v1 import job_pb2
from tests.system.harness.core import Core, running, serves
from tests.system.harness.refusals import refused
from tests.system.harness.sites import dynamic, node, static
from tests.system.harness.users import submission

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
MiB = 1 << 20


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    one = node("n1", cpus=4, memory="8G", gpus=["0"])
    cloud = dynamic({"name": "small", "cpus": 2, "memory": "4G"})
    with running(tmp_path_factory.mktemp("scripts"), {"lab": static(one), "cloud": cloud}) as core:
        yield core


@pytest.fixture(autouse=True)
def _serves_on(core: Core) -> Iterator[None]:
    pid = core.gate("lab").pid
    yield
    serves(core)
    assert core.gate("lab").pid == pid


# Script, reason, line of the first mistake, and what its text must say.
DIRECTIVES = [
    ("#SWM nodez 2", "UNKNOWN_DIRECTIVE", 2, '"nodes"'),
    ("#SWM banana 2", "UNKNOWN_DIRECTIVE", 2, "docs/job-script.md"),
    ("true\n#SWM cpuss=4", "UNKNOWN_DIRECTIVE", 3, '"#SWM cpus 4"'),
    ("#SWM array 1-10", "DIRECTIVE_NOT_SERVED", 2, "submit one job for each"),
    ("#SWM depends abc", "DIRECTIVE_NOT_SERVED", 2, "swm wait"),
    ("#SWM spot perhaps", "VALUE_INVALID", 2, "yes nor no"),
    ("#SWM max-cost cheap", "VALUE_INVALID", 2, "2.50 EUR"),
    ("#SWM", "DIRECTIVE_NAME_MISSING", 2, "#SWM NAME VALUE"),
    ("#SWM cpus 1\n#SWM cpus 2", "DIRECTIVE_REPEATED", 3, "lines 2 and 3"),
    ("#SWM cpus", "VALUE_MISSING", 2, "add one"),
    ("#SWM cpus many", "VALUE_INVALID", 2, '"many"'),
    ("#SWM cpus 0", "VALUE_INVALID", 2, "from 1"),
    ("#SWM mem 4X", "VALUE_INVALID", 2, '"4X"'),
    ("#SWM time soon", "VALUE_INVALID", 2, '"soon"'),
    ("#SWM launch twice", "VALUE_INVALID", 2, '"every"'),
    ("#SWM ports http", "PORT_INVALID", 2, "8888/tcp/in"),
    ("#SWM ports 70000/tcp", "PORT_INVALID", 2, "65535"),
    ("#SWM ports 53/udp", "PORT_INVALID", 2, "tcp"),
    ("#SWM ports 0/tcp/in", "PORT_INVALID", 2, "SWM_PORT_"),
    ("#SWM ports 80/tcp,80/tcp/out", "PORT_DUPLICATE", 2, "80"),
    ("#SWM env A", "ENV_INVALID", 2, '"A=VALUE"'),
    ("#SWM env SWM_JOB_ID=x", "ENV_INVALID", 2, "reserved"),
    ("#SWM site-option high", "OPTION_INVALID", 2, "slurm.qos high"),
    ("#SWM output-files /etc/passwd", "PATH_INVALID", 2, "/etc/passwd"),
    ("#SWM output-files ../up", "PATH_INVALID", 2, ".."),
    ("#SWM input-files ../up", "PATH_INVALID", 2, ".."),
    ("#SWM input-files /a/x /b/x", "INPUT_COLLISION", 2, "x"),
    ("#SWM workdir data", "PATH_INVALID", 2, "absolute"),
]


@pytest.mark.parametrize(
    ("script", "reason", "line", "says"), DIRECTIVES, ids=[case[0] for case in DIRECTIVES]
)
def test_a_directive_that_cannot_be_is_refused_with_its_line(
    core: Core, script: str, reason: str, line: int, says: str
) -> None:
    request = submission(script)
    problem = refused(core.user().jobs.SubmitJob, request, INVALID, reason, says=says)
    assert problem.violations[0].field == f"script:{line}"
    assert str(line) in problem.message
    # A dry run says the same.
    check = job_pb2.CheckJobRequest(script=request.script)
    again = refused(core.user().jobs.CheckJob, check, INVALID, reason)
    assert again.message == problem.message


SCRIPTS = [
    (b"", "SCRIPT_EMPTY", 0),
    (b" \n\t\n", "SCRIPT_EMPTY", 0),
    (b"#!/bin/sh\n" + b"#" * MiB, "SCRIPT_TOO_LARGE", 0),
    (b"#!/bin/sh\necho a\n\0", "SCRIPT_NUL", 3),
    (b"#!/bin/sh\necho \xff\xfe\n", "SCRIPT_NOT_UTF8", 2),
    (b"\xef\xbb\xbf#!/bin/sh\ntrue\n", "SCRIPT_BYTE_ORDER_MARK", 1),
    (b"#!/bin/sh\r\ntrue\r\n", "SCRIPT_CRLF", 1),
]


@pytest.mark.parametrize(
    ("script", "reason", "line"), SCRIPTS, ids=[f"{case[1]}-{len(case[0])}" for case in SCRIPTS]
)
def test_what_is_no_script_is_refused(core: Core, script: bytes, reason: str, line: int) -> None:
    request = job_pb2.SubmitJobRequest(script=script, request_id=f"bad-{reason}")
    problem = refused(core.user().jobs.SubmitJob, request, INVALID, reason)
    assert problem.violations[0].field == f"script:{line}"
    # Nothing was stored under its id.
    request.script = b"#!/bin/sh\ntrue\n"
    core.user().jobs.SubmitJob(request, timeout=10)


def test_a_script_of_exactly_1_mib_is_taken(core: Core) -> None:
    script = "#!/bin/sh\nexit 0\n#".ljust(MiB, "x")
    assert len(script.encode()) == MiB
    core.user().submit(script)


def test_all_mistakes_are_told_at_once(core: Core) -> None:
    request = submission("#SWM cpus none\n#SWM nodez 2\ntrue\n#SWM ports x")
    problem = refused(core.user().jobs.SubmitJob, request, INVALID, "VALUE_INVALID")
    assert [violation.field for violation in problem.violations] == [
        "script:2", "script:3", "script:5"
    ]  # fmt: skip
    assert "2 more" in problem.message


def test_a_file_full_of_mistakes_is_answered_within_the_limits_of_a_status(core: Core) -> None:
    request = submission("\n".join(f"#SWM wrong{n} {'x' * 100}" for n in range(5_000)))
    problem = refused(core.user().jobs.SubmitJob, request, INVALID, "UNKNOWN_DIRECTIVE")
    assert len(problem.violations) > 3


def test_an_override_that_cannot_be_is_refused_as_such(core: Core) -> None:
    request = submission("true")
    request.overrides.env["SWM_X"] = "y"
    problem = refused(core.user().jobs.SubmitJob, request, INVALID, "ENV_INVALID", says="SWM_X")
    assert problem.violations[0].field.startswith("overrides.env")


# What no place can give.

PLACES = [
    ("#SWM site mars", NOT_FOUND, "SITE_NOT_FOUND", "lab"),
    ("#SWM flavor smal", NOT_FOUND, "FLAVOR_NOT_FOUND", "small"),
    ("#SWM site lab\n#SWM partition hots", NOT_FOUND, "PARTITION_NOT_FOUND", "hosts"),
    ("#SWM cpus 64", INVALID, "RESOURCES_UNSATISFIABLE", "64"),
    ("#SWM mem 900G", INVALID, "RESOURCES_UNSATISFIABLE", "900G"),
    ("#SWM gpus 8", INVALID, "RESOURCES_UNSATISFIABLE", "8"),
    ("#SWM site lab\n#SWM nodes 3", INVALID, "RESOURCES_UNSATISFIABLE", "3"),
    ("#SWM site lab\n#SWM cpus 5", INVALID, "RESOURCES_UNSATISFIABLE", "4"),
]


@pytest.mark.parametrize(
    ("script", "code", "reason", "says"), PLACES, ids=[case[0] for case in PLACES]
)
def test_what_no_place_can_give_is_refused_at_the_submit(
    core: Core, script: str, code: grpc.StatusCode, reason: str, says: str
) -> None:
    problem = refused(core.user().jobs.SubmitJob, submission(script), code, reason)
    told = re.sub(r"\s", "", problem.message)
    assert says in told, problem.message
    # A dry run tells it as an obstacle, and is no error.
    check = job_pb2.CheckJobRequest(script=f"#!/bin/sh\n{script}\n".encode())
    answer = core.user().jobs.CheckJob(check, timeout=10)
    assert reason in {obstacle.reason for obstacle in answer.obstacles}
    assert not answer.candidates


def test_a_site_in_the_request_must_be_there_too(core: Core) -> None:
    request = submission("true", site="mars")
    refused(core.user().jobs.SubmitJob, request, NOT_FOUND, "SITE_NOT_FOUND", says="mars")


# Request ids.


@pytest.mark.parametrize(
    ("request_id", "reason"),
    [
        ("", "FIELD_REQUIRED"),
        ("x" * 65, "FIELD_MALFORMED"),
        ("a b", "FIELD_MALFORMED"),
        ("é", "FIELD_MALFORMED"),
    ],
)
def test_a_request_id_must_be_one(core: Core, request_id: str, reason: str) -> None:
    request = job_pb2.SubmitJobRequest(script=b"#!/bin/sh\ntrue\n", request_id=request_id)
    refused(core.user().jobs.SubmitJob, request, INVALID, reason, says="request_id")


@pytest.mark.parametrize(
    ("job_id", "reason"),
    [("", "FIELD_REQUIRED"), ("UPPER", "FIELD_MALFORMED"), ("../etc", "FIELD_MALFORMED")],
)
def test_a_job_id_must_be_one(core: Core, job_id: str, reason: str) -> None:
    for method, request in (
        (core.user().jobs.GetJob, job_pb2.GetJobRequest(job_id=job_id)),
        (core.user().jobs.CancelJob, job_pb2.CancelJobRequest(job_id=job_id)),
        (core.user().jobs.DeleteJob, job_pb2.DeleteJobRequest(job_id=job_id)),
    ):
        refused(method, request, INVALID, reason, says="job")
