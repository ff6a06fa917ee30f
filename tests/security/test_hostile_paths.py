"""What a user writes into any field is a name or a text, and never part of a command.

The names are those that shells, tar, xargs, find and awk are known to stumble over. No script makes
a file called `owned`: where there is one, something of a user's was run as a command.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from skyport.terminal.v1 import job_pb2
from tests.ssh_gate.harness import Cluster, SshSite
from tests.system.harness.core import Core, running_sites
from tests.system.harness.files import File, Folder, Link
from tests.system.harness.jobs import FAILED, SUCCEEDED, JobHandle
from tests.system.harness.refusals import problem_of
from tests.system.harness.sites import Site, node, static
from tests.system.harness.users import submission

SITES = ["pretend", "here", "lab"]

TEXTS = [
    "$(touch owned1)", "`touch owned2`", "; touch owned3 ;", "&& touch owned4", "| touch owned5",
    "'; touch owned6; '", '"; touch owned7; "', "${IFS}touch${IFS}owned8", "-rf", "--", "-",
    "--checkpoint-action=exec=touch owned9", "--to-command=touch owned10",
    "--use-compress-program=x",
    "\\", "\\0134", "\\n", "%s%n%b", "~", "~root", "*", "?[a-z]*", "{a,b}", "!!", "#", " lead",
    "trail ", "a  b", "=", "a=b", ".hidden", "...", "é\u0301", "\u202eeman", "\U0001f980", "//",
    "a//b",
    "// -> '", "con", "nul", "CLOCK$", "%2e%2e%2f", "..;", "a" * 200,
]  # fmt: skip
"""Without control characters, as a script may have them."""

LINES = [
    "new\nline",
    "\n",
    "tab\there",
    "cr\rhere",
    "\x1b[2J",
    "\x01",
    "\x7f",
    "a\n.\n=key x",
    "x\n",
]
"""Names of files may have more."""

FILE_NAMES = [text for text in [*TEXTS, *LINES] if "/" not in text]


_OWNED = re.compile(r"owned[0-9]+")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paths")


@pytest.fixture(scope="module")
def core(folder: Path) -> Iterator[Core]:
    with Cluster(folder / "hosts", "n1").running() as cluster:
        sites = [
            Site.make("pretend", folder / "pretend", static(node("n1", cpus=8))),
            SshSite.make("here", folder / "here", {"local": True, "shared_account": True}),
            SshSite.make("lab", folder / "lab", cluster.config()),
        ]
        with running_sites(folder, sites, log={"level": "debug", "format": "text"}) as core:
            yield core


@pytest.fixture(autouse=True)
def _nothing_is_run(core: Core, folder: Path) -> Iterator[None]:
    yield
    places = [folder, Path.cwd(), Path.home(), Path("/"), Path("/tmp")]
    found = [path for place in places[1:] for path in place.glob("owned*")]
    for above, _, names in os.walk(folder):
        found += [Path(above, name) for name in names if _OWNED.fullmatch(name)]
    assert not found, "something of a user's was run"


def tree() -> dict[str, bytes | File | Folder | Link]:
    """All names, as files, folders, links, and what lies below."""
    made: dict[str, bytes | File | Folder | Link] = {}
    for number, name in enumerate(FILE_NAMES):
        made[f"files/{name}"] = File(f"{number}\n".encode(), 0o640)
        made[f"folders/{name}/{name}"] = File(f"{number} below\n".encode(), 0o755)
        made[f"links/{name}"] = Link(f"../files/{name}")
    return made


@pytest.mark.parametrize("site", SITES)
def test_files_of_any_name_go_there_and_come_back(core: Core, site: str) -> None:
    sent = tree()
    script = "#SWM output files folders links\nfind . -type f | wc -c >&2"
    job = core.user().submit(script, inputs=sent, site=site)
    ended = job.until(SUCCEEDED, within_s=120)
    assert ended.text == "done"
    assert job.outputs() == sent
    core.site(site).cleared(job.job_id)


@pytest.mark.parametrize("site", SITES)
def test_texts_of_a_script_reach_the_job_as_they_are(core: Core, site: str) -> None:
    variables = {f"V{number}": text for number, text in enumerate([*TEXTS, *LINES])}
    request = submission(
        "#!/usr/bin/env python3\n"
        "#SWM name $(touch owned20) '; touch owned21; `touch owned22`\n"
        '#SWM comment "; touch owned23 $(touch owned24)\n'
        "#SWM stdout $(touch owned25)\n"
        '#SWM site-option slurm.qos "$(touch owned26)"\n'
        "#SWM ports 0/tcp/in A_owned\n"
        "import json, os\nprint(json.dumps(dict(os.environ)))\n",
        site=site,
    )
    request.overrides.env.update(variables)
    request.secret_env.update({f"S{number}": text for number, text in enumerate(TEXTS)})
    user = core.user()
    answer = user.jobs.SubmitJob(request, timeout=30)
    job = JobHandle(user, answer.job.job_id, answer.watch_token)
    job.until(SUCCEEDED, within_s=60)
    seen = json.loads(job.output())
    assert {name: seen.get(name) for name in variables} == variables
    assert {f"S{number}": seen[f"S{number}"] for number in range(len(TEXTS))} == dict(
        request.secret_env
    )
    assert seen["SWM_JOB_NAME"] == "$(touch owned20) '; touch owned21; `touch owned22`"


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", ["$(touch owned30)", "-'; touch owned31; '", "a  b\\0134 %b é *"])
def test_a_named_work_folder_is_a_name(core: Core, site: str, name: str) -> None:
    above = Path("/tmp/swm-test-paths")
    shutil.rmtree(above, ignore_errors=True)
    work = above / name
    try:
        job = core.user().submit(
            f"#SWM workdir {work}\n#SWM stdin in.txt\n#SWM output out\npwd >out; cat",
            inputs={"in.txt": b"in"},
            site=site,
        )
        job.until(SUCCEEDED, within_s=60)
        assert job.outputs() == {"out": File(f"{work}\n".encode())}
        assert job.output() == b"in"
    finally:
        shutil.rmtree(above, ignore_errors=True)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(
    "work", ["/etc/swm", "/tmp/../etc/swm", "/", "/tmp-not", "/proc/self/cwd/x"]
)
def test_a_work_folder_elsewhere_is_refused(core: Core, site: str, work: str) -> None:
    if job := submitted(core, submission(f"#SWM workdir {work}\ntrue", site=site)):
        assert job.until(FAILED, within_s=60).failure.reason
    assert not Path("/etc/swm").exists()


def submitted(core: Core, request: job_pb2.SubmitJobRequest) -> JobHandle | None:
    """The job of a request; None where the core refuses it for what is in it."""
    user = core.user()
    try:
        answer = user.jobs.SubmitJob(request, timeout=30)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
            raise
        return None
    return JobHandle(user, answer.job.job_id, answer.watch_token)


def test_a_work_folder_behind_a_link_that_leads_out_is_refused(core: Core) -> None:
    link = Path("/tmp/swm-test-link")
    link.unlink(missing_ok=True)
    link.symlink_to("/var/tmp")
    try:
        for site in SITES:
            job = core.user().submit(f"#SWM workdir {link}/x\ntouch owned40", site=site)
            job.until(FAILED, within_s=60)
    finally:
        link.unlink()
    assert not Path("/var/tmp/x").exists()


PATTERNS = [
    "../*", "/etc/passwd", "a/../../*", "$(touch owned50)", "`touch owned51`",
    "'; touch owned52; '",
    "-exec touch owned53 ;", "-delete", "-fprint owned54", "[", "[!", "[]", "[a", "[[:alpha:]]",
    "\\", "\\*", "**/**/**/**/x", "*" * 300, "a" * 4_096, "%b", "~/*",
]  # fmt: skip


@pytest.mark.parametrize("site", SITES)
def test_an_output_pattern_is_a_pattern_of_what_the_job_has_left(core: Core, site: str) -> None:
    script = submission("").script
    taken = []
    for pattern in PATTERNS:
        overrides = job_pb2.JobOverrides(output_files=[pattern])
        check = job_pb2.CheckJobRequest(script=script, overrides=overrides)
        try:
            core.user().jobs.CheckJob(check, timeout=30)
            taken.append(pattern)
        except grpc.RpcError:
            continue
    assert not [each for each in taken if each.startswith(("/", "..", "a/.."))]
    request = submission("echo x >kept", site=site)
    request.overrides.output_files.extend(["kept", *taken])
    job = submitted(core, request)
    assert job is not None
    job.end(within_s=60)
    assert set(job.outputs()) <= {"kept"}


@pytest.mark.parametrize("site", SITES)
def test_what_a_job_links_to_outside_is_not_brought(core: Core, site: str, folder: Path) -> None:
    outside = folder / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "secret").write_text("outside")
    job = core.user().submit(
        "#SWM output *\n"
        f"ln -s {outside} folder; ln -s {outside}/secret file; ln -s .. up; ln -s good in\n"
        "echo good >good; mkdir d; ln -s ../../.. d/up; ln -s ../good d/in",
        site=site,
    )
    job.until(SUCCEEDED, within_s=60)
    found = job.outputs()
    assert found == {"good": File(b"good\n"), "in": Link("good"), "d/in": Link("../good")}


DEEP = "/".join(["d"] * 300)


@pytest.mark.parametrize("site", SITES)
def test_a_deep_tree_goes_there_or_is_refused_in_words(core: Core, site: str) -> None:
    script = "#SWM output *\ntrue"
    job = core.user().submit(script, inputs={f"{DEEP}/f": b"deep"}, site=site)
    ended = job.end(within_s=120)
    if ended.state == SUCCEEDED:
        assert job.outputs() == {f"{DEEP}/f": File(b"deep")}
    core.site(site).cleared(job.job_id)


def test_a_node_a_partition_or_a_site_is_a_name(core: Core) -> None:
    for directive in ("site", "partition", "flavor", "account", "container-image", "cloud-image"):
        for text in ("../..", "$(touch${IFS}owned60)", "-x", "a;b", "'", "\x1b[2J"):
            request = submission(f"#SWM {directive} {text}\ntrue")
            user = core.user()
            if directive == "account" and text not in ("-x", "\x1b[2J"):
                continue  # any word is one
            problem = problem_of(user.jobs.SubmitJob, request)
            assert problem.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
            assert "\x1b" not in problem.message


def test_ids_of_others_form_are_no_job_s(core: Core) -> None:
    user = core.user()
    for job_id in ("../../..", "'; DROP TABLE jobs; --", "%", "_" * 13, "", "\0", "x" * 100_000):
        request = job_pb2.GetJobRequest(job_id=job_id)
        problem = problem_of(user.jobs.GetJob, request)
        assert problem.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
