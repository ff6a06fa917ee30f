"""Every directive does what docs/job-script.md says of it."""

from decimal import Decimal

import pytest

from swm_core.domain.job import Direction, JobSpec, Launch, Port, Resources
from swm_core.domain.money import Money
from swm_core.jobscript import ParsedScript, ScriptError, ScriptErrors, parse


def read(*directives: str) -> ParsedScript:
    lines = ["#!/bin/sh", *(f"#SWM {directive}" for directive in directives), "true"]
    return parse("\n".join(lines).encode())


def spec(*directives: str) -> JobSpec:
    return read(*directives).spec


def errors(*directives: str) -> tuple[ScriptError, ...]:
    with pytest.raises(ScriptErrors) as caught:
        read(*directives)
    return caught.value.errors


def error(*directives: str) -> ScriptError:
    (only,) = errors(*directives)
    return only


def test_a_script_without_directives_gives_the_defaults_of_the_original() -> None:
    plain = spec()
    assert plain == JobSpec()
    assert (plain.nodes, plain.resources.cpus) == (1, 1)
    assert (plain.stdout, plain.stderr) == ("stdout.log", "stderr.log")
    assert plain.relocatable


@pytest.mark.parametrize(
    ("directive", "field", "value"),
    [
        ("name Quick Job", "name", "Quick Job"),
        ("comment  Two  blanks and a\ttab", "comment", "Two  blanks and a tab"),
        ("account proj42", "account", "proj42"),
        ("account_id a02bd1ce-60cb-11e8", "account", "a02bd1ce-60cb-11e8"),
        ("site lab", "site", "lab"),
        ("partition gpu-long", "partition", "gpu-long"),
        ("flavor Standard_D2_v4", "flavor", "Standard_D2_v4"),
        ("cloud-image ubuntu-hpc/2204", "cloud_image", "ubuntu-hpc/2204"),
        ("container-image ubuntu:24.04", "container_image", "ubuntu:24.04"),
        ("image jupyter/datascience-notebook", "container_image", "jupyter/datascience-notebook"),
        (
            "image Host.example:5000/a/b_c--d:V1.0",
            "container_image",
            "Host.example:5000/a/b_c--d:V1.0",
        ),
        ("image 10.0.0.1:5000/a", "container_image", "10.0.0.1:5000/a"),
        ("image box:5000/a", "container_image", "box:5000/a"),
        ("image localhost/a__b", "container_image", "localhost/a__b"),
        ("nodes 3", "nodes", 3),
        ("cpus 8", "resources", Resources(cpus=8)),
        ("mem 1.5G", "resources", Resources(mem_bytes=3 * 2**29)),
        ("disk 100g", "resources", Resources(disk_bytes=100 * 2**30)),
        ("gpus 0", "resources", Resources(gpus=0)),
        ("gpus 2", "resources", Resources(gpus=2)),
        ("time 90", "time_limit_s", 90),
        ("time 1:30", "time_limit_s", 90),
        ("time 02:00:00", "time_limit_s", 7200),
        ("time 1d2h", "time_limit_s", 93_600),
        ("launch every", "launch", Launch.EVERY),
        ("launch first", "launch", Launch.FIRST),
        ("priority -10", "priority", -10),
        ("priority +10", "priority", 10),
        ("retries 2", "retries", 2),
        ("spot", "spot", True),
        ("spot yes", "spot", True),
        ("max-cost 2.50 EUR", "max_cost", Money(Decimal("2.50"), "EUR")),
        ("max-cost 3", "max_cost", Money(Decimal(3), "USD")),
        ("relocatable", "relocatable", True),
        ("relocatable no", "relocatable", False),
        ("relocatable False", "relocatable", False),
        ("submission-address 192.0.2.7", "submission_address", "192.0.2.7"),
        ("submission-address ::1", "submission_address", "::1"),
        ("submission-address my-desk.example", "submission_address", "my-desk.example"),
        ("workdir /tmp//runs/", "workdir", "/tmp/runs"),
        ("stdin data/in.txt", "stdin", "data/in.txt"),
        ("stdout logs/out.txt", "stdout", "logs/out.txt"),
        ("stderr err.txt", "stderr", "err.txt"),
        ("input-files a b/c '/d/e f' ~/x", "input_files", ("a", "b/c", "/d/e f", "~/x")),
        ("input /tmp/input.dat", "input_files", ("/tmp/input.dat",)),
        ("output-files results/ ./a/*.bin", "output_files", ("results", "a/*.bin")),
        ("output results.dat", "output_files", ("results.dat",)),
        ("env A=1 B='two words' C=", "env", {"A": "1", "B": "two words", "C": ""}),
        ("env A=b=c", "env", {"A": "b=c"}),
        ("storage data big-data data", "storage", ("data", "big-data")),
        ("site-option slurm.qos high", "site_options", {"slurm.qos": "high"}),
        ("site-option slurm.x 'a b' c=d", "site_options", {"slurm.x": "a b c=d"}),
        ("site-option slurm.a=1 slurm.b=", "site_options", {"slurm.a": "1", "slurm.b": ""}),
    ],
)
def test_a_directive_sets_its_field_and_nothing_else(
    directive: str, field: str, value: object
) -> None:
    got = spec(directive)
    assert getattr(got, field) == value
    others = [name for name in JobSpec.__slots__ if name != field]
    assert all(getattr(got, name) == getattr(JobSpec(), name) for name in others)


