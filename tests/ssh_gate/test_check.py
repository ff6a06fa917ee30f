"""`swm-ssh-gate --check`: what is wrong at a site is found on real hosts, with what mends it."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gate_kit.command_line import CheckOptions
from gates.ssh_cluster_gate import check
from gates.ssh_cluster_gate.check_rules import CHECKS, Found
from rpc_kit.config_file import ConfigError
from tests.ssh.sshd import Sshd
from tests.ssh_gate.checking import Look, Make, remote, site_file


def test_a_host_where_jobs_can_run_passes_and_is_left_as_it_was(
    look: Look, shared_sshd: Sshd, tmp_path: Path
) -> None:
    told = look({"n1": shared_sshd})
    assert (told.code, told.failed()) == (0, [])
    assert [each["check"] for each in told.objects] == list(CHECKS)
    assert {each["account"] for each in told.objects} == {shared_sshd.user}
    assert set(told.objects[0]) == {
        *("host", "partition", "account", "check", "state", "value", "text", "mend")
    }
    for name in ("tools", "work_root", "clock", "ports", "logout"):
        assert told.of("n1", name)["state"] == "ok"
    assert re.fullmatch(r"[\d.]+[KMGTP]", told.of("n1", "memory")["value"])
    assert int(told.of("n1", "cpus")["value"]) > 0
    assert not (tmp_path / "root").exists()
    assert not list(tmp_path.glob(".swm-check*"))


def test_this_machine_is_looked_at_without_ssh(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(f'local = true\nwork_root = "{tmp_path}/root"\n')
    assert check.run(CheckOptions(path, as_json=True)) == 0
    objects = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert {(each["host"], each["partition"]) for each in objects} == {("localhost", "local")}


def test_people_get_a_row_for_each_host_and_a_line_for_what_is_wrong(
    shared_sshd: Sshd, make_sshd: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    down = make_sshd()
    down.stop()
    path = site_file(tmp_path, {"good": shared_sshd, "down": down})
    assert check.run(CheckOptions(path, as_json=False)) == 1
    lines = capfd.readouterr().out.splitlines()
    titles = lines[0].split()
    assert titles[:5] == ["HOST", "ACCOUNT", "SSH", "TOOLS", "ROOT"]
    good, bad = (next(line for line in lines if line.startswith(name)) for name in ("good", "down"))
    assert good.split()[3:5] == ["ok", "ok"]
    assert bad.split()[2:4] == ["FAILED", "-"]
    failure = next(line for line in lines if line.startswith("FAILED"))
    assert failure.startswith("FAILED  down reach: ")
    assert f"; mend: ssh -v -o UserKnownHostsFile={tmp_path}/known_hosts" in failure
    assert lines[-1].startswith("2 hosts looked at, 1 to be mended")


def test_a_configuration_with_mistakes_is_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text("hosts = []\n")
    with pytest.raises(ConfigError):
        check.run(CheckOptions(path, as_json=False))


def test_ctrl_c_ends_a_check_and_what_was_found_is_told(
    shared_sshd: Sshd, make_sshd: Make, tmp_path: Path
) -> None:
    hanging = make_sshd("ForceCommand sleep 600")
    path = site_file(tmp_path, {"good": shared_sshd, "hangs": hanging})
    process = subprocess.Popen(
        [Path(sys.executable).with_name("swm-ssh-gate"), "--config", path, "--check", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    assert {json.loads(each)["host"] for each in [line, *out.splitlines()]} == {"good"}


# What is there.


def programs(folder: Path, *without: str, **scripts: str) -> Path:
    """A folder for PATH: all that this machine has in /usr/bin, but for a few, and some fakes."""
    folder.mkdir()
    for name in ("/bin", "/usr/bin"):
        for path in Path(name).iterdir():
            target = folder / path.name
            if path.name not in without and path.name not in scripts and not target.exists():
                target.symlink_to(path)
    for name, script in scripts.items():
        file = folder / name.replace("_", "-")
        file.unlink(missing_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
    return folder


def test_tools_that_the_gate_needs_are_told_with_their_packages(
    look: Look, make_sshd: Make, tmp_path: Path
) -> None:
    path = programs(tmp_path / "bin", "tar", "setsid", "xargs")
    told = look({"n1": make_sshd(PATH=str(path))})
    assert told.failed() == [("n1", "tools")]
    tools = told.of("n1", "tools")
    assert "lacks setsid, tar, xargs" in tools["text"]
    assert remote(tools)[:2] == ["sudo", "apt-get"]
    assert remote(tools)[-3:] == ["findutils", "tar", "util-linux"]


def test_a_work_root_that_can_not_be_written_is_told(look: Look, shared_sshd: Sshd) -> None:
    told = look({"n1": shared_sshd}, 'work_root = "/proc/skyport"')
    assert told.failed() == [("n1", "work_root")]
    root = told.of("n1", "work_root")
    assert "nothing can be written to /proc" in root["text"]
    assert remote(root)[0] == "sudo"


def test_a_work_root_with_an_odd_name_is_found_as_it_is(
    look: Look, shared_sshd: Sshd, tmp_path: Path
) -> None:
    odd = tmp_path / "it's $HOME, `id` & \\ more é"
    odd.mkdir(mode=0o755)
    told = look({"n1": shared_sshd}, f"work_root = {json.dumps(str(odd))}")
    root = told.of("n1", "work_root")
    assert (told.code, root["state"]) == (0, "warning")
    assert remote(root) == ["chmod", "700", str(odd)]
    subprocess.run(remote(root), check=True)
    assert (
        look({"n1": shared_sshd}, f"work_root = {json.dumps(str(odd))}").of("n1", "work_root")[
            "state"
        ]
        == "ok"
    )


def test_hosts_that_are_said_to_share_their_files_and_do_not_are_told(
    look: Look, shared_sshd: Sshd, make_sshd: Make, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name / ".skyport").mkdir(parents=True, mode=0o700)
        (tmp_path / name / ".skyport/root_uid").write_text(f"uid-{name}\n.\n")
    first, second = (make_sshd(HOME=str(tmp_path / name)) for name in ("a", "b"))
    more = 'shared_filesystem = true\nwork_root = "~/.skyport"'
    told = look({"n1": first, "n2": second}, more)
    assert told.failed() == [("n1", "work_root"), ("n2", "work_root")]
    assert "n1 and n2 are not one folder" in told.of("n1", "work_root")["text"]
    (tmp_path / "b/.skyport/root_uid").write_text("uid-a\n.\n")
    assert look({"n1": first, "n2": second}, more).code == 0


def test_more_than_there_is_is_a_warning_and_gpus_that_are_not_there_a_failure(
    look: Look, shared_sshd: Sshd
) -> None:
    told = look({"n1": shared_sshd}, host='cpus = 100000\nmemory = "900T"')
    assert told.code == 0
    cpus = told.of("n1", "cpus")
    assert cpus["state"] == told.of("n1", "memory")["state"] == "warning"
    assert cpus["mend"] == f"cpus = {cpus['value']}"
    told = look({"n1": shared_sshd}, host="gpus = 2")
    assert told.failed() == [("n1", "gpus")]


def test_what_programs_of_the_host_say_is_told(look: Look, make_sshd: Make, tmp_path: Path) -> None:
    path = programs(
        tmp_path / "bin",
        date="echo $(($(/bin/date +%s) - 4000))",
        nvidia_smi='echo "GPU 0: A100 (UUID: x)"; echo "GPU 1: A100 (UUID: y)"',
        docker='echo "permission denied while trying to connect\nto the socket"; exit 1',
        podman="echo 5.2.1",
        busctl="echo b true",
        systemd_run="exit 0",
        loginctl="echo no",
    )
    told = look({"n1": make_sshd(PATH=str(path))}, host="gpus = 2")
    assert told.failed() == [("n1", "clock"), ("n1", "logout")]
    assert re.search(r"\b\d{4} s behind this machine's", told.of("n1", "clock")["text"])
    assert remote(told.of("n1", "logout"))[:3] == ["sudo", "loginctl", "enable-linger"]
    assert told.of("n1", "gpus")["value"] == "2"
    assert told.of("n1", "containers")["value"] == "podman 5.2.1"


def test_an_sshd_that_forwards_no_ports_is_told(look: Look, make_sshd: Make) -> None:
    told = look({"n1": make_sshd("AllowTcpForwarding no")})
    assert told.failed() == [("n1", "ports")]
    mend = told.of("n1", "ports")["mend"]
    assert "AllowTcpForwarding" in mend
    assert "kill -HUP" in mend, "sshd reads it when it is told to"


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
def test_the_probe_works_in_every_shell(shell: str, tmp_path: Path) -> None:
    probe = (Path(check.__file__).with_name("check_probe.sh")).read_text()
    done = subprocess.run(
        shlex.split(shell),
        input=f"root={tmp_path}/a/b\ntools='tar no-such-tool'\n{probe}",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = Found.parse(done.stdout)
    assert found is not None, done.stderr
    assert found.values["lacks"] == ["no-such-tool"]
    assert (found.one("place"), found.one("writable"), found.one("executes")) == (
        str(tmp_path),
        "yes",
        "yes",
    )
    for name in ("began", "ended", "cpus", "memory", "disk"):
        assert found.number(name), name
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_a_login_shell_that_prints_text_is_no_trouble(look: Look, make_sshd: Make) -> None:
    noisy = 'ForceCommand echo "Welcome!"; printf "no newline"; echo; eval "$SSH_ORIGINAL_COMMAND"'
    assert look({"n1": make_sshd(noisy)}).code == 0
