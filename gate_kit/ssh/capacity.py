"""What a host has, as scripts/capacity.sh tells it, for as long as the link to it lasts."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Sequence

from gate_kit import errors
from gate_kit.ssh.host import Host
from gate_kit.ssh.transport import Process

_REPORT_S = 60.0
"""Drivers of GPUs take seconds, file systems that are far away too; what takes longer hangs."""
_MENDED_S = 10.0
"""Nothing is placed on a host whose work root can't be written: its end is noticed sooner."""


@dataclasses.dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, by the index under which CUDA_VISIBLE_DEVICES knows it."""

    id: str
    model: str


@dataclasses.dataclass(frozen=True, slots=True)
class Capacity:
    """What was found on a host."""

    cpus: int = 0
    memory_bytes: int = 0
    gpus: tuple[Gpu, ...] = ()
    disk_bytes: int = 0
    """Free where the work root is; 0: not known."""
    architecture: str = ""
    address: str = ""
    """Where sshd was reached, as it saw it itself; empty without SSH."""
    unwritable: str = ""
    """The folder of the work root, where this account can't write to it."""
    trouble: str = ""
    """What could not be found out, and why."""


async def reports(host: Host, *, every_s: float) -> AsyncGenerator[Capacity, None]:
    """What the host has: at once, and then again and again.

    Args:
        host: Any account there.
        every_s: Seconds from one report to the next.

    Raises:
        Refusal: There is no way to the host, or there is none any more: NODE_UNREACHABLE and what
            else `Host.open` raises.
    """
    process = await host.run("capacity", lasting=True)
    try:
        with _Asker(process) as asker:
            while True:
                async with asyncio.timeout(every_s + _REPORT_S):
                    lines = await _report(process)
                found = parse(lines)
                asker.told(_MENDED_S if found.unwritable else every_s)
                yield found
    except (OSError, EOFError, TimeoutError) as error:
        why = "it does not answer" if isinstance(error, TimeoutError) else "the link was lost"
        told = process.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise errors.node_unreachable(host.node, f"{host.node}: {told or why}") from error
    finally:
        process.close()


class _Asker:
    """Asks for the next report, a while after each."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._timer: asyncio.TimerHandle | None = None

    def told(self, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(wait_s, self._ask)

    def _ask(self) -> None:
        with contextlib.suppress(OSError):  # who reads sees that the link is lost
            self._process.stdin.write(b"\n")

    def __enter__(self) -> _Asker:
        return self

    def __exit__(self, *args: object) -> None:
        if self._timer is not None:
            self._timer.cancel()


async def _report(process: Process) -> list[str]:
    lines: list[str] = []
    while True:
        line = await process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        text = line.decode(errors="replace").rstrip("\r\n")
        if text == ".":
            return lines
        lines.append(text)


def parse(lines: Sequence[str]) -> Capacity:
    """What the lines of a report say. Numbers that are none count as not told."""
    cpus, memory, disk = 0, 0, 0
    cpu_limits, memory_limits = [], []
    gpus: list[Gpu] = []
    texts = {"architecture": "", "address": "", "unwritable": "", "trouble": ""}
    for line in lines:
        name, _, value = line.partition(" ")
        match name:
            case "cpus":
                cpus = _number(value)
            case "memory":
                memory = _number(value)
            case "disk":
                disk = _number(value)
            case "memory_limit":
                memory_limits.append(_number(value))
            case "cpu_limit":
                quota, _, period = value.partition(" ")
                if _number(quota) and _number(period):
                    # At least one: a job that may use half a core runs too.
                    cpu_limits.append(-(-_number(quota) // _number(period)))
            case "gpu":
                index, _, model = value.partition(" ")
                gpus.append(Gpu(index, model.strip()))
            case "architecture" | "address" | "unwritable" | "trouble":
                texts[name] = "".join(c for c in value if c.isprintable())[:500]
            case _:
                pass
    return Capacity(
        cpus=min([cpus, *cpu_limits]),
        memory_bytes=min([memory, *filter(None, memory_limits)]),
        gpus=tuple(gpus),
        disk_bytes=disk,
        **texts,
    )


def _number(text: str) -> int:
    """A whole number; 0 for "max", "-1" and everything else that limits nothing."""
    return int(text) if text.isascii() and text.isdigit() else 0
