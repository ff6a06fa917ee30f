"""The shapes of answers: which fields of which types, which headers, which status.

    python -m tests.testbed.azure_arm.shapes check [FOLDER]   compare the stand-in with recordings
    python -m tests.testbed.azure_arm.shapes distil FOLDER    write shapes.json anew from recordings

The recordings are those that older releases of the Azure SDK for Python have in their source
packages (MIT, Microsoft). shapes.json has what they show of each request and answer: names and
types of fields, names of headers, and status codes; no value that anybody had. Without a folder
that is what the stand-in is compared with. Exit status 1 says that it lacks something that Azure
has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import ssl
import sys
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from azure.identity.aio import CertificateCredential

from tests.testbed.azure_arm.client import AzureArm

__all__ = ["Exchange", "compare", "distil", "read"]

_DISTILLED = Path(__file__).with_name("shapes.json")
_SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
# What every HTTP server says in its own way, or only one that others stand before.
_HEADERS_OF_SERVERS = {
    "content-length", "content-type", "date", "server", "transfer-encoding", "vary",
    "x-ms-original-request-ids",
}  # fmt: skip
# Names that are not fields but data.
_MAPS = {"tags", "parameters", "variables"}
_WITHIN_S = 30.0
_TAKES_S = 0.3


@dataclass
class Exchange:
    """A request of a recording, and the shape of its answer.

    Attributes:
        recording: Where it is from.
        method: Of HTTP.
        path: With the query.
        body: What was sent.
        status: What was answered.
        headers: Names of the answer's headers, in small letters.
        shape: Of the answer's body: a type's name, a list of one shape, or an object of shapes.
    """

    recording: str
    method: str
    path: str
    body: Any
    status: int
    headers: list[str]
    shape: Any


def shape_of(value: Any, name: str = "") -> Any:
    """The shape of JSON."""
    if isinstance(value, dict):
        if name in _MAPS:
            return {}
        return {key: shape_of(inner, key) for key, inner in sorted(value.items())}
    if isinstance(value, list):
        merged: Any = None
        for one in value:
            merged = _common(merged, shape_of(one)) if merged is not None else shape_of(one)
        return [] if merged is None else [merged]
    kinds = {bool: "bool", int: "number", float: "number", str: "string", type(None): "null"}
    return kinds[type(value)]


def _common(one: Any, other: Any) -> Any:
    """What both have: items of a list differ, and only what all have is demanded."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _common(one[key], other[key]) for key in one if key in other}
    if isinstance(one, list) and isinstance(other, list):
        return [_common(one[0], other[0])] if one and other else []
    return one


def differences(wanted: Any, found: Any, at: str = "") -> Iterator[tuple[bool, str]]:
    """How one shape differs from another: whether something is missing, and what it is."""
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            yield True, f"{at or 'the body'} is {found}, and not an object"
            return
        for key, inner in wanted.items():
            where = f"{at}.{key}" if at else key
            if key not in found:
                yield True, f"{where} is missing"
            else:
                yield from differences(inner, found[key], where)
        for key in found:
            if key not in wanted and at.rpartition(".")[2] not in _MAPS:
                yield False, f"{f'{at}.{key}' if at else key} is more than was recorded"
    elif isinstance(wanted, list):
        if not isinstance(found, list):
            yield True, f"{at} is {found}, and not a list"
        elif wanted and found:
            yield from differences(wanted[0], found[0], f"{at}[]")
        elif wanted:
            yield True, f"{at} is empty"
    elif wanted != found:
        yield True, f"{at} is {found}, and not {wanted}"


# Reading recordings.


def read(folder: Path) -> list[Exchange]:
    """All exchanges of all recordings of a folder; of polls that are answered alike, the first."""
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise FileNotFoundError(f"{folder} has no recordings (*.yaml)")
    return [one for file in files for one in _without_repeated_polls(_read_one(file))]


