"""Files by digest, and what jobs write: see `Spool`."""

from swm_core.spool.batch import AsyncBatch
from swm_core.spool.contents import CHUNK_BYTES, PIN_S, OwnerContents, Piece, Writer
from swm_core.spool.errors import (
    ContentMissing,
    DigestMismatch,
    ManifestRefused,
    OffsetRefused,
    SpoolFull,
    SpoolRefusal,
)
from swm_core.spool.logs import LogEnd, LogKind, LogMirror, LogPiece, finish_together
from swm_core.spool.manifests import MAX_BYTES, MAX_ENTRIES, read_manifest, write_manifest
from swm_core.spool.spool import Spool

__all__ = [
    "CHUNK_BYTES",
    "MAX_BYTES",
    "MAX_ENTRIES",
    "PIN_S",
    "AsyncBatch",
    "ContentMissing",
    "DigestMismatch",
    "LogEnd",
    "LogKind",
    "LogMirror",
    "LogPiece",
    "ManifestRefused",
    "OffsetRefused",
    "OwnerContents",
    "Piece",
    "Spool",
    "SpoolFull",
    "SpoolRefusal",
    "Writer",
    "finish_together",
    "read_manifest",
    "write_manifest",
]
