"""The core's configuration: what `swm.toml` may say."""
# ruff: noqa: RUF009 - what a NewType is called with is a constant still

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rpc_kit import config_file
from rpc_kit.endpoint import Endpoint
from rpc_kit.logs import LogFormat, LogLevel
from rpc_kit.units import Bytes, Seconds, parse_duration
from swm_core.domain.addresses import LOOPBACK_ONLY, Place
from swm_core.domain.money import Money
from swm_core.security.names import is_gate_name

Rules = Iterator[tuple[tuple[str, ...], str]]

_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR


@dataclasses.dataclass(frozen=True, slots=True)
class Spool:
    """Where uploads and results are kept."""

    max_size: Bytes = Bytes(100 << 30)
    job_retention: Seconds = Seconds(30 * _DAY)
    """How long a job is kept after its end, with its results and logs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Log:
    """What is logged, and how."""

    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.AUTO


@dataclasses.dataclass(frozen=True, slots=True)
class Metrics:
    """The Prometheus endpoint."""

    listen: Endpoint | None = None
    """On loopback; None: off."""

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Rules:
        # Figures tell of all jobs and sites, and are served without a login.
        yield from _wrong_address(table, local_only=True, mend="use 127.0.0.1")


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What one job or user may take."""

    log_bytes_per_job: Bytes = Bytes(256 << 20)
    """Of its output mirrored while it runs; the end is always kept."""
    active_jobs_per_user: int = 10_000
    """Jobs that have not ended; 0: no limit. Whoever has more by a change of this keeps them."""
    streams_per_user: int = 500
    """Open streams: watches, followed output, transfers, connections to ports; 0: no limit."""
    spool_bytes_per_user: Bytes = Bytes(0)
    """Of their files and results in the spool; 0: as much as the spool has room for."""

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Rules:
        for name in ("active_jobs_per_user", "streams_per_user"):
            value = table.get(name)
            if type(value) is int and value < 0:
                yield (name,), f"{value} is less than nothing; 0 means no limit"


@dataclasses.dataclass(frozen=True, slots=True)
class Ports:
    """Which addresses at the core's side the ports of jobs have to do with."""

    in_at: tuple[Place, ...] = LOOPBACK_ONLY
    """Where the core may listen for `in` ports."""
    out_to: tuple[Place, ...] = LOOPBACK_ONLY
    """Whereto the core may connect for `out` ports."""


@dataclasses.dataclass(frozen=True, slots=True)
class Certificates:
    """What the core signs for users, gates and itself."""

    lifetime: Seconds = Seconds(365 * _DAY)
    """How long a certificate is valid; renewed where the core can when a third of it is left."""

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Rules:
        text = table.get("lifetime")
        with contextlib.suppress(ValueError):  # told of by its type
            if isinstance(text, str | int) and parse_duration(str(text)) < 1:
                yield ("lifetime",), f'"{text}" is no time to live; write one as "365d"'


