"""Secrets at Azure: those of jobs, and the gate's own: keys, tokens, passes for storage."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skyport.terminal.v1 import job_pb2
from tests.azure_gate.whole import AGAIN_S, Cloud, running_cloud
from tests.security import sentinel
from tests.security.sentinel import Secret, Sentinel, Trace
from tests.system.harness.jobs import (
    CANCELLED,
    PROVISIONING,
    RUNNING,
    STARTING,
    SUCCEEDED,
    JobHandle,
)
from tests.system.harness.waiting import eventually
from tests.testbed.azure_arm import faults
from tests.testbed.azure_arm.faults import TOKEN, VM

pytestmark = pytest.mark.timeout(300)

ACCOUNT_KEY = base64.b64encode(secrets.token_bytes(64)).decode()
OTHER = "setpriv --reuid 65534 --regid 65534 --clear-groups --"
"""On a machine there are the system's accounts besides ours."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """All of it logs all it can."""
    folder = tmp_path_factory.mktemp("azure")
    key_file = tmp_path_factory.mktemp("storage") / "key"
    key_file.write_text(ACCOUNT_KEY)
    key_file.chmod(0o600)
    storage = {"data": {"account": "mydata", "container": "set", "key_file": str(key_file)}}
    sizes = ["Standard_D2s_v3", "Standard_D4s_v3"]
    with running_cloud(folder, log_level="debug", vm_sizes=sizes, storage=storage) as cloud:
        yield cloud


@pytest.fixture
def cloud(running: Cloud) -> Iterator[Cloud]:
    """It, with nothing in it before and afterwards."""
    yield running
    running.site.faults()
    running.start()
    running.core.end_all()
    running.cleared()


@pytest.fixture(scope="module")
def look(running: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinel]:
    """Sees what core, gate and machines start from now on, and all logs."""
    pids = [running.core.pid, running.gate.pid, running.arm.ready.pid]
    trace = Trace(tmp_path_factory.mktemp("trace") / "programs", pids)
    yield Sentinel(
        running.core,
        trace,
        lambda: [
            *running.core.home.log.iterdir(),
            running.site.folder / "gate.log",
            running.arm.root / "stand-in.log",
            *(path for place in disks(running) for path in place.glob("*/sshd.log")),
        ],
    )
    trace.close()


def folder(cloud: Cloud) -> Path:
    """That of core, gate and stand-in."""
    return cloud.core.home.path.parent


def disks(cloud: Cloud) -> list[Path]:
    """The folders with what machines have on their disks."""
    prefixes = {name.partition("-")[0] for name in cloud.arm.books().processes}
    return [path for prefix in prefixes for path in Path("/var/tmp").glob(f"{prefix}-*")]


def submit(cloud: Cloud, secret: Secret, go: str) -> JobHandle:
    login = job_pb2.RegistryLogin(registry="r.example", username="u", password=secret.password)
    return cloud.submit(
        f'#SWM storage data\nprintf %s "$TOKEN" | sha256sum\n{cloud.wait(go)}',
        secret_env={"TOKEN": secret.token},
        registry_logins=[login],
    )


def digest(secret: Secret) -> bytes:
    return f"{hashlib.sha256(secret.token.encode()).hexdigest()}  -\n".encode()


def told(cloud: Cloud) -> tuple[list[str], list[str]]:
    """What Azure was told, and apart from it what cloud-init gets, without the pass for storage."""
    bodies, customs = [], []
    for asked in cloud.arm.asked():
        if asked.kind == TOKEN:
            continue
        body: Any = json.loads(asked.body)
        if asked.kind == VM and asked.method == "PUT":
            custom = body["properties"]["osProfile"].pop("customData")
            customs.append(base64.b64decode(custom).decode())
        bodies.append(f"{asked.path} {json.dumps(body)}")
    # What it answers, and says of itself.
    arm = cloud.arm
    bodies += [repr(arm.books()), repr(arm.calls()), repr(arm.boots()), arm.log_text()]
    return bodies, customs


def nowhere_now(look: Sentinel, cloud: Cloud, job: JobHandle, secret: Secret) -> int:
    """Look everywhere; returns how many machines of the job were looked at."""
    look.unseen(job, *secret.texts)
    needles = [needle for text in secret.texts for needle in sentinel.forms(text)]
    for place in (cloud.site.folder, cloud.arm.root, cloud.folder, *disks(cloud)):
        assert not sentinel.files_with(place, *needles)
    assert not sentinel.open_to_others(cloud.site.state)
    bodies, customs = told(cloud)
    assert bodies
    for text in (*bodies, *customs):
        assert not [needle for needle in needles if needle in text.encode()]
    if job.get().state not in (STARTING, RUNNING):
        return 0  # they are on their way up, or away
    machines = cloud.site.machines(job.get().partition_id)
    for machine in machines:
        line = shlex.quote(sentinel.sight("job"))
        code, seen = cloud.arm.run(machine, f"{OTHER} sh -c {line}")
        assert code == 0, seen
        sentinel.hidden(seen, *secret.texts)
    return len(machines)