def _read_one(file: Path) -> Iterator[Exchange]:
    recorded = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)
    for one in recorded["interactions"]:
        request, response = one["request"], one["response"]
        uri = urllib.parse.urlsplit(request["uri"])
        text = response["body"]["string"]
        body = json.loads(text) if text.strip() else None
        yield Exchange(
            recording=file.name,
            method=request["method"],
            path=f"{uri.path}?{uri.query}",
            body=_sent(request["body"]),
            status=response["status"]["code"],
            headers=sorted(
                name.lower()
                for name in response["headers"]
                if name.lower() not in _HEADERS_OF_SERVERS
            ),
            shape=shape_of(body) if body is not None else None,
        )


def _sent(text: Any) -> Any:
    """What was sent; some is recorded as Python wrote it, once or twice."""
    while isinstance(text, str) and (found := re.fullmatch(r"b(['\"])(.*)\1", text, re.DOTALL)):
        text = found[2].replace("\\'", "'")
    if not isinstance(text, str) or not text.strip():
        return None
    # Nobody's, but it looks like one.
    return json.loads(re.sub(r'("adminPassword": )"[^"]*"', r'\1"Not-a-secret-1"', text))


def distil(folder: Path) -> None:
    """Write shapes.json."""
    exchanges = [vars(it) for it in read(folder)]
    lines = ",\n".join(json.dumps(it, sort_keys=True) for it in exchanges)
    _DISTILLED.write_text(f"[\n{lines}\n]\n")


def _without_repeated_polls(exchanges: Iterable[Exchange]) -> Iterator[Exchange]:
    seen: set[str] = set()
    for one in exchanges:
        key = json.dumps([one.recording, one.method, _poll_of(one.path), one.status, one.shape])
        if _poll_of(one.path) and key in seen:
            continue
        seen.add(key)
        yield one


def _poll_of(path: str) -> str | None:
    found = re.search(r"/(operations|operationresults)/([^/?]+)", path, re.IGNORECASE)
    return found[2] if found else None


def _distilled() -> list[Exchange]:
    return [Exchange(**it) for it in json.loads(_DISTILLED.read_text())]


# Comparing.


async def compare(arm: AzureArm, exchanges: list[Exchange]) -> tuple[list[str], list[str]]:
    """What the stand-in lacks of what was recorded, and what it has beside it."""
    missing: list[str] = []
    more: list[str] = []
    ready = arm.ready
    context = ssl.create_default_context(cafile=ready.ca_file)
    async with (
        CertificateCredential(
            ready.tenant,
            ready.app,
            certificate_data=Path(ready.principal).read_bytes(),
            authority=ready.authority,
            disable_instance_discovery=True,
            connection_verify=ready.ca_file,
        ) as credential,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
    ):
        token = await credential.get_token(f"{ready.resource_manager}/.default")
        session.headers["Authorization"] = f"Bearer {token.token}"
        for recording in dict.fromkeys(it.recording for it in exchanges):
            replay = _Replay(arm, session, [it for it in exchanges if it.recording == recording])
            async for exchange, differs, text in replay.run():
                short = exchange.path.partition("?")[0].replace(
                    f"/subscriptions/{_SUBSCRIPTION}", ""
                )
                line = f"{recording}: {exchange.method} {short}: {text}"
                (missing if differs else more).append(line)
            arm.reset()
    return missing, more


