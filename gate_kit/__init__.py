"""What Python gates share, so that a gate holds only what is particular to its site.

    serving        serve(): services at an endpoint, until told to end
    command_line   the options that every gate has
    identity       IdentityService out of one value
    errors         every error of the contract's tables, with its code
    validation     all mistakes of a request at once
    operations     work that outlives the call that asked for it
    verdicts       what a look at a site found, and how it is told
    latest         of several streams about one thing the latest counts
    watches        snapshot, boundary, latest changes, heartbeat
    job_service    JobService, over what a gate tells of attempts; job_checks its checks
    job_status     how an attempt is told: JobStatus and JobEnd out of claims and ends
    launching      what a script is run with: interpreter, times, environment
    output_streams how much of a job's output was sent
    node_lists     ListNodes out of partitions
    manifest       a manifest is checked while it arrives
    patterns       which files an output pattern means
    tunnels        a TCP connection over frames

Pages of lists, redaction, logs and configuration files are those of `rpc_kit`.
"""

from gate_kit.identity import Expiry, GateInfo, Health, IdentityService, NodeImages
from gate_kit.latest import LatestWins
from gate_kit.operations import Operations
from gate_kit.serving import Listen, Service, serve, start
from gate_kit.validation import Fields, check_ref
from gate_kit.watches import WatchHub
from rpc_kit.errors import Refusal, Violation
from rpc_kit.interceptor import Context
from rpc_kit.logs import job_context
from rpc_kit.paging import Page, page, page_of
from rpc_kit.redaction import safe_text

__all__ = [
    "Context",
    "Expiry",
    "Fields",
    "GateInfo",
    "Health",
    "IdentityService",
    "LatestWins",
    "Listen",
    "NodeImages",
    "Operations",
    "Page",
    "Refusal",
    "Service",
    "Violation",
    "WatchHub",
    "check_ref",
    "job_context",
    "page",
    "page_of",
    "safe_text",
    "serve",
    "start",
]
