"""Waits for a node to boot: for its address, its sshd, and cloud-init's own word."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import re
import time
import weakref
from collections.abc import Callable

from gate_kit import Refusal
from gates.azure_gate.hosts import Hosts
from gates.azure_gate.partitions import Known

log = logging.getLogger(__name__)

_SSH_PORT = 22
_PROBE_S = 2.0
_ANSWERS_S, _ANSWERS_NOT_S = 5.0, 0.2
"""For how long the answer to a probe holds for all nodes of a partition: yes, and no."""
_PAUSE_S = (0.2, 0.5)
"""Between two tries: at first, and at most. One costs a packet; what it is late, each job waits."""
_WORDS_BYTES = 8_192
_QUIET_S = 60.0
"""The script says each second that it waits; a link that is silent for so long is lost."""

# What boot.sh and cloud-init leave, as lines: "step …" while it works, then "ready", or "failed …".
# Each line ends within the second, so that a link that broke is noticed.
_WATCH = r"""exec 2>/dev/null
d=/run/skyport c=/run/cloud-init last= now= i=0
while :; do
if [ -e $d/failed ]; then echo failed; cat $d/failed; exit 1; fi
if [ -e $c/result.json ] || [ ! -d $c ]; then
    if [ -e $c/result.json ] && ! tr -d ' \n' <$c/result.json | grep -q '"errors":\[\]'; then
        echo failed; echo 'cloud-init failed:'; tr -d '\n' <$c/result.json; exit 1
    fi
    if [ -e $d/ready ]; then echo ready; exit 0; fi
fi
read -r now <$d/step; [ "$now" = "$last" ] || { last=$now; echo "step $now"; }
i=$(( (i + 1) % 5 )); [ $i != 0 ] || echo wait
sleep 0.2
done"""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class BootFailed(Exception):
    """The node will never be ready: the text has its last words."""


@dataclasses.dataclass(slots=True)
class _Door:
    """Whether the sshd answers that is the way to all nodes of a partition."""

    asking: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    answers: bool = False
    holds_until: float = 0.0
    """By the clock of `time.monotonic`."""


class Boots:
    """Boots of nodes.

    Args:
        hosts: The ways to them.
    """

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._doors: weakref.WeakKeyDictionary[Known, _Door] = weakref.WeakKeyDictionary()

    async def until_ready(self, known: Known, node: str, told: Callable[[str], None]) -> None:
        """Wait until a node says that it is ready. Cancel it when it has had time enough.

        Args:
            known: Its partition.
            node: Which.
            told: Called with what it does, for people.

        Raises:
            BootFailed: Its set-up failed.
        """
        told("waits for an address")
        while not self._hosts.address(known, node) or not self._is_first_reached(known, node):
            await known.pulse.wait()
        told("boots")
        pause_s = _PAUSE_S[0]
        while True:
            try:
                if await self._listens(known) and await self._watch(known, node, told):
                    return
                pause_s = _PAUSE_S[0]
            except (Refusal, OSError, TimeoutError) as error:
                # Accounts and host keys come a little later than sshd, or are being replaced.
                log.debug("%s of %s: %s", node, known.id, error)
                reason = error.reason if isinstance(error, Refusal) else ""
                if reason in {"HOST_KEY_MISMATCH", "CREDENTIALS_INVALID"}:
                    told(f"boots ({reason.lower().replace('_', ' ')} so far)")
                pause_s = min(pause_s * 1.5, _PAUSE_S[1])
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311  # nosec B311

    def _is_first_reached(self, known: Known, node: str) -> bool:
        first = known.tags.nodes[0]
        return node == first or bool(self._hosts.address(known, first))

    async def _listens(self, known: Known) -> bool:
        """Whether something that is an sshd answers. A login that comes too early is costly.

        Only the first node can be asked; its sshd says at once if it can't get to others. Each
        probe costs it a process, so what one node learns holds for the others.
        """
        door = self._doors.setdefault(known, _Door())
        async with door.asking:
            now = time.monotonic()
            if now >= door.holds_until:
                door.answers = False
                try:
                    door.answers = await self._probe(known)
                finally:
                    held_s = _ANSWERS_S if door.answers else _ANSWERS_NOT_S
                    door.holds_until = time.monotonic() + held_s
            return door.answers

    async def _probe(self, known: Known) -> bool:
        async with asyncio.timeout(_PROBE_S):
            reader, writer = await asyncio.open_connection(
                self._hosts.address(known, known.tags.nodes[0]), _SSH_PORT
            )
            try:
                return (await reader.readline()).startswith(b"SSH-")
            finally:
                writer.close()

    async def _watch(self, known: Known, node: str, told: Callable[[str], None]) -> bool:
        """Whether the node has become ready, as far as one connection lasts."""
        way = self._hosts.first_way(known, node)
        is_ready = False
        try:
            process = await way.open(f"sh -c {_quoted(_WATCH)}", lasting=True)
            try:
                while True:
                    async with asyncio.timeout(_QUIET_S):
                        line = (await process.stdout.readline()).decode(errors="replace").strip()
                    word, _, text = line.partition(" ")
                    match word:
                        case "ready":
                            is_ready = True
                            return True
                        case "step":
                            told(_clean(text))
                        case "failed":
                            words = await process.stdout.read(_WORDS_BYTES)
                            raise BootFailed(_clean(words.decode(errors="replace")))
                        case "":
                            return False
            finally:
                process.close()
        finally:
            await self._hosts.leave(known, node, way, is_ready=is_ready)


def _quoted(script: str) -> str:
    """A script of ours as one word for a login shell, whichever that is."""
    return "'" + script.replace("'", "'\\''") + "'"


def _clean(text: str) -> str:
    """What a node said, on one line."""
    lines = [line.strip() for line in _CONTROL.sub("", text).splitlines() if line.strip()]
    return " | ".join(lines)