class _Replay:
    """Sends one recording's requests again."""

    def __init__(
        self, arm: AzureArm, session: aiohttp.ClientSession, exchanges: list[Exchange]
    ) -> None:
        self._arm = arm
        self._session = session
        self._exchanges = exchanges
        # By the id of a recorded operation: where the stand-in's own is asked after.
        self._operations: dict[str, str] = {}
        self._last = ""

    async def run(self) -> Any:
        """For each request: it, whether something is missing, and what differs."""
        await self._make_groups()
        for exchange in self._exchanges:
            async for differs, text in self._one(exchange):
                yield exchange, differs, text

    async def _make_groups(self) -> None:
        """Groups that a recording takes for granted."""
        made = {_group_of(it.path) for it in self._exchanges if "/providers/" in it.path}
        for group in filter(None, made):
            address = self._address(
                f"/subscriptions/{_SUBSCRIPTION}/resourcegroups/{group}?api-version=2020-06-01"
            )
            async with self._session.put(
                address, json={"location": "westus", "tags": {}}
            ) as made_it:
                assert made_it.status == 201, await made_it.text()

    def _address(self, path: str) -> str:
        ready = self._arm.ready
        return ready.resource_manager + path.replace(_SUBSCRIPTION, ready.subscription)

    async def _one(self, exchange: Exchange) -> Any:
        poll = _poll_of(exchange.path)
        address = self._address(exchange.path)
        if poll is not None:
            address = self._operations.setdefault(poll, self._last)
        answer = await self._send(exchange, address, poll is not None)
        status, headers, found = answer
        self._last = headers.get("azure-asyncoperation") or headers.get("location") or self._last
        if status != exchange.status:
            yield True, f"status {status}, and not {exchange.status}: {found}"
            return
        for name in exchange.headers:
            if name not in headers:
                yield True, f"the header {name} is missing"
        if exchange.shape is None:
            if found is not None:
                yield True, "has a body"
            return
        for differs, text in differences(exchange.shape, shape_of(found)):
            yield differs, text

    async def _send(
        self, exchange: Exchange, address: str, is_poll: bool
    ) -> tuple[int, dict[str, str], Any]:
        """Send it; an operation is asked after until its answer is of the shape that was "
        "recorded."""
        body = _moved(exchange.body, self._arm.ready.subscription)
        loop = asyncio.get_running_loop()
        last = loop.time() + _WITHIN_S
        while True:
            async with self._session.request(exchange.method, address, json=body) as response:
                text = await response.text()
                found = json.loads(text) if text.strip() else None
                headers = {name.lower(): value for name, value in response.headers.items()}
                answer = response.status, headers, found
            ended = answer[0] in {200, 204} and "InProgress" not in text
            if not is_poll or ended or loop.time() > last or _fits(exchange, answer):
                return answer
            await asyncio.sleep(0.02)


def _fits(exchange: Exchange, answer: tuple[int, dict[str, str], Any]) -> bool:
    status, _, found = answer
    if status != exchange.status or (exchange.shape is None) != (found is None):
        return False
    return found is None or not any(
        is_missing for is_missing, _ in differences(exchange.shape, shape_of(found))
    )


def _group_of(path: str) -> str | None:
    found = re.search(r"/resourceGroups/([^/?]+)/providers/", path, re.IGNORECASE)
    return found[1] if found else None


def _moved(body: Any, subscription: str) -> Any:
    """A body with ids of the stand-in's subscription."""
    if body is None:
        return None
    return json.loads(json.dumps(body).replace(_SUBSCRIPTION, subscription))


def check(folder: Path | None) -> int:
    """Compare, tell, and say by the exit status whether anything is missing."""
    exchanges = read(folder) if folder is not None else _distilled()
    # Slow enough for a poll to find that an operation goes on.
    slow: Any = {
        "write_s": _TAKES_S,
        "allocate_s": _TAKES_S,
        "delete_s": _TAKES_S,
        "list_lag_s": 0.0,
    }
    with tempfile.TemporaryDirectory() as root, AzureArm(Path(root), **slow) as arm:
        missing, more = asyncio.run(compare(arm, exchanges))
    lines = [f"more: {it}" for it in dict.fromkeys(more)]
    lines += [f"MISSING: {it}" for it in dict.fromkeys(missing)]
    source = folder or _DISTILLED.name
    lines.append(f"{len(exchanges)} requests of {source}: {len(missing)} missing, {len(more)} more")
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return int(bool(missing))


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Compare the stand-in with recordings of Azure.")
    parser.add_argument("what", choices=("check", "distil"))
    parser.add_argument("folder", type=Path, nargs="?")
    wanted = parser.parse_args()
    if wanted.what == "check":
        return check(wanted.folder)
    assert wanted.folder is not None, "distil needs a folder"
    distil(wanted.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