@dataclasses.dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a job may stay in a state that waits on us or on a site."""

    provisioning: Seconds = Seconds(30 * _MINUTE)
    staging: Seconds = Seconds(6 * _HOUR)
    starting: Seconds = Seconds(10 * _MINUTE)
    staging_out: Seconds = Seconds(6 * _HOUR)
    site_lost: Seconds = Seconds(_DAY)
    """How long a site may be unreachable before its jobs are given up on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Budgets:
    """What users may spend on nodes that cost money, in each month (UTC)."""

    per_user: Money | None = None
    """Of each user who is not in `users`; None: no limit."""
    users: dict[str, Money] = dataclasses.field(default_factory=dict)
    default_time: Seconds = Seconds(_DAY)
    """The time limit of a job without one on nodes that cost money, or may; 0: none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reconciliation:
    """How what sites have is compared with what the core knows."""

    every: Seconds = Seconds(5 * _MINUTE)
    """How often."""
    grace: Seconds = Seconds(_HOUR)
    """How long what the core does not know is left before it is deleted."""

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Rules:
        yield from _outside(table, "every", 1, _DAY, 'from "1s" to "1d"')
        yield from _outside(table, "grace", 0, 365 * _DAY, 'up to "365d"')


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """A gate: started and supervised by the core, or reached where somebody else runs it."""

    command: tuple[str, ...] = ()
    """Program and arguments; `--listen` with a socket's address is appended."""
    endpoint: Endpoint | None = None
    certificate: str = ""
    """The name in the certificate of a gate on TCP; empty: the site's."""
    max_partitions: int = 0
    """How many partitions the core may have there at once; 0: as many as its gate says."""
    idle_time: Seconds = Seconds(0)
    """How long a partition waits for the next fitting job of its owner; 0: it does not."""
    monthly_budget: Money | None = None
    """What all users together may spend there in a month (UTC); None: no limit."""

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Rules:
        most = table.get("max_partitions")
        if type(most) is int and most < 0:
            yield ("max_partitions",), f"{most} is less than nothing; 0 means no limit"
        yield from _outside(table, "idle_time", 0, 365 * _DAY, 'up to "365d"')
        name = table.get("certificate", "")
        if isinstance(name, str) and name and not is_gate_name(name):
            yield ("certificate",), f'"{name}" can\'t be a gate\'s name; use a-z, 0-9 and "-"'
        if "command" in table and "endpoint" in table:
            yield ("endpoint",), "stands beside a command; keep one of the two"
        elif "command" not in table and "endpoint" not in table:
            yield (), 'has no gate; add command = ["…"], which is started, or endpoint = "…"'
        if table.get("command") in ([], [""]):
            yield ("command",), 'is empty; name a program, as ["swm-fake-gate"]'


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """All of `swm.toml`."""

    listen: Endpoint
    """Where terminals reach the core; TCP, so that any of them can."""
    allow_remote: bool = False
    """Whether `listen` may be an address that other machines reach."""
    spool: Spool = dataclasses.field(default_factory=Spool)
    log: Log = dataclasses.field(default_factory=Log)
    metrics: Metrics = dataclasses.field(default_factory=Metrics)
    limits: Limits = dataclasses.field(default_factory=Limits)
    ports: Ports = dataclasses.field(default_factory=Ports)
    certificates: Certificates = dataclasses.field(default_factory=Certificates)
    deadlines: Deadlines = dataclasses.field(default_factory=Deadlines)
    budgets: Budgets = dataclasses.field(default_factory=Budgets)
    reconciliation: Reconciliation = dataclasses.field(default_factory=Reconciliation)
    sites: dict[str, Site] = dataclasses.field(default_factory=dict)

    @staticmethod
    def rules(table: Mapping[str, Any]) -> Rules:
        local_only = table.get("allow_remote") is not True
        mend = "use 127.0.0.1, or set allow_remote = true"
        yield from _wrong_address(table, local_only=local_only, mend=mend)
        sites = table.get("sites")
        for name in sites if isinstance(sites, dict) else ():
            if not is_gate_name(name):
                mend = 'use up to 32 of a-z, 0-9 and "-", a letter first'
                yield ("sites", name), f"can't be the name of a site; {mend}"


def load(path: Path) -> Config:
    """The configuration in the file `path`.

    Raises:
        config_file.ConfigError: One line for each mistake, as
            `swm.toml:12: spool.max_size: "100X" is not a size; write …`.
    """
    return config_file.load(path, Config)


def _outside(
    table: Mapping[str, Any], name: str, least_s: int, most_s: int, range_text: str
) -> Rules:
    """What is wrong with a duration that is one."""
    text = table.get(name)
    with contextlib.suppress(ValueError):  # told of by its type
        if isinstance(text, str | int) and not least_s <= parse_duration(str(text)) <= most_s:
            yield (name,), f'"{text}" is out of range; write one {range_text}'


def _wrong_address(table: Mapping[str, Any], *, local_only: bool, mend: str) -> Rules:
    """What is wrong with the address `listen`, beyond its form."""
    text = table.get("listen")
    try:
        endpoint = Endpoint.parse(text or "") if isinstance(text, str) else None
    except ValueError:
        return  # told of by its type
    if endpoint is None:
        return
    if endpoint.path is not None:
        yield ("listen",), f'"{text}" is a unix socket; write host and port, as "127.0.0.1:7717"'
    elif endpoint.port == 0:
        yield ("listen",), f'"{text}" names no port; choose one from 1 to 65535'
    elif local_only and not endpoint.is_local:
        yield ("listen",), f'"{text}" can be reached from other machines; {mend}'
