"""What a check found, for people: a matrix of hosts and things; for programs: JSON lines."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from gate_kit import verdicts
from gate_kit.verdicts import STYLES, State, Verdict

_COLUMNS = (
    ("SSH", ("reach", "host_key", "login")),
    ("TOOLS", ("tools",)),
    ("ROOT", ("work_root",)),
    ("DISK", ("disk", "inodes")),
    ("CPUS", ("cpus",)),
    ("MEMORY", ("memory",)),
    ("GPUS", ("gpus",)),
    ("CLOCK", ("clock",)),
    ("PORTS", ("ports",)),
    ("LOGOUT", ("logout",)),
    ("LIMITS", ("limits",)),
    ("CONTAINERS", ("containers",)),
)
_OF_QUEUES = (
    ("SLURM", ("slurm", "partitions")),
    ("ACCOUNTING", ("accounting",)),
    ("SHARED", ("shared",)),
    ("NODE-SSH", ("node_ssh",)),
)
"""Where a site has a queue."""
_PLAIN = frozenset({"reach", "host_key", "login", "slurm"})
"""Their values say nothing that the column of the account does not."""
_WORST = (State.FAILED, State.WARNING, State.UNKNOWN, State.OK)


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """An account on a host, and all that was found of it."""

    host: str
    partition: str
    account: str
    verdicts: Sequence[Verdict]
    root_uid: str | None = None
    """The identity of its work root: empty if it has none yet, None if that is not known."""

    @property
    def failed(self) -> bool:
        return any(verdict.state is State.FAILED for verdict in self.verdicts)


def json_lines(seen: Seen) -> Iterable[str]:
    """One object for each thing that was looked at."""
    for verdict in seen.verdicts:
        yield verdicts.json_line(
            verdict, host=seen.host, partition=seen.partition, account=seen.account
        )


def show(all_seen: Sequence[Seen]) -> None:
    """Print the matrix, a line for each thing that is not well, and the sum."""
    console = verdicts.console()
    console.print(_matrix(all_seen))
    noted = [
        (seen, verdict)
        for seen in all_seen
        for verdict in seen.verdicts
        if verdict.state in {State.FAILED, State.WARNING}
    ]
    if noted:
        console.print()
    for seen, verdict in sorted(noted, key=lambda each: each[1].state is not State.FAILED):
        who = f"{seen.host} ({seen.account})" if seen.account else seen.host
        verdicts.show_noted(console, verdict, f"{who} {verdict.check}")
    console.print()
    console.print(Text(_sum(all_seen, noted)), soft_wrap=True)


def _matrix(all_seen: Sequence[Seen]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    looked_at = {verdict.check for seen in all_seen for verdict in seen.verdicts}
    columns = [*_COLUMNS, *(each for each in _OF_QUEUES if each[1][0] in looked_at)]
    for title in ("HOST", "ACCOUNT", *(title for title, _ in columns)):
        table.add_column(title, no_wrap=title != "CONTAINERS", overflow="fold")
    for seen in all_seen:
        by_check = {verdict.check: verdict for verdict in seen.verdicts}
        cells = [Text(seen.host), Text(seen.account or "-")]
        for _, checks in columns:
            found = [by_check[check] for check in checks if check in by_check]
            cells.append(_cell(found) if found else Text("-"))
        table.add_row(*cells)
    return table


def _cell(verdicts: Sequence[Verdict]) -> Text:
    """The worst of a few; in words when it is bad, in numbers when it is well."""
    worst = min(verdicts, key=lambda verdict: _WORST.index(verdict.state))
    if worst.state is State.UNKNOWN and verdicts[0].state is State.OK:
        worst = verdicts[0]
    if worst.state is State.UNKNOWN:
        return Text("-", STYLES[worst.state])
    value = "" if worst.check in _PLAIN else worst.value
    if worst.state is State.FAILED:
        return Text(f"FAILED {value}".strip(), STYLES[worst.state])
    if worst.state is State.WARNING:
        return Text(f"{value or 'ok'}!", STYLES[worst.state])
    return Text(value or "ok")


def _sum(all_seen: Sequence[Seen], noted: Sequence[tuple[Seen, Verdict]]) -> str:
    hosts = len({seen.host for seen in all_seen})
    failed = sum(verdict.state is State.FAILED for _, verdict in noted)
    what = f"{hosts} {'host' if hosts == 1 else 'hosts'}"
    return verdicts.summary(what, failed, len(noted) - failed)
