"""What a job asks for, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skyport.terminal.v1 import job_pb2
from terminals.cli.states import ENDED
from terminals.cli.words import counted, money, plain, span

if TYPE_CHECKING:
    from collections.abc import Iterator


def resources(spec: job_pb2.JobSpec) -> str:
    """`2 nodes, each 4 cpus, 8G memory, 1 gpu; at most 1h`."""
    from rpc_kit.units import format_size

    parts = [counted(spec.cpus or 1, "cpu")]
    if spec.memory_bytes:
        parts.append(f"{format_size(spec.memory_bytes)} memory")
    if spec.gpus:
        parts.append(counted(spec.gpus, "gpu"))
    if spec.disk_bytes:
        parts.append(f"{format_size(spec.disk_bytes)} disk")
    text = ", ".join(parts)
    if spec.nodes > 1:
        text = f"{spec.nodes} nodes, each {text}"
        if spec.launch == job_pb2.LAUNCH_EVERY:
            text += "; the script runs on each"
    if spec.HasField("time_limit"):
        text += f"; at most {span(spec.time_limit.seconds)}"
    if spec.spot:
        text += "; spot"
    if spec.HasField("max_cost"):
        text += f"; at most {money(spec.max_cost)}"
    if spec.retries:
        text += f"; {counted(spec.retries, 'retry', 'retries')}"
    if spec.priority:
        text += f"; priority {spec.priority}"
    return text


def ports(job: job_pb2.Job) -> Iterator[str]:
    """A line for each port, with how to reach it."""
    given = {port.name: port.number for node in job.nodes[:1] for port in node.ports if port.name}
    for port in job.spec.ports:
        number = port.number or given.get(port.name, 0)
        title = f"{number or 'any'} {plain(port.name)}".strip()
        if port.direction == job_pb2.PORT_DIRECTION_OUT:
            yield f"{title}  out: the job reaches it at the user's side"
        elif job.state in ENDED:
            yield f"{title}  in"
        else:
            yield f"{title}  in: swm forward {job.job_id} {plain(port.name) or number}"
