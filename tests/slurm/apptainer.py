"""A program in the place of apptainer, which can't be had where these tests run.

It writes down how it was called, "pulls" what it is told to, and runs what it is told to run where
it is, with an environment of its own, as a container has one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from tests.testbed.slurm import Slurm

IMAGE = "registry.example/tool:1"
MISSING = "registry.example/missing:1"
SLOW = "registry.example/slow:1"
"""This one is there when it is told to be."""
DIGEST = "sha256:" + "5" * 64

_PROGRAM = """
import json, os, sys, time
words = sys.argv[1:]
home = os.path.expanduser("~")
with open(home + "/apptainer.calls", "a") as file:
    print(json.dumps(words), file=file)
if words == ["--version"]:
    print("apptainer version 1.3.4")
elif words[:2] == ["--debug", "pull"]:
    image = words[-1].removeprefix("docker://")
    if image == {missing!r}:
        sys.exit("FATAL   [U=1,P=7]   pullRun()   reading manifest: manifest unknown")
    print("Copying blob sha256:aa", flush=True)
    while image == {slow!r} and not os.path.exists(home + "/apptainer.go"):
        time.sleep(0.05)
    print("DEBUG   [U=1,P=7]   getDockerRefDigest()   docker.GetDigest source image digest for",
          words[-1], "is", {hex!r})
    open(words[-2], "w").close()
elif words[0] == "exec":
    os.chdir(words[words.index("--pwd") + 1])
    mark = next(word for word in words if word.startswith("SWM_MARK=")).partition("=")[2]
    at = next(at for at, word in enumerate(words) if "/inside." in word)
    environment = {{"PATH": "/usr/bin:/bin", "IN": "image", "SWM_MARK": mark}}
    os.execve("/bin/sh", ["/bin/sh", *words[at:]], environment)
"""


class Apptainer:
    """What was asked of it, by the account whose jobs run there.

    Args:
        slurm: Where it is.
    """

    def __init__(self, slurm: Slurm) -> None:
        self._calls = slurm.login.home() / "apptainer.calls"
        self._go = slurm.login.home() / "apptainer.go"

    def calls(self, word: str) -> list[list[str]]:
        """The words of calls that begin with one."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        return [words for words in map(json.loads, lines) if words[0] == word]

    def go(self) -> None:
        """Have the slow image come."""
        self._go.touch()

    def forget(self) -> None:
        """Nothing was asked of it."""
        for file in (self._calls, self._go):
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def on_all_nodes(slurm: Slurm) -> Iterator[Apptainer]:
    """It is on the PATH of the login node and of all compute nodes."""
    file = slurm.folder / "apptainer.py"
    file.write_text(
        _PROGRAM.format(missing=MISSING, slow=SLOW, hex=DIGEST.partition(":")[2]),
    )
    file.chmod(0o644)
    slurm.replace("apptainer", f'exec python3 {file} "$@"')
    nodes = [slurm.node(name) for name in slurm.names]
    for node in nodes:
        node.run(f"mount --bind {slurm.folder}/bin /usr/local/bin")
    made = Apptainer(slurm)
    made.forget()
    try:
        yield made
    finally:
        for node in nodes:
            node.run("umount /usr/local/bin || :")
        slurm.restore("apptainer")
        made.forget()
