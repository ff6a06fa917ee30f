"""Attempts on hosts: what runners, the shell of a host and the evidence make of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from gate_kit import errors
from gate_kit.errors import Refusal
from gate_kit.ssh.connection import SshTransport
from gate_kit.ssh.layout import AttemptKey
from gate_kit.ssh.local import LocalTransport
from gate_kit.ssh.shell import Reply
from gate_kit.ssh.transport import Transport
from skyport.gate.v1 import job_pb2, types_pb2
from tests.ssh.site import Site, make_site
from tests.ssh.sshd import Sshd

Again = Callable[[], Site]


@pytest.fixture(scope="session")
def busybox_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the tools of busybox alone."""
    folder = tmp_path_factory.mktemp("busybox")
    program = shutil.which("busybox")
    assert program, "busybox is missing"
    listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True)
    for name in listed.stdout.split():
        (folder / name).symlink_to(program)
    return str(folder)


@pytest.fixture(params=["dash", "bash", "busybox", "ssh"])
def way(request: pytest.FixtureRequest, busybox_path: str) -> str:
    """How scripts run: a shell of this machine, or by SSH."""
    found = str(request.param)
    return f"env PATH={busybox_path} sh" if found == "busybox" else found


@pytest.fixture
async def sites(way: str, shared_sshd: Sshd, tmp_path: Path) -> AsyncIterator[Again]:
    """Makes runs of what a gate has, one after the other, over the same two hosts."""
    made: list[Site] = []
    roots = {name: tmp_path / f"root of {name}" for name in ("n1", "n2")}

    def again() -> Site:
        transports: dict[str, Transport] = {}
        for name in roots:
            if way == "ssh":
                transports[name] = SshTransport(name, shared_sshd.target)
            else:
                transports[name] = LocalTransport(name)
        site = make_site(transports, roots, shell="/bin/sh" if way == "ssh" else way)
        made.append(site)
        return site

    yield again
    for site in made:
        await site.close()


@pytest.fixture
async def site(sites: Again) -> Site:
    """The first run."""
    return sites()


@contextlib.contextmanager
def refused(reason: str) -> Iterator[None]:
    with pytest.raises(Refusal) as caught:
        yield
    assert caught.value.reason == reason, caught.value


def marked(ref: types_pb2.JobRef) -> list[int]:
    """The processes of an attempt on this machine."""
    mark = f"SWM_MARK={AttemptKey.of(ref).path}/".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


async def test_a_job_writes_ends_and_goes(site: Site) -> None:
    ref = await site.start("echo out; echo err >&2; exit 3\n")
    end = await site.ended(ref)
    assert end.exit_code == 3
    assert end.start_time.ToNanoseconds() <= end.end_time.ToNanoseconds()
    assert b"".join([piece async for piece in site.follow(ref)]) == b"out\n"
    assert (
        b"".join([piece async for piece in site.follow(ref, job_pb2.OUTPUT_KIND_STDERR)])
        == b"err\n"
    )
    await site.ending.remove(ref)
    assert await site.jobs.status(ref) is None
    assert not site.folder(ref).exists()
    assert list((site.roots["n1"] / "trash").iterdir()) == []


async def test_the_first_line_of_a_script_says_what_runs_it(site: Site) -> None:
    ref = await site.start("#!/usr/bin/env -S sh -e\nfalse\necho not reached\n")
    assert (await site.ended(ref)).exit_code == 1


async def test_a_signal_and_an_exit_code_above_128_are_told_apart(site: Site) -> None:
    first = await site.start("kill -TERM $$\n")
    second = await site.start("exit 143\n")
    assert (await site.ended(first)).signal == signal.SIGTERM
    assert (await site.ended(second)).exit_code == 143


async def test_interrupts_reach_a_script(site: Site) -> None:
    ref = await site.start("trap 'exit 9' INT; kill -INT $$; sleep 60\n")
    assert (await site.ended(ref)).exit_code == 9


