"""Run the tests; a few that fail among thousands get a second look, each by itself.

    python tools/run_tests.py [ARGUMENT OF PYTEST ...]

Thousands of tests with real servers share a few cores, and now and then one of them waits too short
for what was on its way. If at most MOST_FAILED have failed, each of them has to pass TIMES times in
a row with nothing beside it. That it was needed is told at the end: such a test is to be mended.

A test of `tests/crash` that fails is never looked at again: what was lost there was lost.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

MOST_FAILED = 5
TIMES = 3
_FINAL = "tests/crash/"
_SOME_FAILED = 1


def main(arguments: Sequence[str]) -> int:
    """Run pytest with these arguments; returns what the process is to exit with."""
    with tempfile.TemporaryDirectory() as folder:
        code = _pytest(*arguments, "-o", f"cache_dir={folder}")
        failed = _failed(Path(folder)) if code == _SOME_FAILED else []
    if not failed or len(failed) > MOST_FAILED or any(_FINAL in name for name in failed):
        return code
    _say(f"{len(failed)} failed among all; {TIMES} times more, with nothing beside:", failed)
    for _ in range(TIMES):
        if again := _pytest(*failed):
            return again
    _say(f"FLAKY, to be mended: failed among all, and passed {TIMES} times alone:", failed)
    return 0


def _pytest(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


def _failed(cache: Path) -> list[str]:
    """The ids of what failed, as pytest notes them for its own `--last-failed`."""
    try:
        return sorted(json.loads((cache / "v/cache/lastfailed").read_text()))
    except FileNotFoundError:
        return []


def _say(text: str, names: Sequence[str]) -> None:
    print(f"\n{text}", *names, sep="\n  ", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
