"""`swm-ssh-gate --check`: what keeps the gate from an account of a host, and what mends it."""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from gate_kit.command_line import CheckOptions
from gates.ssh_cluster_gate import check, check_contact
from tests.ssh.sshd import Sshd, free_port, make_key
from tests.ssh_gate.checking import Look, Make


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
