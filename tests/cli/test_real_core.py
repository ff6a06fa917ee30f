"""The command with a real core and a real gate (that pretends a site on this machine)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rpc_kit.bundle import Bundle
from terminals.cli.home import Process, core_pid
from tests.cli.conftest import environment
from tests.cli.terminal import Swm
from tests.cli.test_forward import ask
from tests.cli.test_submit import script
from tests.system.harness.core import free_port
from tests.system.harness.sites import processes_marked
from tests.system.harness.waiting import eventually

_GATE = """\
state_dir = "site"
[partitions.local]
kind = "static"
[[partitions.local.nodes]]
name = "node1"
cpus = 4
memory = "2G"
"""
_NEVER_CANCELS = """
[[faults]]
kind = "never"
method = "CancelJob"
"""
_CLOUD = """\
state_dir = "site"
[dynamic]
[[dynamic.flavors]]
name = "small"
cpus = 2
memory = "4G"
price = "1.75"
"""
Home = Callable[..., Swm]


@pytest.fixture(scope="module")
def homes() -> Iterator[Home]:
    """Makes homes with a site; whatever runs there is ended afterwards."""
    made: list[Swm] = []

    def make(folder: Path, gate: str = _GATE, site: str = "") -> Swm:
        folder.mkdir(exist_ok=True)
        home = folder / "h"
        here = folder / "here"
        here.mkdir()
        swm = Swm(environment(home), here)
        made.append(swm)
        swm.ok("init")
        _give_port(home)
        (home / "gate.toml").write_text(gate)
        with (home / "swm.toml").open("a") as config:
            config.write("\n[sites.demo]\n")
            config.write(f'command = ["swm-fake-gate", "--config", "{home}/gate.toml"]\n{site}')
        return swm

    yield make
    for swm in made:
        swm("down", "--cancel", "--timeout", "20")
        swm.close()
        pid = core_pid(home_of(swm))
        # Jobs too: there is a site that never cancels.
        marked = processes_marked(Bundle.read(home_of(swm) / "client.toml").installation)
        for each in [*marked, *([] if pid is None else [pid])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)


def home_of(swm: Swm) -> Path:
    return Path(swm.environment["SWM_HOME"])


def _give_port(home: Path) -> None:
    """A port of its own: homes that are made at the same moment would get the same."""
    endpoint = f"127.0.0.1:{free_port()}"
    for name, key in (("swm.toml", "listen"), ("client.toml", "endpoint")):
        text = (home / name).read_text()
        (home / name).write_text(re.sub(rf"(?m)^{key} = .*$", f'{key} = "{endpoint}"', text))


@pytest.fixture(scope="module")
def up(homes: Home, tmp_path_factory: pytest.TempPathFactory) -> Swm:
    """A core that is up; tests that end it bring it up again."""
    # Short: the sockets of gates lie below it.
    swm = homes(tmp_path_factory.mktemp("c"))
    swm.ok("up")
    return swm


@pytest.fixture
def new(homes: Home, tmp_path: Path) -> Swm:
    """A home with a site, and no core yet."""
    return homes(tmp_path / "r")


def killed(swm: Swm) -> None:
    """Kill the core where it stands."""
    pid = core_pid(home_of(swm))
    assert pid is not None
    with Process.opened(pid) as process:
        os.kill(pid, signal.SIGKILL)
        assert process.wait(20)


# Up and down.


def test_up_makes_a_home_and_down_ends_the_core(tmp_path: Path) -> None:
    home = tmp_path / "h"
    swm = Swm(environment(home), tmp_path)
    assert swm("status").code == 1
    try:
        out = swm.ok("up")
        assert re.match(r"core up at 127\.0\.0\.1:\d+ \(process \d+\)\n", out)
        assert f"none; add one to {home}/swm.toml, for this machine the [sites.here] at" in out
        assert (home / "client.toml").stat().st_mode & 0o077 == 0
        assert (home / "log/core.log").stat().st_mode & 0o077 == 0
        endpoint = Bundle.read(home / "client.toml").endpoint
        assert f"core    up at {endpoint}" in swm.ok("status")
    finally:
        out = swm.ok("down")
    assert re.fullmatch(r"stopped the core \(process \d+\)\n", out)
    assert swm("status").code == 1
    assert swm.ok("down") == "the core is not running\n"
    result = swm("down", "--cancel")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "swm: the core is not running, so no job was cancelled; run `swm up`, then this again\n"
    )


def test_up_says_how_the_sites_do_and_a_second_one_that_it_is_up(up: Swm) -> None:
    out = up.ok("up")
    assert out.startswith("core up already at 127.0.0.1:")
    assert re.search(r"^demo +READY +fake", out, re.MULTILINE)


def test_two_ups_at_once_make_one_core(new: Swm) -> None:
    first, second = new.popen("up"), new.popen("up")
    outs = [process.communicate(timeout=90) for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), outs
    pids = {found[1] for out, _ in outs for found in re.finditer(rb"process (\d+)", out)}
    assert len(pids) == 1


def test_up_waits_for_a_core_that_is_on_its_way_up_or_down(new: Swm) -> None:
    home = home_of(new)
    (home / "run").mkdir(mode=0o700, exist_ok=True)
    with (home / "run" / "swm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = new("up", "--timeout", "2")
        assert (result.code, result.out) == (1, "")
        assert "on its way up or down" in result.err
        waiting = new.popen("up")
    out, err = waiting.communicate(timeout=90)
    assert (waiting.returncode, err) == (0, b"")
    assert out.startswith(b"core up at")


def test_mistakes_in_the_configuration_are_told_with_their_lines(new: Swm) -> None:
    config = home_of(new) / "swm.toml"
    text = config.read_text()
    lines = text.count("\n")
    config.write_text(text + '\ncolour = "red"\n\n[nope]\nx = 1\n')
    result = new("up")
    assert (result.code, result.out) == (1, "")
    assert "the core ended at its start; it said:\n" in result.err
    assert f"swm.toml:{lines + 2}" in result.err
    assert f"swm.toml:{lines + 4}" in result.err
    assert "Traceback" not in result.err
    assert new("status").code == 1


def test_a_port_in_use_is_told(new: Swm) -> None:
    endpoint = Bundle.read(home_of(new) / "client.toml").endpoint
    with socket.create_server(("127.0.0.1", int(endpoint.rpartition(":")[2]))):
        result = new("up", timeout_s=90)
    assert result.code == 1
    assert "is in use by another process" in result.err


def test_a_core_that_was_killed_is_not_taken_for_one_that_runs(new: Swm) -> None:
    new.ok("up")
    killed(new)
    assert new("status").code == 1
    assert new.ok("down") == "the core is not running\n"
    assert new.ok("up").startswith("core up at")


def test_down_does_not_touch_a_process_that_has_the_cores_number(new: Swm) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        (home_of(new) / "run/core.pid").write_text(f"{bystander.pid}\n")
        assert new.ok("down") == "the core is not running\n"
        new.ok("up")
        (home_of(new) / "run/core.pid").write_text(f"{bystander.pid}\n")
        result = new("down")
        assert result.code == 1
        assert "in another container or on another machine" in result.err
        assert bystander.poll() is None
        info = new.ok("status", "--json")
        pid = re.search(r'"pid": (\d+)', info)
        assert pid
        (home_of(new) / "run/core.pid").write_text(pid[1])
    finally:
        bystander.kill()
        bystander.wait()


def test_down_names_what_goes_on_and_up_finds_it_again(new: Swm) -> None:
    new.ok("up")
    go = new.cwd / "go"
    name = script(new, f"echo begun; while [ ! -e {go} ]; do sleep 0.1; done; echo over")
    job_id = new.ok("submit", name, "--name", "long").strip()
    logs = new.popen("logs", "-f", job_id)
    assert logs.stdout
    assert logs.stdout.readline() == b"begun\n"
    out = new.ok("down")
    assert f"goes on: job {job_id} (long), RUNNING at demo\n" in out
    new.ok("up")
    go.touch()
    out_rest, _ = logs.communicate(timeout=90)
    assert out_rest == b"over\n"
    assert new("wait", job_id).code == 0


def test_down_with_cancel_ends_the_jobs_first(new: Swm) -> None:
    new.ok("up")
    job_id = new.ok("submit", script(new, "sleep 600")).strip()
    out = new.ok("down", "--cancel")
    assert "goes on" not in out
    new.ok("up")
    assert "CANCELLED" in new.ok("show", job_id)


def test_down_with_cancel_that_takes_too_long_leaves_the_core_up(
    homes: Home, tmp_path: Path
) -> None:
    swm = homes(tmp_path / "r", _GATE + _NEVER_CANCELS)
    swm.ok("up")
    job_id = swm.ok("submit", script(swm, "sleep 600")).strip()
    wait_until(swm, job_id, "RUNNING")
    result = swm("down", "--cancel", "--timeout", "2")
    assert result.code == 1
    assert f"1 job did not end in time ({job_id}); the core stays up" in result.err
    assert swm("status").code == 0
    assert swm.ok("cancel", "--force", "--wait", job_id) == f"{job_id}  CANCELLED\n"
    assert "by force" in swm.ok("show", job_id)


def test_down_tells_what_goes_on_billing_and_cancel_gives_it_back(
    homes: Home, tmp_path: Path
) -> None:
    swm = homes(tmp_path / "r", _CLOUD)
    swm.ok("up")
    assert "1.75 USD/h" in swm.ok("flavors")
    job_id = swm.ok("submit", script(swm, "sleep 600")).strip()
    wait_until(swm, job_id, "RUNNING")
    # Its history tells what was made for it, and how long it may go on.
    shown = " ".join(swm.ok("show", job_id).split())
    assert re.search(r"creating \w+ at site demo for it: 1 node at 1\.75 USD/h", shown)
    assert "may run for 1d there" in shown
    out = swm.ok("down")
    assert f"goes on: job {job_id}, RUNNING at demo\n" in out
    assert re.search(r"goes on billing: 1 node of partition .* at demo, 1\.75 USD/h each\n", out)
    swm.ok("up")
    out = swm.ok("down", "--cancel")
    assert "goes on" not in out


def test_down_with_cancel_stays_up_while_machines_are_there(homes: Home, tmp_path: Path) -> None:
    swm = homes(tmp_path / "r", _CLOUD.replace("[dynamic]", "[dynamic]\ndelete_s = 600.0"))
    swm.ok("up")
    job_id = swm.ok("submit", script(swm, "sleep 600")).strip()
    wait_until(swm, job_id, "RUNNING")
    swm.ok("cancel", "--wait", job_id)
    result = swm("down", "--cancel", "--timeout", "1")
    assert (result.code, result.out) == (1, "")
    assert re.search(r"1 partition did not go in time \(.*\); the core stays up", result.err)
    assert swm("status").code == 0
    assert "goes on billing: 1 node" in swm.ok("down")


def test_down_with_cancel_waits_for_machines_that_wait_until_their_site_is_drained(
    homes: Home, tmp_path: Path
) -> None:
    swm = homes(tmp_path / "r", _CLOUD, 'idle_time = "1h"\n')
    swm.ok("up")
    job_id = swm.ok("submit", script(swm, "true")).strip()
    swm.ok("wait", job_id)
    until(lambda: "idle" in swm.ok("partitions"), "its machine waits")
    result = swm("down", "--cancel", "--timeout", "1")
    assert (result.code, result.out) == (1, "")
    found = re.search(r"1 partition did not go in time \((\w+): (.*?)\); (.*)", result.err)
    assert found, result.err
    assert found[2] == "idle; waits 1h for another job of " + owner(swm)
    assert found[3].startswith("the core stays up, since it deletes them; `swm site drain demo`")
    # It is up, and so is what it looks after.
    assert "core    up at" in swm.ok("status")
    assert found[1] in swm.ok("partitions")
    said = swm.ok("site", "drain", "demo")
    assert said == "site demo takes no new jobs, until `swm site resume demo`\n"
    assert re.search(r"^demo +DRAINED ", swm.ok("sites"), re.MULTILINE)
    out = swm.ok("down", "--cancel")
    assert re.fullmatch(r"stopped the core \(process \d+\)\n", out)
    assert not list((home_of(swm) / "site/partitions").glob("*"))


def owner(swm: Swm) -> str:
    """Who calls, as the core knows him."""
    return str(json.loads(swm.ok("whoami", "--json"))["user"])


def until(look: Callable[[], bool], what: str) -> None:
    eventually(look, what, within_s=60)


def wait_until(swm: Swm, job_id: str, state: str) -> None:
    deadline = time.monotonic() + 60
    while f" {state} " not in swm.ok("show", job_id):
        assert time.monotonic() < deadline, swm.ok("show", job_id)


def test_a_bundle_that_names_another_port_is_told(new: Swm) -> None:
    home = home_of(new)
    text = (home / "client.toml").read_text()
    (home / "client.toml").write_text(
        re.sub(r"(?m)^endpoint = .*$", 'endpoint = "127.0.0.1:1"', text)
    )
    result = new("up")
    assert (result.code, result.out) == (1, "")
    assert "make them the same" in result.err


# The life of a job.


def test_a_job_takes_inputs_and_brings_outputs(up: Swm) -> None:
    data = up.cwd / "data"
    data.mkdir()
    (data / "big").write_bytes(os.urandom(3 << 20))
    (data / "link").symlink_to("big")
    (data / "empty").mkdir()
    name = script(
        up,
        "#SWM input-files data",
        "#SWM output-files out/* data",
        "#SWM stdout said.txt",
        "test -L data/link && test -d data/empty || exit 9",
        "mkdir out; sha256sum < data/link > out/sum; echo done; echo oops >&2",
        name="whole.sh",
    )
    result = up("submit", "--follow", name)
    assert (result.code, result.out) == (0, "done\n")
    job_id = result.err.splitlines()[0].split()[-1]
    up.ok("fetch", job_id, "-d", "results")
    results = up.cwd / "results"
    assert (results / "data/big").read_bytes() == (data / "big").read_bytes()
    assert (results / "data/link").readlink() == Path("big")
    assert len((results / "out/sum").read_text()) > 64
    assert (results / "said.txt").read_text() == "done\n"
    assert (results / "stderr.log").read_text() == "oops\n"


def test_files_of_a_job_that_runs_can_be_fetched(up: Swm) -> None:
    go = up.cwd / "go.on"
    name = script(
        up,
        "#SWM output-files out/*",
        "mkdir out; echo 1 > out/first; echo 50 > progress; echo begun",
        f"while [ ! -e {go} ]; do sleep 0.1; done",
    )
    job_id = up.ok("submit", name).strip()
    logs = up.popen("logs", "-f", job_id)
    assert logs.stdout
    assert logs.stdout.readline() == b"begun\n"
    result = up("fetch", job_id, "-d", "now")
    assert result.code == 0
    assert (up.cwd / "now/out/first").read_text() == "1\n"
    assert "has not ended: these are its files as they are now" in result.err
    up.ok("fetch", job_id, "progress", "-d", "now")
    assert (up.cwd / "now/progress").read_text() == "50\n"
    go.touch()
    logs.communicate(timeout=90)


def test_a_pattern_that_a_running_job_has_no_file_for_is_an_error(up: Swm) -> None:
    go = up.cwd / "go.miss"
    job_id = up.ok(
        "submit", script(up, "echo 1 > one", f"while [ ! -e {go} ]; do sleep 0.1; done")
    ).strip()
    logs = up.popen("logs", "-f", job_id)
    until = time.monotonic() + 30
    while (result := up("fetch", job_id, "one", "two", "-d", "miss")).err.count("nothing") != 1:
        assert time.monotonic() < until, result
    assert result.code == 1
    assert "swm: nothing matches two\n" in result.err
    assert (up.cwd / "miss/one").read_text() == "1\n"
    go.touch()
    logs.communicate(timeout=90)


def test_files_of_a_job_that_waits_are_told_to_come_once_it_runs(up: Swm) -> None:
    go = up.cwd / "go.wait"
    whole = "#SWM cpus 4"
    first = up.ok(
        "submit", script(up, whole, f"while [ ! -e {go} ]; do sleep 0.1; done", name="a.sh")
    ).strip()
    second = up.ok("submit", script(up, whole, "true", name="b.sh")).strip()
    result = up("fetch", second, "-d", "early")
    assert result.code == 1
    assert "it has files once it runs" in result.err
    go.touch()
    assert up("wait", first, second).code == 0


def test_exit_codes_and_signals_come_back(up: Swm) -> None:
    assert up("submit", "--follow", script(up, "exit 42")).code == 42
    assert up("submit", "--wait", script(up, "kill -TERM $$")).code == 143


def test_a_script_with_mistakes_is_told_line_by_line(up: Swm) -> None:
    result = up("submit", script(up, "#SWM nmae x", "#SWM ports 99999/tcp", name="bad.sh"))
    assert (result.code, result.out) == (1, "")
    first, second = result.err.splitlines()
    assert first.startswith("bad.sh:2: ")
    assert '"name"' in first or "name" in first
    assert second.startswith("bad.sh:3: ")


def test_more_than_any_node_has_is_refused_before_an_upload(up: Swm) -> None:
    (up.cwd / "x").write_text("x")
    result = up("submit", script(up, "#SWM cpus 1000"), "-i", "x")
    assert (result.code, result.out) == (1, "")
    assert result.err.count("\n") == 1
    assert "1000" in result.err


def test_follow_goes_on_while_the_core_restarts(new: Swm) -> None:
    new.ok("up")
    name = script(new, "for n in $(seq 1 60); do echo $n; sleep 0.1; done; exit 5")
    process = new.popen("submit", "--follow", name)
    assert process.stdout
    assert process.stdout.readline() == b"1\n"
    killed(new)
    new.ok("up")
    out, err = process.communicate(timeout=90)
    assert out == b"".join(b"%d\n" % number for number in range(2, 61))
    assert process.returncode == 5, err


def test_a_port_of_a_job_is_reached(up: Swm) -> None:
    name = script(
        up,
        "#SWM ports 0/tcp/in WEB",
        "exec python3 -c \"import os, socket; s = socket.create_server(('127.0.0.1', "
        "int(os.environ['SWM_PORT_WEB']))); c, _ = s.accept(); "
        'd = c.recv(100); c.sendall(d.upper()); c.close()"',
        name="port.sh",
    )
    job_id = up.ok("submit", name).strip()
    process = up.popen("forward", job_id, "WEB", "--local", "0")
    assert process.stdout
    local = int(process.stdout.readline().rpartition(b":")[2])
    answer = b""
    for _ in range(100):  # until the job listens
        with contextlib.suppress(ConnectionResetError):
            answer = ask(local)
            break
        threading.Event().wait(0.1)
    assert answer == b"HELLO"
    assert process.wait(60) == 0


def test_cancel_waits_for_the_sites_word(up: Swm) -> None:
    job_id = up.ok("submit", script(up, "sleep 600")).strip()
    assert up.ok("cancel", "--wait", job_id) == f"{job_id}  CANCELLED\n"
    assert up("wait", job_id).code == 1


def test_a_secret_has_to_be_given_again_for_a_requeue(up: Swm) -> None:
    name = script(up, 'test "$TOKEN" = s3cret')
    result = up("submit", "--wait", name, "--secret-env", "TOKEN", TOKEN="s3cret")
    assert result.code == 0
    job_id = result.out.strip()
    assert up("requeue", job_id).code == 1
    assert up.ok("requeue", job_id, "--secret-env", "TOKEN", TOKEN="s3cret") == f"{job_id}\n"
    assert up("wait", job_id).code == 0
    assert up.ok("logs", job_id) == ""


def test_lists_of_a_real_core(up: Swm) -> None:
    assert "node1" in up.ok("nodes")
    assert "local" in up.ok("partitions")
    me = up.ok("whoami")
    assert "administrator" in me
    for limit in (r"active_jobs +\d+ of 10000", r"spool_bytes +.* of 100G", r"streams +\d+ of 500"):
        assert re.search(limit, me), me
    for by in ("job", "user", "site", "month"):
        up.ok("usage", "--by", by)


def test_delete_forgets(up: Swm) -> None:
    job_id = up.ok("submit", "--wait", script(up, "true")).strip()
    up.ok("delete", job_id)
    assert up("show", job_id).code == 1
