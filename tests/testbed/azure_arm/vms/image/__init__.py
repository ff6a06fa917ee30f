"""The image of VMs that are containers: Debian with cloud-init, sshd and an engine of its own."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

from tests.testbed import images
from tests.testbed.docker import Engine

__all__ = ["make"]

_PACKAGES = (
    "ca-certificates",
    "cloud-init",
    "curl",
    "docker.io",
    "iproute2",
    "iptables",
    "openssh-server",
    "procps",
    "python3",
    "rsync",
    "sudo",
)
_HOOKS = (
    'rm -f "$1"/etc/ssh/ssh_host_*',
    ': > "$1"/etc/machine-id',
    'rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/*',
    # A quarter of it, and nothing here uses that.
    'cd "$1"/usr && rm -rf bin/ctr bin/dnet sbin/ovrouter share/perl share/i18n lib/*/perl',
    'cd "$1"/usr && rm -rf bin/containerd-shim bin/containerd-shim-runc-v1 lib/*/libperl.so*',
)
_FILES = {
    "vm-init": ("/sbin/vm-init", "755"),
    "systemctl": ("/usr/bin/systemctl", "755"),
    "metadata-service": ("/usr/local/sbin/metadata-service", "644"),
    "99_testbed.cfg": ("/etc/cloud/cloud.cfg.d/99_testbed.cfg", "644"),
}


def make(engine: Engine) -> str:
    """The name of the image. It takes a minute or two the first time of all."""
    here = Path(__file__).parent
    own = b"".join((here / name).read_bytes() for name in _FILES)
    number = hashlib.sha256(own + repr((_PACKAGES, _HOOKS, _FILES)).encode()).hexdigest()[:12]
    image = f"azure-vm:{number}"
    if not engine.has(image):
        # Few bytes of ours on top of much that does not change with them.
        base = hashlib.sha256(repr((_PACKAGES, _HOOKS)).encode()).hexdigest()[:12]
        tree = images.debian_tree(f"azure-vm-{base}", _PACKAGES, _HOOKS)
        with tree.open("rb") as archive:
            images.load(engine, f"azure-vm-base:{base}", archive)
        lines = [f"FROM azure-vm-base:{base}"]
        for name, (path, mode) in _FILES.items():
            lines += [f"COPY {name} {path}", f"RUN chmod {mode} {shlex.quote(path)}"]
        lines += ["STOPSIGNAL SIGTERM", 'CMD ["/sbin/vm-init"]']
        engine.docker(
            "build", "--tag", image, "--file", "-", str(here), stdin="\n".join(lines).encode()
        )
    return image
