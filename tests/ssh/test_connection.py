"""What is particular to SSH: keys, host keys, limits of sshd, and links that are lost."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import shlex
import shutil
import weakref
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable
from pathlib import Path

import pytest

from gate_kit.errors import Refusal
from gate_kit.ssh.connection import SshTransport
from gate_kit.ssh.login import Logins
from gate_kit.ssh.target import SshTarget
from gate_kit.ssh.transport import LinkLost
from tests.ssh.conftest import Reach
from tests.ssh.sshd import Sshd, free_port, make_key

WITHIN_S = 30.0


async def said(transport: SshTransport, command: str) -> bytes:
    async with asyncio.timeout(WITHIN_S):
        process = await transport.open(command)
        told = await process.stdout.read(1 << 16)
        await process.wait()
    return told


async def refused(call: Awaitable[object], reason: str) -> Refusal:
    with pytest.raises(Refusal) as raised:
        async with asyncio.timeout(WITHIN_S):
            await call
    assert raised.value.reason == reason, raised.value
    return raised.value


async def typed(command: list[str]) -> None:
    """Do what a message tells a person to do."""
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=DEVNULL)
    async with asyncio.timeout(WITHIN_S):
        assert await process.wait() == 0


# Who it is.


async def test_an_unknown_host_key_is_refused_with_the_command_that_trusts_it(
    shared_sshd: Sshd, reach: Reach, tmp_path: Path
) -> None:
    known = tmp_path / "known"
    target = dataclasses.replace(shared_sshd.target, known_hosts=known)
    refusal = await refused(reach(target).open("true"), "HOST_KEY_MISMATCH")
    assert refusal.metadata["node"] == "n1"
    assert "SHA256:" in refusal.message
    command = shlex.split(refusal.message.split("trust it by `")[1].split("`")[0])
    command[1:1] = ["-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes"]
    await typed(command)
    assert await said(reach(target), "echo in") == b"in\n"


async def test_a_changed_host_key_is_refused_until_the_old_one_is_forgotten(
    sshd: Sshd, reach: Reach
) -> None:
    transport = reach(sshd.target)
    assert await said(transport, "echo in") == b"in\n"
    sshd.stop()
    sshd.change_host_key()
    sshd.start()
    refusal = await refused(reach(sshd.target).open("true"), "HOST_KEY_MISMATCH")
    forget = refusal.message.split("forget the old one by `")[1].split("`")[0]
    await typed(shlex.split(forget))
    assert sshd.known_hosts.read_text() == ""
    sshd.trust()
    assert await said(reach(sshd.target), "echo in") == b"in\n"


async def test_a_key_that_is_not_taken_is_told_with_the_account(
    shared_sshd: Sshd, reach: Reach, tmp_path: Path
) -> None:
    target = dataclasses.replace(shared_sshd.target, identities=(make_key(tmp_path / "other"),))
    refusal = await refused(reach(target).open("true"), "CREDENTIALS_INVALID")
    assert f"{target.user}@127.0.0.1:{target.port}" in refusal.message
    assert "authorized_keys" in refusal.message


async def test_a_key_file_that_is_missing_is_told_by_its_name(
    shared_sshd: Sshd, reach: Reach, tmp_path: Path
) -> None:
    target = dataclasses.replace(shared_sshd.target, identities=(tmp_path / "gone",))
    refusal = await refused(reach(target).open("true"), "CREDENTIALS_INVALID")
    assert str(tmp_path / "gone") in refusal.message


async def test_no_configuration_switches_the_check_of_host_keys_off(
    shared_sshd: Sshd, reach: Reach, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    for line in ("UserKnownHostsFile none", "UserKnownHostsFile /dev/null"):
        config.write_text(f"StrictHostKeyChecking no\n{line}\n")
        target = dataclasses.replace(shared_sshd.target, config=config, known_hosts=None)
        await refused(reach(target).open("true"), "HOST_KEY_MISMATCH")


async def test_lines_of_known_hosts_that_nobody_understands_do_no_harm(
    shared_sshd: Sshd, reach: Reach, tmp_path: Path
) -> None:
    known = tmp_path / "known"
    known.write_text("@nonsense x y\nrubbish\n" + shared_sshd.known_hosts.read_text())
    target = dataclasses.replace(shared_sshd.target, known_hosts=known)
    assert await said(reach(target), "echo in") == b"in\n"


async def test_keys_of_the_agent_are_used_also_where_the_file_is_encrypted(
    shared_sshd: Sshd, reach: Reach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encrypted = tmp_path / "encrypted"
    shutil.copy(shared_sshd.key, encrypted)
    await typed(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", str(encrypted)])
    target = dataclasses.replace(shared_sshd.target, identities=(encrypted,), use_agent=True)
    agent = await asyncio.create_subprocess_exec(
        "ssh-agent", "-D", "-a", str(tmp_path / "agent"), stdin=DEVNULL, stdout=PIPE
    )
    try:
        assert agent.stdout is not None
        await agent.stdout.readline()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        await refused(reach(target).open("true"), "CREDENTIALS_INVALID")
        await typed(["ssh-add", "-q", str(shared_sshd.key)])
        assert await said(reach(target), "echo in") == b"in\n"
    finally:
        agent.kill()
        await agent.wait()


async def test_an_agent_that_is_gone_is_done_without(
    shared_sshd: Sshd, reach: Reach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "nobody"))
    target = dataclasses.replace(shared_sshd.target, use_agent=True)
    assert await said(reach(target), "echo in") == b"in\n"


# How to get there.


async def test_the_configuration_of_ssh_is_honoured(
    shared_sshd: Sshd, reach: Reach, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text(
        "Host there\n"
        f"  HostName 127.0.0.1\n  Port {shared_sshd.port}\n  User {shared_sshd.user}\n"
        f"  IdentityFile {shared_sshd.key}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {shared_sshd.known_hosts}\n"
        "Host behind\n"
        f"  HostName 127.0.0.1\n  Port {shared_sshd.port}\n  User {shared_sshd.user}\n"
        f"  IdentityFile {shared_sshd.key}\n"
        f"  UserKnownHostsFile {shared_sshd.known_hosts}\n"
        "  ProxyJump there\n"
    )
    for host in ("there", "behind"):
        transport = reach(SshTarget(host=host, config=config, use_agent=False))
        assert await said(transport, "echo in") == b"in\n"


def behind(jump: Sshd, sshd: Sshd, config: Path, known_hosts: Path) -> SshTarget:
    """An account on `sshd`, reached through `jump` alone."""
    config.write_text(
        "Host jump\n"
        f"  HostName 127.0.0.1\n  Port {jump.port}\n  User {jump.user}\n"
        f"  IdentityFile {jump.key}\n"
        "Host behind*\n"
        f"  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n"
        f"  IdentityFile {sshd.key}\n  ProxyJump jump\n"
    )
    return SshTarget(host="behind", config=config, known_hosts=known_hosts, use_agent=False)


async def test_all_who_go_through_a_host_share_one_connection_to_it(
    shared_sshd: Sshd, sshd: Sshd, reach: Reach, tmp_path: Path
) -> None:
    known = tmp_path / "known"
    known.write_text(sshd.known_hosts.read_text() + shared_sshd.known_hosts.read_text())
    first = behind(sshd, shared_sshd, tmp_path / "config", known)
    logins = Logins()
    ways = [reach(dataclasses.replace(first, host=f"behind{n}"), logins=logins) for n in range(5)]
    told = await asyncio.gather(*(said(way, "echo in") for way in ways))
    assert told == [b"in\n"] * 5
    assert sshd.connections() == 1
    sshd.stop()
    for way in ways:
        async with asyncio.timeout(WITHIN_S):
            await refused(until_lost(way), "NODE_UNREACHABLE")
    sshd.start()
    await asyncio.gather(*(until_reached(way) for way in ways))
    assert sshd.connections() == 1
    logins.close()


@pytest.mark.parametrize("is_way_first", [True, False])
async def test_a_host_on_the_way_where_work_is_done_as_well_is_logged_in_to_once(
    shared_sshd: Sshd, sshd: Sshd, reach: Reach, *, is_way_first: bool
) -> None:
    logins = Logins(is_shared=True)
    first = reach(sshd.target, logins=logins, idle_s=0.2)
    other = reach(dataclasses.replace(shared_sshd.target, via=sshd.target), logins=logins)
    if not is_way_first:
        assert await said(first, "echo in") == b"in\n"
    async with asyncio.timeout(WITHIN_S):
        held = await other.open("cat")
        assert await said(first, "echo in") == b"in\n"
        assert sshd.connections() == 1
        # What others go through is not idle, though nothing is done there.
        await asyncio.sleep(1.0)
        held.stdin.write(b"still\n")
        assert await held.stdout.readline() == b"still\n"
        await other.close()
        while sshd.connections():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.05)
    # Who wants a second one gets one of its own.
    again = reach(sshd.target, logins=logins, max_sessions=1)
    processes = [await again.open("cat") for _ in range(2)]
    assert sshd.connections() == 2
    for process in processes:
        process.close()
    logins.close()


async def test_connections_that_went_through_a_host_are_let_go(
    shared_sshd: Sshd, sshd: Sshd
) -> None:
    logins = Logins()
    target = dataclasses.replace(shared_sshd.target, via=sshd.target)
    known = []
    for _ in range(2):
        connection = await logins.connect("n1", target)
        known.append(weakref.ref(connection))
        connection.close()
        await connection.wait_closed()
        del connection
    logins.close()
    async with asyncio.timeout(WITHIN_S):
        while any(each() is not None for each in known):
            gc.collect()
            await asyncio.sleep(0.05)


async def test_what_is_wrong_with_a_host_on_the_way_is_told_of_that_host(
    shared_sshd: Sshd, sshd: Sshd, reach: Reach, tmp_path: Path
) -> None:
    known = tmp_path / "known"
    known.write_text(shared_sshd.known_hosts.read_text())
    target = behind(sshd, shared_sshd, tmp_path / "config", known)
    refusal = await refused(reach(target).open("true"), "HOST_KEY_MISMATCH")
    assert "of jump is unknown" in refusal.message
    known.write_text(sshd.known_hosts.read_text())
    refusal = await refused(reach(target).open("true"), "HOST_KEY_MISMATCH")
    assert "of behind is unknown" in refusal.message
    sshd.stop()
    refusal = await refused(reach(target).open("true"), "NODE_UNREACHABLE")
    assert "jump can't be reached" in refusal.message


async def test_a_host_that_lies_behind_itself_is_told(reach: Reach, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    target = SshTarget(host="a", config=config, use_agent=False)
    refusal = await refused(reach(target).open("true"), "CREDENTIALS_INVALID")
    assert "behind itself" in refusal.message


async def test_a_host_that_is_down_is_told_and_left_alone_for_a_while(
    shared_sshd: Sshd, reach: Reach
) -> None:
    transport = reach(dataclasses.replace(shared_sshd.target, port=free_port()))
    first = await refused(transport.open("true"), "NODE_UNREACHABLE")
    again = await asyncio.gather(
        *(refused(transport.open("true"), "NODE_UNREACHABLE") for _ in range(50))
    )
    assert first.retry_after_s is not None
    assert all(each.message == first.message for each in again)


async def test_a_host_that_comes_back_is_reached_again(sshd: Sshd, reach: Reach) -> None:
    sshd.stop()
    transport = reach(sshd.target)
    refusal = await refused(transport.open("true"), "NODE_UNREACHABLE")
    sshd.start()
    assert refusal.retry_after_s is not None
    await asyncio.sleep(refusal.retry_after_s)
    assert await said(transport, "echo in") == b"in\n"


# What it is encrypted with.


@pytest.mark.parametrize(
    ("settings", "cipher"),
    [
        ([], "aes128-gcm@openssh.com"),
        (
            ["Ciphers chacha20-poly1305@openssh.com,aes256-gcm@openssh.com"],
            "aes256-gcm@openssh.com",
        ),
        (["Ciphers chacha20-poly1305@openssh.com"], "chacha20-poly1305@openssh.com"),
    ],
    ids=["stock", "one-of-two", "the-only-one"],
)
async def test_the_cipher_that_processors_know_is_preferred(
    tmp_path: Path, settings: list[str], cipher: str
) -> None:
    server = Sshd(tmp_path / "sshd", *settings)
    server.start()
    logins = Logins()
    try:
        async with asyncio.timeout(WITHIN_S):
            connection = await logins.connect("n1", server.target)
            used = {connection.get_extra_info(f"{way}_cipher") for way in ("send", "recv")}
            connection.close()
            await connection.wait_closed()
    finally:
        logins.close()
        server.stop()
    assert used == {cipher}


# Limits of sshd.


async def test_many_commands_share_few_connections(sshd: Sshd, reach: Reach) -> None:
    transport = reach(sshd.target, max_connections=3)
    async with asyncio.timeout(WITHIN_S):
        told = await asyncio.gather(*(said(transport, f"echo {n}") for n in range(60)))
    assert sorted(int(each) for each in told) == list(range(60))
    assert sshd.connections() <= 3


async def test_a_host_that_takes_fewer_sessions_than_usual_is_served_all_the_same(
    tmp_path: Path, reach: Reach
) -> None:
    sshd = Sshd(tmp_path / "few", "MaxSessions 2")
    sshd.start()
    try:
        transport = reach(sshd.target)
        told = await asyncio.gather(*(said(transport, f"echo {n}") for n in range(20)))
        assert sorted(int(each) for each in told) == list(range(20))
    finally:
        sshd.stop()


async def test_long_commands_take_all_sessions_and_the_next_one_waits(
    sshd: Sshd, reach: Reach
) -> None:
    transport = reach(sshd.target, max_connections=2, max_sessions=2)
    held = [await transport.open("read -r _") for _ in range(4)]
    waiting = asyncio.create_task(said(transport, "echo at last"))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    held[0].stdin.write(b"\n")
    assert await waiting == b"at last\n"


async def test_commands_that_last_and_all_others_do_not_wait_for_each_other(
    sshd: Sshd, reach: Reach
) -> None:
    transport = reach(sshd.target, max_connections=1, max_sessions=2)
    lasting = [await transport.open("read -r _", lasting=True) for _ in range(2)]
    assert await said(transport, "echo passes") == b"passes\n"
    passing = [await transport.open("read -r _") for _ in range(2)]
    lasting[0].stdin.write(b"\n")
    async with asyncio.timeout(WITHIN_S):
        await lasting[0].wait()
        await transport.open("read -r _", lasting=True)
    for process in (*lasting, *passing):
        process.close()


async def test_callers_that_give_up_leave_no_session_behind(sshd: Sshd, reach: Reach) -> None:
    transport = reach(sshd.target, max_connections=1, max_sessions=2)
    assert await said(transport, "echo in") == b"in\n"
    for turn in range(30):
        opening = asyncio.create_task(transport.open("echo up; cat"))
        for _ in range(turn % 6):
            await asyncio.sleep(0)
        if turn % 3 == 0:
            await asyncio.sleep(0.002)
        opening.cancel()
        for each in await asyncio.gather(opening, return_exceptions=True):
            if not isinstance(each, BaseException):
                each.close()
    assert await asyncio.gather(*(said(transport, f"echo {n}") for n in range(4)))


@pytest.mark.parametrize("what", ["no", "local", "remote"])
async def test_a_host_that_forbids_forwarding_is_told_as_such(
    tmp_path: Path, reach: Reach, what: str
) -> None:
    sshd = Sshd(tmp_path / "no", f"AllowTcpForwarding {what}")
    sshd.start()
    try:
        transport = reach(sshd.target)
        if what != "local":
            refusal = await refused(transport.connect(sshd.port), "PERMISSION_MISSING")
            assert "AllowTcpForwarding" in refusal.message
        if what != "remote":
            for port in (0, free_port()):
                refusal = await refused(transport.listen(port), "PERMISSION_MISSING")
                assert "AllowTcpForwarding" in refusal.message
    finally:
        sshd.stop()


async def test_an_idle_connection_is_closed_and_made_again(sshd: Sshd, reach: Reach) -> None:
    transport = reach(sshd.target, idle_s=0.2)
    assert await said(transport, "echo 1") == b"1\n"
    async with asyncio.timeout(WITHIN_S):
        while sshd.connections():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.05)
    assert await said(transport, "echo 2") == b"2\n"


# Links that are lost.


async def test_a_lost_link_ends_what_was_on_it_and_the_next_call_makes_another(
    sshd: Sshd, reach: Reach
) -> None:
    transport = reach(sshd.target)
    process = await transport.open("echo up; sleep 600")
    assert await process.stdout.readline() == b"up\n"
    stream = await transport.connect(sshd.port)
    assert (await stream.reader.readline()).startswith(b"SSH-")
    listener = await transport.listen(0)
    sshd.stop()
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(LinkLost):
            await process.stdout.read(100)
        assert await process.wait() is None
        with pytest.raises(LinkLost):
            await stream.reader.read(100)
        stream.writer.write(b"x")
        with pytest.raises(LinkLost):
            await stream.writer.drain()
        assert [stream async for stream in listener.accepted()] == []
    sshd.start()
    await until_reached(transport)


async def test_an_end_that_was_told_before_the_link_was_lost_is_an_end(
    sshd: Sshd, reach: Reach
) -> None:
    process = await reach(sshd.target).open("echo whole")
    async with asyncio.timeout(WITHIN_S):
        assert await process.wait() == 0
    sshd.stop()
    assert await process.stdout.read(100) == b"whole\n"
    assert await process.stdout.read(100) == b""


async def test_calls_end_with_the_transport(sshd: Sshd, reach: Reach) -> None:
    transport = reach(sshd.target, max_connections=1, max_sessions=1)
    process = await transport.open("sleep 600")
    reading = asyncio.create_task(process.stdout.read(100))
    waiting = asyncio.create_task(transport.open("true"))
    await asyncio.sleep(0)
    await transport.close()
    with pytest.raises(LinkLost):
        await reading
    await refused(waiting, "SHUTTING_DOWN")


async def until_lost(transport: SshTransport) -> None:
    """Ends as the first call does that does not reach the host."""
    while True:
        await said(transport, "true")


async def until_reached(transport: SshTransport) -> None:
    """Asks until it is answered: it may have been tried before, and then it pauses."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                assert await said(transport, "echo again") == b"again\n"
            except (Refusal, LinkLost) as error:
                await asyncio.sleep(getattr(error, "retry_after_s", None) or 0.01)
            else:
                return
