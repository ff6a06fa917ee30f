"""How the SSH gate is put together: read `run` from top to bottom."""

from __future__ import annotations

import importlib.metadata

from gate_kit import GateInfo, Operations, WatchHub, scratch, serve
from gate_kit.command_line import Options
from gate_kit.file_service import FileService
from gate_kit.job_service import JobService
from gate_kit.serving import raise_file_limit, services_of
from gate_kit.ssh.containers import Containers
from gate_kit.ssh.downloads import Downloads
from gate_kit.ssh.ending import Ending
from gate_kit.ssh.file_site import SshFiles
from gate_kit.ssh.job_site import SshJobs
from gate_kit.ssh.jobs import Jobs
from gate_kit.ssh.named_inputs import take_back
from gate_kit.ssh.output import Output
from gate_kit.ssh.overview import Overview
from gate_kit.ssh.starting import Starts
from gate_kit.ssh.strays import Strays
from gate_kit.ssh.tunnels import SshTunnels
from gate_kit.ssh.uploads import Uploads
from gate_kit.ssh.watching import Watching
from gate_kit.tunnel_service import TunnelService
from gate_kit.watches import HEARTBEAT_S
from gates.ssh_cluster_gate import config as configuration
from gates.ssh_cluster_gate import plan as planning
from gates.ssh_cluster_gate.admission import Admission
from gates.ssh_cluster_gate.discovery import Discovery
from gates.ssh_cluster_gate.hosts import Hosts
from gates.ssh_cluster_gate.inventory_service import InventoryService
from gates.ssh_cluster_gate.partition_service import PartitionService
from gates.ssh_cluster_gate.partitions import Partitions
from gates.ssh_cluster_gate.plan import SitePlan
from skyport.gate.v1 import (
    job_pb2,
    partition_pb2,
)

_GRACE_S = 5.0


async def run(options: Options) -> None:
    """Serve until told to end.

    Raises:
        rpc_kit.config_file.ConfigError: The configuration can't be used.
        rpc_kit.server.ServeError: Nothing can listen at the endpoint.
    """
    plan = planning.make(configuration.load(options.config))
    if plan.has_queue:
        from gates.ssh_cluster_gate.slurm import app as slurm

        await slurm.run(options, plan)
        return
    raise_file_limit()
    scratch.sweep()
    info = _info(plan)

    operations = Operations()
    job_hub = WatchHub(job_pb2.JobEvent, info.incarnation)
    partition_hub = WatchHub(partition_pb2.PartitionEvent, info.incarnation)

    hosts = Hosts(plan)
    discovery = Discovery(plan, hosts)
    partitions = Partitions(plan, hosts, discovery, partition_hub)
    admission = Admission(plan, partitions, hosts)

    containers = Containers(plan.containers)
    jobs = Jobs(hosts, job_hub, containers)
    starts = Starts(jobs, operations, plan.volumes)
    overview = Overview(jobs, operations, job_hub)
    watching = Watching(jobs, operations)
    discovery.observers.append(overview)
    if plan.has_containers:
        strays = Strays(containers, hosts, operations)
        discovery.observers.append(strays)
    discovery.on_dark += [job_hub.interrupt, partition_hub.interrupt]

    ending = Ending(jobs, operations, take_back)
    output = Output(jobs, info.incarnation)
    uploads = Uploads(hosts, operations, jobs.bells, plan.config.cache_bytes)
    downloads = Downloads(hosts)
    ending.on_cancel.append(uploads.end)

    tunnels = TunnelService(SshTunnels(admission, jobs, hosts.way), info.incarnation, HEARTBEAT_S)
    job_site = SshJobs(jobs, starts, overview, ending, output, admission.workdir)
    job_service = JobService(admission, job_site, job_hub)
    file_site = SshFiles(hosts, uploads, downloads, admission.workdir)
    file_service = FileService(admission, file_site)
    inventory_service = InventoryService(partitions)
    partition_service = PartitionService(partitions, discovery, partition_hub)

    watching.open()
    discovery.open()
    try:
        await serve(
            options.listen,
            info,
            services_of(
                inventory=inventory_service,
                partitions=partition_service,
                jobs=job_service,
                files=file_service,
                tunnels=tunnels,
            ),
            health=discovery.health,
            on_drain=[job_hub.close, partition_hub.close],
            grace_s=_GRACE_S,
        )
    finally:
        await discovery.close()
        await operations.close(_GRACE_S)
        await tunnels.close()
        downloads.close()
        await output.close()
        await hosts.close()


def _info(plan: SitePlan) -> GateInfo:
    count = len(plan.nodes)
    return GateInfo(
        name="ssh",
        version=importlib.metadata.version("skyport"),
        summary=plan.config.description or f"{count} host{'' if count == 1 else 's'}",
        capabilities=plan.capabilities,
        storage=tuple(plan.volumes),
    )
