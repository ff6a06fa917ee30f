"""The first process of a host of `hosts`: makes the host what it is, then buries its dead.

    python -I init.py FOLDER NAME

It runs as root in namespaces of its own (network, names, mounts, processes). A line on standard
output says that the host is there. It ends when its standard input does, and all of the host with
it.
"""

import ctypes
import os
import signal
import socket
import sys
import threading
import uuid
from pathlib import Path

_BIND = 4096  # MS_BIND of <sys/mount.h>
_libc = ctypes.CDLL(None, use_errno=True)


def main(folder: Path, name: str) -> None:
    own = folder / name
    socket.sethostname(name)
    mount("proc", "/proc", kind="proc")
    for file in ("hosts", "passwd", "group", "shadow"):
        bind(folder / "etc" / file, f"/etc/{file}")
    bind(own / "ssh", "/etc/ssh")
    bind(own / "home", "/home")
    bind(own / "tmp", "/tmp")
    mount("tmpfs", "/run", kind="tmpfs", options="mode=755")
    Path("/run/sshd").mkdir(mode=0o755)
    # As with a kernel of its own: each start of the host is another boot.
    boot_id = Path("/run/boot_id")
    boot_id.write_text(f"{uuid.uuid4()}\n")
    bind(boot_id, "/proc/sys/kernel/random/boot_id")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    threading.Thread(target=end_with_input, daemon=True).start()
    os.write(1, b"up\n")
    while True:
        signal.sigwait({signal.SIGCHLD})
        bury()


def bind(source: Path, place: str) -> None:
    mount(str(source), place, flags=_BIND)


def mount(source: str, place: str, *, kind: str = "", flags: int = 0, options: str = "") -> None:
    # As the program of that name, which takes milliseconds to start: a host has ten mounts.
    words = (source.encode(), place.encode(), kind.encode(), flags, options.encode())
    if _libc.mount(*words):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), place)


def bury() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


main(Path(sys.argv[1]), sys.argv[2])
