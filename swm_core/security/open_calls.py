"""Ends streams of callers who would not be let in any more."""

from __future__ import annotations

import logging

from rpc_kit.errors import Refusal
from rpc_kit.interceptor import ErrorInterceptor
from swm_core.security.identity import Authenticator, Caller

log = logging.getLogger(__name__)


class OpenCalls:
    """The streaming calls that are under way.

    Args:
        interceptor: Of the server, which knows them.
        authenticator: Who let their callers in.
    """

    def __init__(self, interceptor: ErrorInterceptor, authenticator: Authenticator) -> None:
        self._interceptor = interceptor
        self._authenticator = authenticator

    def end_refused(self) -> int:
        """End those of certificates that were revoked or have ended, and of users that are gone.

        Returns:
            How many. Each caller is told what a new call would be told.
        """
        ended = self._interceptor.end_refused(self._refusal)
        if ended:
            log.info("ended %d calls of certificates that do not count any more", ended)
        return ended

    def _refusal(self, method: str, who: object) -> Refusal | None:
        if isinstance(who, Caller):
            try:
                self._authenticator.caller(who.identity)
            except Refusal as refusal:
                return refusal
        return None
