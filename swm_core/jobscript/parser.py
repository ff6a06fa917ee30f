"""Reading a job script: find its `#SWM` lines, look each up, tell every mistake at once."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping

from swm_core.jobscript import values
from swm_core.jobscript.directives import KNOWN_NAMES, NOT_SERVED, TABLE, Listed, Single
from swm_core.jobscript.draft import Draft
from swm_core.jobscript.results import ParsedScript, ScriptError, ScriptErrors, ScriptWarning

MAX_SCRIPT_BYTES = 1024 * 1024

_EXACT = re.compile(r"#SWM[ \t\r\n]")
# What only looks like a directive. It begins with a literal, so the search goes from `#` to `#`;
# the look behind skips the directives themselves (all but one in the first line of the script).
_LIKENESS = re.compile(
    r"#(?!(?<=\n#)SWM[ \t\r\n])[ \t]*[Ss][Ww][Mm][:=]?[ \t]*-*([A-Za-z][A-Za-z_-]*)"
)
_INDENT = 200
_WINDOWS_DIRECTIVE = re.compile(r"^#SWM[ \t\r][^\n]*\r$", re.MULTILINE)
_PROPER_NAMES = {
    name.replace("_", "-"): TABLE[name].name if name in TABLE else name for name in KNOWN_NAMES
}


def parse(script: bytes) -> ParsedScript:
    """Read a job script.

    Raises:
        ScriptErrors: It cannot be a job; all mistakes are told (up to a hundred).
    """
    _check_size(script)
    draft = Draft()
    text = _decode(script, draft)
    if "\r" in text:
        _check_line_ends(text, draft)
    if not text.startswith("#!"):
        draft.line = 1
        draft.warn(
            'the first line does not begin with "#!", so /bin/sh runs the script; '
            'write for example "#!/bin/bash" to choose another program'
        )
    if "#SWM" in text:
        for number, line in enumerate(text.split("\n"), 1):
            if line[:4] == "#SWM" and (len(line) == 4 or line[4] in " \t\r"):
                draft.line = number
                _take(draft, line[4:])
    if _LIKENESS.search(text):
        _warn_of_likenesses(draft, text)
    if draft.fields.get("submission_address") and not draft.ports and not draft.errors:
        draft.line = draft.lines["submission-address"]
        draft.warn("submission-address: it is the other end of ports, and the script asks for none")
    if "stdin" in draft.fields and not draft.input_files and not draft.errors:
        draft.line = draft.lines["stdin"]
        draft.warn("stdin: it is taken from the input files, and the script names none")
    return ParsedScript(draft.finish(), tuple(draft.warnings), draft.lines)


def override(
    parsed: ParsedScript,
    *,
    name: str = "",
    site: str = "",
    env: Mapping[str, str] | None = None,
    input_files: Iterable[str] = (),
    output_files: Iterable[str] = (),
) -> ParsedScript:
    """A script with what the request beside it says: name, site and env win, files are added.

    Nothing is split or unquoted here: each element is one variable or file.

    Raises:
        ScriptErrors: Something of the request is wrong; `line` is 0.
    """
    draft = Draft()
    for directive, value in (("name", name), ("site", site)):
        if value:
            draft.directive = directive
            _read(draft, TABLE[directive], value.strip())
    draft.directive = "env"
    for key, content in (env or {}).items():
        try:
            values.check_variable(key, content)
        except values.Refused as refused:
            draft.refuse(refused.reason, refused.message)
    draft.directive = "input-files"
    for path in (*parsed.spec.input_files, *input_files):
        draft.add_input(path)
    draft.directive = "output-files"
    for pattern in (*parsed.spec.output_files, *output_files):
        draft.add_output(pattern)
    draft.directive = ""
    changed = draft.finish()
    spec = dataclasses.replace(
        parsed.spec,
        name=changed.name or parsed.spec.name,
        site=changed.site or parsed.spec.site,
        env={**parsed.spec.env, **(env or {})},
        input_files=changed.input_files,
        output_files=changed.output_files,
    )
    return dataclasses.replace(parsed, spec=spec)


def resolve(parsed: ParsedScript, known_sites: Collection[str]) -> ParsedScript:
    """Settle what depends on the sites: without `site`, an `account` named as one selects it.

    That is how the original work chose a place. The account is used up by it: it is no accounting
    name of the site. Call it after `override`, whose `site` comes first.
    """
    spec = parsed.spec
    if spec.site or not spec.account or spec.account not in known_sites:
        return parsed
    warning = ScriptWarning(
        parsed.lines.get("account", 0),
        f'account: "{spec.account}" is the name of a site, so the job goes there without an '
        "accounting name; "
        f'write "#SWM site {spec.account}" to say so',
    )
    spec = dataclasses.replace(spec, site=spec.account, account="")
    return dataclasses.replace(parsed, spec=spec, warnings=(*parsed.warnings, warning))


def _check_size(script: bytes) -> None:
    if len(script) > MAX_SCRIPT_BYTES:
        reason, problem = "SCRIPT_TOO_LARGE", f"the script has {len(script)} bytes"
        mend = f"at most {MAX_SCRIPT_BYTES} are taken: move data into input files"
    elif not script or script.isspace():
        reason, problem = "SCRIPT_EMPTY", "the script is empty"
        mend = "write the commands that the job runs"
    else:
        return
    raise ScriptErrors([ScriptError(0, "", reason, f"{problem}; {mend}")])


def _decode(script: bytes, draft: Draft) -> str:
    """The text; if it is none, the mistake is kept and a likeness returned, to find others too."""
    if (position := script.find(b"\0")) >= 0:
        draft.line = script.count(b"\n", 0, position) + 1
        draft.refuse(
            "SCRIPT_NUL", f"byte {position} is NUL; a script is text: was a program meant?"
        )
    try:
        text = script.decode()
    except UnicodeDecodeError as error:
        draft.line = script.count(b"\n", 0, error.start) + 1
        draft.refuse(
            "SCRIPT_NOT_UTF8",
            f"byte {error.start} (0x{script[error.start]:02x}) is not UTF-8; save the script as "
            "UTF-8",
        )
        text = script.decode(errors="replace")
    if text.startswith("\ufeff"):
        draft.line = 1
        draft.refuse(
            "SCRIPT_BYTE_ORDER_MARK",
            'an invisible byte order mark stands before "#!"; save the script as UTF-8 without it',
        )
        text = text[1:]
    return text


def _check_line_ends(text: str, draft: Draft) -> None:
    # "#!/bin/sh\r" names a program that does not exist, so such a script never starts; a here
    # document deep inside may have them on purpose.
    windows = text.find("\r\n")
    if windows < 0 and "\n" in text:
        return
    draft.line = text.count("\n", 0, max(windows, 0)) + 1
    if draft.line == 1 or _WINDOWS_DIRECTIVE.search(text):
        draft.refuse(
            "SCRIPT_CRLF",
            "the lines do not end as on Unix (they have a CR), so no shell runs them; "
            "mend the file with: sed -i 's/\\r$//' FILE",
        )
    else:
        draft.warn(
            "this line ends as on Windows (CR LF), and a shell takes the CR as part of the last "
            "word; "
            "mend the file with sed -i 's/\\r$//' FILE unless it is meant"
        )


def _take(draft: Draft, rest: str) -> None:
    """Read one directive; `rest` is what follows `#SWM`."""
    parts = rest.split(None, 1)
    directive = TABLE.get(parts[0]) if parts else None
    if directive is None:
        _refuse_name(draft, parts[0] if parts else "")
        return
    draft.directive = parts[0]
    line = draft.line
    first_line = draft.lines.setdefault(directive.name, line)
    if first_line != line and isinstance(directive, Single):
        draft.refuse(
            "DIRECTIVE_REPEATED",
            f"it is given in lines {first_line} and {line}, and a job has one; remove one of the "
            "lines",
        )
    else:
        _read(draft, directive, parts[1].rstrip() if len(parts) == 2 else "")


def _read(draft: Draft, directive: Single | Listed, value: str) -> None:
    try:
        if not value.isprintable():
            values.check_printable(value)
        if isinstance(directive, Single):
            value = value or directive.without_value
            if value:
                fields = draft.resources if directive.resource else draft.fields
                fields[directive.field] = directive.read(value)
                return
        elif value:
            directive.add(draft, value)
            return
        draft.refuse("VALUE_MISSING", "no value follows; add one or remove the line")
    except values.Refused as refused:
        draft.refuse(refused.reason, refused.message)


def _refuse_name(draft: Draft, name: str) -> None:
    draft.directive = name[:60]
    if not name:
        draft.refuse(
            "DIRECTIVE_NAME_MISSING",
            'nothing follows "#SWM"; write "#SWM NAME VALUE" or remove the line',
        )
    elif name in NOT_SERVED:
        draft.refuse("DIRECTIVE_NOT_SERVED", f"it is not served yet; {NOT_SERVED[name]}")
    else:
        draft.refuse("UNKNOWN_DIRECTIVE", _unknown(name))


def _warn_of_likenesses(draft: Draft, text: str) -> None:
    """Tell of comments that may be meant as directives: `# SWM nodes 2`, `#swm nodes 2`."""
    line, counted = 1, 0
    for found in _LIKENESS.finditer(text):
        start = found.start()
        before = text[max(0, start - _INDENT) : start]
        begun = before.rfind("\n") + 1
        # Otherwise a comment behind a command, or a directive with another # before it.
        leads = not before[begun:].strip(" \t") and (begun or start < _INDENT)
        name = _proper_name(found[1])
        if leads and name and (start or not _EXACT.match(text)):
            line += text.count("\n", counted, start)
            counted = start
            draft.line = line
            draft.warn(
                f'this is a comment, not a directive; write "#SWM {name}" at the beginning of the '
                "line if it is meant"
            )


def _unknown(spelling: str) -> str:
    import difflib  # a script without mistakes does not pay for it

    bare, separator, value = re.split("([=:])", f"{spelling[:60]}=", maxsplit=1)
    name = _proper_name(bare.lstrip("-"))
    if not name:
        nearest = difflib.get_close_matches(bare.lower(), KNOWN_NAMES, 1, 0.6)
        if not nearest:
            return "there is no such directive; docs/job-script.md lists all of them"
        name = nearest[0]
    meant = f"#SWM {name} {value[:-1]}" if separator and value[:-1] else name
    return f'there is no such directive; did you mean "{meant}"?'


def _proper_name(spelling: str) -> str:
    """The directive that is named so but for letter case and `_`; empty when there is none."""
    return _PROPER_NAMES.get(spelling.lower().replace("_", "-"), "")