def nowhere_any_more(cloud: Cloud, secret: Secret) -> None:
    sentinel.forgotten((folder(cloud), cloud.folder, *disks(cloud)), *secret.texts)


def test_a_secret_is_seen_by_its_job_and_nobody_else(
    look: Sentinel, cloud: Cloud, secret: Secret
) -> None:
    # What fails is told of more than what does not.
    cloud.arm.faults.add(faults.failed_operation("AllocationFailed", "PUT", VM, times=1))
    go = secrets.token_hex(4)
    job = submit(cloud, secret, go)
    job.until(PROVISIONING)
    nowhere_now(look, cloud, job, secret)
    job.until(RUNNING, within_s=AGAIN_S)
    job.written(digest(secret), within_s=AGAIN_S)
    assert nowhere_now(look, cloud, job, secret)
    cloud.file(go).touch()
    job.until(SUCCEEDED, within_s=AGAIN_S)
    assert len(job.get().attempts) == 2
    # What was started there was seen: else a secret in arguments could not have been.
    assert any(job.job_id in environment for _, environment in look.trace.started())
    nowhere_now(look, cloud, job, secret)
    nowhere_any_more(cloud, secret)


@pytest.mark.parametrize("is_wanted", [True, False])
def test_a_gate_that_dies_before_a_start_leaves_none(
    look: Sentinel, cloud: Cloud, secret: Secret, is_wanted: bool
) -> None:
    go = secrets.token_hex(4)
    with cloud.held("JobService/StartJob", delay_s=60.0) as held:
        job = submit(cloud, secret, go)
        eventually(held.exists, "the gate has it", within_s=AGAIN_S)
        nowhere_now(look, cloud, job, secret)
        cloud.gate.kill()
    nowhere_now(look, cloud, job, secret)
    if not is_wanted:
        job.cancel()
    cloud.start()
    cloud.file(go).touch()
    job.until(SUCCEEDED if is_wanted else CANCELLED, within_s=AGAIN_S)
    nowhere_now(look, cloud, job, secret)
    nowhere_any_more(cloud, secret)


def test_keys_tokens_and_passes_are_where_they_have_to_be(
    look: Sentinel, cloud: Cloud, secret: Secret
) -> None:
    go = secrets.token_hex(4)
    job = submit(cloud, secret, go)
    job.written(digest(secret), within_s=AGAIN_S)
    # A login that is refused is told of, and has been sent.
    cloud.arm.forget_certificates()
    cloud.arm.revoke_tokens()
    principal = Path(cloud.arm.ready.principal)
    asked = len(cloud.arm.calls())
    cloud.gate.kill()
    cloud.gate.start()
    eventually(
        lambda: any(it.kind == TOKEN and it.status == 401 for it in cloud.arm.calls(asked)),
        "a login is refused",
        within_s=AGAIN_S,
    )
    cloud.arm.register(principal.read_text())
    cloud.core.wait_ready(within_s=AGAIN_S)

    places = [folder(cloud), cloud.folder, *disks(cloud)]
    client = cloud.site.state / "id_ed25519"
    for key in (principal, client):
        look.kept(key, *places)
    bodies, customs = told(cloud)
    assert customs
    # What machines get is in no other place: a host key, and a pass that ends soon.
    hosts = {sentinel.private_part(_host_key(custom)) for custom in customs}
    passes = {found for custom in customs for found in re.findall(r"sig=([^\\&\"]+)", custom)}
    assert passes
    tokens = cloud.arm.tokens()
    asked_for = [it.body for it in cloud.arm.asked() if it.kind == TOKEN]
    proofs = [found for it in asked_for for found in re.findall("client_assertion=([^&]+)", it)]
    assert tokens
    assert len(proofs) > 1
    own = [ACCOUNT_KEY, *tokens, *proofs]
    look.unsaid(*own, *passes, *hosts)
    needles = [needle for text in (*own, *passes) for needle in sentinel.forms(text)]
    for place in places:
        assert not sentinel.files_with(place, *needles)
    own += [sentinel.private_part(key.read_text()) for key in (principal, client)]
    for text in bodies:
        assert not [it for it in (*own, *passes, *hosts) if it in text]
    for custom in customs:
        assert not [it for it in own if it in custom.replace("\\n", "")]
    # A machine has its host key, which is root's alone.
    for place in (folder(cloud), cloud.folder):
        assert not sentinel.with_lines(place, *hosts)
    there = [path for place in disks(cloud) for path in sentinel.with_lines(place, *hosts)]
    assert {(path.name, path.stat().st_mode & 0o077, path.stat().st_uid) for path in there} == {
        ("host_key", 0, 0)
    }
    cloud.file(go).touch()
    job.until(SUCCEEDED, within_s=AGAIN_S)


def _host_key(custom: str) -> str:
    """The private key in what cloud-init gets."""
    (found,) = re.findall(r"ed25519_private: (\".*\")", custom)
    return str(json.loads(found))
