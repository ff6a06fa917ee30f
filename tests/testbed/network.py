"""Namespaces, links and addresses."""

from __future__ import annotations

import shlex
import subprocess


def ip(*words: str) -> str:
    """What `ip` says; an error if it fails."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {shlex.join(words)}: {done.stderr}"
    return done.stdout