@pytest.mark.parametrize(
    ("value", "ports"),
    [
        ("8888/tcp", [Port(8888, Direction.IN)]),
        ("8888/tcp/in,8081/tcp/out", [Port(8888, Direction.IN), Port(8081, Direction.OUT)]),
        ("8888/tcp/in , 8081/tcp/out", [Port(8888, Direction.IN), Port(8081, Direction.OUT)]),
        (
            "0/tcp/in WEB,0/tcp METRICS",
            [Port(0, Direction.IN, "WEB"), Port(0, Direction.IN, "METRICS")],
        ),
        ("6006/tcp board", [Port(6006, Direction.IN, "board")]),
    ],
)
def test_ports_are_read_as_the_original_wrote_them(value: str, ports: list[Port]) -> None:
    assert spec(f"ports {value}").ports == tuple(ports)


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("8888", '"8888/tcp"'),
        ("8888/udp", "only tcp"),
        ("tcp/8888", "8888/tcp/in"),
        ("65536/tcp", "65535"),
        ("-1/tcp", "8888/tcp/in"),
        ("8888/tcp/inout", "8888/tcp/in"),
        ("8888/tcp 8081/tcp", '"8888/tcp,8081/tcp"'),
        ("0/tcp", "SWM_PORT_WEB"),
        ("0/tcp/out WEB", "8081/tcp/out"),
        ("0/tcp/in 1WEB", "a letter first"),
        ("8888/tcp,", '"" is not a port'),
        ("٨٨٨٨/tcp", "8888/tcp/in"),
    ],
)
def test_a_bad_port_is_refused_with_how_to_write_it(value: str, part: str) -> None:
    got = error(f"ports {value}")
    assert (got.line, got.directive, got.reason) == (2, "ports", "PORT_INVALID")
    assert part in got.message


@pytest.mark.parametrize(
    "value",
    ["80/tcp,80/tcp", "80/tcp/in,80/tcp/out", "0/tcp A,0/tcp A", "80/tcp A,81/tcp A"],
)
def test_a_port_number_or_name_is_asked_for_once(value: str) -> None:
    assert error(f"ports {value}").reason == "PORT_DUPLICATE"
    assert error(*(f"ports {port}" for port in value.split(","))).line == 3


def test_several_free_ports_and_lines_of_ports_add_up() -> None:
    assert len(spec("ports 0/tcp A", "ports 0/tcp B,80/tcp").ports) == 3


def test_several_files_on_one_line_and_on_several_lines_all_count() -> None:
    got = spec("input-files a b c", "input d", "output x", "output-files y x")
    assert got.input_files == ("a", "b", "c", "d")
    assert got.output_files == ("x", "y")


