"""A job's specification as the core understands it, and a job as it is at one moment."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

from swm_core.domain.failures import Failure
from swm_core.domain.money import Money
from swm_core.domain.states import JobState


class Direction(enum.StrEnum):
    """`IN`: connections go from the user's side to the job. `OUT`: the other way."""

    IN = "in"
    OUT = "out"


class Launch(enum.StrEnum):
    """`FIRST`: the script runs on the first node. `EVERY`: on each node, with its rank."""

    FIRST = "first"
    EVERY = "every"


@dataclasses.dataclass(frozen=True, slots=True)
class Port:
    """A port that the job opens (`IN`) or reaches (`OUT`). `number` 0: any, told by `name`."""

    number: int
    direction: Direction
    name: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Resources:
    """What one node of a job needs. Zero memory or disk: not stated."""

    cpus: int = 1
    mem_bytes: int = 0
    gpus: int = 0
    disk_bytes: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class JobSpec:
    """What the user asked for, parsed from the script's directives and the request beside it.

    Paths in `input_files` are the terminal's own, which resolves and uploads them.
    """

    name: str = ""
    comment: str = ""
    account: str = ""
    site: str = ""
    partition: str = ""
    flavor: str = ""
    nodes: int = 1
    resources: Resources = Resources()
    launch: Launch = Launch.FIRST
    time_limit_s: int = 0
    """Seconds; 0: none was asked for."""
    priority: int = 0
    retries: int = 0
    relocatable: bool = True
    """Whether a new attempt may go to another site than the last."""
    cloud_image: str = ""
    container_image: str = ""
    ports: tuple[Port, ...] = ()
    submission_address: str = ""
    """Where the core listens for `in` ports, and whereto it connects for `out` ones; empty:
    loopback."""
    input_files: tuple[str, ...] = ()
    output_files: tuple[str, ...] = ()
    workdir: str = ""
    stdin: str = ""
    """An input file, by its name in the work folder; empty: no input."""
    stdout: str = "stdout.log"
    """The name under which a terminal saves the collected standard output."""
    stderr: str = "stderr.log"
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    site_options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    storage: tuple[str, ...] = ()
    """Names of storage that its site has to offer."""
    spot: bool = False
    """Whether its nodes may be taken away."""
    max_cost: Money | None = None
    """The most that it may cost, over all attempts; None: no limit."""

    def options_of(self, prefix: str) -> dict[str, str]:
        """The options for sites whose options have this prefix, without it; empty: takes none."""
        return {
            name.removeprefix(f"{prefix}."): value
            for name, value in self.site_options.items()
            if prefix and name.startswith(f"{prefix}.")
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Allocation:
    """What one node gives to one attempt. `ports`: name (or number) asked for, number given."""

    node: str
    cpus: int
    mem_bytes: int
    gpu_ids: tuple[str, ...] = ()
    ports: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended. One of the first three is set. Times are seconds since 1970."""

    exit_code: int | None = None
    signal: int | None = None
    failure: Failure | None = None
    start_time: float | None = None
    end_time: float | None = None
    cpu_time_s: float = 0.0
    max_mem_bytes: int = 0
    image_digest: str = ""
    """Of the container image that it ran in; empty without one."""
    warnings: tuple[str, ...] = ()
    """What was done otherwise than asked, for people."""


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A job as it is now. Each transition makes a new value; the store keeps the latest."""

    job_id: str
    owner: str
    spec: JobSpec
    manifest_sha256: str
    """Hex digest of the input manifest in the owner's spool; empty: no input files."""
    state: JobState
    submit_time: float
    state_time: float
    """When it entered its state."""
    text: str = ""
    """For people: what it is doing or waiting for."""
    attempt: int = 0
    """0: never placed. Grows by one with each placement."""
    retries_left: int = 0
    site: str = ""
    partition_id: str = ""
    allocations: tuple[Allocation, ...] = ()
    claimed: bool = False
    """Whether this attempt's script is known to have begun."""
    cancel_requested: bool = False
    force: bool = False
    """The owner gave up on the site's confirmation."""
    end: End | None = None
    failure: Failure | None = None
    output_manifest_sha256: str = ""
    """Hex digest of the manifest of collected outputs; empty: nothing was collected."""
    skipped_outputs: tuple[tuple[str, str], ...] = ()
    """Path and reason of what matched and could not be taken."""
    unmatched_outputs: tuple[str, ...] = ()
    """Patterns that matched nothing."""
    local_ports: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Where the core listens for the job's IN ports: the job's port, the local port."""
    not_before: float = 0.0
    """Not placed again before this time (backoff between attempts)."""
    start_time: float | None = None
    end_time: float | None = None
    attempt_floor: int = 0
    """The next attempt has a higher number: those up to it may be known to a lost store."""
    uncertain: bool = False
    """Whether the store was put back since this attempt began: it is looked for, never started."""
    time_limit_s: int = 0
    """What limits this attempt because of its place, where the job names none; 0: nothing."""
    stop: Failure | None = None
    """Why the core ends this attempt at its site; None: it does not."""
    cost_warnings: tuple[str, ...] = ()
    """Of which caps and budgets its owner has been warned."""
    last_sequence: int = 0
    """The journal's number of its latest event."""
