"""`swm-ssh-gate --check`: what is wrong at a site is found on real hosts, with what mends it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from gate_kit.command_line import CheckOptions
from gate_kit.verdicts import State, Verdict
from gates.ssh_cluster_gate import check, check_contact, check_rules
from gates.ssh_cluster_gate.check_rules import CHECKS, Found, Promised
from rpc_kit.config_file import ConfigError
from tests.ssh.sshd import Sshd, free_port, make_key

Objects = list[dict[str, str]]
Make = Callable[..., Sshd]


@dataclasses.dataclass(frozen=True)
class Told:
    """What a check told as JSON, and its exit code."""

    code: int
    objects: Objects

    def of(self, host: str, name: str, account: str | None = None) -> dict[str, str]:
        (found,) = (
            each
            for each in self.objects
            if (each["host"], each["check"]) == (host, name) and account in (None, each["account"])
        )
        return found

    def failed(self) -> list[tuple[str, str]]:
        return [(each["host"], each["check"]) for each in self.objects if each["state"] == "failed"]


Look = Callable[..., Told]


@pytest.fixture(scope="module")
def shared_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server that tests leave as it is."""
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def make_sshd(tmp_path: Path) -> Iterator[Make]:
    """Makes servers with settings of their own, and variables of whoever logs in."""
    made: list[Sshd] = []

    def make(*settings: str, **environment: str) -> Sshd:
        if environment:
            words = shlex.join(f"{name}={value}" for name, value in environment.items())
            command = f'exec /usr/bin/env {words} /bin/sh -c "$SSH_ORIGINAL_COMMAND"'
            settings = (*settings, f"ForceCommand {command}")
        server = Sshd(tmp_path / f"sshd{len(made)}", *settings)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.stop()


