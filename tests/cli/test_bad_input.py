"""Bad input to a real core: the one line that a person sees, which says what to do.

What the wire has for each, code and reason, is in tests/system/test_bad_*.py.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from rpc_kit.bundle import Bundle
from rpc_kit.identity import Kind
from rpc_kit.tls import KeyPair, server_credentials
from swm_core.security.ca import CertificateAuthority, new_key
from tests.cli.conftest import environment
from tests.cli.terminal import Result, Swm
from tests.system.harness.core import Core, free_port, running, serves
from tests.system.harness.jobs import CANCELLED, RUNNING
from tests.system.harness.sites import node, static
from tests.system.harness.waiting import eventually

_SPOOL = 8 << 20
_PORT = 8_888
_DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    sites = {"lab": static(node("n1", cpus=2, memory="2G"))}
    with running(tmp_path_factory.mktemp("b"), sites, spool={"max_size": str(_SPOOL)}) as core:
        yield core
        serves(core)


def command(core: Core, folder: Path, keys: KeyPair | None = None, endpoint: str = "") -> Swm:
    """The command with a bundle: of bo, unless it has other keys."""
    keys = keys or core.user("bo").keys
    folder.mkdir()
    bundle = Bundle(
        endpoint=endpoint or str(core.endpoint),
        installation=core.installation,
        user="bo",
        ca_pem=keys.ca_pem.decode(),
        cert_pem=keys.cert_pem.decode(),
        key_pem=keys.key_pem.decode(),
    )
    bundle.write_new(folder / "client.toml")
    return Swm(environment(folder) | {"SWM_CLIENT": str(folder / "client.toml")}, folder)


@pytest.fixture
def swm(core: Core, tmp_path: Path) -> Swm:
    return command(core, tmp_path / "bo")


def submit(swm: Swm, script: bytes, *args: str) -> Result:
    (swm.cwd / "job.sh").write_bytes(script)
    return swm("submit", "job.sh", *args)


SCRIPTS = [
    (b"#SWM nodez 2", 'job.sh:2: nodez: there is no such directive; did you mean "nodes"?'),
    (
        b"#SWM ports 99999/tcp",
        "job.sh:2: ports: 99999 is no port number; the highest is 65535",
    ),
    (b"#SWM array 1-9", "job.sh:2: array: it is not served yet; submit one job for each element"),
    (
        b"#SWM input-files ../x",
        (
            'job.sh:2: input-files: "../x" would land outside the work folder because of its ".."; '
            "give the absolute path: it lands under its last name"
        ),
    ),
    (
        b"#SWM output-files /x",
        (
            'job.sh:2: output-files: "/x" is not relative; give a path below the work folder, as '
            '"results/a.dat"'
        ),
    ),
    (
        b"#SWM input-files /a/x /b/x",
        (
            'job.sh:2: input-files: "/a/x" and "/b/x" both land as "x" in the work folder; rename '
            "one, or give it relative to where you submit"
        ),
    ),
    (
        b"#SWM input-files none.txt",
        "swm: input none.txt: there is no such file or folder in {here}",
    ),
    (b"#SWM site mars", 'swm: there is no site "mars"; there is lab'),
    (b"#SWM flavor huge", 'swm: site lab has no flavor "huge"; it has none'),
    (
        b"#SWM cpus 64",
        "swm: 64 cpus a node are asked for, and site lab has at most 2 cpus; ask for less",
    ),
    (
        b"echo \0",
        "job.sh:2: byte 15 is NUL; a script is text: was a program meant?",
    ),
    (b"echo \xff", "job.sh:2: byte 15 (0xff) is not UTF-8; save the script as UTF-8"),
    (
        b"#" * (1 << 20),
        "swm: job.sh: a script has at most 1 MiB; bring the rest as an input file",
    ),
]


@pytest.mark.parametrize(
    ("script", "line"), SCRIPTS, ids=[repr(script[:24]) for script, _ in SCRIPTS]
)
def test_a_script_that_cannot_be_a_job(swm: Swm, script: bytes, line: str) -> None:
    result = submit(swm, b"#!/bin/sh\n" + script + b"\n")
    assert (result.code, result.out) == (1, "")
    assert result.err == line.replace("{here}", str(swm.cwd)) + "\n"


@pytest.mark.parametrize("script", [b"", b" \n\t\n"])
def test_an_empty_script(swm: Swm, script: bytes) -> None:
    result = submit(swm, script)
    assert (result.code, result.out) == (1, "")
    assert result.err == "job.sh: the script is empty; write the commands that the job runs\n"


def test_all_mistakes_are_lines(swm: Swm) -> None:
    result = submit(swm, b"#!/bin/sh\n#SWM cpus no\n#SWM nodez 2\n", "-i", "../x")
    assert result.code == 1
    places = [line.split(" ")[0] for line in result.err.splitlines()]
    assert sorted(places) == ["job.sh:2:", "job.sh:3:"]


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (
            ["-i", "../x"],
            (
                'swm: input-files: "../x" would land outside the work folder because of its ".."; '
                "give the absolute path: it lands under its last name"
            ),
        ),
        (["-o", "../x"], 'swm: output-files: "../x" goes up by ".."; name the place itself'),
        (
            ["--env", "SWM_X=1"],
            (
                'swm: env: "SWM_X" is reserved: the job is told of itself in SWM_ variables; '
                "choose another name"
            ),
        ),
        (["--site", "mars"], 'swm: there is no site "mars"; there is lab'),
    ],
)
def test_an_option_that_cannot_be(swm: Swm, args: list[str], line: str) -> None:
    result = submit(swm, b"#!/bin/sh\ntrue\n", *args)
    assert (result.code, result.out, result.err) == (1, "", line + "\n")


def test_two_jobs_that_ask_for_one_port_of_the_only_node(core: Core, swm: Swm) -> None:
    script = f"#!/bin/sh\n#SWM ports {_PORT}/tcp/in\nsleep 600\n"
    first = core.user("bo").submit(script)
    first.until(RUNNING)
    second = submit(swm, script.encode()).out.strip()

    def told() -> str:
        return str(json.loads(swm.ok("show", "--json", second)).get("text", ""))

    eventually(lambda: f"port {_PORT}" in told(), "it says what it waits for")
    assert f"port {_PORT}" in swm.ok("jobs", "--state", "queued")
    assert swm.ok("cancel", "--wait", second) == f"{second}  CANCELLED\n"
    first.cancel()
    first.until(CANCELLED)


def test_a_spool_that_is_full(swm: Swm) -> None:
    with (swm.cwd / "big").open("wb") as big:
        big.truncate(_SPOOL + 1)
    result = submit(swm, b"#!/bin/sh\ntrue\n", "-i", "big")
    assert (result.code, result.out) == (1, "")
    assert re.fullmatch(
        rf"swm: the spool holds \d+ of {_SPOOL} bytes; delete jobs, or raise spool.max_size\n",
        result.err,
    )


def test_a_job_of_somebody_else(core: Core, swm: Swm, tmp_path: Path) -> None:
    job_id = swm.ok("submit", "--wait", _true(swm)).strip()
    other = command(core, tmp_path / "cy", core.user("cy").keys)
    for args in (["show"], ["logs"], ["cancel"], ["wait"], ["fetch"], ["requeue"], ["delete"]):
        result = other(*args, job_id)
        assert (result.code, result.out) == (1, "")
        assert result.err == (
            f'swm: there is no job "{job_id}" of yours; `swm jobs --all` lists them\n'
        )
    assert swm("show", job_id).code == 0


def test_a_digest_of_somebody_else_is_sent_like_any_other(
    core: Core, swm: Swm, tmp_path: Path
) -> None:
    other = command(core, tmp_path / "cy", core.user("cy").keys)
    for each in (swm, other):
        (each.cwd / "data").write_bytes(b"the same content of two users")
        assert each("submit", "--wait", _true(each), "-i", "data").code == 0


def _true(swm: Swm) -> str:
    (swm.cwd / "true.sh").write_text("#!/bin/sh\ntrue\n")
    return "true.sh"


# Who may not call, and whom not to talk to.


def test_a_core_that_is_not_running(core: Core, tmp_path: Path) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    result = command(core, tmp_path / "x", endpoint=endpoint)("jobs")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"swm: nothing listens at {endpoint}: the core is not running; start it with `swm up`\n"
    )


def test_an_expired_certificate(core: Core, tmp_path: Path) -> None:
    then = datetime.datetime.now(datetime.UTC) - 9 * _DAY
    keys = core.keys("bo", valid_from=then, lifetime=_DAY)
    refused(command(core, tmp_path / "x", keys), "swm: our own certificate expired on ")


def test_a_certificate_of_a_wrong_ca(core: Core, tmp_path: Path) -> None:
    issued = CertificateAuthority.create(core.installation, new_key()).issue(Kind.USER, "bo")
    keys = KeyPair(core.keys("bo").ca_pem, issued.cert_pem, issued.key_pem)
    refused(command(core, tmp_path / "x", keys), "refused our certificate")


def test_a_core_of_a_wrong_ca(core: Core, tmp_path: Path) -> None:
    other = CertificateAuthority.create(core.installation, new_key())
    ours = core.keys("bo")
    keys = KeyPair(other.cert_pem, ours.cert_pem, ours.key_pem)
    refused(command(core, tmp_path / "x", keys), "not signed by the CA")


def test_a_certificate_of_nobody(core: Core, tmp_path: Path) -> None:
    refused(command(core, tmp_path / "x", core.keys("nobody")), "nobody")


def test_a_users_certificate_used_as_a_server(core: Core, tmp_path: Path) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(core.keys("bo")))
    server.start()
    try:
        refused(command(core, tmp_path / "x", endpoint=f"127.0.0.1:{port}"), "may not serve")
    finally:
        server.stop(0)


def refused(swm: Swm, says: str) -> None:
    result = swm("jobs")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("swm: ")
    assert result.err.count("\n") == 1
    assert says in result.err
