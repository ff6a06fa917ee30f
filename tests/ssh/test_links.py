"""Ways to real hosts: cables that are cut, hosts that are down, shells that talk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

import pytest

from gate_kit.errors import Refusal
from gate_kit.ssh.connection import SshTransport
from gate_kit.ssh.transport import LinkLost, Listener, Stream
from tests.ssh.conftest import Reach
from tests.testbed.hosts import Bed, BedHost

WITHIN_S = 40.0


async def said(transport: SshTransport, command: str) -> bytes:
    async with asyncio.timeout(WITHIN_S):
        process = await transport.open(command)
        told = b""
        while data := await process.stdout.read(1 << 16):
            told += data
        await process.wait()
    return told


async def refused(call: Awaitable[object], reason: str) -> Refusal:
    with pytest.raises(Refusal) as raised:
        async with asyncio.timeout(WITHIN_S):
            await call
    assert raised.value.reason == reason, raised.value
    return raised.value


async def reached(transport: SshTransport) -> None:
    """Ask until there is an answer."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                await said(transport, "true")
            except (Refusal, LinkLost) as error:
                await asyncio.sleep(getattr(error, "retry_after_s", None) or 0.05)
            else:
                return


async def dialled(bed: Bed, host: str, port: int) -> bytes:
    """What a program on the host hears from a port of its loopback."""
    line = f'exec 3<>/dev/tcp/127.0.0.1/{port}; echo hello >&3; read -r -t 20 l <&3; echo "$l"'
    command = bed[host].command("bash", "-c", line, user="alice")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    return told


async def answered(listener: Listener) -> Stream:
    """The next connection, after its line was read and answered."""
    async with asyncio.timeout(WITHIN_S):
        stream = await anext(aiter(listener.accepted()))
        assert await stream.reader.readline() == b"hello\n"
        stream.writer.write(b"welcome\n")
        await stream.writer.drain()
    return stream


async def test_a_link_through_which_nothing_passes_is_found_and_its_ports_are_had_again(
    hosts: Bed, reach: Reach
) -> None:
    host = hosts["h1"]
    transport = reach(host.target())
    process = await transport.open("echo up; cat", lasting=True)
    assert await process.stdout.readline() == b"up\n"
    listener = await transport.listen(0)
    port = listener.port
    await said(transport, "true")
    with host.blackhole():
        began = time.monotonic()
        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(LinkLost):
                await process.stdout.read(1)
            assert [stream async for stream in listener.accepted()] == []
        assert time.monotonic() - began < 20
        await refused(transport.open("true"), "NODE_UNREACHABLE")
    # Its sshd has noticed nothing: it listens still, and `cat` waits.
    host.run(f"ss -Hltn sport = :{port} | grep -q .")
    await reached(transport)
    again = await transport.listen(port)
    told, stream = await asyncio.gather(dialled(hosts, "h1", port), answered(again))
    assert told == b"welcome\n"
    stream.abort()
    await again.close()
    # What waited on the lasting link is gone too, once that one was made anew.
    await (await transport.open("true", lasting=True)).wait()
    async with asyncio.timeout(WITHIN_S):
        while "cat" in comms(host).splitlines():  # noqa: ASYNC110 - of another machine
            await asyncio.sleep(0.1)


def comms(host: BedHost) -> str:
    """The names of all programs that run there, but for the one that asks."""
    return host.run("for c in /proc/[0-9]*/comm; do read -r name <$c && echo $name; done; :")


async def test_a_host_that_is_down_is_told_in_time_and_holds_nobody_up(
    hosts: Bed, reach: Reach
) -> None:
    one, two = hosts.hosts
    down, up = reach(one.target(), "h1"), reach(two.target(), "h2")
    with one.cut():
        began = time.monotonic()
        waiting = asyncio.gather(*(refused(down.open("true"), "NODE_UNREACHABLE") for _ in "123"))
        assert await said(up, "hostname") == b"h2\n"
        assert time.monotonic() - began < 5
        assert not waiting.done()
        for refusal in await waiting:
            assert refusal.metadata["node"] == "h1"
            assert one.address in refusal.message
        assert time.monotonic() - began < 15
    await reached(down)


async def test_a_host_that_crashed_is_reached_again_once_it_is_up(hosts: Bed, reach: Reach) -> None:
    host = hosts["h1"]
    transport = reach(host.target())
    process = await transport.open("echo up; cat")
    assert await process.stdout.readline() == b"up\n"
    host.crash()
    host.boot()
    await reached(transport)
    with pytest.raises(LinkLost):
        await process.stdout.read(1)


async def test_a_command_that_is_let_go_gives_its_session_back(hosts: Bed, reach: Reach) -> None:
    transport = reach(hosts["h1"].target(), max_connections=1, max_sessions=2)
    for _ in range(10):
        async with asyncio.timeout(WITHIN_S):
            process = await transport.open("echo up; sleep 600")  # takes no notice of its input
            assert await process.stdout.readline() == b"up\n"
        process.close()
    assert await said(transport, "echo in") == b"in\n"


@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/dash", "/bin/busybox"])
async def test_any_login_shell_will_do_also_one_that_talks(
    hosts: Bed, reach: Reach, shell: str
) -> None:
    host = hosts["h2"]
    shell = shell if shell != "/bin/busybox" else "/tmp/sh"
    host.run("ln -sf /bin/busybox /tmp/sh")
    noise = host.home("bob") / ".bashrc"
    noise.write_text("echo 'Welcome! skyport-link is a word'; sleep 0.2\n")
    hosts.set_login_shell("bob", shell)
    try:
        transport = reach(host.target("bob"))
        assert (await said(transport, 'printf "%s" "$HOME"')).endswith(b"/home/bob")
        listener = await transport.listen(0)
        told, stream = await asyncio.gather(dialled(hosts, "h2", listener.port), answered(listener))
        assert told == b"welcome\n"
        stream.abort()
    finally:
        noise.unlink()
        hosts.set_login_shell("bob", "/bin/bash")


async def test_accounts_of_a_host_are_apart(hosts: Bed, reach: Reach) -> None:
    host = hosts["h1"]
    alice, bob = reach(host.target("alice")), reach(host.target("bob"))
    assert await said(alice, "id -un") == b"alice\n"
    assert await said(bob, "id -un") == b"bob\n"
    listener = await alice.listen(0)
    refusal = await refused(bob.listen(listener.port), "PORT_IN_USE")
    assert refusal.metadata["node"] == "n1"
    await listener.close()
    again = await bob.listen(listener.port)
    await again.close()


async def test_a_bastion_leads_to_hosts_that_this_machine_does_not_reach(
    hosts: Bed, reach: Reach
) -> None:
    config = hosts.folder / "through"
    text = hosts.ssh_config.read_text()
    config.write_text(text.replace("Host h2\n", "Host h2\n  ProxyJump bob@h1\n"))
    transport = reach(
        type(hosts["h2"].target())(host="h2", user="alice", config=config, use_agent=False)
    )
    told = await said(transport, 'echo "$SSH_CONNECTION"; hostname')
    client, *_, name = told.decode().split()
    assert (client, name) == (hosts["h1"].address, "h2")
