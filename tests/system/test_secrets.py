"""What only a job's own processes may see, and what they read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from skyport.terminal.v1 import job_pb2
from tests.system.harness.core import Core, running
from tests.system.harness.files import bring
from tests.system.harness.jobs import FAILED, SUCCEEDED
from tests.system.harness.latch import Latch
from tests.system.harness.refusals import refused
from tests.system.harness.sites import node, queue, static
from tests.system.harness.users import submission
from tests.system.harness.waiting import eventually

SECRET = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    sites = {"lab": static(node("n1")), "batch": queue()}
    log = {"level": "debug", "format": "text"}
    with running(tmp_path_factory.mktemp("secrets"), sites, log=log) as core:
        yield core


def files_with(folder: Path, text: str) -> list[str]:
    """The files below a folder that have `text` in them."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and text.encode() in path.read_bytes()
    ]


def command_lines() -> bytes:
    """Those of all processes of this machine."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:
            continue
    return b"\n".join(lines)


@pytest.mark.parametrize("site", ["lab", "batch"])
def test_a_secret_reaches_the_job_and_nothing_else(
    core: Core, latch: Callable[[], Latch], site: str
) -> None:
    hold = latch()
    # It tells that it has the secret without telling the secret.
    job = core.user().submit(
        f'printf %s "$TOKEN" | sha256sum; {hold.wait}',
        site=site,
        secret_env={"TOKEN": SECRET},
        registry_logins=[
            job_pb2.RegistryLogin(registry="r.example:5000", username="u", password=SECRET)
        ],
    )
    job.written(b"\n")
    assert SECRET.encode() not in command_lines()
    assert not files_with(core.site(site).folder, SECRET)
    assert SECRET not in str(job.get())
    assert SECRET not in core.log()
    hold.release()
    job.until(SUCCEEDED)
    assert job.output() == f"{hashlib.sha256(SECRET.encode()).hexdigest()}  -\n".encode()
    core.site(site).cleared(job.job_id)
    # After the end not even the store has it, nor its log.
    eventually(lambda: not files_with(core.home.path, SECRET), "the core has forgotten it")


def test_a_secret_may_hold_anything_that_a_variable_may(core: Core) -> None:
    odd = "two\nlines 'quoted' \"twice\" $HOME `id` \\ end \u00e9\n"
    job = core.user().submit('printf %s "$ODD"', secret_env={"ODD": odd})
    job.until(SUCCEEDED)
    assert job.output().decode() == odd


def test_a_secret_wins_over_a_variable_of_the_script(core: Core) -> None:
    job = core.user().submit('#SWM env A=plain\necho "$A"', secret_env={"A": "secret"})
    job.until(SUCCEEDED)
    assert job.output() == b"secret\n"


def test_a_requeue_needs_the_secrets_again(core: Core) -> None:
    job = core.user().submit('test "$KEY" = two', secret_env={"KEY": "one"})
    job.until(FAILED)
    problem = refused(
        core.user().jobs.RequeueJob,
        job_pb2.RequeueJobRequest(job_id=job.job_id),
        grpc.StatusCode.FAILED_PRECONDITION,
        "SECRETS_REQUIRED",
        says="KEY",
    )
    assert problem.metadata["names"] == "KEY"
    job.requeue({"KEY": "two"})
    job.until(SUCCEEDED)


@pytest.mark.parametrize("name", ["SWM_JOB_ID", "1A", "A B", "", "A=B"])
def test_a_secret_s_name_must_be_one_of_a_variable(core: Core, name: str) -> None:
    request = submission("true")
    request.secret_env[name] = SECRET
    problem = refused(
        core.user().jobs.SubmitJob,
        request,
        grpc.StatusCode.INVALID_ARGUMENT,
        "FIELD_MALFORMED",
    )
    assert SECRET not in str(problem)


def test_a_registry_login_must_be_whole(core: Core) -> None:
    request = submission("true")
    request.registry_logins.add(registry="r.example", username="u")
    refused(core.user().jobs.SubmitJob, request, grpc.StatusCode.INVALID_ARGUMENT, "FIELD_REQUIRED")


def test_standard_input_is_the_input_file_that_the_script_names(core: Core) -> None:
    job = core.user().submit(
        "#SWM input-files data/numbers.txt\n#SWM stdin data/numbers.txt\nsort -n",
        inputs={"data/numbers.txt": b"3\n1\n2\n"},
    )
    job.until(SUCCEEDED)
    assert job.output() == b"1\n2\n3\n"


def test_without_stdin_there_is_nothing_to_read(core: Core) -> None:
    job = core.user().submit("wc -c")
    job.until(SUCCEEDED)
    assert job.output().strip() == b"0"


def test_standard_input_that_is_no_input_file_is_refused(core: Core) -> None:
    request = submission("#SWM input-files a.txt\n#SWM stdin other.txt\ncat")
    request.manifest_sha256 = bring(core.user(), {"a.txt": b"a"})
    refused(
        core.user().jobs.SubmitJob,
        request,
        grpc.StatusCode.FAILED_PRECONDITION,
        "INPUTS_MISSING",
        says="other.txt",
    )
