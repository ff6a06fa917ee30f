"""What every sshd of a test needs: the program, and keys."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def make_key(path: Path) -> Path:
    """Make a pair of keys without a passphrase."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def sshd_program() -> str:
    """The path of sshd, which wants to be called by all of it."""
    found = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    assert found, "sshd is missing: install openssh-server"
    return found
