"""A job's whole life on a site whose hosts are always there: in, run, out."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from skyport.terminal.v1 import file_pb2
from tests.system.harness.core import Core, running
from tests.system.harness.files import (
    File,
    Folder,
    Link,
    Tree,
    bring,
    list_outputs,
    manifest,
    sha256,
)
from tests.system.harness.jobs import (
    FAILED,
    PROVISIONING,
    QUEUED,
    RUNNING,
    STAGING_IN,
    STAGING_OUT,
    STARTING,
    STDERR,
    SUCCEEDED,
)
from tests.system.harness.sites import static


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    with running(tmp_path_factory.mktemp("life"), {"lab": static()}) as core:
        yield core


def test_a_job_goes_through_all_states_in_order_and_leaves_nothing_at_its_site(core: Core) -> None:
    job = core.user().submit("cat in.txt", inputs={"in.txt": b"hello\n"})
    ended = job.until(SUCCEEDED)
    assert job.states == [
        QUEUED, PROVISIONING, STAGING_IN, STARTING, RUNNING, STAGING_OUT, SUCCEEDED
    ]  # fmt: skip
    assert job.output() == b"hello\n"
    assert ended.exit_code == 0
    assert [attempt.number for attempt in ended.attempts] == [1]
    core.site("lab").cleared(job.job_id)


def test_every_state_comes_with_words_and_each_step_is_one_event(core: Core) -> None:
    job = core.user().submit("true")
    ended = job.until(SUCCEEDED)
    assert all(event.message for event in job.seen)
    sequences = [event.sequence for event in job.seen]
    assert sequences == sorted(set(sequences))
    assert ended.submit_time.ToSeconds() <= ended.start_time.ToSeconds()
    assert ended.start_time.ToNanoseconds() <= ended.end_time.ToNanoseconds()


def test_two_inputs_of_one_content_both_arrive(core: Core) -> None:
    inputs = {"a.txt": b"same\n", "b.txt": b"same\n"}
    job = core.user().submit("cat a.txt b.txt", inputs=inputs)
    job.until(SUCCEEDED)
    assert job.output() == b"same\nsame\n"


def test_inputs_of_every_kind_arrive_as_they_were(core: Core) -> None:
    big = bytes(range(256)) * 6_000  # more than one message
    tree: Tree = {
        "empty.dat": b"",
        "run.sh": File(b"#!/bin/sh\necho ran\n", 0o755),
        "private.txt": File(b"mine", 0o600),
        "deep/er/file.txt": b"deep",
        "deep/big.bin": big,
        "hollow": Folder(0o750),
        "deep/link": Link("er/file.txt"),
        "name with ' and \u00e9.txt": b"odd",
    }
    script = """
    find . -mindepth 1 -printf '%P|%y|%m|%s|%l\\n' | LC_ALL=C sort
    ./run.sh; cat deep/link; echo; sha256sum < deep/big.bin
    """
    job = core.user().submit(script, inputs=tree)
    job.until(SUCCEEDED)
    lines = job.output().decode().splitlines()
    for expected in (
        "empty.dat|f|644|0|",
        "run.sh|f|755|19|",
        "private.txt|f|600|4|",
        "deep/er/file.txt|f|644|4|",
        f"deep/big.bin|f|644|{len(big)}|",
        "hollow|d|750|",
        "name with ' and \u00e9.txt|f|644|3|",
        "ran",
        "deep",
        f"{sha256(big).hex()}  -",
    ):
        assert any(line.startswith(expected) for line in lines), (expected, lines)
    assert any(re.fullmatch(r"deep/link\|l\|\d+\|\d+\|er/file.txt", line) for line in lines)


def test_several_input_files_on_one_line_stay_several(core: Core) -> None:
    job = core.user().submit(
        '#SWM input-files a.txt "b c.txt"\n#SWM input d.txt\ncat a.txt "b c.txt" d.txt',
        inputs={"a.txt": b"1", "b c.txt": b"2", "d.txt": b"3"},
    )
    assert list(job.get().spec.input_files) == ["a.txt", "b c.txt", "d.txt"]
    job.until(SUCCEEDED)
    assert job.output() == b"123"


def test_the_same_content_is_brought_once(core: Core) -> None:
    user = core.user()
    tree = {"one.bin": b"x" * 70_000, "two.bin": b"y" * 70_000}
    bring(user, tree)
    text, contents = manifest(tree)
    asked = [file_pb2.Content(sha256=sha256(data), size=len(data)) for data in [*contents, text]]
    answer = user.files.FindMissing(file_pb2.FindMissingRequest(contents=asked), timeout=10)
    assert not answer.missing


def test_outputs_come_back_by_name_by_pattern_and_by_folder(core: Core) -> None:
    job = core.user().submit(
        """#SWM output-files plain.txt *.csv results
        printf plain > plain.txt; printf 1 > a.csv; printf 22 > b.csv; printf no > other.dat
        mkdir -p results/sub/hollow; : > results/empty; printf deep > results/sub/deep.bin
        chmod 750 results/sub/deep.bin; ln -s deep.bin results/sub/link
        """
    )
    job.until(SUCCEEDED)
    outputs = job.outputs()
    assert outputs == {
        "plain.txt": File(b"plain", 0o644),
        "a.csv": File(b"1", 0o644),
        "b.csv": File(b"22", 0o644),
        "results/empty": File(b"", 0o644),
        "results/sub/deep.bin": File(b"deep", 0o750),
        "results/sub/hollow": Folder(0o755),
        "results/sub/link": Link("deep.bin"),
    }


def test_a_large_output_comes_back_whole(core: Core) -> None:
    job = core.user().submit(
        "#SWM output large.bin\nhead -c 5000000 /dev/zero | tr '\\0' 'k' > large.bin"
    )
    job.until(SUCCEEDED)
    assert job.outputs() == {"large.bin": File(b"k" * 5_000_000, 0o644)}


def test_a_pattern_that_matches_nothing_is_a_warning(core: Core) -> None:
    job = core.user().submit("#SWM output-files there.txt *.none\necho 1 > there.txt")
    job.until(SUCCEEDED)
    assert list(job.outputs()) == ["there.txt"]
    assert list(list_outputs(core.user(), job.job_id).unmatched_patterns) == ["*.none"]


def test_a_missing_output_fails_the_job_after_all_else_is_collected(core: Core) -> None:
    job = core.user().submit(
        "#SWM output-files first.txt missing.txt last.txt\necho 1 > first.txt; echo 2 > last.txt"
    )
    ended = job.until(FAILED)
    assert ended.failure.reason == "OUTPUT_MISSING"
    assert "missing.txt" in ended.failure.message
    assert ended.exit_code == 0
    assert job.outputs() == {"first.txt": File(b"1\n"), "last.txt": File(b"2\n")}


def test_what_cannot_be_taken_is_told_and_the_rest_comes(core: Core) -> None:
    job = core.user().submit(
        "#SWM output out\nmkdir out; echo 1 > out/good; mkfifo out/pipe; ln -s /etc/passwd out/away"
    )
    job.until(SUCCEEDED)
    listed = list_outputs(core.user(), job.job_id)
    assert list(job.outputs()) == ["out/good"]
    assert {skipped.path for skipped in listed.skipped} == {"out/pipe", "out/away"}
    assert all(skipped.reason for skipped in listed.skipped)


@pytest.mark.parametrize("code", [1, 3, 77, 255])
def test_the_exit_code_is_told_as_it_was(core: Core, code: int) -> None:
    job = core.user().submit(f"exit {code}")
    ended = job.until(FAILED)
    assert (ended.exit_code, ended.signal) == (code, 0)
    assert ended.failure.reason == "EXIT_CODE"
    assert str(code) in ended.failure.message
    assert ended.attempts[0].exit_code == code


def test_a_failed_job_keeps_its_outputs_and_logs(core: Core) -> None:
    job = core.user().submit("#SWM output r.txt\necho r > r.txt; echo oops >&2; exit 4")
    job.until(FAILED)
    assert job.outputs() == {"r.txt": File(b"r\n")}
    assert job.output(STDERR) == b"oops\n"
    core.site("lab").cleared(job.job_id)
    assert job.outputs() == {"r.txt": File(b"r\n")}


@pytest.mark.parametrize("number", [9, 15, 11])
def test_the_signal_that_ended_a_script_is_told(core: Core, number: int) -> None:
    ended = core.user().submit(f"ulimit -c 0; kill -{number} $$").until(FAILED)
    assert ended.signal == number
    assert not ended.HasField("exit_code")
    assert ended.failure.reason == "SIGNAL"


def test_the_time_limit_ends_a_script_at_its_site(core: Core) -> None:
    job = core.user().submit("#SWM time 1\necho begun; sleep 600")
    ended = job.until(FAILED)
    assert ended.failure.reason == "TIME_LIMIT"
    assert not ended.HasField("exit_code")
    assert job.output() == b"begun\n"
    core.site("lab").cleared(job.job_id)


def test_an_interpreter_that_is_not_there_fails_the_job_with_words(core: Core) -> None:
    ended = core.user().submit("#!/no/such/shell\ntrue").until(FAILED)
    assert ended.failure.reason in ("START_FAILED", "EXIT_CODE")
    assert ended.failure.message


def test_a_script_is_run_by_the_program_that_it_names(core: Core) -> None:
    job = core.user().submit("#!/usr/bin/env python3\nprint(6 * 7)")
    job.until(SUCCEEDED)
    assert job.output() == b"42\n"


def test_what_a_script_leaves_running_is_ended_with_it(core: Core) -> None:
    job = core.user().submit("setsid sleep 600 & setsid -f sleep 600; echo left")
    job.until(SUCCEEDED)
    assert job.output() == b"left\n"
    core.site("lab").cleared(job.job_id)


def test_gpus_0_takes_a_node_without_gpus(core: Core) -> None:
    core.user().submit("#SWM gpus 0\ntrue").until(SUCCEEDED)


def test_many_jobs_at_once_all_come_to_their_own_end(core: Core) -> None:
    jobs = [
        core.user().submit(f"#SWM output n.txt\necho {n} | tee n.txt; exit {n % 2}")
        for n in range(16)
    ]
    for number, job in enumerate(jobs):
        ended = job.end(within_s=60)
        assert ended.state == (FAILED if number % 2 else SUCCEEDED)
        assert job.output() == f"{number}\n".encode()
        assert job.outputs() == {"n.txt": File(f"{number}\n".encode())}