@pytest.mark.parametrize(
    ("directive", "reason", "part"),
    [
        ("nodes 0", "VALUE_INVALID", "1 to 10000"),
        ("nodes two", "VALUE_INVALID", '"two"'),
        ("nodes 2 # both", "VALUE_INVALID", "no comment"),
        ("nodes 99999999999999999999", "VALUE_INVALID", "whole number"),
        ("cpus -1", "VALUE_INVALID", "-1"),
        ("gpus 1.5", "VALUE_INVALID", "1.5"),
        ("mem 4X", "VALUE_INVALID", "4X"),
        ("mem 0", "VALUE_INVALID", "leave the directive out"),
        ("disk lots", "VALUE_INVALID", "lots"),
        ("time 1:99", "VALUE_INVALID", "HH:MM:SS"),
        ("time 0", "VALUE_INVALID", "no limit"),
        ("priority 1001", "VALUE_INVALID", "1000"),
        ("retries -1", "VALUE_INVALID", "0 to 100"),
        ("launch all", "VALUE_INVALID", '"every"'),
        ("relocatable maybe", "VALUE_INVALID", '"true"'),
        ("spot maybe", "VALUE_INVALID", '"true"'),
        ("max-cost little", "VALUE_INVALID", "2.50 EUR"),
        ("max-cost -1 EUR", "VALUE_INVALID", "2.50 EUR"),
        ("max-cost 0 EUR", "VALUE_INVALID", "is nothing"),
        ("site two words", "VALUE_INVALID", "one name"),
        ("flavor --small", "VALUE_INVALID", "dash"),
        ("container-image a b", "VALUE_INVALID", "one name"),
        ("submission-address http://me", "VALUE_INVALID", "host name"),
        ("submission-address 10.0.0.1:80 x", "VALUE_INVALID", "without a port"),
        ("name " + "x" * 129, "VALUE_INVALID", "128"),
        ("name a\x1b[31mb", "VALUE_INVALID", "U+001B"),
        ("workdir runs", "PATH_INVALID", "absolute"),
        ("workdir ~/runs", "PATH_INVALID", "absolute"),
        ("workdir /tmp/../etc", "PATH_INVALID", '".."'),
        ("stdin /etc/passwd", "PATH_INVALID", "relative"),
        ("stdout ../out", "PATH_INVALID", '".."'),
        ("stdout logs/", "PATH_INVALID", "folder"),
        ("stdout .", "PATH_INVALID", "folder"),
        ("stderr stdout.log", "PATH_INVALID", "different names"),
        ("output-files /abs", "PATH_INVALID", "relative"),
        ("output-files a/../../b", "PATH_INVALID", '".."'),
        ("output-files ~/x", "PATH_INVALID", "relative"),
        ("output-files ''", "PATH_INVALID", "empty"),
        ("output-files " + "x" * 256, "PATH_INVALID", "too long"),
        ("input-files ../x", "PATH_INVALID", "absolute path"),
        ("input-files /", "PATH_INVALID", "last name"),
        ("input-files ~", "PATH_INVALID", "last name"),
        ("input-files /a/x /b/x", "INPUT_COLLISION", '"x"'),
        ("input-files ~/x ./x", "INPUT_COLLISION", '"x"'),
        ("input-files 'a", "VALUE_INVALID", "not closed"),
        ("input-files a\\", "VALUE_INVALID", "backslash"),
        ("container-image ../..", "VALUE_INVALID", "registry.example.org/name:tag"),
        ("container-image a;b", "VALUE_INVALID", "not the name of an image"),
        ("container-image Ubuntu:24.04", "VALUE_INVALID", "in small letters"),
        ("container-image https://ghcr.io/x", "VALUE_INVALID", "not the name of an image"),
        ("container-image tool:1:2", "VALUE_INVALID", "not the name of an image"),
        ("container-image a//b", "VALUE_INVALID", "not the name of an image"),
        ("container-image tool@sha256:12", "VALUE_INVALID", "not the name of an image"),
        ("env A", "ENV_INVALID", '"A=VALUE"'),
        ("env 1A=x", "ENV_INVALID", "1A"),
        ("env SWM_JOB_ID=x", "ENV_INVALID", "reserved"),
        ("env A=1 A=2", "ENV_INVALID", "twice"),
        ("env A=" + "x" * 131_072, "ENV_INVALID", "131072"),
        ("site-option qos=high", "OPTION_INVALID", "slurm.qos high"),
        ("site-option qos high", "OPTION_INVALID", "slurm.qos high"),
        ("site-option slurm.qos", "OPTION_INVALID", "KIND.NAME VALUE"),
        ("site-option slurm.qos=a slurm.qos=b", "OPTION_INVALID", "twice"),
    ],
)
def test_a_wrong_value_is_refused_with_what_to_do(directive: str, reason: str, part: str) -> None:
    got = error(directive)
    assert (got.line, got.directive, got.reason) == (2, directive.split()[0], reason)
    assert part in got.message
    assert len(got.message) < 300


