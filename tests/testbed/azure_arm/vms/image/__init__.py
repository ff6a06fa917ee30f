"""The image of VMs that are containers: Debian with cloud-init, sshd and an engine of its own."""

from __future__ import annotations

import hashlib
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
    "vm-init": "/sbin/vm-init",
    "systemctl": "/usr/bin/systemctl",
    "metadata-service": "/usr/local/sbin/metadata-service",
    "daemon.json": "/etc/docker/daemon.json",
    "99_testbed.cfg": "/etc/cloud/cloud.cfg.d/99_testbed.cfg",
}


def make(engine: Engine) -> str:
    """The name of the image. It takes a minute or two the first time of all."""
    number = hashlib.sha256(repr((_PACKAGES, _HOOKS)).encode()).hexdigest()[:12]
    image = f"azure-vm:{number}"
    if not engine.has(image):
        tree = images.debian_tree(f"azure-vm-{number}", _PACKAGES, _HOOKS)
        with tree.open("rb") as archive:
            images.load(engine, image, archive, 'CMD ["/sbin/vm-init"]')
    return image


def mounts() -> list[str]:
    """How a container of it comes by what is ours, so that no layer has to be made for it."""
    here = Path(__file__).parent
    return [
        word for name, path in _FILES.items() for word in ("--volume", f"{here / name}:{path}:ro")
    ]
