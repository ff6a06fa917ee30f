"""What a browser would see of a job's port: for the demo.

Usage: visit.py FILE PID PATH LINES. `swm forward` (process PID) writes its address to FILE; the
first LINES lines of what is served there under PATH are printed.
"""

from __future__ import annotations

import os
import sys
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path

_WITHIN_S = 30.0
_TICK_S = 0.05


def main(file: Path, pid: int, path: str, lines: int) -> None:
    """Wait until something is served, and print the beginning of it."""
    until = time.monotonic() + _WITHIN_S
    while not (address := file.read_text().strip()):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            sys.exit("the forward has ended")
        if time.monotonic() > until:
            sys.exit(f"the job's port was not forwarded within {_WITHIN_S:g} s")
        time.sleep(_TICK_S)
    print(address, flush=True)
    page = _page(f"http://{address}/{path}", until)
    print(f"\nhttp://{address}/{path}, seen from here while the job runs:")
    print("\n".join(page.splitlines()[:lines]), flush=True)


def _page(url: str, until: float) -> str:
    # Whatever proxy is configured, this machine is not behind it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:  # ends by the deadline
        try:
            with opener.open(url, timeout=10) as answer:
                text: str = answer.read().decode()
                return text
        except (OSError, HTTPException) as error:  # the job's server is starting
            if time.monotonic() > until:
                sys.exit(f"{url} was not served within {_WITHIN_S:g} s: {error}")
        time.sleep(_TICK_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
