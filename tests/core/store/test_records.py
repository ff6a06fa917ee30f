"""Partitions, users, roots, the store's own facts, and how values are written down."""

from __future__ import annotations

import dataclasses
import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyport.gate.v1 import partition_pb2
from swm_core.domain.failures import Failure
from swm_core.domain.job import Allocation, End, Job, JobSpec, Port, Resources
from swm_core.domain.partition import Partition, PartitionSpec
from swm_core.domain.states import IllegalTransition, JobState, PartitionState
from swm_core.gateways import convert
from swm_core.store import (
    AlreadyExists,
    NotFound,
    Root,
    StalePartition,
    Store,
    StoreUnusable,
    User,
    UserCertificate,
    codec,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TEXTS = st.dictionaries(TEXT, TEXT, max_size=3)
TIMES = st.floats(0, 1e12)
COUNTS = st.integers(0, 2**62)
FAILURES = st.builds(Failure, message=TEXT)
ENDS = st.builds(
    End,
    exit_code=st.none() | st.integers(0, 255),
    failure=st.none() | FAILURES,
    start_time=st.none() | TIMES,
    end_time=st.none() | TIMES,
    cpu_time_s=TIMES,
)
SPECS = st.builds(
    JobSpec,
    name=TEXT,
    resources=st.builds(Resources, cpus=COUNTS, mem_bytes=COUNTS),
    ports=st.lists(st.builds(Port, number=COUNTS, name=TEXT), max_size=2).map(tuple),
    input_files=st.lists(TEXT, max_size=3).map(tuple),
    env=TEXTS,
    site_options=TEXTS,
)
JOBS = st.builds(
    Job,
    job_id=TEXT,
    owner=TEXT,
    spec=SPECS,
    manifest_sha256=TEXT,
    submit_time=TIMES,
    state_time=TIMES,
    text=TEXT,
    attempt=COUNTS,
    allocations=st.lists(
        st.builds(Allocation, node=TEXT, ports=st.dictionaries(TEXT, COUNTS, max_size=2)),
        max_size=2,
    ).map(tuple),
    end=st.none() | ENDS,
    failure=st.none() | FAILURES,
    not_before=TIMES,
    start_time=st.none() | TIMES,
    end_time=st.none() | TIMES,
)

PARTITION = Partition(
    partition_id="p1",
    site="azure",
    owner="alice",
    spec=PartitionSpec(
        location="westeurope",
        flavor="small",
        node_count=2,
        spot=True,
        containers=True,
        storage=("data",),
        site_options=(("zone", "1"),),
        disk_bytes=1 << 30,
        spot_price_limit=Decimal("0.5"),
        spot_currency="USD",
    ),
    spec_fingerprint="f",
    state=PartitionState.CREATING,
    create_time=1.5,
    price_per_hour=Decimal("0.1040"),
    currency="USD",
)

# As the first version wrote it. It has to be read for ever: do not change it, add another.
FIRST_SPEC = (
    '{"name":"n","comment":"","account":"","site":"","partition":"","flavor":"","nodes":2,'
    '"resources":{"cpus":4,"mem_bytes":1024,"gpus":0,"disk_bytes":0},"launch":"every",'
    '"time_limit_s":60,"priority":0,"retries":1,"relocatable":true,"cloud_image":"",'
    '"container_image":"","ports":[{"number":8888,"direction":"in","name":"nb"}],'
    '"submission_address":"","input_files":["a"],"output_files":[],"workdir":"","stdin":"",'
    '"stdout":"stdout.log","stderr":"stderr.log","env":{"A":"1"},"site_options":{}}'
)
FIRST_RECORD = (
    '{"job_id":"j1","owner":"alice","manifest_sha256":"ab","state":"RUNNING","submit_time":1.0,'
    '"state_time":2.0,"attempt":1,"allocations":[{"node":"n1","cpus":4,"mem_bytes":1024}]}'
)


@given(JOBS)
def test_a_job_comes_back_as_it_was(job: Job) -> None:
    decoded = codec.decode_job(
        codec.encode_spec(job.spec), codec.encode_job(job), job.last_sequence
    )
    assert decoded == job


@given(JOBS, st.integers(0, 2**62))
def test_a_job_with_another_sequence_differs_in_nothing_else(job: Job, sequence: int) -> None:
    assert codec.with_sequence(job, sequence) == dataclasses.replace(job, last_sequence=sequence)


def test_what_the_first_version_wrote_is_still_read() -> None:
    job = codec.decode_job(FIRST_SPEC, FIRST_RECORD, 7)
    assert job.spec.ports[0].name == "nb"
    assert job.spec.stdout == "stdout.log"
    assert job.allocations == (Allocation("n1", 4, 1024),)
    assert (job.state, job.last_sequence, job.end) == (JobState.RUNNING, 7, None)


def test_fields_of_a_later_version_are_ignored() -> None:
    record = json.loads(FIRST_RECORD) | {"invented_later": {"a": [1]}}
    spec = json.loads(FIRST_SPEC) | {"invented_later": 1}
    job = codec.decode_job(json.dumps(spec), json.dumps(record), 7)
    assert job == codec.decode_job(FIRST_SPEC, FIRST_RECORD, 7)


def test_fields_that_were_added_since_take_their_defaults() -> None:
    required = [
        field.name
        for kind in (JobSpec, Job)
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    assert set(required) == {
        "job_id",
        "owner",
        "spec",
        "manifest_sha256",
        "state",
        "submit_time",
        "state_time",
    }
    assert codec.decode_job("{}", FIRST_RECORD, 7).spec == JobSpec()


def test_a_damaged_record_is_told_as_such() -> None:
    with pytest.raises(StoreUnusable, match="state"):
        codec.decode_job(FIRST_SPEC, FIRST_RECORD.replace("RUNNING", "DANCING"), 7)


def test_a_partition_that_was_stored_before_it_could_be_for_containers_is_still_read() -> None:
    record = (
        '{"partition_id":"p1","site":"azure","owner":"alice","spec":{"location":"westeurope",'
        '"flavor":"small","node_count":2,"image":"","spot":false},"spec_fingerprint":"f",'
        '"state":"READY","create_time":1.5,"job_id":"j1","price_per_hour":"0.1040","currency":"USD",'
        '"ready_time":2.0,"delete_time":null,"failure":null,"text":"","delete_tries":0,'
        '"not_before":0.0,"revision":3}'
    )
    partition = codec.decode_partition(record)
    assert (partition.spec_fingerprint, partition.price_per_hour) == ("f", Decimal("0.1040"))
    # The gate is asked for the same as before.
    assert convert.partition_spec(partition.spec) == partition_pb2.PartitionSpec(
        location="westeurope", flavor="small", node_count=2
    )


async def test_a_partition_is_found_until_its_site_has_said_that_it_is_gone(
    store: Store,
) -> None:
    partition = await store.partitions.insert(PARTITION)
    assert store.partitions.get("p1") == partition
    assert partition.price_per_hour == Decimal("0.1040")
    for state in (PartitionState.READY, PartitionState.DELETING):
        partition = await store.partitions.transition(
            partition, dataclasses.replace(partition, state=state, text=f"now {state}")
        )
        assert store.partitions.active() == [partition]
        assert store.partitions.active("elsewhere") == []
    gone = await store.partitions.transition(
        partition, dataclasses.replace(partition, state=PartitionState.DELETED, delete_time=9.0)
    )
    assert store.partitions.active() == []
    assert store.partitions.get("p1") == gone
    assert store.partitions.page(states=[PartitionState.DELETED]).partitions == [gone]


async def test_a_partition_changes_only_as_allowed_and_from_its_latest_value(store: Store) -> None:
    partition = await store.partitions.insert(PARTITION)
    with pytest.raises(AlreadyExists):
        await store.partitions.insert(PARTITION)
    with pytest.raises(IllegalTransition):
        await store.partitions.transition(
            partition, dataclasses.replace(partition, state=PartitionState.STOPPED)
        )
    moved = await store.partitions.update(partition, dataclasses.replace(partition, text="new"))
    with pytest.raises(StalePartition):
        await store.partitions.update(partition, dataclasses.replace(partition, text="late"))
    with pytest.raises(ValueError, match="spec"):
        await store.partitions.update(moved, dataclasses.replace(moved, spec=PartitionSpec()))
    with pytest.raises(ValueError, match="state"):
        await store.partitions.update(moved, dataclasses.replace(moved, state=PartitionState.READY))
    assert store.partitions.get("p1") == moved


async def test_a_partition_that_was_never_stored_cannot_change(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.partitions.update(PARTITION, PARTITION)


async def test_partitions_are_listed_newest_first_in_pages(store: Store) -> None:
    stored = [
        await store.partitions.insert(
            dataclasses.replace(
                PARTITION,
                partition_id=f"p{number}",
                site="ab"[number % 2],
                owner="alice" if number % 3 else "bob",
            )
        )
        for number in range(10)
    ]
    found = []
    after = None
    for _ in range(10):
        page = store.partitions.page(owner="alice", page_size=2, after=after)
        found.extend(page.partitions)
        after = page.after
        if after is None:
            break
    assert found == [each for each in reversed(stored) if each.owner == "alice"]
    assert {each.site for each in store.partitions.page(site="a").partitions} == {"a"}


async def test_a_removed_user_stays_out_although_their_certificates_still_run(
    store: Store,
) -> None:
    await store.users.add(User("alice", admin=True, created=1.0))
    await store.users.add(User("bob", admin=False, created=2.0))
    with pytest.raises(AlreadyExists):
        await store.users.add(User("bob", admin=True, created=3.0))
    await store.users.add_certificate(UserCertificate("0a", "bob", not_after=100.0))
    await store.users.add_certificate(UserCertificate("0b", "bob", not_after=10.0))
    with pytest.raises(AlreadyExists):
        await store.users.add_certificate(UserCertificate("0a", "alice", not_after=100.0))
    with pytest.raises(NotFound):
        await store.users.add_certificate(UserCertificate("0c", "eve", not_after=100.0))

    await store.users.remove("bob", time=5.0)
    assert store.users.get("bob") is None
    assert [user.name for user in store.users.all()] == ["alice"]
    assert store.users.certificates("bob") == [
        UserCertificate("0a", "bob", 100.0, revoked=5.0),
        UserCertificate("0b", "bob", 10.0, revoked=5.0),
    ]
    assert store.users.revoked_serials(now=50.0) == {"0a"}
    with pytest.raises(NotFound):
        await store.users.remove("bob", time=6.0)


async def test_a_certificate_is_revoked_once_and_for_all(store: Store) -> None:
    await store.users.add(User("alice", admin=False, created=1.0))
    await store.users.add_certificate(UserCertificate("0a", "alice", not_after=100.0))
    first = await store.users.revoke_certificate("0a", time=5.0)
    again = await store.users.revoke_certificate("0a", time=9.0)
    assert first == again == store.users.certificate("0a")
    assert first.revoked == 5.0
    with pytest.raises(NotFound):
        await store.users.revoke_certificate("ff", time=5.0)
    await store.users.set_admin("alice", admin=True)
    assert store.users.get("alice") == User("alice", admin=True, created=1.0)
    with pytest.raises(NotFound):
        await store.users.set_admin("eve", admin=True)


async def test_all_certificates_of_a_user_are_revoked_together_and_the_user_stays(
    store: Store,
) -> None:
    known = UserCertificate("0a", "bob", not_after=100.0)
    await store.users.add(User("bob", admin=False, created=1.0), known)
    await store.users.add(User("eve", admin=False, created=1.0))
    await store.users.add_certificate(UserCertificate("0e", "eve", not_after=100.0))
    with pytest.raises(AlreadyExists):  # and then there is no such user either
        await store.users.add(User("dan", admin=False, created=2.0), known)
    assert store.users.get("dan") is None

    await store.users.revoke_all("bob", time=5.0)
    assert store.users.get("bob") == User("bob", admin=False, created=1.0, revoked=5.0)
    assert store.users.revoked_serials(now=50.0) == {"0a"}
    await store.users.add_certificate(UserCertificate("0b", "bob", not_after=200.0))
    assert [each.revoked for each in store.users.certificates("bob")] == [None, 5.0]
    with pytest.raises(NotFound):
        await store.users.revoke_all("dan", time=5.0)

    # One that was revoked while its successor was being made gets none.
    with pytest.raises(NotFound, match="0a"):
        await store.users.add_certificate(
            UserCertificate("0c", "bob", not_after=300.0), instead_of="0a"
        )
    assert store.users.certificate("0c") is None
    await store.users.add_certificate(
        UserCertificate("0d", "bob", not_after=300.0), instead_of="0b"
    )


async def test_the_latest_word_on_a_root_counts(store: Store) -> None:
    await store.roots.put(
        [Root("ssh", "p1", "n1", "alice", "u1"), Root("ssh", "p1", "n2", "alice", "u2")]
    )
    await store.roots.put([Root("ssh", "p1", "n1", "alice", "u3")])
    assert store.roots.get("ssh", "p1", "n1", "alice") == "u3"
    assert store.roots.get("ssh", "p1", "n1", "bob") is None
    assert [root.root_uid for root in store.roots.of("ssh", "p1", "alice")] == ["u3", "u2"]
    await store.roots.forget_partition("ssh", "p1")
    assert store.roots.of("ssh", "p1", "alice") == []


async def test_a_store_belongs_to_one_installation(store_path: Path) -> None:
    store = Store.open(store_path)
    assert store.meta.installation() is None
    await store.meta.set_installation("abcdef123456")
    await store.meta.set_installation("abcdef123456")
    with pytest.raises(StoreUnusable, match="abcdef123456"):
        await store.meta.set_installation("other0000000")
    await store.close()
    store = Store.open(store_path)
    assert store.meta.installation() == "abcdef123456"
    await store.close()


async def test_each_start_is_a_generation_of_its_own(store: Store) -> None:
    begun = [await store.meta.begin_generation(time=float(number)) for number in range(102)]
    assert len(set(begun)) == 102
    assert store.meta.generations()[0] == (begun[-1], 101.0)
    # What the first one made may be met at a site after any number of restarts.
    assert [generation for generation, _ in store.meta.generations()] == begun[::-1]
    assert store.meta.trusted_generations() == set(begun)


async def test_a_store_that_was_put_back_answers_for_its_new_generations_only(
    store: Store,
) -> None:
    early = await store.meta.begin_generation(time=1.0)
    later = await store.meta.begin_generation(time=2.0, trust_earlier=False)
    latest = await store.meta.begin_generation(time=3.0)
    assert store.meta.trusted_generations() == {later, latest}
    assert early in [generation for generation, _ in store.meta.generations()]
