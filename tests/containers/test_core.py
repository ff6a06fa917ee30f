"""Jobs in containers through the core, whatever is killed meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.containers.conftest import ROOT, USER, Lab
from tests.ssh_gate.harness import SshSite
from tests.system.harness.core import Core, running_sites
from tests.system.harness.files import File
from tests.system.harness.jobs import FAILED, RUNNING, STARTING, SUCCEEDED
from tests.system.harness.tunnels import Tunnel

SITE = "lab"


@pytest.fixture(scope="module")
def core(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    folder = tmp_path_factory.mktemp("core")
    volumes = {"data": "/srv/data:ro"}
    lab.host.run("mkdir -p /srv/data && echo shared >/srv/data/file")
    site = SshSite.make(SITE, folder / SITE, lab.config(volumes=volumes, **lab.login()))
    with running_sites(folder, [site]) as core:
        yield core


def test_a_job_in_a_container_outlives_its_core_and_its_gate(lab: Lab, core: Core) -> None:
    image = lab.registry.push(lab.engine, lab.busybox, "a/b/tool:2")
    script = f"""#!/bin/sh
#SWM container-image {image}
#SWM storage data
#SWM input-files in.txt
#SWM output-files out.txt
#SWM ports 0/tcp/in WEB
tr a-z A-Z <in.txt >out.txt
cat $SWM_STORAGE_DATA/file
echo no >$SWM_STORAGE_DATA/file || echo read-only
echo up
nc -ll -p $SWM_PORT_WEB -e tr a-z A-Z &
until [ -e go ]; do sleep 0.1; done
exit 4
"""
    user = core.user()
    job = user.submit(script, inputs={"in.txt": b"hello\n"}, site=SITE)
    job.written(b"up\n")
    core.kill()
    core.start()
    core.wait_ready(SITE)
    tunnel = Tunnel.connect(user, job.job_id, port_name="WEB")
    tunnel.send(b"abc")
    tunnel.end()
    assert tunnel.rest() == b"ABC"
    tunnel.close()
    core.kill_gate(SITE)
    lab.host.run(f"cd {ROOT}/jobs/lab/*/{job.job_id}.1/work && touch go", user=USER)
    ended = job.until(FAILED, within_s=60)
    assert ended.exit_code == 4
    assert job.output() == b"shared\nread-only\nup\n"
    found = job.outputs()["out.txt"]
    assert isinstance(found, File)
    assert found.data == b"HELLO\n"
    assert ended.attempts[-1].image_digest == lab.registry.digest(image)
    assert not [name for name in lab.engine.containers() if name.startswith("swm-")]


def test_an_image_that_cannot_be_had_fails_the_job_in_its_registrys_words(
    lab: Lab, core: Core
) -> None:
    image = lab.registry.image("no/such:1")
    job = core.user().submit(f"#SWM container-image {image}\ntrue", site=SITE)
    ended = job.until(FAILED)
    assert ended.failure.reason == "IMAGE_UNAVAILABLE"
    assert f"has no image {image}: manifest" in ended.failure.message
    assert RUNNING not in job.states
    assert STARTING in job.states


def test_a_job_is_done_without_a_trace(lab: Lab, core: Core) -> None:
    job = core.user().submit(f"#SWM container-image {lab.busybox}\necho out", site=SITE)
    job.until(SUCCEEDED)
    assert job.output() == b"out\n"
    core.site(SITE)
    folder = f"{ROOT}/jobs/lab/*/{job.job_id}.1"
    lab.host.run(
        f"for i in $(seq 100); do ls -d {folder} >/dev/null 2>&1 || exit 0; sleep 0.1; done; exit 1"
    )
