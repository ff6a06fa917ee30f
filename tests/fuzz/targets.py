# ruff: noqa: PT017 - what a reader refuses with is looked at, where it refuses
"""What reads text or bytes of others, each as a function of bytes that raises only for a defect.

The same ones are tried by hypothesis (`test_targets`) and by atheris (`python -m tests.fuzz`).
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping

from google.protobuf.message import DecodeError

from gate_kit.errors import Refusal as GateRefusal
from gate_kit.manifest import ManifestCheck, delimited, read_delimited
from gate_kit.patterns import Matcher, compile_pattern
from gates.fake_gate.config import Config as FakeGateConfig
from gates.ssh_cluster_gate.config import Config as SshGateConfig
from rpc_kit import config_file, paging, units
from rpc_kit.bundle import Bundle, BundleError
from rpc_kit.errors import Refusal
from skyport.common.v1 import manifest_pb2
from skyport.gate.v1 import file_pb2
from swm_core.config import Config as CoreConfig
from swm_core.jobscript import ScriptErrors, override, parse, resolve
from swm_core.spool.errors import ManifestRefused
from swm_core.spool.manifests import read_manifest, write_manifest
from swm_core.terminal.files import matches
from tests.fuzz import clouds, hosts, queues


@dataclasses.dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        run: Reads; raises only for a defect.
        words: Parts that mean something to it.
        seeds: Whole inputs that it takes.
    """

    run: Callable[[bytes], None]
    words: tuple[bytes, ...]
    seeds: tuple[bytes, ...]


def script(data: bytes) -> None:
    """A job script, and the request beside it."""
    try:
        parsed = parse(data)
        text = data.decode(errors="replace")[-200:]
        parsed = resolve(override(parsed, name=text[:5], env={"A": text}), ["lab"])
    except ScriptErrors as errors:
        assert errors.errors
        for error in errors.errors:
            assert error.reason, error
            assert str(error).isprintable(), error
            assert len(str(error)) < 2_000, error
        return
    lines = data.count(b"\n") + 1
    for warning in parsed.warnings:
        assert warning.message.isprintable(), warning
        assert 0 <= warning.line <= lines, warning


def stored_manifest(data: bytes) -> None:
    """A manifest as a user has uploaded it: read by the core, and then by a gate."""
    try:
        entries = list(read_manifest(io.BytesIO(data)))
    except ManifestRefused as refused:
        assert refused.reason in {"MANIFEST_INVALID", "PATH_INVALID", "PATH_CONFLICT"}
        return
    # What the core takes is one text for one tree, and each gate takes it too.
    again = io.BytesIO()
    write_manifest(entries, again)
    assert again.getvalue() == data
    assert list(read_delimited([data[:7], data[7:]])) == entries
    check = ManifestCheck()
    assert b"".join(map(check.add, entries)) == data


def sent_manifest(data: bytes) -> None:
    """A manifest as pages of a call to a gate."""
    check = ManifestCheck()
    try:
        for entry in read_delimited([data]):
            assert check.add(entry) == delimited(entry)
    except (GateRefusal, ValueError, DecodeError):
        return


def config(data: bytes) -> None:
    """Configuration files."""
    text = data.decode(errors="replace")
    for schema in (CoreConfig, FakeGateConfig, SshGateConfig):
        try:
            config_file.parse(text, schema, "x.toml")
        except config_file.ConfigError as error:
            assert error.mistakes
            for mistake in error.mistakes:
                assert 1 <= mistake.line <= text.count("\n") + 1, mistake


def bundle(data: bytes) -> None:
    """A bundle of a user."""
    try:
        found = Bundle.parse(data.decode(errors="replace"), "client.toml")
    except BundleError:
        return
    assert Bundle.parse(found.to_toml(), "client.toml") == found
    _ = found.expire_time


def pattern(data: bytes) -> None:
    """A pattern of output files, and a name that comes after a line feed."""
    text, _, name = data.decode(errors="replace").partition("\n")
    try:
        compiled = compile_pattern(text)
    except GateRefusal as refused:
        assert refused.reason == "PATH_INVALID"
        return
    matcher = Matcher([compiled])
    for part in name.split("/"):
        matcher = matcher.enter(part)
    matches(name, text)


def page_token(data: bytes) -> None:
    """A page token, which is nobody's."""
    request = file_pb2.ListFilesRequest(page_token=data.decode(errors="replace"))
    try:
        page = paging.page_of(request)
    except Refusal as refused:
        assert refused.reason == "PAGE_TOKEN_INVALID"
    else:
        assert not request.page_token, page


