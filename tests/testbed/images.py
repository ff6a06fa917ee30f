"""Images for an engine that can pull none: each is made once for each engine, from Debian packages.

    busybox(engine)   all of busybox, statically linked; sh, and nothing that is not busybox's
    no_shell(engine)  echo, sleep, cat and true, and no sh
    python(engine)    Debian with Python 3.11, in place of python:3.11-slim
    debian_tree(...)  a tar archive of Debian with more, to make another of
    save_busybox(...) the first of them as `docker save` writes it, which takes no engine

What takes long to make is kept in a folder of the user, out of the checkout.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from tests.testbed.docker import Engine

__all__ = ["busybox", "cache", "debian_tree", "load", "no_shell", "python", "save_busybox"]

BUSYBOX = "busybox:1"
NO_SHELL = "no-shell:1"
PYTHON = "python:3.11-slim"
_RELEASE = "bookworm"
_PACKAGES = ("ca-certificates", "python3-venv")
# Counts up with each change of what is made, so that nobody keeps what was made before.
_VERSION = 1

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NO_PROGRAMS = ("echo", "sleep", "cat", "true")
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}


def busybox(engine: Engine) -> str:
    """The name of the image with all of busybox."""
    if not engine.has(BUSYBOX):
        load(engine, BUSYBOX, _tree(_busybox_programs()), f"ENV {_PATH}", 'CMD ["sh"]')
    return BUSYBOX


def save_busybox(archive: Path) -> str:
    """Write the image with all of busybox into an archive for `docker load`; its name."""
    layer = _tree(_busybox_programs())
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "config": {"Env": [_PATH], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [BUSYBOX], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, mode="w") as tar:
        _add(tar, "layer.tar", layer, 0o644)
        _add(tar, "config.json", json.dumps(config).encode(), 0o644)
        _add(tar, "manifest.json", json.dumps(manifest).encode(), 0o644)
    return BUSYBOX


def _busybox_programs() -> list[str]:
    listed = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True)
    return listed.stdout.split()


def no_shell(engine: Engine) -> str:
    """The name of the image that has no shell."""
    if not engine.has(NO_SHELL):
        load(engine, NO_SHELL, _tree(_NO_PROGRAMS), f"ENV {_PATH}", 'CMD ["true"]')
    return NO_SHELL


def python(engine: Engine) -> str:
    """The name of the image of Debian with Python; it takes a minute the first time of all."""
    if not engine.has(PYTHON):
        tree_path = debian_tree(f"python-{_RELEASE}-{_VERSION}", _PACKAGES)
        with tree_path.open("rb") as tree:
            load(engine, PYTHON, tree, f"ENV {_PATH}", 'CMD ["python3"]')
    return PYTHON


def load(engine: Engine, name: str, tree: bytes | IO[bytes], *changes: str) -> None:
    """Make an image of a tar archive, with instructions as in a Dockerfile."""
    words = [word for change in changes for word in ("--change", change)]
    engine.docker("import", *words, "-", name, stdin=tree)


def cache() -> Path:
    """The folder where what takes long to make is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base, "skyport-testbed")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _tree(programs: Sequence[str]) -> bytes:
    """A file system that has busybox alone, by the names of these programs."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for folder in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        for name, text in _FILES.items():
            _add(tar, name, text.encode(), 0o644)
        first, *others = [name for name in programs if name != "busybox"]
        _add(tar, f"bin/{first}", Path(_static_busybox()).read_bytes(), 0o755)
        for name in others:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname, entry.mode = tarfile.LNKTYPE, f"bin/{first}", 0o755
            tar.addfile(entry)
    return data.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def _static_busybox() -> str:
    found = shutil.which("busybox")
    assert found, "busybox is missing: install busybox-static"
    return found


def debian_tree(name: str, packages: Sequence[str], hooks: Sequence[str] = ()) -> Path:
    """A tar archive of Debian, which is made if the cache has none of that name.

    Args:
        name: What it is called in the cache, with a number that counts up with each change of it.
        packages: What it has besides the least.
        hooks: Lines of sh that are run with its root as `$1` when all is installed.
    """
    tree = cache() / f"{name}.tar"
    with _alone(tree):
        if not tree.exists():
            unfinished = tree.with_suffix(".unfinished")
            _make_debian_tree(unfinished, packages, hooks)
            unfinished.rename(tree)
    return tree


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold the lock of a file."""
    with file.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_debian_tree(tree: Path, packages: Sequence[str], hooks: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="skyport-image-") as folder:
        root = Path(folder)
        _write_machine_settings(root / "files")
        done = subprocess.run(
            [
                "mmdebstrap",
                "--mode=root",
                "--variant=minbase",
                f"--include={','.join(packages)}",
                '--aptopt=Acquire::Languages "none"',
                "--dpkgopt=force-unsafe-io",
                *(f"--dpkgopt=path-exclude=/usr/share/{it}/*" for it in ("doc", "man", "locale")),
                f"--customize-hook=sync-in {root / 'files'} /",
                "--customize-hook=chroot $1 update-ca-certificates",
                "--customize-hook=ln -s python3 $1/usr/bin/python",
                *(f"--customize-hook={it}" for it in hooks),
                "--format=tar",
                _RELEASE,
                str(tree),
                f"deb {_mirror()} {_RELEASE} main",
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"mmdebstrap: {done.stderr[-2000:]}"


def _mirror() -> str:
    """The archive of Debian that this machine has its own packages from."""
    release = platform.freedesktop_os_release().get("VERSION_CODENAME")
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in done.stdout.splitlines():
        address, *of = line.split()
        # One with a password in it does not get into an image.
        if of == [release, "main"] and "@" not in address:
            return address
    raise AssertionError(f"apt knows no archive of {release} without a password")


def _write_machine_settings(root: Path) -> None:
    """What pip in a build needs to get at packages as this machine does."""
    certificates = root / "usr/local/share/ca-certificates"
    certificates.mkdir(parents=True)
    for file in Path("/usr/local/share/ca-certificates").rglob("*.crt"):
        shutil.copy(file, certificates)
    lines = ["[global]", "cert = /etc/ssl/certs/ca-certificates.crt"]
    for key in ("index-url", "extra-index-url", "trusted-host"):
        done = subprocess.run(
            ["python3", "-m", "pip", "config", "get", f"global.{key}"],
            capture_output=True,
            text=True,
            check=False,
        )
        # A folder of this machine is none of the image's, nor a password that an address has in it.
        words = [it for it in done.stdout.split() if "@" not in it and not it.startswith("file:")]
        if words:
            lines.append(f"{key} = {' '.join(words)}")
    (root / "etc").mkdir()
    (root / "etc/pip.conf").write_text("".join(f"{line}\n" for line in lines))