@pytest.mark.parametrize("name", ["name", "nodes", "ports", "input-files", "env", "time"])
def test_a_directive_without_a_value_is_refused(name: str) -> None:
    assert error(name).reason == "VALUE_MISSING"
    assert error(f"{name} \t ").reason == "VALUE_MISSING"


@pytest.mark.parametrize(
    ("first", "second"),
    [("nodes 1", "nodes 2"), ("account a", "account_id b"), ("image a", "container-image b")],
)
def test_a_repeated_directive_is_refused_and_both_lines_are_named(first: str, second: str) -> None:
    got = error(first, "name x", second)
    assert (got.line, got.reason) == (4, "DIRECTIVE_REPEATED")
    assert "lines 2 and 4" in got.message


@pytest.mark.parametrize("name", ["array", "depends"])
def test_a_directive_that_is_not_served_yet_is_refused_by_name(name: str) -> None:
    got = error(f"{name} 1")
    assert (got.line, got.directive, got.reason) == (2, name, "DIRECTIVE_NOT_SERVED")
    assert "not served yet" in got.message


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("node 2", '"nodes"'),
        ("Nodes 2", '"nodes"'),
        ("--nodes 2", '"nodes"'),
        ("nodes=2", '"#SWM nodes 2"'),
        ("nodes: 2", '"nodes"'),
        ("input_files x", '"input-files"'),
        ("account-id x", '"account"'),
        ("conatiner-image x", '"container-image"'),
        ("keep-resources x", "docs/job-script.md"),
    ],
)
def test_an_unknown_directive_is_refused_with_its_line_and_the_nearest_name(
    line: str, meant: str
) -> None:
    got = error(line)
    assert (got.line, got.reason) == (2, "UNKNOWN_DIRECTIVE")
    assert meant in got.message


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines() -> None:
    got = errors("nodes x", "ports 1/udp,2/udp", "array 1-3", "name ok", "env A 1=2")
    assert [(one.line, one.reason) for one in got] == [
        (2, "VALUE_INVALID"),
        (3, "PORT_INVALID"),
        (3, "PORT_INVALID"),
        (4, "DIRECTIVE_NOT_SERVED"),
        (6, "ENV_INVALID"),
        (6, "ENV_INVALID"),
    ]


def test_an_error_reads_as_a_line_for_people() -> None:
    assert str(error("nodes x")).startswith('line 2: nodes: "x" is not a whole number')


def test_a_swm_line_without_a_name_is_refused() -> None:
    assert errors("")[0].reason == "DIRECTIVE_NAME_MISSING"


def test_more_than_a_hundred_mistakes_end_the_reading() -> None:
    got = errors(*(f"nodez {n}" for n in range(5000)))
    assert len(got) == 101
    assert got[-1].reason == "TOO_MANY_ERRORS"


def test_the_lines_of_directives_are_told_by_their_proper_names() -> None:
    got = read("image x", "input a", "input-files b")
    assert got.lines == {"container-image": 2, "input-files": 3}
