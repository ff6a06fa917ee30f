"""What means something to a server, for messages that are otherwise made by chance."""

from __future__ import annotations

from tests.system.harness.files import bring, manifest, sha256, upload
from tests.system.harness.users import User

_TREE = {"a.txt": b"a" * 100, "b/c.txt": b"c"}
_DIRECTIVES = (
    "", "#SWM name a", "#SWM cpus 1", "#SWM mem 64M", "#SWM time 5", "#SWM output *.txt",
    "#SWM gpus 1", "#SWM site lab", "#SWM nodes 2", "#SWM array 1-3", "#SWM input a.txt",
    "#SWM retries 2", "#SWM ports 0/tcp/in WEB", "#SWM env A=1", "#SWM cpus 999", "#SWM what",
    "#SWM workdir /tmp/../etc",
)  # fmt: skip


def scripts() -> list[bytes]:
    """Scripts that are or are not allowed. Whatever runs of them does nothing."""
    return [f"#!/bin/sh\n{line}\nexit 0\n".encode() for line in _DIRECTIVES] + [b"", b"\xff\xfe"]


def files_of(user: User) -> tuple[list[bytes], bytes]:
    """Upload some contents; returns their digests, and that of a manifest that names them."""
    digest = bring(user, _TREE)
    _, contents = manifest(_TREE)
    upload(user, contents)
    return [sha256(data) for data in contents], digest
