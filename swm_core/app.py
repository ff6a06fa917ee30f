"""The core, put together. Read from top to bottom: this is the only place where parts meet."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator

from rpc_kit.endpoint import Endpoint
from rpc_kit.errors import unavailable
from rpc_kit.server import RpcServer, run
from skyport.terminal.v1 import (
    account_pb2_grpc,
    admin_pb2_grpc,
    catalog_pb2_grpc,
    file_pb2_grpc,
    job_pb2_grpc,
    server_pb2_grpc,
    tunnel_pb2_grpc,
)
from swm_core import __version__
from swm_core.config import Config, Site
from swm_core.gateways.gate import Gate
from swm_core.gateways.process import GateProcess
from swm_core.home import Home, Initialised
from swm_core.lifecycle.context import Context
from swm_core.lifecycle.engine import Lifecycle
from swm_core.lifecycle.live import LiveJobs, LivePartitions
from swm_core.lifecycle.retention import Retention
from swm_core.metrics import serve_metrics
from swm_core.security.accounts import StoredAccounts
from swm_core.security.bundles import Bundles, reached_at
from swm_core.security.identity import Authenticator
from swm_core.security.open_calls import OpenCalls
from swm_core.security.renewal import Renewal, ca_end
from swm_core.spool import Spool
from swm_core.store import Store, User
from swm_core.store.lineage import Lineage
from swm_core.terminal.access import Access
from swm_core.terminal.account import AccountService
from swm_core.terminal.admin import AdminService
from swm_core.terminal.catalog import CatalogService
from swm_core.terminal.files import FileService
from swm_core.terminal.jobs import JobService
from swm_core.terminal.orphans import OrphanAdministration
from swm_core.terminal.quotas import Streams
from swm_core.terminal.server import ServerService
from swm_core.terminal.sites import SiteAdministration
from swm_core.terminal.tunnels import TunnelService
from swm_core.terminal.users import UserAdministration

log = logging.getLogger(__name__)

DOMAIN = "skyport.terminal.v1"

_ENDLESS = frozenset(
    {
        f"/{DOMAIN}.JobService/WatchJobs",
        f"/{DOMAIN}.JobService/ReadOutput",
        f"/{DOMAIN}.TunnelService/Connect",
        f"/{DOMAIN}.TunnelService/Listen",
        f"/{DOMAIN}.TunnelService/Accept",
    }
)
"""Calls that do not end by themselves; others may finish when the core ends."""


async def serve(first: Initialised, config: Config) -> None:
    """Run a core until SIGTERM or SIGINT; jobs run on at their sites.

    Args:
        first: The home, initialised and locked.
        config: Its configuration.

    Raises:
        StoreUnusable: The store cannot be used.
        ServeError: The core cannot listen.
    """
    home = first.home
    async with _opened(home, first) as store, contextlib.AsyncExitStack() as closing:
        spool = await asyncio.to_thread(
            Spool.open,
            home.spool,
            config.spool.max_size,
            config.limits.log_bytes_per_job,
            config.limits.spool_bytes_per_user,
        )
        closing.callback(spool.close)
        if spool.uid:
            await store.meta.set_spool(spool.uid)
        context = Context(
            installation=first.installation,
            generation=await _begin_generation(store, home),
            gates={name: _gate(name, site, home, first) for name, site in config.sites.items()},
            jobs=LiveJobs(store.jobs),
            partitions=LivePartitions(store.partitions),
            store=store,
            spool=spool,
            deadlines=config.deadlines,
            limits=config.limits,
            ports=config.ports,
            clock=time.time,
        )
        context.jobs.load()
        context.partitions.load()
        for name, gate in context.gates.items():
            gate.drained = name in store.sites.drained()
            gate.scope_uid = store.sites.scope_uid(name)
            gate.keep_scope = functools.partial(store.sites.set_scope_uid, name)
        lifecycle = Lifecycle(context, config)
        accounts = StoredAccounts(store.users)
        streams = Streams(config.limits.streams_per_user)
        bundles = Bundles(home, reached_at(config.listen), config.certificates.lifetime)
        server, calls = _server(context, lifecycle, accounts, streams, bundles)
        renewal = Renewal(home, store.users, accounts, bundles, calls, context.gates.values())
        await renewal.look()
        await server.start(config.listen, home.core_files(), allow_remote=config.allow_remote)
        with serve_metrics(config.metrics.listen, context):
            working = [
                asyncio.create_task(lifecycle.run(), name="lifecycle"),
                asyncio.create_task(
                    Lineage(home.database).keep(context.generation, store.journal.latest),
                    name="lineage",
                ),
                asyncio.create_task(Retention(context, config.spool).run(), name="retention"),
                asyncio.create_task(renewal.run(), name="renewal"),
            ]
            ending = asyncio.create_task(run(server), name="server")
            try:
                # A part that ends by itself has met a defect: better gone than half there.
                await asyncio.wait((*working, ending), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in working:
                    task.cancel()
                if not ending.done():
                    await server.stop(1.0)
                    ending.cancel()
                outcomes = await asyncio.gather(*working, ending, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


@contextlib.asynccontextmanager
async def _opened(home: Home, first: Initialised) -> AsyncIterator[Store]:
    """The store of this home, with its first user."""
    store = Store.open(home.database)
    try:
        await store.meta.set_installation(first.installation)
        if store.users.get(first.user) is None and not store.users.all():
            await store.users.add(User(first.user, admin=True, created=time.time()))
        yield store
    finally:
        await store.close()


async def _begin_generation(store: Store, home: Home) -> str:
    """The generation of this start; a store that was copied or put back trusts no earlier one."""
    lineage = Lineage(home.database)
    history = [generation for generation, _ in store.meta.generations()]
    is_continued = await asyncio.to_thread(lineage.is_continued, history, store.journal.latest())
    if not is_continued:
        await store.hold_back(time=time.time())
        log.warning(
            "the store was copied or put back from a backup: what sites have and it does not know"
            " is told by `swm orphans`, and not deleted"
        )
    generation = await store.meta.begin_generation(time=time.time(), trust_earlier=is_continued)
    await asyncio.to_thread(lineage.note, generation, store.journal.latest())
    return generation


def _gate(name: str, site: Site, home: Home, first: Initialised) -> Gate:
    process = None
    endpoint = site.endpoint
    if endpoint is None:
        endpoint = Endpoint(path=home.gate_socket(name))
        process = GateProcess(name, site.command, endpoint, home.gate_log(name))
    return Gate(
        name,
        endpoint,
        keys=None if endpoint.path is not None else home.core_keys(),
        installation=first.installation,
        process=process,
        core_version=__version__,
        certificate=site.certificate,
    )


def _server(
    context: Context,
    lifecycle: Lifecycle,
    accounts: StoredAccounts,
    streams: Streams,
    bundles: Bundles,
) -> tuple[RpcServer, OpenCalls]:
    authenticate = Authenticator(context.installation, accounts)
    server = RpcServer(DOMAIN, authenticate=authenticate, admit=streams.admit)
    calls = OpenCalls(server.interceptor, authenticate)
    users = UserAdministration(context.store.users, accounts, bundles, calls)
    access = Access(context.jobs, context.store.jobs)
    server.add(
        job_pb2_grpc.add_JobServiceServicer_to_server, JobService(context, lifecycle, access)
    )
    server.add(file_pb2_grpc.add_FileServiceServicer_to_server, FileService(context, access))
    server.add(
        tunnel_pb2_grpc.add_TunnelServiceServicer_to_server,
        TunnelService(context, lifecycle.forwards, access),
    )
    server.add(
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server, CatalogService(context, lifecycle)
    )
    server.add(
        account_pb2_grpc.add_AccountServiceServicer_to_server,
        AccountService(context, streams, lifecycle.costs),
    )
    server.add(
        admin_pb2_grpc.add_AdminServiceServicer_to_server,
        AdminService(
            users,
            SiteAdministration(context, lifecycle),
            OrphanAdministration(context, lifecycle),
        ),
    )
    server.add(
        server_pb2_grpc.add_ServerServiceServicer_to_server,
        ServerService(context, __version__, functools.partial(ca_end, bundles.home)),
    )

    async def end_endless() -> None:
        going = unavailable("SHUTTING_DOWN", "the core is shutting down; jobs run on")
        server.interceptor.end_streams(going, lambda method, who: method in _ENDLESS)

    server.on_drain(end_endless)
    return server, calls
