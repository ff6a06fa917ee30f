"""Names that programs stumble over, and very many files."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator

from skyport.terminal.v1 import file_pb2
from tests.ssh_gate.bad_days import AGAIN_S, Lab, hosts, lab
from tests.system.harness.core import Core
from tests.system.harness.files import File, Folder, Link, Tree, manifest, sha256, upload
from tests.system.harness.jobs import SUCCEEDED, JobHandle
from tests.system.harness.users import submission

__all__ = ["hosts", "lab"]

log = logging.getLogger(__name__)

FILES = int(os.environ.get("SWM_TEST_FILES", "10000"))
"""100,000 by hand; `-o log_cli=true -o log_cli_level=INFO` tells the figures."""
_A_CALL, _A_MESSAGE = 10_000, 500

NAMES = (
    *("a b", " lead", "trail ", "  ", "\t", "new\nline", "\n", "end\n", "a\n3"),
    *("'q'", '"d"', "`id`", "$HOME", "$(id)", "\\", "a\\nb", "a\\", "*", "?[a]", "[", "{a,b}"),
    *("-", "--", "-rf", "-n", "--help", "-e x", "~", "#c", "!x", "=x", "%s%n", "@", "&;|<>", "()"),
    *("..a", "...", ".hidden", "\x01\x7f", "é" * 127, "x" * 255, "-" * 255, "\u202e", "🂡", "\r"),
    *("stdout", "script", "claim.h1"),
)


def test_names_of_any_kind_go_there_and_come_back(lab: Lab) -> None:
    tree: dict[str, bytes | File | Folder | Link] = {}
    for number, name in enumerate(NAMES):
        tree[f"in/{name}"] = File(b"%d\n" % number, 0o600 + number % 2 * 0o155)
        tree[f"deep/{name}/{name}"] = b"deep"
    tree["in/link"] = Link("-rf")
    tree["deep/none"] = Folder()
    script = (
        "#SWM output out 'in/a b' in/-rf 'in/$HOME' 'in/{a,b}' deep\n"
        "mkdir out && cd in && find . -type f -exec cp -p {} ../out ';' && cd ..\n"
        "find out -type f -print0 | tr -dc '\\0' | wc -c"
    )
    job = lab.submit("one", script, inputs=tree)
    job.until(SUCCEEDED, within_s=AGAIN_S)
    assert int(job.output()) == len(NAMES)
    came = job.outputs()
    for number, name in enumerate(NAMES):
        assert came[f"out/{name}"] == tree[f"in/{name}"], (number, name)
        assert came[f"deep/{name}/{name}"] == File(b"deep"), (number, name)
    assert came["deep/none"] == Folder()
    lab.cleared("one", job)


def test_very_many_files_are_brought_in_one_go(lab: Lab) -> None:
    tree = {f"in/{number % 97}/{number}": b"%d of them\n" % number for number in range(FILES)}
    script = "find in -type f -print0 | sort -z | xargs -0 cat | sha256sum; find in -type f | wc -l"
    began = time.monotonic()
    job = submit(lab.core, f"#SWM partition one\n{script}", tree)
    submitted = time.monotonic()
    job.until(SUCCEEDED, within_s=60 + FILES / 100)
    took = time.monotonic() - submitted
    ordered = sorted(tree, key=str.encode)
    digest = hashlib.sha256(b"".join(tree[path] for path in ordered))
    told = job.output().split()
    assert (told[0].decode(), int(told[2])) == (digest.hexdigest(), FILES)
    log.info("%d files: %.1f s to the core, %.1f s to the end", FILES, submitted - began, took)
    began = time.monotonic()
    again = submit(lab.core, f"#SWM partition one\n{script}", tree)
    again.until(SUCCEEDED, within_s=60 + FILES / 100)
    assert again.output() == job.output()
    log.info("again: %.1f s", time.monotonic() - began)


def submit(core: Core, script: str, tree: Tree) -> JobHandle:
    """Submit a script with more inputs than fit in one call."""
    user = core.user()
    text, contents = manifest(tree)
    for start in range(0, len(contents), _A_CALL):
        user.files.Upload(_messages(contents[start : start + _A_CALL]), timeout=60)
    upload(user, [text])
    request = submission(script, site="lab")
    request.manifest_sha256 = sha256(text)
    answer = user.jobs.SubmitJob(request, timeout=60)
    return JobHandle(user, answer.job.job_id, answer.watch_token)


def _messages(contents: list[bytes]) -> Iterator[file_pb2.UploadRequest]:
    """Small contents, many in each message."""
    for start in range(0, len(contents), _A_MESSAGE):
        batch = contents[start : start + _A_MESSAGE]
        pieces = [file_pb2.UploadPiece(sha256=sha256(data), data=data, last=True) for data in batch]
        yield file_pb2.UploadRequest(pieces=pieces)