async def test_a_job_finds_the_environment_of_the_contract_and_nothing_of_ours(site: Site) -> None:
    text = "two\n3 lines with 'quotes' and \\ and $HOME "
    ref = await site.stage()
    request = site.request(ref, "env -0\n", env={"A": text}, name="it's", time_limit=60.0)
    request.secret_env["TOKEN"] = "s3cret"
    await site.starts.start(request)
    await site.ended(ref)
    told = b"".join([piece async for piece in site.follow(ref)]).decode()
    found = dict(item.split("=", 1) for item in told.split("\0") if item)
    assert found["A"] == text
    assert found["TOKEN"] == "s3cret"
    assert (found["SWM_JOB_ID"], found["SWM_JOB_NAME"]) == (ref.job_id, "it's")
    assert (found["SWM_NODES"], found["SWM_NODE_RANK"], found["SWM_CPUS"]) == ("n1", "0", "1")
    assert found["SWM_WORKDIR"] == found["PWD"] == str(site.folder(ref) / "work")
    assert Path(found["SWM_HOSTFILE"]).read_text() == "n1\n"
    ours = {name for name in found if name.startswith(("_", "SSH_", "LC_", "SITE_"))} - {"_"}
    assert ours == set()
    for path in site.roots["n1"].rglob("*"):
        if path.is_file() and not path.name.startswith("stdout"):
            assert b"s3cret" not in path.read_bytes(), path


@pytest.mark.parametrize("times", [1, 300], ids=["short", "long"])
async def test_script_and_variables_arrive_as_they_are(site: Site, times: int) -> None:
    # By the shell itself, or by a program: what is short and text, and what is not.
    text = "é \\n \\0134\t'x'\n\n  end " * times
    for end in ("\n", "\n\\ \t é\n\n  \n", "", "\n" + "# é\n" * times):
        script = 'printf %s "$A"; exit' + end
        ref = await site.start(script, env={"A": text, "B": ""})
        assert (await site.ended(ref)).exit_code == 0
        assert b"".join([piece async for piece in site.follow(ref)]).decode() == text
        assert (site.folder(ref) / "script").read_text() == script


async def test_all_that_lies_there_is_the_account_s_alone(site: Site) -> None:
    ref = await site.start("true\n")
    await site.ended(ref)
    assert stat.S_IMODE(site.roots["n1"].stat().st_mode) == 0o700
    assert stat.S_IMODE(site.folder(ref).stat().st_mode) == 0o700


async def test_starts_side_by_side_run_it_once(sites: Again) -> None:
    first, second = sites(), sites()
    ref = await first.stage()
    request = first.request(ref, 'echo run >>"$SWM_WORKDIR/../count"\n')
    await asyncio.gather(*(site.starts.start(request) for site in (first, second, first, second)))
    await first.ended(ref)
    await second.starts.start(request)
    assert (first.folder(ref) / "count").read_text() == "run\n"


async def test_another_spec_for_the_same_attempt_is_refused(site: Site) -> None:
    ref = await site.start("sleep 60\n")
    other = site.request(ref, "true\n")
    other.spec_fingerprint = "1" * 64
    with refused("JOB_DIFFERS"):
        await site.starts.start(other)
    await site.ending.cancel(ref, 0.0)


async def test_a_job_outlives_its_gate_and_is_found_again(sites: Again) -> None:
    first = sites()
    ref = await first.start("echo begun; while [ ! -e go ]; do sleep 0.02; done; exit 4\n")
    await first.written(ref, b"begun")
    await first.close()
    (first.folder(ref) / "work" / "go").touch()
    second = sites()
    listed = [status async for status in second.overview.snapshot("test")]
    assert [status.ref.job_id for status in listed] == [ref.job_id]
    assert (await second.ended(ref)).exit_code == 4


async def test_a_time_limit_ends_what_ignores_term_and_what_has_left(site: Site) -> None:
    script = """trap '' TERM
setsid sh -c 'trap "" TERM; while :; do sleep 1; done' </dev/null >/dev/null 2>&1 &
while :; do sleep 1; done
"""
    ref = await site.start(script, time_limit=0.5, grace=0.3)
    end = await site.ended(ref)
    assert end.failure.reason == "TIME_LIMIT"
    assert marked(ref) == []


