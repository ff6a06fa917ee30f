"""How the gate of a Slurm site is put together: read `run` from top to bottom."""

from __future__ import annotations

import importlib.metadata

from gate_kit import GateInfo, Operations, WatchHub, scratch, serve
from gate_kit.command_line import Options
from gate_kit.file_service import FileService
from gate_kit.job_service import JobService
from gate_kit.serving import raise_file_limit, services_of
from gate_kit.ssh.containers import Containers
from gate_kit.ssh.downloads import Downloads
from gate_kit.ssh.file_site import SshFiles
from gate_kit.ssh.named_inputs import take_back
from gate_kit.ssh.output import Output
from gate_kit.ssh.tunnels import SshTunnels
from gate_kit.ssh.uploads import Uploads
from gate_kit.tunnel_service import TunnelService
from gate_kit.watches import HEARTBEAT_S
from gates.ssh_cluster_gate.discovery import Discovery
from gates.ssh_cluster_gate.hosts import Hosts
from gates.ssh_cluster_gate.inventory_service import InventoryService
from gates.ssh_cluster_gate.partition_service import PartitionService
from gates.ssh_cluster_gate.plan import SitePlan
from gates.ssh_cluster_gate.slurm.admission import SlurmAdmission
from gates.ssh_cluster_gate.slurm.directives import SITE_OPTIONS
from gates.ssh_cluster_gate.slurm.ending import SlurmEnding
from gates.ssh_cluster_gate.slurm.images import SlurmImages
from gates.ssh_cluster_gate.slurm.job_site import SlurmJobs
from gates.ssh_cluster_gate.slurm.jobs import SlurmAttempts
from gates.ssh_cluster_gate.slurm.partitions import SlurmPartitions
from gates.ssh_cluster_gate.slurm.sites import SlurmSites
from gates.ssh_cluster_gate.slurm.starting import SlurmStarts
from gates.ssh_cluster_gate.slurm.tunnels import NodeWays
from gates.ssh_cluster_gate.slurm.watching import SlurmWatching
from skyport.gate.v1 import (
    job_pb2,
    partition_pb2,
)

_GRACE_S = 5.0
_RANK = "0"
"""What stands for the node in names of files: nobody knows before where a job will run."""


async def run(options: Options, plan: SitePlan) -> None:
    """Serve until told to end.

    Raises:
        rpc_kit.server.ServeError: Nothing can listen at the endpoint.
    """
    raise_file_limit()
    scratch.sweep()
    settings = plan.config.slurm
    info = GateInfo(
        name="slurm",
        version=importlib.metadata.version("skyport"),
        summary=plan.config.description or f"Slurm at {next(iter(plan.nodes))}",
        capabilities=plan.capabilities,
        storage=tuple(plan.volumes),
        option_prefix="slurm",
        options=tuple(sorted(SITE_OPTIONS)),
    )

    operations = Operations()
    job_hub = WatchHub(job_pb2.JobEvent, info.incarnation)
    partition_hub = WatchHub(partition_pb2.PartitionEvent, info.incarnation)

    hosts = Hosts(plan, claims_as=_RANK)
    discovery = Discovery(plan, hosts)
    sites = SlurmSites(plan, hosts)
    partitions = SlurmPartitions(sites, discovery, partition_hub, settings.partitions)
    admission = SlurmAdmission(plan, partitions, sites)
    discovery.on_dark += [job_hub.interrupt, partition_hub.interrupt]

    jobs = SlurmAttempts(
        sites, operations, job_hub, settings.slowest_squeue_s, settings.fuse_cache_s
    )
    images = SlurmImages(jobs, operations, Containers(plan.containers), plan.volumes)
    starts = SlurmStarts(jobs, partitions, operations, settings, images)
    watching = SlurmWatching(jobs, operations)
    ending = SlurmEnding(jobs, operations, take_back)
    output = Output(jobs, info.incarnation)
    uploads = Uploads(sites, operations, jobs.bells, plan.config.cache_bytes)
    downloads = Downloads(sites)
    ending.on_cancel += [uploads.end, images.forget]

    ways = NodeWays(plan, sites, jobs)
    tunnels = TunnelService(SshTunnels(admission, jobs, ways.way), info.incarnation, HEARTBEAT_S)
    job_site = SlurmJobs(jobs, starts, ending, output, partitions, admission.workdir)
    job_service = JobService(admission, job_site, job_hub)
    file_service = FileService(admission, SshFiles(sites, uploads, downloads, admission.workdir))
    inventory_service = InventoryService(partitions)
    partition_service = PartitionService(partitions, partitions, partition_hub)

    watching.open()
    discovery.open()
    operations.spawn(partitions.follow(), "partitions")
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
            health=partitions.health,
            on_drain=[job_hub.close, partition_hub.close],
            grace_s=_GRACE_S,
        )
    finally:
        await discovery.close()
        await operations.close(_GRACE_S)
        await tunnels.close()
        downloads.close()
        await output.close()
        await ways.close()
        await sites.close()
        await hosts.close()
