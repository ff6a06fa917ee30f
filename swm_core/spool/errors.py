"""What the spool refuses. `reason` is that of the Terminal API's error tables."""

from __future__ import annotations


class SpoolRefusal(Exception):
    """The spool does not take or have what is asked for.

    Args:
        message: For people.
        metadata: What programs may want: `offset`, `sha256`.
    """

    reason = "INTERNAL"

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.metadata = metadata


class SpoolFull(SpoolRefusal):
    """No room: the configured size is reached, or the disk is full."""

    reason = "SPOOL_FULL"


class QuotaReached(SpoolFull):
    """No room for this owner: they have what one may have. Others are not affected."""

    reason = "QUOTA"


class ContentMissing(SpoolRefusal):
    """A content that this owner has not brought."""

    reason = "CONTENT_MISSING"


class ManifestRefused(SpoolRefusal):
    """A manifest that cannot be one; the reason tells which rule it breaks."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class OffsetRefused(SpoolRefusal):
    """A piece that does not begin where the one before ended."""

    reason = "OFFSET"


class DigestMismatch(SpoolRefusal):
    """A content that is not what its digest says; what was received of it is dropped."""

    reason = "DIGEST_MISMATCH"
