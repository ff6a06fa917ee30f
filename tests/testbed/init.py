"""The first process of a host of `hosts`: makes the host what it is.

    python -I -S init.py FOLDER NAME

It runs as root in namespaces of its own (network, names, mounts, processes). A line on standard
output says that the host is there. It ends when its standard input does, and all of the host with
it.
"""

# Many are started at a time, and what they import is most of what they cost.
# ruff: noqa: PTH102, PTH123

import ctypes
import os
import signal
import sys

_BIND = 4096  # MS_BIND of <sys/mount.h>
_libc = ctypes.CDLL(None, use_errno=True)


def main(folder: str, name: str) -> None:
    own = f"{folder}/{name}"
    check(_libc.sethostname(name.encode(), len(name)), name)
    mount("proc", "/proc", kind="proc")
    for file in ("hosts", "passwd", "group", "shadow"):
        bind(f"{folder}/etc/{file}", f"/etc/{file}")
    bind(f"{own}/ssh", "/etc/ssh")
    bind(f"{own}/home", "/home")
    bind(f"{own}/tmp", "/tmp")
    mount("tmpfs", "/run", kind="tmpfs", options="mode=755")
    os.mkdir("/run/sshd", 0o755)
    # As with a kernel of its own: each start of the host is another boot.
    with open("/proc/sys/kernel/random/uuid") as fresh, open("/run/boot_id", "w") as boot_id:
        boot_id.write(fresh.read())
    bind("/run/boot_id", "/proc/sys/kernel/random/boot_id")
    # The kernel buries those who are left to us, and nobody wakes for it.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.write(1, b"up\n")
    sys.stdin.buffer.read()


def bind(source: str, place: str) -> None:
    mount(source, place, flags=_BIND)


def mount(source: str, place: str, *, kind: str = "", flags: int = 0, options: str = "") -> None:
    # As the program of that name, which takes milliseconds to start: a host has ten mounts.
    words = (source.encode(), place.encode(), kind.encode(), flags, options.encode())
    check(_libc.mount(*words), place)


def check(result: int, what: str) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), what)


main(sys.argv[1], sys.argv[2])