def site_file(
    folder: Path, hosts: Mapping[str, Sshd], more: str = "", host: str = "", name: str = "gate.toml"
) -> Path:
    """A configuration in which each server is a host of its own name."""
    known = folder / "known_hosts"
    if not known.exists():
        known.write_text("".join(each.known_hosts.read_text() for each in hosts.values()))
    lines = [f"hosts = {json.dumps(list(hosts))}", f'known_hosts = "{known}"', "use_agent = false"]
    if "users" not in more:
        lines.append("shared_account = true")
    if "ssh_config" not in more:
        lines.append('ssh_config = ""')
    if "work_root" not in more:
        lines.append(f'work_root = "{folder}/root"')
    lines.append(more)
    for node, server in hosts.items():
        lines += [
            f"[host.{node}]",
            'address = "127.0.0.1"',
            f"port = {server.port}",
            f'identity = "{server.key}"',
            host,
        ]
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def look(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Look:
    """Checks a site of these servers."""

    def run(hosts: Mapping[str, Sshd], more: str = "", host: str = "") -> Told:
        path = site_file(tmp_path, hosts, more, host)
        capfd.readouterr()
        code = check.run(CheckOptions(path, as_json=True))
        told = capfd.readouterr()
        assert told.err == ""
        return Told(code, [json.loads(line) for line in told.out.splitlines()])

    return run


def remote(told: dict[str, str]) -> list[str]:
    """The words of a command that mends something on a host, as the host gets them."""
    words = shlex.split(told["mend"])
    assert words[:2] == ["ssh", "-t"]
    return shlex.split(words[-1])


# All is well.


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


# The way there.


def test_a_host_that_is_down_does_not_hide_the_others(
    look: Look, shared_sshd: Sshd, make_sshd: Make
) -> None:
    down = make_sshd()
    down.stop()
    told = look({"n1": shared_sshd, "n2": down})
    assert (told.code, told.failed()) == (1, [("n2", "reach")])
    reach = told.of("n2", "reach")
    assert "Connection refused" in reach["text"]
    assert reach["mend"].startswith("ssh -v ")
    assert {each["state"] for each in told.objects if each["host"] == "n2"} == {"failed", "unknown"}


def test_a_name_that_nobody_knows_is_told_as_that(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lab.toml"
    path.write_text('hosts = ["n1.invalid"]\nshared_account = true\nssh_config = ""\n')
    assert check.run(CheckOptions(path, as_json=True)) == 1
    reach = json.loads(capfd.readouterr().out.splitlines()[0])
    assert (reach["check"], reach["state"]) == ("reach", "failed")
    assert reach["text"].startswith("n1.invalid is not the name of a host: ")


def test_a_key_that_is_not_taken_is_told_with_the_command_that_hands_it_over(
    look: Look, shared_sshd: Sshd, tmp_path: Path
) -> None:
    other = make_key(tmp_path / "other")
    server = alike(shared_sshd, key=other)
    told = look({"n1": server}, host=f'user = "{shared_sshd.user}"')
    assert (told.code, told.failed()) == (1, [("n1", "login")])
    assert told.of("n1", "host_key")["state"] == "ok"
    assert told.of("n1", "login")["mend"] == (
        f"ssh-copy-id -p {shared_sshd.port} -i {other} {shared_sshd.user}@127.0.0.1"
    )


def alike(server: Sshd, *, key: Path) -> Sshd:
    """The same server, for somebody with another key."""
    other = object.__new__(Sshd)
    other.__dict__.update(server.__dict__)
    other.key = key
    return other


def test_an_unknown_host_key_is_refused_until_the_command_has_been_run(
    look: Look, shared_sshd: Sshd, tmp_path: Path
) -> None:
    (tmp_path / "known_hosts").write_text("")
    told = look({"n1": shared_sshd})
    assert (told.code, told.failed()) == (1, [("n1", "host_key")])
    key = told.of("n1", "host_key")
    assert "SHA256:" in key["text"]
    command = shlex.split(key["mend"])
    command[1:1] = ["-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes"]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    assert look({"n1": shared_sshd}).code == 0


def test_a_changed_host_key_is_refused_until_the_commands_have_been_run(
    look: Look, make_sshd: Make
) -> None:
    sshd = make_sshd()
    assert look({"n1": sshd}).code == 0
    sshd.stop()
    sshd.change_host_key()
    sshd.start()
    told = look({"n1": sshd})
    assert (told.code, told.failed()) == (1, [("n1", "host_key")])
    assert "has changed" in told.of("n1", "host_key")["text"]
    forget, _, trust = told.of("n1", "host_key")["mend"].partition(" && ")
    subprocess.run(shlex.split(forget), check=True, capture_output=True, timeout=30)
    command = shlex.split(trust)
    command[1:1] = ["-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes"]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    assert look({"n1": sshd}).code == 0


def jumping_site(folder: Path, first: Sshd, second: Sshd, last: Sshd) -> Path:
    """A site whose only host lies behind two others, by a configuration of ssh in two files."""
    known = folder / "all_known"
    known.write_text("".join(each.known_hosts.read_text() for each in (first, second, last)))
    hosts = folder / "hosts"
    hosts.write_text(
        "".join(
            f"Host {name}\n  HostName 127.0.0.1\n  Port {server.port}\n"
            for name, server in (("first", first), ("second", second), ("last", last))
        )
        + f"Host first\n  IdentityFile {first.key}\nHost second\n  IdentityFile {second.key}\n"
        f"Match originalhost last user {last.user}\n  IdentityFile {last.key}\n"
        "  ProxyJump first,second\n"
    )
    config = folder / "config"
    config.write_text(
        f"Include {hosts}\nHost *\n  UserKnownHostsFile {known}\n  IdentityFile ~/.ssh/not_there\n"
    )
    path = folder / "gate.toml"
    path.write_text(
        f'hosts = ["last"]\nuser = "{last.user}"\nshared_account = true\n'
        f'ssh_config = "{config}"\nuse_agent = false\nwork_root = "{folder}/root"\n'
    )
    return path


def test_the_configuration_of_ssh_and_its_jumps_are_honoured(
    shared_sshd: Sshd, make_sshd: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = make_sshd(), make_sshd()
    path = jumping_site(tmp_path, first, second, shared_sshd)
    assert check.run(CheckOptions(path, as_json=True)) == 0, capfd.readouterr()
    for hop in (first, second):
        assert "Accepted publickey" in (hop.folder / "sshd.log").read_text()


def test_a_changed_host_key_on_the_way_is_told_of_the_host_that_shows_it(
    shared_sshd: Sshd, make_sshd: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = make_sshd(), make_sshd()
    path = jumping_site(tmp_path, first, second, shared_sshd)
    second.stop()
    second.change_host_key()
    second.start()
    assert check.run(CheckOptions(path, as_json=True)) == 1
    objects = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    (failed,) = (each for each in objects if each["state"] == "failed")
    assert failed["check"] == "host_key"
    assert f"ssh-keygen -R '[127.0.0.1]:{second.port}' -f {tmp_path}/all_known" in failed["mend"]


def test_a_configuration_of_ssh_that_goes_in_circles_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config"
    config.write_text("Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    path = tmp_path / "gate.toml"
    path.write_text(f'hosts = ["a"]\nshared_account = true\nssh_config = "{config}"\n')
    assert check.run(CheckOptions(path, as_json=True)) == 1
    first = json.loads(capfd.readouterr().out.splitlines()[0])
    assert (first["check"], first["state"]) == ("reach", "failed")
    assert "lies behind itself" in first["text"]


def test_something_that_is_no_ssh_server_is_told(look: Look, shared_sshd: Sshd) -> None:
    port = free_port()
    with contextlib.closing(_web_server(port)):
        server = alike(shared_sshd, key=shared_sshd.key)
        server.port = port
        told = look({"n1": server})
    assert told.failed() == [("n1", "reach")]
    assert "not as a server of ssh" in told.of("n1", "reach")["text"]


def _web_server(port: int) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", port))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 200)

    threading.Thread(target=serve, daemon=True).start()
    return listener


def test_each_account_is_logged_in_as(look: Look, shared_sshd: Sshd) -> None:
    more = f'users = {{ ann = "{shared_sshd.user}", bob = "swm-nobody" }}'
    told = look({"n1": shared_sshd}, more)
    assert told.failed() == [("n1", "login")]
    assert told.of("n1", "login", shared_sshd.user)["state"] in {"ok", "warning"}
    assert told.of("n1", "login", "swm-nobody")["mend"].endswith("swm-nobody@127.0.0.1")


def test_a_login_that_becomes_somebody_else_is_told() -> None:
    found = Found({"user": ["nobody"]})
    (verdict,) = (each for each in judged(found, login="ann") if each.check == "login")
    assert (verdict.state, verdict.text) == (State.FAILED, "ann logs in and becomes nobody")


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
    assert "AllowTcpForwarding" in told.of("n1", "ports")["mend"]


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


# Accounts that are odd.


def test_a_login_shell_that_prints_text_is_no_trouble(look: Look, make_sshd: Make) -> None:
    noisy = 'ForceCommand echo "Welcome!"; printf "no newline"; echo; eval "$SSH_ORIGINAL_COMMAND"'
    assert look({"n1": make_sshd(noisy)}).code == 0


def test_an_account_that_runs_no_commands_is_told_with_what_it_says(
    look: Look, make_sshd: Make
) -> None:
    told = look({"n1": make_sshd("ForceCommand echo This account is not available; exit 1")})
    assert told.failed() == [("n1", "login")]
    assert "it said: This account is not available" in told.of("n1", "login")["text"]


def test_a_host_that_hangs_is_given_up_on(make_sshd: Make) -> None:
    sshd = make_sshd("ForceCommand sleep 600")
    limits = check_contact.Limits(probe_s=1.0)
    began = time.monotonic()
    with pytest.raises(check_contact.Trouble) as raised:
        check_contact.ask(sshd.target, "", limits)
    assert raised.value.check == "login"
    assert time.monotonic() - began < 30


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


# Judged from what was said alone.


def judged(
    found: Found,
    *,
    login: str = "",
    asked_s: float = 1000.0,
    ended_s: float = 1001.0,
) -> Sequence[Verdict]:
    return check_rules.judge(
        found,
        Promised(login),
        lambda command: command,
        asked_s,
        ended_s,
        forwards=True,
    )


def verdict(name: str, **values: str | list[str]) -> Verdict:
    found = Found({key: [each] if isinstance(each, str) else each for key, each in values.items()})
    (chosen,) = (each for each in judged(found) if each.check == name)
    return chosen


@pytest.mark.parametrize(
    ("began", "ended", "state", "value"),
    [
        ("1000", "1001", State.OK, "0s"),
        ("999", "1000", State.OK, "0s"),
        ("1010", "1011", State.WARNING, "+10s"),
        ("990", "991", State.WARNING, "-9s"),
        ("1100", "1101", State.FAILED, "+100s"),
        ("", "", State.UNKNOWN, ""),
    ],
)
def test_a_clock_is_wrong_only_if_no_delay_explains_it(
    began: str, ended: str, state: State, value: str
) -> None:
    clock = verdict("clock", began=began, ended=ended)
    assert (clock.state, clock.value) == (state, value)


@pytest.mark.parametrize(
    ("disk", "state"),
    [
        ("1000 100 /data", State.FAILED),
        ("100000000 2000000 /data", State.WARNING),
        ("100000000 90000000 /data", State.OK),
        ("- - /data", State.UNKNOWN),
        ("", State.UNKNOWN),
    ],
)
def test_little_room_is_told_with_where_it_went(disk: str, state: State) -> None:
    told = verdict("disk", disk=disk, place="/data/x")
    assert told.state is state
    assert bool(told.mend) == (state in {State.FAILED, State.WARNING})


def test_a_file_system_that_counts_no_inodes_is_not_full() -> None:
    assert verdict("inodes", inodes="0 0 /").state is State.UNKNOWN
    assert verdict("inodes", inodes="1000 7 /").state is State.FAILED


@pytest.mark.parametrize(
    ("writable", "mend"),
    [
        ("no Permission denied", "sudo install -d -m 700 -o ann /w/.skyport"),
        ("no Read-only file system", "sudo mount -o remount,rw /w"),
        ("no No space left on device", "df -h /w"),
    ],
)
def test_a_work_root_is_mended_by_what_is_wrong_with_it(writable: str, mend: str) -> None:
    told = verdict(
        "work_root", root="/w/.skyport", place="/w", writable=writable, user="ann", disk="9 9 /w"
    )
    assert (told.state, told.mend) == (State.FAILED, mend)


def test_a_mount_that_runs_no_programs_is_a_warning() -> None:
    told = verdict(
        "work_root", root="/w/r", place="/w", writable="yes", executes="no", disk="9 9 /w"
    )
    assert (told.state, told.mend) == (State.WARNING, "sudo mount -o remount,exec /w")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"systemd_run": "yes", "lingers": "yes"}, "systemd"),
        ({"systemd_run": "yes", "user": "ann"}, "none"),
        ({"systemd_run": "no Failed to connect", "lingers": "yes", "user": "ann"}, "none"),
        ({}, "none"),
    ],
)
def test_whether_limits_can_be_put_on_jobs_is_told(values: dict[str, str], expected: str) -> None:
    found = Found({name: [value] for name, value in values.items()})
    (limits,) = (each for each in judged(found) if each.check == "limits")
    assert limits.value == expected
    assert (limits.state is State.WARNING) == (expected == "none" and bool(values))
    if limits.state is State.WARNING:
        assert limits.mend == "sudo loginctl enable-linger ann"


def test_a_docker_that_the_account_may_not_use_is_told_with_its_group() -> None:
    told = verdict("containers", user="ann", engine=["docker no permission denied while trying"])
    assert (told.state, told.mend) == (State.WARNING, "sudo usermod -aG docker ann")
    both = verdict("containers", engine=["docker yes 27.0", "podman no broken"])
    assert (both.state, both.value) == (State.OK, "docker 27.0")


def test_what_is_between_the_marks_counts_and_half_an_answer_does_not() -> None:
    text = "user mallory\ncheck-begins\nuser ann\nlacks tar\nlacks awk\ncheck-ends\nuser x\n"
    found = Found.parse(text)
    assert found is not None
    assert (found.one("user"), found.values["lacks"]) == ("ann", ["tar", "awk"])
    assert Found.parse(text.replace("check-ends", "")) is None
