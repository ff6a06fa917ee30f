"""What a gate says of itself when the core connects."""

from __future__ import annotations

import dataclasses
import logging
import re

from skyport.gate.v1 import identity_pb2, types_pb2
from swm_core.domain.words import words

log = logging.getLogger(__name__)

API_VERSION = "v1"
_MOST_STORAGE = 1_000
_MOST_PATTERN = 2_000


@dataclasses.dataclass(frozen=True, slots=True)
class GateInfo:
    """What a gate said of itself."""

    name: str
    version: str
    capabilities: frozenset[str]
    """Names without their prefix, as "CONTAINERS"."""
    summary: str
    scope_uid: str
    option_prefix: str
    """`slurm` where the site's options are written `slurm.NAME`; empty: it takes none."""
    longest_expiry_s: float
    max_partitions: int
    """How many partitions may exist at once; zero: no limit is known."""
    storage: tuple[str, ...] = ()
    """Names of what jobs may ask for."""
    options: frozenset[str] | None = None
    """Those that it takes, without their prefix; None: not told."""
    image_pattern: re.Pattern[str] | None = None
    """Of the whole names of images that nodes boot; None: not told."""
    image_form: str = ""
    """The same for people."""

    @classmethod
    def of(cls, site: str, answer: identity_pb2.GetGateInfoResponse) -> GateInfo:
        """What the gate of `site` said in `answer`.

        Raises:
            ValueError: The gate does not serve this version of the Gate API.
        """
        if API_VERSION not in answer.api_versions:
            served = ", ".join(answer.api_versions)
            raise ValueError(f"the gate serves version {served} of the Gate API, not {API_VERSION}")
        known = types_pb2.Capability.values()
        return cls(
            name=answer.name,
            version=answer.vendor_version,
            capabilities=frozenset(
                types_pb2.Capability.Name(number).removeprefix("CAPABILITY_")
                for number in answer.capabilities
                if number in known
            ),
            summary=answer.site.summary,
            scope_uid=answer.scope_uid,
            option_prefix=answer.option_prefix,
            storage=tuple(answer.storage[:_MOST_STORAGE]),
            options=frozenset(answer.options.names) if answer.HasField("options") else None,
            image_pattern=_pattern(site, answer.node_images.pattern),
            image_form=words(answer.node_images.form),
            longest_expiry_s=answer.limits.longest_expiry.ToNanoseconds() / 1e9,
            max_partitions=answer.limits.partitions,
        )


def _pattern(site: str, text: str) -> re.Pattern[str] | None:
    """A pattern that a gate told; None if it told none, or none that makes sense."""
    try:
        return re.compile(text, re.ASCII) if 0 < len(text) <= _MOST_PATTERN else None
    except (re.error, RecursionError, OverflowError) as error:
        log.warning("site %s: its gate's pattern for images can't be used: %s", site, error)
        return None
