"""What users say to Slurm beside Sky Port: `#SBATCH` lines and site options. Pure."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Collection, Iterator, Mapping

_VALUED = {
    "A": "account",
    "b": "begin",
    "c": "cpus-per-task",
    "C": "constraint",
    "d": "dependency",
    "D": "chdir",
    "e": "error",
    "F": "nodefile",
    "G": "gpus",
    "i": "input",
    "J": "job-name",
    "L": "licenses",
    "m": "distribution",
    "M": "clusters",
    "n": "ntasks",
    "N": "nodes",
    "o": "output",
    "p": "partition",
    "q": "qos",
    "S": "core-spec",
    "t": "time",
    "w": "nodelist",
    "x": "exclude",
    "a": "array",
    "B": "extra-node-info",
}
"""Letters of options that take a value."""
_FLAGS = {
    "H": "hold",
    "k": "no-kill",
    "O": "overcommit",
    "Q": "quiet",
    "s": "oversubscribe",
    "v": "verbose",
    "W": "wait",
}
_FLAG_NAMES = frozenset(_FLAGS.values()) | {
    "contiguous",
    "exclusive",
    "get-user-env",
    "ignore-pbs",
    "nice",
    "no-requeue",
    "parsable",
    "propagate",
    "reboot",
    "requeue",
    "spread-job",
    "use-min-nodes",
}
"""Options that take no value, or only one behind `=`."""
OURS = {
    "array": "a job is one job",
    "chdir": "it begins in its work folder; see #SWM workdir",
    "clusters": "the cluster is the site's",
    "comment": "it says whose the job is",
    "container": "see #SWM container-image",
    "cpus-per-task": "say it as #SWM cpus",
    "error": "output is kept by Sky Port",
    "export": "see #SWM env",
    "export-file": "see #SWM env",
    "get-user-env": "see #SWM env",
    "gid": "the account is the site's",
    "hold": "nobody would release it",
    "input": "see #SWM stdin",
    "job-name": "say it as #SWM name",
    "nodes": "say it as #SWM nodes",
    "no-requeue": "it is always so",
    "open-mode": "output is kept by Sky Port",
    "output": "output is kept by Sky Port",
    "parsable": "it is always so",
    "partition": "say it as #SWM partition",
    "quiet": "it is always so",
    "requeue": "see #SWM retries",
    "uid": "the account is the site's",
    "verbose": "nobody would read it",
    "wait": "Sky Port waits",
    "wrap": "the script is the job's",
}
"""Options that are always ours, each with why."""
_INSTEAD = {
    "mem": ("mem", "mem-per-cpu", "mem-per-gpu"),
    "gpus-per-node": ("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket"),
    "time": ("time", "time-min"),
}
"""Where we say the first, what of the user's it stands against."""

# fmt: off
SITE_OPTIONS = frozenset({
    "account", "acctg-freq", "bb", "begin", "cluster-constraint", "constraint", "contiguous",
    "core-spec", "cores-per-socket", "cpu-freq", "cpus-per-gpu", "deadline", "delay-boot",
    "dependency", "distribution", "exclude", "exclusive", "gpu-bind", "gpu-freq", "gpus",
    "gpus-per-socket", "gpus-per-task", "gres", "gres-flags", "hint", "licenses", "mail-type",
    "mail-user", "mcs-label", "mem-bind", "mem-per-cpu", "mem-per-gpu", "mincpus", "network",
    "nice", "nodelist", "ntasks", "ntasks-per-core", "ntasks-per-gpu", "ntasks-per-node",
    "ntasks-per-socket", "overcommit", "oversubscribe", "power", "prefer", "priority", "profile",
    "propagate", "qos", "reboot", "reservation", "sockets-per-node", "spread-job", "switches",
    "thread-spec", "threads-per-core", "time-min", "tmp", "tres-per-task", "use-min-nodes", "wckey",
})
# fmt: on
"""What may stand behind `#SWM site-option slurm.`: options of sbatch by their long names."""


