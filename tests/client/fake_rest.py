"""The fake core's smaller services."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import grpc

from rpc_kit.errors import precondition, unimplemented
from skyport.common.v1 import money_pb2
from skyport.terminal.v1 import (
    account_pb2,
    account_pb2_grpc,
    catalog_pb2,
    catalog_pb2_grpc,
    server_pb2,
    server_pb2_grpc,
    tunnel_pb2,
    tunnel_pb2_grpc,
)
from tests.client.fake_call import handler
from tests.client.fake_core import State


class Catalog(catalog_pb2_grpc.CatalogServiceServicer):
    def __init__(self, state: State) -> None:
        self.state = state

    @handler
    def ListSites(
        self, request: catalog_pb2.ListSitesRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.ListSitesResponse:
        site = catalog_pb2.Site(
            name="here",
            storage=["data"],
            state=catalog_pb2.SITE_STATE_READY,
            summary="this machine",
            gate_name="fake",
            capabilities=["STATIC_PARTITIONS"],
        )
        site.last_contact_time.GetCurrentTime()
        broken = catalog_pb2.Site(
            name="there", state=catalog_pb2.SITE_STATE_BROKEN, message="its key is refused"
        )
        troubled = [self.state.troubled] if self.state.troubled else []
        return catalog_pb2.ListSitesResponse(sites=[site, broken, *troubled])

    @handler
    def ListFlavors(
        self, request: catalog_pb2.ListFlavorsRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.ListFlavorsResponse:
        price = money_pb2.HourlyPrice(
            amount=money_pb2.Money(currency_code="USD", units=1, nanos=750_000_000)
        )
        flavor = catalog_pb2.Flavor(
            name="big",
            site="here",
            cpus=64,
            memory_bytes=256 << 30,
            gpus=4,
            gpu_model="A100\x08",
            on_demand_price=price,
        )
        return catalog_pb2.ListFlavorsResponse(flavors=[flavor], unreachable_sites=["there"])

    @handler
    def ListImages(
        self, request: catalog_pb2.ListImagesRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.ListImagesResponse:
        image = catalog_pb2.Image(name="debian", site="here", description="Debian 12")
        return catalog_pb2.ListImagesResponse(images=[image])

    @handler
    def ListPartitions(
        self, request: catalog_pb2.ListPartitionsRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.ListPartitionsResponse:
        partition = catalog_pb2.Partition(
            partition_id="here-all",
            site="here",
            kind=catalog_pb2.PARTITION_KIND_STATIC,
            state=catalog_pb2.PARTITION_STATE_READY,
            node_count=1,
        )
        return catalog_pb2.ListPartitionsResponse(partitions=[partition])

    @handler
    def ListNodes(
        self, request: catalog_pb2.ListNodesRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.ListNodesResponse:
        node = catalog_pb2.Node(
            name="n1",
            site="here",
            partition_id="here-all",
            state=catalog_pb2.NODE_STATE_UP,
            cpus=8,
            allocated_cpus=2,
            memory_bytes=16 << 30,
        )
        return catalog_pb2.ListNodesResponse(nodes=[node])


class Accounts(account_pb2_grpc.AccountServiceServicer):
    def __init__(self, state: State) -> None:
        self.state = state

    @handler
    def WhoAmI(
        self, request: account_pb2.WhoAmIRequest, context: grpc.ServicerContext
    ) -> account_pb2.WhoAmIResponse:
        answer = account_pb2.WhoAmIResponse(user="ann", admin=True, installation="test12345678")
        answer.certificate_expire_time.GetCurrentTime()
        return answer

    @handler
    def GetUsage(
        self, request: account_pb2.GetUsageRequest, context: grpc.ServicerContext
    ) -> account_pb2.GetUsageResponse:
        row = account_pb2.UsageRow(
            key=f"{request.group}", jobs=2, attempts=3, costs=[money_pb2.Money(currency_code="EUR")]
        )
        row.run_time.FromSeconds(7322)
        row.costs[0].units = 12
        row.costs[0].nanos = 340_000_000
        return account_pb2.GetUsageResponse(rows=[row])

    @handler
    def GetQuotas(
        self, request: account_pb2.GetQuotasRequest, context: grpc.ServicerContext
    ) -> account_pb2.GetQuotasResponse:
        quota = account_pb2.Quota(name="active_jobs", limit=10, used=1)
        return account_pb2.GetQuotasResponse(quotas=[quota])


class ServerInfo(server_pb2_grpc.ServerServiceServicer):
    def __init__(self, state: State) -> None:
        self.state = state

    @handler
    def GetServerInfo(
        self, request: server_pb2.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> server_pb2.GetServerInfoResponse:
        answer = server_pb2.GetServerInfoResponse(
            version="0.0", api_versions=["v1"], installation="test12345678", pid=os.getpid()
        )
        answer.start_time.GetCurrentTime()
        for job in self.state.jobs.values():
            answer.active_jobs.add(state=job.state, jobs=1)
        return answer


class Tunnels(tunnel_pb2_grpc.TunnelServiceServicer):
    """Dials this machine, at the ports that `State.ports` names."""

    def __init__(self, state: State) -> None:
        self.state = state

    @handler
    def Connect(
        self,
        request_iterator: Iterator[tunnel_pb2.ConnectRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[tunnel_pb2.ConnectResponse]:
        opening = next(request_iterator).open
        self.state.job(opening.job_id)
        try:
            remote = socket.create_connection(("127.0.0.1", self.state.ports[opening.port]))
        except (OSError, KeyError):
            raise precondition(
                "TARGET_REFUSED", f"nothing listens on port {opening.port} of the job"
            ) from None

        def pump() -> None:
            with contextlib.suppress(OSError, grpc.RpcError):
                for request in request_iterator:
                    if request.WhichOneof("frame") == "eof":
                        remote.shutdown(socket.SHUT_WR)
                        return
                    remote.sendall(request.data)
                remote.shutdown(socket.SHUT_RDWR)

        pumping = threading.Thread(target=pump, daemon=True)
        with remote:
            context.add_callback(lambda: _shut(remote))
            yield tunnel_pb2.ConnectResponse(opened=tunnel_pb2.ConnectOpened())
            pumping.start()
            while data := remote.recv(1 << 18):
                yield tunnel_pb2.ConnectResponse(data=data)
            yield tunnel_pb2.ConnectResponse(eof=tunnel_pb2.TunnelEof())
            pumping.join(30)

    @handler
    def Listen(
        self, request: tunnel_pb2.ListenRequest, context: grpc.ServicerContext
    ) -> Iterator[tunnel_pb2.ListenResponse]:
        raise unimplemented("NOT_SERVED", "not served by the fake")

    @handler
    def Accept(
        self,
        request_iterator: Iterator[tunnel_pb2.AcceptRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[tunnel_pb2.AcceptResponse]:
        raise unimplemented("NOT_SERVED", "not served by the fake")


def _shut(remote: socket.socket) -> None:
    with contextlib.suppress(OSError):
        remote.shutdown(socket.SHUT_RDWR)
