"""Jobs whose effects, log and outputs are known before they run."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Mapping
from pathlib import Path

from tests.system.harness.files import sha256


@dataclasses.dataclass(frozen=True)
class Work:
    """What a job does. It notes that it runs, logs, gives outputs, and ends.

    Attributes:
        site: Where it is to run.
        facts: A file at the site: each run appends a line `JOB_ID ATTEMPT` to it.
        hold: A line of shell that is run in the middle.
        lines: How long log and output are.
        inputs: Files that it brings, and gives back joined as an output.
        exit_code: How it ends.
        cut: Why it ends in `hold`, and does not come to what is after that: `SIGNAL` (KILL is
            meant), `TIME_LIMIT` or `OUT_OF_MEMORY`.
        directives: More `#SWM` lines, without `#SWM`.
        ends: State and reason of other ends that are right too. One that has ended so need not have
            run, and what it wrote need not be whole.
        runs: How many attempts may run until its end.
        joined_sha256: Of all inputs together, where their contents are not remembered.
    """

    site: str
    facts: Path
    hold: str = "true"
    lines: int = 400
    inputs: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    exit_code: int = 0
    cut: str = ""
    directives: tuple[str, ...] = ()
    ends: tuple[tuple[str, str], ...] = ()
    runs: int = 1
    joined_sha256: bytes = b""

    @property
    def script(self) -> str:
        """Its text."""
        swm = "".join(f"#SWM {line}\n" for line in ("output-files result", *self.directives))
        join = f"cat {' '.join(sorted(self.inputs))} > result/joined\n" if self.inputs else ""
        return (
            f"#!/bin/sh\n{swm}"
            f'echo "$SWM_JOB_ID $SWM_ATTEMPT" >> {self.facts}\n'
            'echo "begun $SWM_JOB_ID $SWM_ATTEMPT"\n'
            f"mkdir result\n{join}"
            f"{self.hold}\n"
            f"seq 1 {self.lines}\nseq 1 {self.lines} > result/numbers\n"
            f"echo ended\nexit {self.exit_code}\n"
        )

    @property
    def end(self) -> tuple[str, str]:
        """State and reason of the end that its script gives itself."""
        reason = self.cut or ("EXIT_CODE" if self.exit_code else "")
        return "FAILED" if reason else "SUCCEEDED", reason

    @property
    def status(self) -> tuple[int | None, int | None]:
        """Exit code and signal that its site tells then; neither where it tells why instead."""
        if self.cut:
            return None, signal.SIGKILL if self.cut == "SIGNAL" else None
        return self.exit_code, None

    def log(self, job_id: str, attempt: int) -> bytes:
        """What an attempt writes to its standard output."""
        begun = b"begun %s %d\n" % (job_id.encode(), attempt)
        return begun if self.cut else b"%s%sended\n" % (begun, self._numbers)

    @property
    def outputs(self) -> dict[str, bytes]:
        """What comes home: SHA-256 by path."""
        files = {} if self.cut else {"result/numbers": sha256(self._numbers)}
        if self.inputs:
            files["result/joined"] = self.joined_sha256 or self._joined()
        return files

    def _joined(self) -> bytes:
        return sha256(b"".join(self.inputs[name] for name in sorted(self.inputs)))

    def without_contents(self) -> Work:
        """The same, to be remembered: it holds no contents of inputs any more."""
        inputs = dict.fromkeys(self.inputs, b"")
        return dataclasses.replace(self, inputs=inputs, joined_sha256=self._joined())

    @property
    def _numbers(self) -> bytes:
        return b"".join(b"%d\n" % n for n in range(1, self.lines + 1))