def quantity(data: bytes) -> None:
    """Sizes and durations."""
    text = data.decode(errors="replace")
    for read, write in (
        (units.parse_size, units.format_size),
        (units.parse_duration, units.format_duration),
    ):
        try:
            value = read(text)
        except ValueError as error:
            assert str(error).isprintable(), error
        else:
            assert value >= 0
            assert write(value)


def _entries(*entries: manifest_pb2.ManifestEntry) -> bytes:
    return b"".join(map(delimited, entries))


_FILE = manifest_pb2.ManifestEntry(
    path="a/b", type=manifest_pb2.FILE_TYPE_FILE, size=5, mode=0o644, sha256=b"s" * 32
)
_FOLDER = manifest_pb2.ManifestEntry(path="c", type=manifest_pb2.FILE_TYPE_DIRECTORY, mode=0o755)
_LINK = manifest_pb2.ManifestEntry(path="d", type=manifest_pb2.FILE_TYPE_SYMLINK, link_target="a/b")
_MANIFEST_WORDS = (
    *(_entries(entry) for entry in (_FILE, _FOLDER, _LINK)), b"\x0a\x03a/b", b"\x0a\x04../x",
    b"\x10\x01", b"\x10\x02", b"\x10\x03", b"\x18\x05", b"\x20\xa4\x03", b"\x2a\x20", b"\x32\x02..",
    b"\xff\xff\xff\xff\x7f", b"\x80\x00", b"\x00",
)  # fmt: skip
_MANIFESTS = (_entries(_FILE, _FOLDER, _LINK), _entries(_FOLDER), b"")

