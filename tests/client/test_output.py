from __future__ import annotations

import threading

import pytest

from skyport.terminal.v1 import job_pb2
from terminals.client import Client, DataDamaged, Gap
from terminals.client.output import OutputReader
from tests.client.fake_core import FakeCore

RUNNING = job_pb2.JOB_STATE_RUNNING


@pytest.fixture(autouse=True)
def running(client: Client, core: FakeCore) -> None:
    core.state.add("j1", state=RUNNING, attempt=1)
    client.call(client.jobs.ListJobs, job_pb2.ListJobsRequest())


def joined(reader: OutputReader) -> bytes:
    return b"".join(piece for piece in reader if isinstance(piece, bytes))


def test_what_is_there_is_read_and_no_more(client: Client, core: FakeCore) -> None:
    core.state.write("j1", b"so far")
    assert list(client.read_output("j1")) == [b"so far"]
    assert list(client.read_output("j1", stderr=True)) == []


def test_following_goes_on_over_restarts_without_loss_or_repetition(
    client: Client, core: FakeCore
) -> None:
    core.state.faults.output_breaks_after = [1, 1]
    reader = OutputReader(client, "j1", attempt=1, follow=True)
    got = b""
    core.state.write("j1", b"one ")
    for piece in reader:
        assert isinstance(piece, bytes)
        got += piece
        if got == b"one ":
            core.state.write("j1", b"two ")
        elif got == b"one two ":
            core.restart()
            core.state.write("j1", b"three")
        elif got == b"one two three":
            core.state.finish_logs("j1")
    assert got == b"one two three"
    assert reader.complete


def test_bytes_that_were_not_kept_are_told(client: Client, core: FakeCore) -> None:
    core.state.write("j1", b"0123456789")
    core.state.log("j1").kept_from = 6
    assert list(client.read_output("j1")) == [Gap(6), b"6789"]


def test_an_end_that_was_not_kept_is_told(client: Client, core: FakeCore) -> None:
    core.state.write("j1", b"0123456789")
    core.state.log("j1").kept_from = 10
    core.state.finish_logs("j1")
    assert list(client.read_output("j1")) == [Gap(10)]


def test_a_tail_begins_late_without_a_gap(client: Client, core: FakeCore) -> None:
    core.state.write("j1", b"0123456789")
    reader = OutputReader(client, "j1", tail_bytes=3)
    assert list(reader) == [b"789"]
    assert reader.offset == 10


def test_a_tail_is_counted_once(client: Client, core: FakeCore) -> None:
    core.state.write("j1", b"0123456789")
    core.state.faults.output_breaks_after = [1]
    reader = OutputReader(client, "j1", attempt=1, tail_bytes=3, follow=True)
    pieces = iter(reader)
    assert next(pieces) == b"789"
    core.state.write("j1", b"ab")
    assert next(pieces) == b"ab"


def test_a_whole_stream_is_compared_with_its_digest(client: Client, core: FakeCore) -> None:
    core.state.write("j1", b"x")
    core.state.finish_logs("j1")
    core.state.faults.forged_output = b"y"
    with pytest.raises(DataDamaged):
        joined(OutputReader(client, "j1"))


def test_a_reader_can_be_stopped_from_another_thread(client: Client, core: FakeCore) -> None:
    reader = OutputReader(client, "j1", follow=True)
    core.state.write("j1", b"x")
    pieces = iter(reader)
    assert next(pieces) == b"x"
    threading.Timer(0.2, reader.stop).start()
    assert list(pieces) == []
    assert not reader.complete


def test_a_silent_stream_outlives_a_core_that_stays_away_for_a_while(
    client: Client, core: FakeCore
) -> None:
    """Longer than any repetition by grpc itself lasts."""
    reader = OutputReader(client, "j1", attempt=1, follow=True)
    got: list[bytes | Gap] = []
    reading = threading.Thread(target=lambda: got.extend(reader), daemon=True)
    reading.start()
    core.state.wait_until(lambda: "ReadOutput" in core.state.calls)
    core.stop()
    back = threading.Timer(3, core.start)
    back.start()
    core.state.write("j1", b"late")
    core.state.finish_logs("j1")
    reading.join(30)
    back.join()
    assert got == [b"late"]
    assert reader.complete
