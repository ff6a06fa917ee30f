"""The address that we come from, which is the only one that nodes let in."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Sequence

from gate_kit import errors
from gates.azure_gate.config import Config
from gates.azure_gate.sdk import Sdk

_OLD_S = 15.0
"""An answer is good for so long: many partitions may be made at once."""
_ANSWER_S = 10.0
_BYTES = 256


class Egress:
    """Where connections to nodes come from.

    Args:
        config: Says it, or where to ask.
        sdk: Whose connections are used.
    """

    def __init__(self, config: Config, sdk: Sdk) -> None:
        self._config = config
        self._sdk = sdk
        self._found: tuple[str, ...] = ()
        self._asked_at = 0.0
        self._asking = asyncio.Lock()

    @property
    def may_change(self) -> bool:
        """Whether it is asked for, so that it has to be asked for again and again."""
        return not self._config.inbound_from

    async def sources(self, *, fresh: bool = False) -> Sequence[str]:
        """The addresses to let in; never everybody.

        Args:
            fresh: Whether an answer of a moment ago is not good enough.

        Raises:
            Refusal: SITE_UNREACHABLE: nobody tells.
        """
        if self._config.inbound_from:
            return self._config.inbound_from
        async with self._asking:
            if self._found and not fresh and time.monotonic() - self._asked_at < _OLD_S:
                return self._found
            self._found = (await self._ask(),)
            self._asked_at = time.monotonic()
            return self._found

    async def _ask(self) -> str:
        import aiohttp

        url = self._config.endpoints.egress
        mend = "set inbound_from to the address that the gate comes from"
        try:
            async with (
                asyncio.timeout(_ANSWER_S),
                self._sdk.session.get(url, allow_redirects=False) as answer,
            ):
                text = (await answer.content.read(_BYTES)).decode(errors="replace").strip()
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            why = str(error) or "it does not answer"
            raise errors.site_unreachable(
                f"{url} does not tell the address that we come from: {why}; {mend}"
            ) from error
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            address = None
        # Nodes have addresses of version 4 alone: from another one nobody would get there.
        if (
            status != 200
            or not isinstance(address, ipaddress.IPv4Address)
            or address.is_unspecified
            or address.is_multicast
        ):
            raise errors.site_unreachable(
                f"{url} tells {text[:60]!r} (status {status}), which is no address that we could "
                f"come from; {mend}"
            )
        return str(address)
