"""Which job gets which place: packing, ports, priority, and what waits for what."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from skyport.terminal.v1 import catalog_pb2
from tests.system.harness.core import Core, running
from tests.system.harness.jobs import (
    CANCELLED,
    QUEUED,
    QUEUED_AT_SITE,
    RUNNING,
    SUCCEEDED,
    JobHandle,
)
from tests.system.harness.latch import Latch
from tests.system.harness.sites import node, queue, static
from tests.system.harness.waiting import eventually

GiB = 1 << 30


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    one = node("n1", cpus=4, memory="8G", gpus=["a", "b"], first_port=21_000, last_port=21_099)
    sites = {"lab": static(one), "batch": queue(slots=1)}
    with running(tmp_path_factory.mktemp("placement"), sites) as core:
        yield core


def waits(job: JobHandle, *parts: str) -> None:
    """Wait until the job is told to wait for something."""
    eventually(
        lambda: all(part in job.get().text for part in parts), f"it waits for {' and '.join(parts)}"
    )
    assert job.get().state == QUEUED


def lab(core: Core, script: str) -> JobHandle:
    return core.user().submit(script, site="lab")


def test_jobs_that_fit_together_share_a_node(core: Core, latch: Callable[[], Latch]) -> None:
    hold = latch()
    jobs = [
        lab(core, f"#SWM cpus 1\n#SWM mem 2G\n{hold.wait}"),
        lab(core, f"#SWM cpus 1\n#SWM mem 2G\n#SWM gpus 1\n{hold.wait}"),
        lab(core, f"#SWM cpus 2\n#SWM gpus 1\n{hold.wait}"),
    ]
    at = [job.until(RUNNING).nodes[0] for job in jobs]
    assert {each.name for each in at} == {"n1"}
    assert sorted(gpu for each in at for gpu in each.gpu_ids) == ["a", "b"]
    (told,) = (
        each
        for each in core.user()
        .catalog.ListNodes(catalog_pb2.ListNodesRequest(site="lab"), timeout=10)
        .nodes
    )
    assert (told.allocated_cpus, told.allocated_gpus, told.active_jobs) == (4, 2, 3)
    assert told.allocated_memory_bytes == 4 * GiB
    late = lab(core, "#SWM cpus 1\ntrue")
    waits(late, "1 cpu", "lab")
    hold.release(3)
    for job in (*jobs, late):
        job.until(SUCCEEDED)


@pytest.mark.parametrize(
    ("first", "second", "lack"),
    [
        ("#SWM cpus 3", "#SWM cpus 2", "2 cpus"),
        ("#SWM mem 5G", "#SWM mem 4G", "memory"),
        ("#SWM gpus 2", "#SWM gpus 1", "1 gpu"),
        ("#SWM ports 21050/tcp", "#SWM ports 21050/tcp", "port 21050"),
    ],
)
def test_what_one_job_has_another_waits_for(
    core: Core, latch: Callable[[], Latch], first: str, second: str, lack: str
) -> None:
    hold = latch()
    holder = lab(core, f"{first}\n{hold.wait}")
    holder.until(RUNNING)
    waiter = lab(core, f"{second}\ntrue")
    waits(waiter, lack)
    hold.release()
    waiter.until(SUCCEEDED)
    assert holder.until(SUCCEEDED).end_time.ToNanoseconds() <= (
        waiter.get().start_time.ToNanoseconds()
    )


def test_two_jobs_that_ask_for_free_ports_get_different_ones(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    ports = "#SWM ports 0/tcp/in WEB, 0/tcp/in API"
    script = f'{ports}\necho "$SWM_PORT_WEB $SWM_PORT_API"\n{hold.wait}'
    jobs = [lab(core, script) for _ in range(2)]
    numbers: list[int] = []
    for job in jobs:
        given = {port.name: port.number for port in job.until(RUNNING).nodes[0].ports}
        assert job.written(b"\n").split() == [
            str(given["WEB"]).encode(), str(given["API"]).encode()
        ]  # fmt: skip
        numbers += given.values()
    assert len(set(numbers)) == 4
    assert all(21_000 <= number <= 21_099 for number in numbers)
    hold.release(2)
    for job in jobs:
        job.until(SUCCEEDED)


def test_higher_priority_goes_first_and_equals_in_order_of_submit(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    holder = lab(core, f"#SWM cpus 4\n{hold.wait}")
    holder.until(RUNNING)
    low = lab(core, "#SWM cpus 4\n#SWM priority -5\ntrue")
    first = lab(core, "#SWM cpus 4\ntrue")
    second = lab(core, "#SWM cpus 4\ntrue")
    high = lab(core, "#SWM cpus 4\n#SWM priority 5\ntrue")
    hold.release()
    order = [high, first, second, low]
    times = [job.until(SUCCEEDED).start_time.ToNanoseconds() for job in order]
    assert times == sorted(times)


def test_a_large_job_is_not_starved_by_small_ones_behind_it(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold, later = latch(), latch()
    holder = lab(core, f"#SWM cpus 1\n{hold.wait}")
    holder.until(RUNNING)
    large = lab(core, f"#SWM cpus 4\n{later.wait}")
    small = lab(core, "#SWM cpus 2\ntrue")
    waits(large, "4 cpus")
    waits(small, "turn")
    hold.release()
    large.until(RUNNING)
    later.release()
    started = [job.until(SUCCEEDED).start_time.ToNanoseconds() for job in (large, small)]
    assert started == sorted(started)


def test_a_site_s_own_queue_holds_a_job_and_places_it(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    first = core.user().submit(f"#SWM cpus 2\n{hold.wait}", site="batch")
    first.until(RUNNING)
    second = core.user().submit('echo "$SWM_NODES"', site="batch")
    held = second.until(QUEUED_AT_SITE)
    assert not held.nodes
    assert held.partition_id == "batch"
    hold.release()
    ended = second.until(SUCCEEDED)
    assert [each.name for each in ended.nodes] == ["batch-1"]
    assert second.output() == b"batch-1\n"
    first.until(SUCCEEDED)
    core.site("batch").cleared()


def test_a_queue_that_is_full_keeps_the_job_waiting(core: Core) -> None:
    core.site("batch").faults(
        {
            "kind": "fail", "method": "StartJob", "code": "RESOURCE_EXHAUSTED",
            "reason": "SITE_QUEUE_FULL", "times": 2, "retry_after_s": 0.2,
        }
    )  # fmt: skip
    job = core.user().submit("true", site="batch")
    job.until(SUCCEEDED)
    assert len(job.get().attempts) == 1


def test_a_partition_that_is_asked_for_is_taken(core: Core) -> None:
    job = core.user().submit("#SWM partition batch\ntrue")
    assert job.until(SUCCEEDED).partition_id == "batch"


def test_an_account_that_is_a_site_s_name_selects_it(core: Core) -> None:
    job = core.user().submit("#SWM account batch\ntrue")
    assert job.until(SUCCEEDED).site == "batch"


def test_a_node_that_is_down_gets_no_job_until_it_is_back(core: Core) -> None:
    core.site("lab").unreachable("n1")
    eventually(lambda: _node_state(core) == catalog_pb2.NODE_STATE_DOWN, "n1 is known to be down")
    job = lab(core, "true")
    waits(job, "node")
    core.site("lab").unreachable()
    job.until(SUCCEEDED)


def _node_state(core: Core) -> catalog_pb2.NodeState.ValueType:
    request = catalog_pb2.ListNodesRequest(site="lab")
    return core.user().catalog.ListNodes(request, timeout=10).nodes[0].state


def test_a_job_that_waits_says_for_what_and_can_be_cancelled(
    core: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    holder = lab(core, f"#SWM cpus 4\n{hold.wait}")
    holder.until(RUNNING)
    waiter = lab(core, "#SWM cpus 4\ntrue")
    waits(waiter, "4 cpus", "lab")
    waiter.cancel()
    waiter.until(CANCELLED)
    hold.release()
    holder.until(SUCCEEDED)


# What is not the one that it was.


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    with running(tmp_path_factory.mktemp("pair"), {"lab": static(node("n1"), node("n2"))}) as core:
        yield core


def nodes_of(core: Core, user: str) -> dict[str, catalog_pb2.Node]:
    request = catalog_pb2.ListNodesRequest(site="lab")
    answer = core.user(user).catalog.ListNodes(request, timeout=10)
    return {each.name: each for each in answer.nodes}


@pytest.mark.parametrize(
    ("reason", "of_others"), [("SITE_CHANGED", "n1"), ("HOST_KEY_MISMATCH", "n2")]
)
def test_nothing_new_is_placed_on_a_node_that_is_another_until_it_is_mended(
    pair: Core, reason: str, of_others: str
) -> None:
    site, why = pair.site("lab"), "it is not what it was"
    site.faults(
        {
            "kind": "fail", "method": "StartJob", "job": "first", "node": "n1",
            "code": "FAILED_PRECONDITION", "reason": reason, "message": why,
        }
    )  # fmt: skip
    first = pair.user().submit("#SWM name first\n#SWM cpus 2\ntrue")
    eventually(lambda: why in first.get().text, "it says why it waits")
    assert [each.name for each in first.get().nodes] == ["n1"]
    # The fuller node would be the best for all that follow.
    second = pair.user().submit("true").until(SUCCEEDED)
    assert [each.name for each in second.nodes] == ["n2"]
    other = pair.user("cy").submit("true").until(SUCCEEDED)
    assert [each.name for each in other.nodes] == [of_others]
    both = pair.user().submit("#SWM nodes 2\ntrue")
    waits(both, "node n1 of site lab", why)
    told = nodes_of(pair, "bo")
    assert (told["n1"].state, why in told["n1"].message) == (catalog_pb2.NODE_STATE_DRAINED, True)
    assert (told["n2"].state, told["n2"].message) == (catalog_pb2.NODE_STATE_UP, "")
    told = nodes_of(pair, "cy")
    assert (told["n1"].state == catalog_pb2.NODE_STATE_UP) is (of_others == "n1")
    assert (why in told["n1"].message) is (of_others != "n1")
    assert first.get().attempt == 1
    # Its own tries find out that it was mended.
    site.faults()
    assert first.until(SUCCEEDED).attempt == 1
    both.until(SUCCEEDED)
    assert nodes_of(pair, "bo")["n1"].state == catalog_pb2.NODE_STATE_UP


def test_nothing_of_an_owner_is_placed_where_the_root_that_nodes_share_is_another(
    pair: Core, latch: Callable[[], Latch]
) -> None:
    hold = latch()
    runs = pair.user().submit(f"echo up; {hold.wait}; echo down")
    runs.written(b"up\n")
    root = pair.site("lab").root / "root_uid"
    before = root.read_text()
    root.write_text("another")
    waiting = pair.user().submit("true")
    eventually(lambda: "its root is another" in waiting.get().text, "it is told why it waits")
    next_one = pair.user().submit("true")
    waits(next_one, "site lab, which has just failed", "its root is another")
    root.write_text(before)
    hold.release()
    for job in (runs, waiting, next_one):
        assert job.until(SUCCEEDED).attempt == 1
