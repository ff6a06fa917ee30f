"""Fuzzing that follows which code is reached, for as long as one has time.

    python -m tests.fuzz SECONDS [TARGET...]

Each target runs in a process of its own, SECONDS long, from its seeds. What it finds is written to
`.fuzz/TARGET/`, with what reaches new code; the next run begins there. Takes Linux on x86_64.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.targets import TARGETS

FOLDER = Path(".fuzz")
# What has a cost of its own for each input; so that one input that never ends is found.
_MOST_BYTES = 4_096
_SLOW_S = 10


def main(words: Sequence[str]) -> int:
    """Run targets one after the other; returns how many of them have found something."""
    seconds, *names = words or ["10"]
    unknown = set(names) - set(TARGETS)
    if unknown:
        sys.stderr.write(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}\n")
        return 2
    found = [name for name in names or TARGETS if not run(name, int(seconds), FOLDER / name)]
    for name in found:
        sys.stderr.write(f"{name} has found something: see {FOLDER / name}\n")
    return len(found)


def run(name: str, seconds: int, folder: Path, *options: str) -> bool:
    """Run one target; returns whether nothing was found.

    Args:
        name: Of the target.
        seconds: How long.
        folder: For its inputs.
        options: More, for libFuzzer.
    """
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = folder / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in TARGETS[name].words))
    command = [
        *(sys.executable, "-m", "tests.fuzz.follow", name),
        *(f"-max_total_time={seconds}", f"-max_len={_MOST_BYTES}", f"-timeout={_SLOW_S}"),
        *(f"-dict={words}", f"-artifact_prefix={folder}/", "-print_final_stats=1"),
        *(*options, str(corpus)),
    ]
    return subprocess.run(command, check=False).returncode == 0


def _escaped(word: bytes) -> str:
    """A word as libFuzzer's dictionaries have it."""
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
