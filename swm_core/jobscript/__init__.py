"""What a job script says: its `#SWM` lines, read into a `domain.JobSpec`. Pure.

`parse` reads a script, `override` adds what the request beside it says, `resolve` settles what
depends on the sites that exist. Each refuses with `ScriptErrors`, which tells every mistake at
once. The reference for users is docs/job-script.md; `KNOWN_NAMES` is what a test compares it with.
"""

from swm_core.jobscript.directives import KNOWN_NAMES, NOT_SERVED
from swm_core.jobscript.parser import MAX_SCRIPT_BYTES, override, parse, resolve
from swm_core.jobscript.results import ParsedScript, ScriptError, ScriptErrors, ScriptWarning
from swm_core.jobscript.values import check_env_name

__all__ = [
    "KNOWN_NAMES",
    "MAX_SCRIPT_BYTES",
    "NOT_SERVED",
    "ParsedScript",
    "ScriptError",
    "ScriptErrors",
    "ScriptWarning",
    "check_env_name",
    "override",
    "parse",
    "resolve",
]