async def test_a_cancel_reaches_every_process_and_waits_for_them(site: Site) -> None:
    script = """trap '' TERM
setsid sh -c 'trap "" TERM; while :; do sleep 1; done' </dev/null >/dev/null 2>&1 &
echo begun
while :; do sleep 1; done
"""
    ref = await site.start(script)
    await site.written(ref, b"begun")
    status = await site.ending.cancel(ref, 0.2)
    assert status is not None
    assert status.end.failure.reason == "CANCELLED"
    assert status.end.HasField("start_time")
    assert marked(ref) == []
    with refused("JOB_CANCELLED"):
        await site.starts.start(site.request(ref, "true\n"))


async def test_one_term_gives_a_job_time_to_end_by_itself(site: Site) -> None:
    ref = await site.start(
        "trap 'echo bye; bye=1' TERM; echo begun\n"
        'while [ -z "$bye" ]; do sleep 0.1; done; sleep 1; echo done\n'
    )
    await site.written(ref, b"begun")
    await site.ending.cancel(ref, 20.0)
    assert b"".join([piece async for piece in site.follow(ref)]) == b"begun\nbye\ndone\n"


async def test_a_cancel_reaches_what_has_deleted_its_folder(site: Site) -> None:
    ref = await site.start('rm -rf "$(dirname "$SWM_WORKDIR")"; exec sleep 60\n')
    for _ in range(1_000):
        if marked(ref) and not site.folder(ref).exists():
            break
        await asyncio.sleep(0.02)
    await site.ending.cancel(ref, 0.0)
    assert marked(ref) == []


async def test_a_cancel_before_the_start_forbids_it(site: Site) -> None:
    ref = await site.stage()
    assert await site.ending.cancel(ref, None) is None
    with refused("JOB_CANCELLED"):
        await site.starts.start(site.request(ref, "true\n"))
    assert await site.jobs.status(ref) is None


async def test_a_killed_runner_is_a_failed_node_once_its_job_is_gone(site: Site) -> None:
    ref = await site.start("echo begun; exec sleep 60\n")
    await site.written(ref, b"begun")
    claim = (site.folder(ref) / "claim.n1").read_text().split()
    os.kill(int(claim[1]), signal.SIGKILL)
    # Its job runs on, so it has not ended.
    assert (await site.jobs.status(ref)).state == job_pb2.JOB_STATE_RUNNING  # type: ignore[union-attr]
    for pid in marked(ref):
        os.kill(pid, signal.SIGKILL)
    assert (await site.ended(ref)).failure.reason == "NODE_FAIL"


