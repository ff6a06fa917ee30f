"""Has what attempts are started with be on the disks of hosts, of many attempts at a time."""

from __future__ import annotations

from collections.abc import Sequence

from gate_kit.ssh.batches import Batch, PerHost
from gate_kit.ssh.host import Host
from gate_kit.ssh.layout import AttemptKey


class Settling:
    """Waits for the disk of one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._batch = Batch(self._ask, f"settling at {host.node}")

    async def settle(self, key: AttemptKey) -> None:
        """Return when the spec and the script of an attempt are on the disk.

        Raises:
            Refusal: As `Host.ask`.
        """
        await self._batch.answer(key.path)

    async def _ask(self, paths: Sequence[str]) -> dict[str, Exception | None]:
        await self._host.ask("settle", *paths)
        return dict.fromkeys(paths)


class Settlings(PerHost[Settling]):
    """That of each host."""

    def __init__(self) -> None:
        super().__init__(Settling)
