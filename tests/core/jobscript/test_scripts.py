"""Scripts as a whole: encodings, line ends, what is nearly a directive, and any bytes at all."""

import shlex
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from swm_core.jobscript import (
    KNOWN_NAMES,
    MAX_SCRIPT_BYTES,
    ParsedScript,
    ScriptError,
    ScriptErrors,
    check_env_name,
    override,
    parse,
    resolve,
)
from swm_core.jobscript.words import split_words


def refused(script: bytes) -> tuple[ScriptError, ...]:
    with pytest.raises(ScriptErrors) as caught:
        parse(script)
    return caught.value.errors


def warnings(script: bytes) -> list[tuple[int, str]]:
    return [(warning.line, warning.message) for warning in parse(script).warnings]


@pytest.mark.parametrize("script", [b"", b"\n", b" \t\r\n \n"])
def test_an_empty_script_is_refused(script: bytes) -> None:
    assert [error.reason for error in refused(script)] == ["SCRIPT_EMPTY"]


def test_a_script_over_a_mebibyte_is_refused_and_one_of_a_mebibyte_is_taken() -> None:
    script = b"#!/bin/sh\n".ljust(MAX_SCRIPT_BYTES, b"x")
    assert parse(script).warnings == ()
    (error,) = refused(script + b"x")
    assert error.reason == "SCRIPT_TOO_LARGE"
    assert str(MAX_SCRIPT_BYTES + 1) in error.message


def test_nul_and_broken_utf8_are_refused_with_their_lines_beside_other_mistakes() -> None:
    errors = refused(b"#!/bin/sh\n#SWM nodes x\nfoo\0\n\xff\n")
    assert [(error.line, error.reason) for error in errors] == [
        (2, "VALUE_INVALID"),
        (3, "SCRIPT_NUL"),
        (4, "SCRIPT_NOT_UTF8"),
    ]


def test_a_byte_order_mark_is_refused() -> None:
    assert refused(b"\xef\xbb\xbf#!/bin/sh\ntrue\n")[0].reason == "SCRIPT_BYTE_ORDER_MARK"


@pytest.mark.parametrize(
    "script",
    [
        b"#!/bin/sh\r\n#SWM nodes 2\r\ntrue\r\n",
        b"#!/bin/sh\r\ntrue\n",
        b"#!/bin/sh\n#SWM nodes 2\r\ntrue\n",
        b"#!/bin/sh\rtrue\r",
    ],
)
def test_windows_line_ends_that_break_the_start_are_refused_once(script: bytes) -> None:
    (error,) = refused(script)
    assert error.reason == "SCRIPT_CRLF"
    assert r"sed -i 's/\r$//'" in error.message


def test_windows_line_ends_deep_in_a_script_are_warned_of() -> None:
    ((line, message),) = warnings(b"#!/bin/sh\n#SWM nodes 2\ncat <<X\nHTTP/1.1\r\nX\n")
    assert line == 4
    assert "CR LF" in message


def test_a_script_without_an_interpreter_is_told_that_sh_runs_it() -> None:
    ((line, message),) = warnings(b"true\n")
    assert line == 1
    assert "/bin/sh" in message


@pytest.mark.parametrize(
    "line",
    ["# SWM nodes 2", "#swm nodes 2", "#Swm Nodes 2", "  #SWM nodes 2", "\t#SWM nodes 2",
     "#SWM: nodes 2", "#SWMnodes 2", "#SWM=nodes 2", "# SWM --nodes 2", "# SWM input_files x"],
)  # fmt: skip
def test_what_nearly_is_a_directive_is_warned_of_and_has_no_effect(line: str) -> None:
    got = parse(f"#!/bin/sh\ntrue\n{line}\n".encode())
    assert got.spec.nodes == 1
    assert [warning.line for warning in got.warnings] == [3]
    assert "comment" in got.warnings[0].message


@pytest.mark.parametrize(
    "line",
    [
        "##SWM nodes 2",
        "echo x #SWM nodes 2",
        "# SWM is a fine thing",
        "echo $SWM_JOB_ID",
        "#SWM_HOSTFILE",
    ],
)
def test_other_mentions_are_neither_directives_nor_warned_of(line: str) -> None:
    got = parse(f"#!/bin/sh\n{line}\n".encode())
    assert got.spec.nodes == 1
    assert got.warnings == ()


def test_directives_count_anywhere_in_the_script_and_tabs_separate_too() -> None:
    got = parse(b"#SWM nodes 2\necho one\n#SWM\tcpus\t3\n")
    assert (got.spec.nodes, got.spec.resources.cpus) == (2, 3)
    assert [warning.line for warning in got.warnings] == [1]  # no "#!"


@pytest.mark.parametrize(
    ("directive", "part"),
    [
        ("input-files a.txt,b.txt", "commas"),
        ("output-files a.txt, b.txt", "commas"),
        ("env OUT=$HOME/x", '"$" stays'),
        ("submission-address 10.0.0.1", "other end of ports"),
        ("stdin in.txt", "names none"),
        ("input-files a a b", "named twice"),
        ("input-files a ./a", "named twice"),
        ("input-files ~/x ~/x", "named twice"),
        ("input-files *.c *.c", "named twice"),
    ],
)
def test_what_is_legal_and_hardly_meant_is_warned_of(directive: str, part: str) -> None:
    ((line, message),) = warnings(f"#!/bin/sh\n#SWM {directive}\n".encode())
    assert line == 2
    assert part in message