TARGETS: Mapping[str, Target] = {
    "script": Target(
        script,
        (
            b"#!/bin/sh\n", b"\n#SWM ", b"#SWM", b"name ", b"cpus ", b"mem ", b"time ",
            b"array 1-3",
            b"ports 0/tcp/in WEB,8081/tcp/out", b"env A=1", b"input a.txt", b"output *.txt",
            b"depends ", b"stdin x", b"workdir /tmp/x", b"submission-address 127.0.0.1", b"launch ",
            b"max-cost 1 EUR", b"'", b'"', b"\\", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"1d2h",
            b"1.5T", b"\xe2\x80\xa8", b"\x1b[0m", b",", b"=", b"..", b"/", b"9" * 30,
        ),
        (b"#!/bin/sh\n#SWM name a\n#SWM cpus 2\n#SWM time 1d2h\n#SWM ports 1/tcp/in\necho\n",),
    ),
    "stored_manifest": Target(stored_manifest, _MANIFEST_WORDS, _MANIFESTS),
    "sent_manifest": Target(sent_manifest, _MANIFEST_WORDS, _MANIFESTS),
    "config": Target(
        config,
        (
            b"listen = ", b"[spool]\n", b"max_size = ", b'"100G"', b"[limits]\n", b"[sites.lab]\n",
            b"command = []", b"endpoint = ", b"[[partitions.a.nodes]]\n", b"hosts = ",
            b'["n[1-3]"]',
            b"local = true\n", b"[host.n1]\n", b"[dynamic]\n", b"price = ", b"1e999", b"-1", b"nan",
            b"2020-01-01", b"''", b"\n", b"=", b'"unix:///x"', b'"127.0.0.1:1"', b"a.b.c = 1\n",
            b"[ports]\n", b"in_at = ", b"out_to = ", b"{}", b"[]", b"[users]\n",
        ),
        (b'listen = "127.0.0.1:7717"\n[sites.a]\ncommand = ["x"]\n', b"local = true\n"),
    ),
    "bundle": Target(
        bundle,
        (
            b"endpoint = ", b'"127.0.0.1:7717"\n', b"installation = ", b"user = ", b"expires = ",
            b"ca_pem = ", b"cert_pem = ", b"key_pem = ", b'"""\nx"""\n', b'"x"\n',
            b"\\u0000", b"\0",
        ),
        (
            (
                b'endpoint = "127.0.0.1:1"\ninstallation = "a"\nuser = "b"\nexpires = "2030"\n'
                b'ca_pem = """\nx"""\ncert_pem = """\ny"""\nkey_pem = """\nz"""\n'
            ),
        ),
    ),
    "pattern": Target(
        pattern,
        (b"*", b"**", b"?", b"[", b"]", b"!", b"-", b"/", b".", b"..", b"\n", b"a", b"\\", b"\xff"),
        (b"a/*.txt\na/b.txt", b"**/x[!a-c]\nq/xd"),
    ),
    "page_token": Target(page_token, (b"AAAA", b"=", b"-_", b"\xff"), (b"AAAAAAAAAAAAAAAA",)),
    "quantity": Target(
        quantity,
        (b"1", b"0", b".", b"K", b"T", b"P", b":", b"d", b"h", b"m", b"s", b"9" * 30, b"\xd9\xa1"),
        (b"100G", b"1d2h", b"1:30"),
    ),
    "remote_files": Target(
        hosts.remote_files,
        (
            hosts.FOUND, hosts.TOLD, b".\n", b"=0\n", b"=141\n", b"\n", b"\0", b"//", b"'", b" -> ",
            b" ", b"f", b"l", b"a1ff", b"-1", b"9" * 30, b"./a", b"./b/c", b"\xff", b"..",
            hosts.archive()[:512], bytes(512), b"abc", b"gg\n", b"\x80",
        ),
        (
            bytes([8]) + hosts.FOUND + b".\n",
            bytes([0]) + hosts.TOLD + b".\n",
            bytes([1]) + b"gg\n.\n",
            bytes([2]) + b".\n" + hosts.archive() + b".\n",
            bytes([11]) + hosts.FOUND + b".\n" + b"x" * 100 + b"=0\n.\n",
        ),
    ),
    "conversation": Target(
        hosts.conversation,
        (b"=", b".\n", b"!", b"\n", b"!BUSY x\n", b"!WRITE /a: No space left\n", b"=x\n", b"\xff"),
        (b"=a\n.\n.\n!JOB_NOT_FOUND j\n",),
    ),
    "evidence": Target(
        hosts.evidence_lines,
        (
            b"key lab/abc/j.1\n", b"root_uid r\n", b"folder\n", b"labels ", hosts.LABELS, b"spec ",
            hosts.SPEC, b"\n", b"workdir\n", b"end ", b"at end.n1 ", b"claim ", b"alive ", b"dead ",
            b"boot 1 2\n", b"verdict ", b"buried\n", b"1.5", b"-1", b"9" * 400, b"\0", b"\xff",
            b"cpus ", b"memory ", b"gpu 0 x\n", b"cpu_limit 1 0\n", b"exit 0\n", b"signal 9\n",
        ),
        (
            b"root_uid r\nkey lab/abc/j.1\nfolder\nlabels " + hosts.LABELS + b"\nspec " + hosts.SPEC
            + b"\nclaim alive boot 1 2\nat claim.n1 1.5\nend exit 0\nat end.n1 2.5",
        ),
    ),
    "directives": Target(
        queues.directive_lines,
        (b"\n#SBATCH ", b"-N", b"-N2", b"--mem=", b"--time ", b"-kH", b"'", b'"', b"#", b"\\", b"=",
         b"--", b"-", b"--exclusive", b"\0", b"\xff", b"\r\n", b"\xe2\x80\xa8"),
        (b"#!/bin/sh\n#SBATCH -N 2 --mem=1G\n#SBATCH -J 'a b'\ntrue\n",),
    ),
    "queue": Target(
        queues.queue_lines,
        (b"|", b"\n", b"7|PENDING|n|c|Resources", b"gpu:a100:4(S:0)", b"1-00:00:00", b"idle*",
         b"9" * 400, b"\0", b"\xff", b"\xd9\xa1", b"CANCELLED by 1", b"oom-kill", b"(null)"),
        (b"gpu|n1|mixed|64|512000|2-00:00:00|up|1000|gpu:a100:4|fast|none\n7|RUNNING|n|c|None\n",),
    ),
    "look": Target(
        queues.look_lines,
        (b"of lab/abc/j.1\n", b"root_uid r\n", b"folder\n", b"labels ", hosts.LABELS, b"spec ",
         hosts.SPEC, b"\n", b"workdir\n", b"end.0 ", b"at lab/abc/j.1/end.0 ", b"given node n1 a\n",
         b"given .\n", b"given port 1 W\n", b"final ", b"slurm 7\n", b"buried\n", b"has claim.0\n",
         b"1.5", b"9" * 400, b"\0", b"\xff", b"exit 0\n", b"signal 9\n", b".\n", b"\xd9\xa1"),
        (b"of lab/abc/j.1\nroot_uid r\nfolder\nspec " + hosts.SPEC + b"\nslurm 7\ngiven slurm 7\n"
         b"given node n1 10.0.0.1\ngiven .\nend.0 exit 0\nend.0 .\nat lab/abc/j.1/end.0 2.5",),
    ),
    "azure_sizes": Target(clouds.sizes, clouds.WORDS, clouds.SIZES),
    "azure_prices": Target(clouds.prices, clouds.WORDS, clouds.PRICES),
    "azure_errors": Target(clouds.problems, clouds.WORDS, clouds.ERRORS),
}  # fmt: skip
