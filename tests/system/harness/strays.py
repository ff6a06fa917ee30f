"""Things at a site that its core did not ask for: made at the gate, behind the core's back."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator, Mapping

import grpc

from skyport.gate.v1 import (
    file_pb2,
    file_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    partition_pb2,
    partition_pb2_grpc,
    types_pb2,
)
from swm_core.domain.ids import new_id
from tests.system.harness.core import Core
from tests.system.harness.waiting import eventually

_CALL_S = 20.0
_EMPTY = hashlib.sha256().digest()


def generations(core: Core) -> list[str]:
    """The generations of a core's store, latest first."""
    with contextlib.closing(sqlite3.connect(f"file:{core.home.database}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT generation FROM generations ORDER BY number DESC").fetchall()
    return [generation for (generation,) in rows]


class Strays:
    """Makes strays at one site.

    Args:
        core: Whose they seem to be.
        site: The site's name; its gate runs.
    """

    def __init__(self, core: Core, site: str) -> None:
        endpoint = core.site(site).endpoint
        self._target = endpoint or f"unix:{core.home.gate_socket(site)}"
        self._core, self._site = core, site

    def round_passes(self) -> None:
        """Wait until the site was compared anew and cleaned: a stray that may be deleted is gone.

        The grace time of the core has to be short.
        """
        stray = self.partition()
        site = self._core.site(self._site)
        eventually(lambda: stray not in site.partitions(), "a stray is deleted")

    def partition(self, generation: str = "", installation: str = "", flavor: str = "small") -> str:
        """A dynamic partition; returns its id."""
        partition_id = new_id()
        with self._channel() as channel:
            info = identity_pb2_grpc.IdentityServiceStub(channel).GetGateInfo(
                identity_pb2.GetGateInfoRequest(api_versions=["v1"]), timeout=_CALL_S
            )
            request = partition_pb2.CreatePartitionRequest(
                partition_id=partition_id,
                spec_fingerprint="0" * 64,
                spec=partition_pb2.PartitionSpec(flavor=flavor, node_count=1),
                origin=self._origin(generation, installation),
                owner="bo",
                scope_uid=info.scope_uid,
            )
            request.expire_time.GetCurrentTime()
            request.expire_time.seconds += 3_600
            stub = partition_pb2_grpc.PartitionServiceStub(channel)
            stub.CreatePartition(request, timeout=_CALL_S)
        return partition_id

    def attempt(
        self,
        generation: str = "",
        installation: str = "",
        *,
        script: str = "sleep 600",
        partition: str = "hosts",
        node: str = "n1",
        job_id: str = "",
        options: Mapping[str, str] | None = None,
    ) -> str:
        """An attempt that was asked to start; returns its job's id.

        Args:
            generation: Of the store that had it made; empty: the core's own.
            installation: Whose it is; empty: the core's own.
            script: What runs.
            partition: Where.
            node: On which node; empty: a queue chooses.
            job_id: Its job's id; empty: a new one.
            options: Of the site, for the start.
        """
        origin = self._origin(generation, installation)
        ref = _ref(origin.installation, job_id or new_id(), partition, node)
        with self._channel() as channel:
            ref.roots.extend(self._stage(channel, ref, origin))
            request = job_pb2.StartJobRequest(
                ref=ref,
                spec_fingerprint="0" * 64,
                spec=job_pb2.JobSpec(
                    script=f"#!/bin/sh\n{script}".encode(),
                    resources=job_pb2.Resources(cpus=1),
                    node_count=1,
                    launch=job_pb2.LAUNCH_FIRST,
                    site_options=options,
                ),
                allocations=[types_pb2.Allocation(node=each, cpus=1) for each in ref.nodes],
                origin=origin,
            )
            job_pb2_grpc.JobServiceStub(channel).StartJob(request, timeout=_CALL_S)
        return ref.job_id

    def staged(self, installation: str = "", *, partition: str = "hosts", node: str = "n1") -> str:
        """An attempt that has its folder, and was never asked to start; returns its job's id."""
        origin = self._origin("", installation)
        ref = _ref(origin.installation, new_id(), partition, node)
        with self._channel() as channel:
            self._stage(channel, ref, origin)
        return ref.job_id

    def end(
        self,
        job_id: str = "",
        partition_id: str = "",
        *,
        installation: str,
        partition: str = "hosts",
        node: str = "n1",
    ) -> None:
        """Take back what was made for another installation.

        Args:
            job_id: An attempt; empty: none.
            partition_id: A dynamic partition; empty: none.
            installation: Whose they are.
            partition: Where the attempt is.
            node: On which node it is; empty: a queue has chosen.
        """
        with self._channel() as channel:
            if job_id:
                ref = _ref(installation, job_id, partition, node)
                jobs = job_pb2_grpc.JobServiceStub(channel)
                jobs.CancelJob(job_pb2.CancelJobRequest(ref=ref), timeout=_CALL_S)
                jobs.RemoveJob(job_pb2.RemoveJobRequest(ref=ref), timeout=_CALL_S)
            if partition_id:
                request = partition_pb2.DeletePartitionRequest(
                    partition_id=partition_id, installation=installation
                )
                stub = partition_pb2_grpc.PartitionServiceStub(channel)
                stub.DeletePartition(request, timeout=_CALL_S)

    def _stage(
        self, channel: grpc.Channel, ref: types_pb2.JobRef, origin: types_pb2.Origin
    ) -> list[types_pb2.SiteRoot]:
        begin = file_pb2.PutFilesBegin(ref=ref, manifest_sha256=_EMPTY, origin=origin)
        requests = [
            file_pb2.PutFilesRequest(begin=begin),
            file_pb2.PutFilesRequest(page=file_pb2.ManifestPage(last=True)),
        ]
        call = file_pb2_grpc.FileServiceStub(channel).PutFiles(iter(requests), timeout=_CALL_S)
        answers = list(call)
        return list(answers[-1].result.roots)

    def _origin(self, generation: str, installation: str) -> types_pb2.Origin:
        return types_pb2.Origin(
            installation=installation or self._core.installation,
            store_generation=generation or generations(self._core)[0],
        )

    @contextlib.contextmanager
    def _channel(self) -> Iterator[grpc.Channel]:
        with grpc.insecure_channel(self._target) as channel:
            yield channel


def _ref(installation: str, job_id: str, partition: str, node: str) -> types_pb2.JobRef:
    return types_pb2.JobRef(
        installation=installation,
        partition_id=partition,
        job_id=job_id,
        attempt=1,
        owner="bo",
        nodes=[node] if node else [],
    )