_YES = frozenset({"yes", "true", "on", "1"})
_NO = frozenset({"no", "false", "off", "0"})
"""What a site option is given that has no value at sbatch: every `#SWM site-option` has one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Directive:
    """One option of a `#SBATCH` line."""

    name: str
    """The long name."""
    value: str | None
    line: str
    """As it was written, for people."""

    @property
    def argument(self) -> str:
        """As sbatch takes it."""
        return option(self.name, self.value or "")


def option(name: str, value: str) -> str:
    """An option as one argument; without a value it is a flag."""
    return f"--{name}={value}" if value else f"--{name}"


def read(script: str) -> tuple[list[Directive], list[str]]:
    """The `#SBATCH` options of a script, and warnings for lines that nobody understands.

    As sbatch does, only what stands before the first command counts.
    """
    found: list[Directive] = []
    warnings: list[str] = []
    for line in script.splitlines():
        text = line.strip()
        if text and not text.startswith("#"):
            break
        if not line.startswith("#SBATCH"):
            continue
        rest = line.removeprefix("#SBATCH")
        try:
            words = shlex.split(rest, comments=True)
        except ValueError as error:
            warnings.append(f"{line[:80]}: left out, {str(error).lower()}")
            continue
        try:
            found.extend(_options(words))
        except ValueError as error:
            warnings.append(f"{line[:80]}: left out, {error}")
    return found, warnings


def _options(words: list[str]) -> Iterator[Directive]:
    rest = iter(words)
    for word in rest:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if not name or not name.replace("-", "").isalnum():
                raise ValueError(f"{word} is no option")
            if equals:
                yield Directive(name, value, word)
            elif name in _FLAG_NAMES:
                yield Directive(name, None, word)
            else:
                value = _next(rest, word)
                yield Directive(name, value, f"{word} {value}")
        elif len(word) > 1 and word[0] == "-" and word[1] in _VALUED:
            value = word[2:].removeprefix("=") or _next(rest, word)
            yield Directive(_VALUED[word[1]], value, f"-{word[1]} {value}")
        elif len(word) > 1 and word[0] == "-" and set(word[1:]) <= _FLAGS.keys():
            for letter in word[1:]:
                yield Directive(_FLAGS[letter], None, f"-{letter}")
        else:
            raise ValueError(f"{word} is no option of sbatch")


def _next(rest: Iterator[str], word: str) -> str:
    value = next(rest, None)
    if value is None:
        raise ValueError(f"{word} has no value")
    return value


def _is_for_guard(directive: Directive, *, is_every: bool) -> bool:
    """Whether it asks for a signal to what Slurm itself runs: not the script, but its guard."""
    target, colon, _ = (directive.value or "").partition(":")
    return directive.name == "signal" and (is_every or bool(colon and "B" in target))


def merge(
    directives: Collection[Directive],
    options: Mapping[str, str],
    said: Collection[str],
    *,
    is_every: bool = False,
) -> tuple[list[str], list[str]]:
    """What of the user's own goes to sbatch, and warnings that say what does not, and why.

    Args:
        directives: Of the script. A later one wins, as at sbatch.
        options: Site options, which win over directives.
        said: Long names of the options that Sky Port gives itself.
        is_every: Whether the script runs on each node, as a step of Slurm.
    """
    against = {other: name for name in said for other in _INSTEAD.get(name, (name,))}
    arguments: dict[str, str] = {}
    warnings: list[str] = []
    for each in directives:
        why = OURS.get(each.name)
        if why is None and each.name in against:
            why = f"#SWM says --{against[each.name]}"
        if why is None and each.name in options:
            why = f"#SWM site-option slurm.{each.name} says it"
        if why is None and _is_for_guard(each, is_every=is_every):
            why = "what guards the script would get it; at #SWM time the script gets TERM"
        if why is not None:
            warnings.append(f"#SBATCH {each.line}: not used, {why}")
        else:
            arguments[each.name] = each.argument
    for name, value in options.items():
        can_be_bare = name in _FLAG_NAMES - {"nice"}
        if can_be_bare and value.lower() in _NO:
            arguments.pop(name, None)
        elif name in against:
            warnings.append(f"site-option slurm.{name}: not used, #SWM says --{against[name]}")
        else:
            is_flag = can_be_bare and value.lower() in _YES
            arguments[name] = option(name, "" if is_flag else value)
    return list(arguments.values()), warnings
