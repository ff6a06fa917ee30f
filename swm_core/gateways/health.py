"""Whether a site can be used, and if not, why."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable

from rpc_kit.endpoint import Endpoint
from swm_core.domain.words import words
from swm_core.gateways.problems import HOST_KEY_MISMATCH, SITE_BROKEN, GateError
from swm_core.gateways.process import GateProcess

log = logging.getLogger(__name__)

_BROKEN = SITE_BROKEN | {HOST_KEY_MISMATCH}
"""Of the site as a whole, also that all of its hosts show other keys than they should."""


class SiteState(enum.StrEnum):
    """Whether a site can be used."""

    STARTING = "STARTING"
    READY = "READY"
    UNREACHABLE = "UNREACHABLE"
    BROKEN = "BROKEN"


class SiteUnusable(ValueError):
    """An administrator has to do something; the message says what."""


class Health:
    """A site's state, with a message for people.

    Args:
        site: The site's name.
        endpoint: Where its gate listens.
        on_change: Called when either has changed.
    """

    def __init__(self, site: str, endpoint: Endpoint, on_change: Callable[[], None]) -> None:
        self._site = site
        self._endpoint = endpoint
        self._on_change = on_change
        self.state = SiteState.STARTING
        self.message = "its gate has not answered yet"
        self._ready = asyncio.Event()

    async def wait_ready(self) -> None:
        """Wait until it is READY."""
        await self._ready.wait()

    def become(self, state: SiteState, message: str = "") -> None:
        """It is so from now on."""
        message = words(message)
        if (state, message) == (self.state, self.message):
            return
        if state is not self.state:
            log.info("site %s is %s%s", self._site, state, f": {message}" if message else "")
        self.state, self.message = state, message
        if state is SiteState.READY:
            self._ready.set()
        else:
            self._ready.clear()
        self._on_change()

    def lost(self, error: BaseException, process: GateProcess | None, heard: float) -> None:
        """The connection to the gate broke.

        Args:
            error: By what.
            process: The gate's, when the core starts it itself.
            heard: When the gate last answered, by the monotonic clock.
        """
        reason = error.reason if isinstance(error, GateError) else ""
        broken = reason in _BROKEN or isinstance(error, SiteUnusable)
        # Whether it is the process that there is now, or was last, that has never answered.
        is_new = process is not None and (process.pid is None or heard < process.start_time)
        if process is not None and process.last_exit and is_new:
            many = process.crashes > 1
            how = f"keeps ending ({process.crashes} times)" if many else "has ended"
            text = f"its gate {how}, and is started anew: {process.last_exit}"
        elif isinstance(error, GateError) and not error.reason:
            # The transport's own words name sockets and error numbers, and nothing to do.
            where = f" at {self._endpoint}" if process is None else ""
            text = f"its gate does not answer{where}"
            log.debug("site %s: %s", self._site, error.message)
        else:
            text = error.message if isinstance(error, GateError) else str(error) or "it hangs"
        if not broken and process is not None and is_new and not process.last_exit:
            self.become(SiteState.STARTING, "its gate is starting")
            return
        self.become(SiteState.BROKEN if broken else SiteState.UNREACHABLE, text)
