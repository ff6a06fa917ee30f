"""The bed itself is what tests on it believe it to be."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess

import pytest

from tests.testbed.hosts import Bed, BedHost

WITHIN_S = 30.0


def ssh(bed: Bed, place: str, *words: str) -> str:
    """What a command says that OpenSSH's own client runs there."""
    options = ["-F", str(bed.ssh_config), "-o", "BatchMode=yes"]
    done = subprocess.run(
        ["ssh", *options, place, *words], capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout


def answers(host: BedHost) -> bool:
    """Whether its sshd takes a connection, and says what it is."""
    try:
        with socket.create_connection((host.address, 22), timeout=1) as connection:
            connection.settimeout(10)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


async def until_it_answers(host: BedHost) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await asyncio.to_thread(answers, host):  # noqa: ASYNC110 - of another machine
            await asyncio.sleep(0.05)


def test_each_host_has_a_name_accounts_homes_and_processes_of_its_own(hosts: Bed) -> None:
    one, two = hosts.hosts
    for host in (one, two):
        for user in hosts.users:
            told = ssh(hosts, f"{user}@{host.name}", "hostname; id -un; pwd; id -u")
            assert told.split() == [host.name, user, f"/home/{user}", str(hosts.uid(user))]
    one.run("echo here >/home/alice/file; echo here >/tmp/file", user="alice")
    assert (one.home("alice") / "file").read_text() == "here\n"
    two.run("test ! -e /home/alice/file && test ! -e /tmp/file")
    numbers = one.run("echo /proc/[0-9]*").split()
    assert len(numbers) < 20
    assert "/proc/1" in numbers
    assert "namespace" not in one.run("tr '\\0' ' ' </proc/1/cmdline")


def test_hosts_reach_each_other_by_name(hosts: Bed) -> None:
    hosts["h1"].run("exec bash -c 'read -r -t 10 banner </dev/tcp/h2/22 && test \"$banner\"'")


def test_sshd_has_its_stock_limits(hosts: Bed) -> None:
    told = hosts["h1"].run("/usr/sbin/sshd -T | grep -iE '^(maxsessions|maxstartups) '")
    assert sorted(told.lower().split()) == ["10", "10:30:100", "maxsessions", "maxstartups"]


@pytest.mark.parametrize("fault", ["cut", "blackhole"])
async def test_a_host_without_a_cable_does_not_answer_until_it_is_healed(
    hosts: Bed, fault: str
) -> None:
    one, two = hosts.hosts
    with contextlib.ExitStack() as healed:
        healed.enter_context(one.cut() if fault == "cut" else one.blackhole())
        with pytest.raises(TimeoutError):
            socket.create_connection((one.address, 22), timeout=0.5)
        assert answers(two)
    await until_it_answers(one)


async def test_a_host_that_crashes_keeps_its_files_and_nothing_that_ran(hosts: Bed) -> None:
    host = hosts["h1"]
    host.run("setsid sleep 600 >/dev/null 2>&1 & echo kept >/home/bob/file", user="bob")
    host.crash()
    assert not answers(host)
    host.boot()
    await until_it_answers(host)
    assert host.run("cat /home/bob/file") == "kept\n"
    assert "sleep" not in host.run("cat /proc/[0-9]*/comm").split()


def test_an_account_can_have_another_login_shell(hosts: Bed) -> None:
    hosts.set_login_shell("bob", "/bin/dash")
    try:
        assert ssh(hosts, "bob@h2", 'echo "$0"') == "dash\n"
    finally:
        hosts.set_login_shell("bob", "/bin/bash")


async def test_sshd_is_stopped_with_its_sessions_and_what_was_detached_goes_on(
    hosts: Bed,
) -> None:
    host = hosts["h2"]
    host.run("setsid sh -c 'sleep 600' >/dev/null 2>&1 & echo $! >/tmp/detached", user="alice")
    host.stop_sshd()
    assert not answers(host)
    host.run('kill -0 "$(cat /tmp/detached)"')
    host.start_sshd()
    await until_it_answers(host)
    host.run('kill "$(cat /tmp/detached)"')


def test_a_second_bed_is_apart_from_the_first_and_leaves_nothing(hosts: Bed) -> None:
    with Bed(("h1",), shared_home=True) as other:
        assert other.subnet != hosts.subnet
        assert ssh(other, "h1", "hostname") == "h1\n"
        assert answers(hosts["h1"])
        folder, prefix = other.folder, other.prefix
    assert not folder.exists()
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert f"{prefix}-" not in left.stdout
    assert answers(hosts["h1"])
