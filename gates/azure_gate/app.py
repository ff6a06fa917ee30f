"""How the Azure gate is put together: read `run` from top to bottom."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

from gate_kit import Expiry, GateInfo, Operations, WatchHub, scratch, serve
from gate_kit.command_line import Options
from gate_kit.config_rules import secret
from gate_kit.file_service import FileService
from gate_kit.job_checks import JobChecks
from gate_kit.job_service import JobService
from gate_kit.serving import raise_file_limit, services_of
from gate_kit.ssh.containers import Containers, Volume
from gate_kit.ssh.downloads import Downloads
from gate_kit.ssh.ending import Ending
from gate_kit.ssh.file_site import SshFiles
from gate_kit.ssh.images import ContainerSettings, Login
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
from gates.azure_gate import config as configuration
from gates.azure_gate.absences import Absences
from gates.azure_gate.admission import Admission
from gates.azure_gate.boots import Boots
from gates.azure_gate.cloud import Cloud
from gates.azure_gate.cloud_init import MOUNTS
from gates.azure_gate.config import Config
from gates.azure_gate.deletions import Deletions
from gates.azure_gate.egress import Egress
from gates.azure_gate.following import Following
from gates.azure_gate.hosts import Hosts
from gates.azure_gate.installations import Installations
from gates.azure_gate.inventory_service import InventoryService
from gates.azure_gate.job_site import AzureJobs, Losses, LostJobs
from gates.azure_gate.keys import Keys
from gates.azure_gate.lives import Lives
from gates.azure_gate.makers import Makers
from gates.azure_gate.making import Making
from gates.azure_gate.nodes import Nodes
from gates.azure_gate.observer import Observer
from gates.azure_gate.partition_service import PartitionService
from gates.azure_gate.partitions import Partitions
from gates.azure_gate.rules import Rules
from gates.azure_gate.schedules import LONGEST_S, Schedules
from gates.azure_gate.sdk import Sdk
from gates.azure_gate.sources import catalog_of
from gates.azure_gate.tombstones import Tombstones
from rpc_kit import private_files
from rpc_kit.server import ServeError
from skyport.gate.v1 import identity_pb2, job_pb2, partition_pb2, types_pb2

_GRACE_S = 5.0
_CACHE_BYTES = 10 << 30


async def run(options: Options) -> None:
    """Serve until told to end.

    Raises:
        rpc_kit.config_file.ConfigError: The configuration can't be used.
        rpc_kit.server.ServeError: Nothing can listen at the endpoint, or the gate's own folder
            can't be used.
    """
    config = configuration.load(options.config)
    state = Path(config.state_dir).expanduser()
    try:
        keys = Keys(state)
        keys.forget_all()
        for folder in (state, *(each for each in state.iterdir() if each.is_dir())):
            private_files.remove_drafts(folder)
    except (OSError, ValueError) as error:
        raise ServeError(f"state_dir {state}: {error}") from None
    raise_file_limit()
    scratch.sweep()
    volumes = {name: Volume(f"{MOUNTS}/{name}") for name in config.storage}
    sdk = Sdk(config)
    cloud = Cloud(config, sdk)
    info = _info(config, cloud.scope_uid)

    operations = Operations()
    job_hub = WatchHub(job_pb2.JobEvent, info.incarnation)
    partition_hub = WatchHub(partition_pb2.PartitionEvent, info.incarnation)

    catalog = catalog_of(config, sdk)
    partitions = Partitions(partition_hub, catalog)
    observer = Observer(cloud, partitions.is_changing, partitions.is_there)
    observer.on_dark.append(partition_hub.interrupt)
    observer.on_watched.append(functools.partial(_warm, operations, sdk))
    hosts = Hosts(partitions, keys)
    egress = Egress(config, sdk)
    schedules = Schedules(cloud)
    making = Making(config, cloud, keys, egress, observer, partitions, Boots(hosts), schedules)
    tombstones = Tombstones(state / "deleted")
    makers = Makers(cloud, partitions, observer, making, operations)
    deletions = Deletions(cloud, partitions, observer, operations)
    absences = Absences(cloud, partitions, makers, operations)
    lives = Lives(
        config,
        cloud,
        catalog,
        keys,
        partitions,
        observer,
        makers,
        deletions,
        absences,
        schedules,
        operations,
        tombstones,
        Installations(state / "installations"),
    )
    rules = Rules(egress, cloud, partitions, operations)
    following = Following(partitions, hosts)
    following.on_lost_link += [absences.missed, rules.suspect]

    checks = JobChecks(info.capabilities, storage=volumes)
    admission = Admission(checks, partitions)
    losses = Losses(partitions)
    containers = Containers(_containers(config))
    jobs = Jobs(hosts, job_hub, containers, losses.reason)
    LostJobs(jobs, partitions, operations)
    starts = Starts(jobs, operations, volumes)
    overview = Overview(jobs, operations, job_hub)
    watching = Watching(jobs, operations)
    strays = Strays(containers, hosts, operations)
    following.observers += [overview, strays]

    ending = Ending(jobs, operations, take_back)
    output = Output(jobs, info.incarnation)
    uploads = Uploads(hosts, operations, jobs.bells, _CACHE_BYTES)
    downloads = Downloads(hosts)
    ending.on_cancel.append(uploads.end)

    tunnels = TunnelService(SshTunnels(admission, jobs, hosts.way), info.incarnation, HEARTBEAT_S)
    ssh_jobs = SshJobs(jobs, starts, overview, ending, output, admission.workdir)
    job_service = JobService(admission, AzureJobs(ssh_jobs, losses), job_hub)
    file_site = SshFiles(hosts, uploads, downloads, admission.workdir)
    file_service = FileService(admission, file_site)
    inventory_service = InventoryService(
        catalog, (config.image, *config.images), Nodes(partitions, lives, observer)
    )
    partition_service = PartitionService(
        config, cloud.scope_uid, admission, partitions, lives, observer, partition_hub
    )

    watching.open()
    catalog.open()
    observer.open()
    rules.open()
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
            health=observer.health,
            on_drain=[job_hub.close, partition_hub.close],
            grace_s=_GRACE_S,
        )
    finally:
        await observer.close()
        await following.close()
        await operations.close(_GRACE_S)
        await tunnels.close()
        downloads.close()
        await output.close()
        await hosts.close()
        await catalog.close()
        await sdk.close()


def _info(config: Config, scope_uid: str) -> GateInfo:
    where = ", ".join(config.locations)
    given: Mapping[types_pb2.Capability.ValueType, bool] = {
        types_pb2.CAPABILITY_DYNAMIC_PARTITIONS: True,
        types_pb2.CAPABILITY_MULTI_NODE: True,
        types_pb2.CAPABILITY_SPOT: True,
        types_pb2.CAPABILITY_PRICES: True,
        types_pb2.CAPABILITY_CONTAINERS: True,
        types_pb2.CAPABILITY_TUNNELS: True,
        types_pb2.CAPABILITY_REVERSE_TUNNELS: True,
        types_pb2.CAPABILITY_EXPIRY: config.expiry,
        types_pb2.CAPABILITY_STORAGE: bool(config.storage),
    }
    deallocates = Expiry(identity_pb2.EXPIRY_ACTION_DEALLOCATE, LONGEST_S)
    return GateInfo(
        name="azure",
        version=importlib.metadata.version("skyport"),
        summary=config.description or f"Azure, {where}",
        capabilities=frozenset(capability for capability, has in given.items() if has),
        locations=config.locations,
        partitions=config.max_partitions,
        expiry=deallocates if config.expiry else None,
        scope_uid=scope_uid,
        # There is none so far: with a prefix of its own the site is asked, and refuses what is
        # written for it.
        option_prefix="azure",
        options=(),
        node_images=configuration.IMAGES,
        storage=tuple(config.storage),
    )


def _containers(config: Config) -> ContainerSettings:
    return ContainerSettings(
        runtime="docker",
        socket="",
        pull="missing",
        logins={
            name: Login(login.username, secret(login.password_file))
            for name, login in config.registry.items()
        },
    )


def _warm(operations: Operations, sdk: Sdk) -> None:
    operations.spawn(sdk.warm(), "import of Azure's clients")
