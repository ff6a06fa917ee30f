"""What a gate sends and must not."""

from __future__ import annotations

from swm_core.domain.failures import Failure, FailureReason
from swm_core.domain.words import words
from swm_core.gateways.gate import Gate


class GateDefect(Exception):
    """A gate sent what it must not; the text says what."""


def sent_wrong(gate: Gate, error: Exception) -> Failure:
    """The failure of an attempt whose gate did so."""
    text = f"the gate of site {gate.name} sent what it must not: {error}"
    return Failure(FailureReason.STAGING_FAILED, words(text))
