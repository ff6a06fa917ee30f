"""The first process of a host of `hosts`: makes the host what it is, then buries its dead.

    python -I init.py FOLDER NAME

It runs as root in namespaces of its own (network, names, mounts, processes). A line on standard
output says that the host is there. It ends when its standard input does, and all of the host with
it.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from pathlib import Path


def main(folder: Path, name: str) -> None:
    own = folder / name
    socket.sethostname(name)
    mount("-t", "proc", "proc", "/proc")
    for file in ("hosts", "passwd", "group", "shadow"):
        mount("--bind", str(folder / "etc" / file), f"/etc/{file}")
    mount("--bind", str(own / "ssh"), "/etc/ssh")
    mount("--bind", str(own / "home"), "/home")
    mount("--bind", str(own / "tmp"), "/tmp")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    Path("/run/sshd").mkdir(mode=0o755)
    # As with a kernel of its own: each start of the host is another boot.
    boot_id = Path("/run/boot_id")
    boot_id.write_text(f"{uuid.uuid4()}\n")
    mount("--bind", str(boot_id), "/proc/sys/kernel/random/boot_id")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    threading.Thread(target=end_with_input, daemon=True).start()
    os.write(1, b"up\n")
    while True:
        signal.sigwait({signal.SIGCHLD})
        bury()


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


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
