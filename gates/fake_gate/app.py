"""How the fake gate is put together: read `run` from top to bottom."""

from __future__ import annotations

import importlib.metadata
import time
from types import ModuleType

from google.protobuf.descriptor import ServiceDescriptor

from gate_kit import Expiry, GateInfo, Health, Operations, Service, WatchHub, serve
from gate_kit.command_line import Options
from gate_kit.identity import IdentityService
from gate_kit.job_service import JobService
from gate_kit.serving import raise_file_limit
from gate_kit.ssh.runner import runner
from gate_kit.tunnel_service import TunnelService
from gates.fake_gate import config as configuration
from gates.fake_gate.admission import Admission
from gates.fake_gate.config import Config, ExpiryChoice
from gates.fake_gate.dynamic import DynamicPartitions
from gates.fake_gate.ending import Ending
from gates.fake_gate.faults import FaultScript
from gates.fake_gate.faulty import with_faults
from gates.fake_gate.file_service import FileService
from gates.fake_gate.inotify import FolderEvents
from gates.fake_gate.inventory_service import InventoryService
from gates.fake_gate.job_faults import JobFaults
from gates.fake_gate.job_site import FakeJobs
from gates.fake_gate.jobs import Jobs
from gates.fake_gate.outages import Outages
from gates.fake_gate.output import Output
from gates.fake_gate.partition_service import PartitionService
from gates.fake_gate.partitions import Partitions
from gates.fake_gate.site import Site
from gates.fake_gate.site_queue import SiteQueue
from gates.fake_gate.tunnel_service import Ports
from gates.fake_gate.uploads import Uploads
from skyport.gate.v1 import (
    file_pb2,
    file_pb2_grpc,
    identity_pb2,
    inventory_pb2,
    inventory_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    partition_pb2,
    partition_pb2_grpc,
    tunnel_pb2,
    tunnel_pb2_grpc,
)

_GRACE_S = 5.0


async def run(options: Options) -> None:
    """Serve until told to end.

    Raises:
        rpc_kit.config_file.ConfigError: The configuration can't be used.
        rpc_kit.server.ServeError: Nothing can listen at the endpoint.
    """
    raise_file_limit()
    config, state_dir, control = configuration.load(options.config)
    started_ns = time.time_ns()

    site = Site(state_dir)
    site.open(runner())
    info = _info(config, site)
    faults = FaultScript(config.faults, control, site.fault_counts)

    operations = Operations()
    job_hub = WatchHub(job_pb2.JobEvent, info.incarnation, heartbeat_s=config.heartbeat_s)
    partition_hub = WatchHub(
        partition_pb2.PartitionEvent, info.incarnation, heartbeat_s=config.heartbeat_s
    )
    events = FolderEvents()

    partitions = Partitions(site, config, faults, started_ns)
    admission = Admission(config, partitions, faults)
    jobs = Jobs(
        site, operations, job_hub, admission.account, faults, shared=config.shared_filesystem
    )
    ending = Ending(jobs, operations)
    queue = SiteQueue(site, config, jobs, operations)
    dynamic = DynamicPartitions(site, config, partitions, ending, operations, partition_hub, faults)
    outages = Outages(faults, partitions, dynamic, jobs, job_hub, partition_hub)
    jobs.observers += [queue, JobFaults(faults, ending, operations)]

    output = Output(jobs, events, info.incarnation, config.heartbeat_s)
    uploads = Uploads(site, operations, faults, jobs.bells, config.cache_bytes)
    ending.on_cancel.append(uploads.end)
    ports = Ports(admission, jobs.evidence, config.loopback)
    tunnels = TunnelService(ports, info.incarnation, config.heartbeat_s)
    job_site = FakeJobs(jobs, ending, queue, output, outages)
    job_service = JobService(admission, job_site, job_hub)
    partition_service = PartitionService(
        config, site, admission, partitions, dynamic, outages, partition_hub
    )
    file_service = FileService(admission, jobs, uploads)
    inventory_service = InventoryService(config, partitions, started_ns)

    jobs.open()
    queue.open()
    dynamic.open()
    outages.open(control, events, operations)
    try:
        await serve(
            options.listen,
            info,
            [
                Service(
                    inventory_pb2_grpc.add_InventoryServiceServicer_to_server,
                    with_faults(inventory_service, _service(inventory_pb2, "Inventory"), faults),
                ),
                Service(
                    partition_pb2_grpc.add_PartitionServiceServicer_to_server,
                    with_faults(partition_service, _service(partition_pb2, "Partition"), faults),
                ),
                Service(
                    job_pb2_grpc.add_JobServiceServicer_to_server,
                    with_faults(job_service, _service(job_pb2, "Job"), faults),
                ),
                Service(
                    file_pb2_grpc.add_FileServiceServicer_to_server,
                    with_faults(file_service, _service(file_pb2, "File"), faults),
                ),
                Service(
                    tunnel_pb2_grpc.add_TunnelServiceServicer_to_server,
                    with_faults(tunnels, _service(tunnel_pb2, "Tunnel"), faults),
                ),
            ],
            identity=with_faults(
                IdentityService(info, lambda: _health(site)),
                _service(identity_pb2, "Identity"),
                faults,
            ),
            on_drain=[job_hub.close, partition_hub.close],
            grace_s=_GRACE_S,
        )
    finally:
        await operations.close(_GRACE_S)
        await tunnels.close()
        dynamic.close()
        jobs.close()
        events.close()


def _info(config: Config, site: Site) -> GateInfo:
    dynamic = config.dynamic
    expiry = None
    if dynamic and dynamic.expiry is not ExpiryChoice.NONE:
        action = (
            identity_pb2.EXPIRY_ACTION_DELETE
            if dynamic.expiry is ExpiryChoice.DELETE
            else identity_pb2.EXPIRY_ACTION_DEALLOCATE
        )
        expiry = Expiry(action, dynamic.longest_expiry)
    flavors = dynamic.flavors if dynamic else ()
    return GateInfo(
        name="fake",
        version=importlib.metadata.version("skyport"),
        summary=config.description,
        capabilities=config.capabilities,
        locations=tuple(sorted({flavor.location for flavor in flavors if flavor.location})),
        expiry=expiry,
        scope_uid=site.scope_uid() if dynamic else "",
        option_prefix=config.option_prefix,
        storage=config.storage,
    )


def _health(site: Site) -> Health:
    """That it works; a Refusal if the folder that plays the site is not there."""
    site.root_uid()
    return Health()


def _service(module: ModuleType, name: str) -> ServiceDescriptor:
    found: ServiceDescriptor = module.DESCRIPTOR.services_by_name[f"{name}Service"]
    return found