def test_quoted_dollars_are_taken_as_meant() -> None:
    assert warnings(b"#!/bin/sh\n#SWM env OUT='$HOME/x'\n") == []


def test_a_request_beside_the_script_wins_and_adds() -> None:
    script = b"#!/bin/sh\n#SWM name a\n#SWM site s\n#SWM env A=1 B=1\n#SWM input x\n#SWM output o\n"
    got = override(
        parse(script),
        name="b",
        site="t",
        env={"B": "2", "C": "3 3"},
        input_files=["y z", "/d/w"],
        output_files=["p"],
    ).spec
    assert (got.name, got.site) == ("b", "t")
    assert got.env == {"A": "1", "B": "2", "C": "3 3"}
    assert got.input_files == ("x", "y z", "/d/w")
    assert got.output_files == ("o", "p")
    assert override(parse(script)) == parse(script)
    assert override(parse(script), input_files=["x", "y"]).spec.input_files == ("x", "y")


def test_mistakes_of_the_request_are_told_all_at_once_without_a_line() -> None:
    with pytest.raises(ScriptErrors) as caught:
        override(
            parse(b"#!/bin/sh\n#SWM input x\n"),
            site="a b",
            env={"SWM_X": "1", "A=B": "2", "N": "a\0b"},
            input_files=["/d/x"],
            output_files=["/abs"],
        )
    got = [(error.line, error.directive, error.reason) for error in caught.value.errors]
    assert got == [
        (0, "site", "VALUE_INVALID"),
        (0, "env", "ENV_INVALID"),
        (0, "env", "ENV_INVALID"),
        (0, "env", "ENV_INVALID"),
        (0, "input-files", "INPUT_COLLISION"),
        (0, "output-files", "PATH_INVALID"),
    ]


def test_an_account_named_as_a_site_selects_the_site_with_a_warning() -> None:
    parsed = parse(b"#!/bin/sh\n#SWM account azure\n")
    assert resolve(parsed, {"lab"}) == parsed
    got = resolve(parsed, {"azure", "lab"})
    assert (got.spec.site, got.spec.account) == ("azure", "")
    assert [warning.line for warning in got.warnings] == [2]
    assert "#SWM site azure" in got.warnings[0].message


def test_an_account_stays_one_where_a_site_is_given() -> None:
    parsed = parse(b"#!/bin/sh\n#SWM account azure\n#SWM site lab\n")
    assert resolve(parsed, {"azure", "lab"}) == parsed


def test_names_of_variables_can_be_checked_alone() -> None:
    check_env_name("TOKEN")
    with pytest.raises(ValueError, match="reserved"):
        check_env_name("SWM_TOKEN")


DIRECTIVE_LINES = st.builds(
    "#SWM {} {}".format,
    st.sampled_from([*KNOWN_NAMES, "nodez", ""]),
    st.one_of(
        st.text(max_size=30),
        st.text("0123456789/tcpinou, AB=.-_~'\"\\$GMd:", max_size=30),
        st.sampled_from(["1", "0", "8888/tcp/in", "a=b", "x.y=1", "16G", "1d", "../a", "/a/b"]),
    ),
)


def outcome(script: bytes) -> ParsedScript | ScriptErrors:
    try:
        return parse(script)
    except ScriptErrors as refusal:
        return refusal


SCRIPTS = st.one_of(
    st.binary(max_size=200),
    st.lists(st.one_of(DIRECTIVE_LINES, st.text(max_size=20)), max_size=12).map(
        lambda lines: "\n".join(["#!/bin/sh", *lines]).encode(errors="surrogatepass")
    ),
)


@given(SCRIPTS)
@example(b"#SWM env A='\\")
@example(b"#SWM ports ,")
@example(b"#SWM")
def test_any_bytes_give_a_spec_or_errors_that_can_be_shown(script: bytes) -> None:
    got = outcome(script)
    if isinstance(got, ParsedScript):
        assert resolve(got, {"lab"}).spec is got.spec or got.spec.account == "lab"
        assert override(got) == got
        return
    assert got.errors
    lines = script.count(b"\n") + 1
    for error in got.errors:
        assert 0 <= error.line <= lines
        assert error.message
        assert error.reason.isupper()
    assert [error.line for error in got.errors] == sorted(error.line for error in got.errors)


@given(st.text("ab'\"\\ \t$#é", max_size=20))
def test_words_are_split_as_a_shell_does(text: str) -> None:
    try:
        expected = shlex.split(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"quote|backslash"):
            split_words(text)
    else:
        assert split_words(text) == expected


def fill(text: bytes) -> bytes:
    return b"#!/bin/sh\n" + text * ((MAX_SCRIPT_BYTES - 10) // len(text))


@pytest.mark.parametrize(
    "script",
    [
        fill(b"# SWM nodes 2\n"),
        fill(b"#swm nodes "),
        fill(b" #SWM nodes"),
        fill(b"#SWM nodez x\n"),
        fill(b"#SWM input ''\n"),
        fill(b"# "),
        fill(b"\n"),
        b"#SWM env A=" + b"a'b'" * 250_000,
        b'#SWM env A="' + b"\\" * 1_000_000,
        b"#SWM input " + b" ".join(b"f%d" % n for n in range(120_000)),
        b"#SWM ports " + b"1/tcp," * 170_000,
    ],
    ids=range(11),
)
def test_no_script_keeps_the_core_busy_for_long(script: bytes) -> None:
    begin = time.process_time()
    got = outcome(script)
    assert time.process_time() - begin < 1.5
    assert isinstance(got, ParsedScript) or len(got.errors) <= 101
