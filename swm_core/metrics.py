"""The Prometheus endpoint: off unless configured, and read from what the core knows anyway.

Nothing is counted on the way: figures are made when somebody asks for them.
"""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rpc_kit.endpoint import Endpoint
from rpc_kit.server import ServeError
from swm_core.domain.states import JobState, PartitionState
from swm_core.gateways.health import SiteState
from swm_core.lifecycle.context import Context

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily


class MetricsUnavailable(ServeError):
    """The endpoint is configured and cannot be served; the message says what to do."""


@contextlib.contextmanager
def serve_metrics(listen: Endpoint | None, context: Context) -> Iterator[None]:
    """Serve figures over HTTP while the block runs.

    Args:
        listen: Where; None: serve nothing.
        context: The core's parts.

    Raises:
        MetricsUnavailable: The library is not installed, or the port is taken.
    """
    if listen is None:
        yield
        return
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise MetricsUnavailable(
            "metrics.listen needs the package prometheus-client: "
            'pip install ".[metrics]" in a checkout'
        ) from None
    registry = CollectorRegistry()
    registry.register(_Collector(context))
    try:
        server, thread = start_http_server(listen.port, listen.host, registry)
    except OSError as error:
        raise MetricsUnavailable(
            f"metrics.listen: cannot listen on {listen}: {error.strerror}; choose another port"
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Collector:
    """What is told when somebody asks. Runs in the endpoint's thread: only reads, of snapshots."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._started = time.time()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        from prometheus_client.core import GaugeMetricFamily

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"skyport_{name}", text, labels=labels)

        jobs = gauge("jobs", "Jobs that have not ended.", ("state",))
        counts = collections.Counter(job.state for job in self._context.jobs)
        for state in JobState:
            if not state.terminal:
                jobs.add_metric([state.value], counts[state])
        yield jobs
        partitions = gauge("partitions", "Dynamic partitions that are not gone.", ("site", "state"))
        present = collections.Counter(
            (each.site, each.state) for each in list(self._context.partitions)
        )
        for site in self._context.gates:
            for partition_state in PartitionState:
                if partition_state is not PartitionState.DELETED:
                    count = present[site, partition_state]
                    partitions.add_metric([site, partition_state.value], count)
        yield partitions
        ready = gauge("site_ready", "Whether the site takes jobs.", ("site",))
        restarts = gauge("gate_restarts", "Starts of the site's gate after the first.", ("site",))
        for name, gate in self._context.gates.items():
            ready.add_metric([name], float(gate.state is SiteState.READY))
            if gate.process is not None:
                restarts.add_metric([name], gate.process.restarts)
        yield ready
        yield restarts
        used = gauge("spool_used_bytes", "Bytes that the spool holds.")
        used.add_metric([], self._context.spool.used_bytes)
        yield used
        events = gauge("journal_sequence", "Number of the latest event.")
        events.add_metric([], self._context.store.journal.latest())
        yield events
        up = gauge("start_time_seconds", "When the core started, since the epoch.")
        up.add_metric([], self._started)
        yield up