async def test_a_reboot_is_a_failed_node_and_no_second_start(site: Site) -> None:
    script = "echo run >>../count; echo begun; exec sleep 60\n"
    ref = await site.start(script)
    request = site.request(ref, script)
    await site.written(ref, b"begun")
    runner = int((site.folder(ref) / "claim.n1").read_text().split()[1])
    for pid in (runner, *marked(ref)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    claim = site.folder(ref) / "claim.n1"
    claim.write_text(f"another-boot {runner} 1\n")
    status = await site.starts.start(request)
    assert status.end.failure.reason == "NODE_FAIL"
    assert status.end.failure.retryable
    assert (site.folder(ref) / "count").read_text() == "run\n"


async def test_a_claim_that_makes_no_sense_is_an_unknown_end(site: Site) -> None:
    ref = await site.start("echo begun; exec sleep 60\n")
    await site.written(ref, b"begun")
    runner = int((site.folder(ref) / "claim.n1").read_text().split()[1])
    (site.folder(ref) / "claim.n1").write_text("\n")
    assert (await site.jobs.status(ref)).state == job_pb2.JOB_STATE_RUNNING  # type: ignore[union-attr]
    for pid in (runner, *marked(ref)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert (await site.ended(ref)).failure.reason == "END_UNKNOWN"


async def test_another_root_changes_nothing(site: Site) -> None:
    ref = await site.start("sleep 60\n")
    await site.running(ref)
    wrong = types_pb2.JobRef()
    wrong.CopyFrom(ref)
    wrong.roots[0].root_uid = "another"
    for call in (
        site.jobs.status(wrong),
        site.ending.cancel(wrong, 0.0),
        site.ending.remove(wrong),
        site.starts.start(site.request(wrong, "true\n")),
    ):
        with refused("SITE_CHANGED"):
            await call
    assert (await site.jobs.status(ref)).state == job_pb2.JOB_STATE_RUNNING  # type: ignore[union-attr]
    root = site.roots["n1"] / "root_uid"
    kept = root.read_text()
    root.unlink()
    with refused("SITE_CHANGED"):
        await site.jobs.status(ref)
    root.write_text(kept)
    await site.ending.cancel(ref, 0.0)


async def test_a_start_without_a_root_is_refused(site: Site) -> None:
    ref = await site.stage()
    request = site.request(ref, "true\n")
    del request.ref.roots[:]
    with refused("FIELD_REQUIRED"):
        await site.starts.start(request)


async def test_a_script_on_every_node_runs_on_each_and_tells_the_first_that_failed(
    site: Site,
) -> None:
    script = 'echo "$SWM_NODE_RANK of $SWM_NUM_NODES: $SWM_NODES"; exit "$SWM_NODE_RANK"\n'
    ref = await site.start(script, "n1", "n2", launch=job_pb2.LAUNCH_EVERY)
    end = await site.ended(ref)
    assert end.exit_code == 1
    assert [(node.node, node.exit_code) for node in end.nodes] == [("n1", 0), ("n2", 1)]
    wrote = (site.folder(ref, "n2") / "stdout.n2").read_text()
    assert wrote == "1 of 2: n1,n2\n"
    await site.ending.remove(ref)
    assert not site.folder(ref, "n1").exists()
    assert not site.folder(ref, "n2").exists()


async def test_a_node_that_lost_all_that_told_of_its_run_ends_unknown(site: Site) -> None:
    script = '[ "$SWM_NODE_RANK" = 0 ] || rm -rf "$(dirname "$SWM_WORKDIR")"\n'
    ref = await site.start(script, "n1", "n2", launch=job_pb2.LAUNCH_EVERY)
    end = await site.ended(ref)
    assert [(node.node, node.exit_code, node.failure.reason) for node in end.nodes] == [
        ("n1", 0, ""),
        ("n2", 0, "END_UNKNOWN"),
    ]
    assert end.failure.reason == "END_UNKNOWN"


async def test_a_cancel_is_confirmed_by_all_nodes(site: Site) -> None:
    ref = await site.start("echo begun; sleep 60\n", "n1", "n2", launch=job_pb2.LAUNCH_EVERY)
    await site.running(ref)
    status = await site.ending.cancel(ref, 0.0)
    assert status is not None
    assert [node.failure.reason for node in status.end.nodes] == ["CANCELLED", "CANCELLED"]
    assert marked(ref) == []


@pytest.mark.parametrize("launch", [job_pb2.LAUNCH_FIRST, job_pb2.LAUNCH_EVERY])
async def test_a_cancel_ends_what_it_can_reach(
    site: Site, monkeypatch: pytest.MonkeyPatch, launch: job_pb2.Launch.ValueType
) -> None:
    ref = await site.start("echo begun; sleep 60\n", "n1", "n2", launch=launch)
    await site.running(ref)
    with monkeypatch.context() as away:
        away.setattr(site.place.by_node["n2"], "ask", _answers_nothing)
        with pytest.raises(Refusal, match="n2 is away"):
            await site.ending.cancel(ref, 0.0)
        assert (site.folder(ref) / "end.n1").read_text().startswith("failure CANCELLED\n")
    status = await site.ending.cancel(ref, 0.0)
    assert status is not None
    assert status.end.failure.reason == "CANCELLED"
    assert marked(ref) == []


async def _answers_nothing(verb: str, *words: str, data: bytes = b"") -> Reply:
    raise errors.node_unreachable("n2", "n2 is away")


async def test_a_script_on_the_first_node_leaves_the_others_alone(site: Site) -> None:
    ref = await site.start('cat "$SWM_HOSTFILE"\n', "n1", "n2")
    end = await site.ended(ref)
    assert [node.node for node in end.nodes] == ["n1"]
    assert b"".join([piece async for piece in site.follow(ref)]) == b"n1\nn2\n"
    assert not (site.folder(ref, "n2") / "claim.n2").exists()


async def test_output_is_told_while_it_is_written_and_from_any_offset(site: Site) -> None:
    ref = await site.start("echo one; while [ ! -e go ]; do sleep 0.02; done; echo two\n")
    await site.written(ref, b"one\n")
    (site.folder(ref) / "work" / "go").touch()
    await site.written(ref, b"two\n")
    assert b"".join([piece async for piece in site.follow(ref, offset=4)]) == b"two\n"
    with refused("OFFSET"):
        assert [piece async for piece in site.follow(ref, offset=9)] == []


async def test_much_output_with_nul_bytes_comes_whole(site: Site) -> None:
    ref = await site.start("head -c 5000000 /dev/zero; echo; echo end\n")
    told = b"".join([piece async for piece in site.follow(ref)])
    assert told == bytes(5_000_000) + b"\nend\n"


async def test_a_job_that_deletes_its_folder_loses_no_output(site: Site) -> None:
    ref = await site.start('cd /; rm -rf "$SWM_WORKDIR"; echo done\n')
    assert (await site.ended(ref)).exit_code == 0
    assert b"".join([piece async for piece in site.follow(ref)]) == b"done\n"
    await site.ending.remove(ref)
    assert not site.folder(ref).exists()


async def test_a_job_that_takes_its_rights_away_is_removed_all_the_same(site: Site) -> None:
    ref = await site.start("mkdir -p a/b; touch a/b/c; chmod 0 a/b a\n")
    await site.ended(ref)
    await site.ending.remove(ref)
    assert not site.folder(ref).exists()
    assert list((site.roots["n1"] / "trash").iterdir()) == []


async def test_many_are_removed_together_and_each_has_its_own_answer(site: Site) -> None:
    refs = [await site.start("true\n") for _ in range(12)]
    for ref in refs:
        await site.ended(ref)
    elsewhere, other = refs[0], refs[1]
    elsewhere.roots[0].root_uid = "another place"
    other.installation = "other"  # of another core, at the same place: there is nothing of it
    answers = await asyncio.gather(
        *(site.ending.remove(ref) for ref in refs), return_exceptions=True
    )
    assert isinstance(answers[0], Refusal)
    assert answers[0].reason == "SITE_CHANGED"
    assert answers[1:] == [None] * 11
    assert [site.folder(ref).exists() for ref in refs[2:]] == [False] * 10
    assert site.folder(elsewhere).exists()
    assert list((site.roots["n1"] / "trash").iterdir()) == []
    for ref in refs[2:]:
        with refused("JOB_CANCELLED"):
            await site.starts.start(site.request(ref, "true\n"))


async def test_a_start_that_is_answered_is_on_the_disk_and_is_told_once(site: Site) -> None:
    ref = await site.stage()
    request = site.request(ref, "echo ran >>$SWM_WORKDIR/ran; echo up; sleep 60\n")
    answers = await asyncio.gather(*(site.starts.start(request) for _ in range(3)))
    assert {status.spec_fingerprint for status in answers} == {request.spec_fingerprint}
    await site.running(ref)
    await site.written(ref, b"up\n")
    assert (await site.starts.start(request)).state == job_pb2.JOB_STATE_RUNNING
    assert (site.folder(ref) / "work/ran").read_text() == "ran\n"
    request.spec_fingerprint = "1" * 64
    with refused("JOB_DIFFERS"):
        await site.starts.start(request)
    # What was known of it before still is.
    assert site.jobs.known.live[AttemptKey.of(ref)] is not None
    await site.ending.cancel(ref, 0.0)


async def test_a_job_that_runs_is_not_removed(site: Site) -> None:
    ref = await site.start("sleep 60\n")
    await site.running(ref)
    with refused("JOB_RUNNING"):
        await site.ending.remove(ref)
    await site.ending.cancel(ref, 0.0)


async def test_a_lost_shell_is_made_anew(site: Site) -> None:
    ref = await site.start("sleep 60\n")
    await site.running(ref)
    shell = site.host._shell
    assert shell is not None
    shell._process.close()
    status = await site.until(ref, lambda status: True)
    assert status.state == job_pb2.JOB_STATE_RUNNING
    await site.ending.cancel(ref, 0.0)


async def test_an_account_without_a_home_for_the_root_is_told_clearly(
    site: Site, tmp_path: Path
) -> None:
    site.roots["n1"].parent.chmod(0o700)
    (tmp_path / "root of n1").write_text("a file where the folder should be")
    with pytest.raises(Refusal) as caught:
        await site.stage()
    assert "root of n1" in caught.value.message
