"""Has container images on hosts: each is pulled once, while all who want it wait."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping

from gate_kit import errors
from gate_kit.ssh.host import Host
from gate_kit.ssh.transport import Process

AUTO = "auto"
RUNTIMES = ("docker", "podman", "apptainer")
"""What can run containers on a host, in the order in which it is looked for."""
MISSING, ALWAYS = "missing", "always"

DOCKER_HUB = "docker.io"
_HUB_KEY = "https://index.docker.io/v1/"
"""Under which the command line of docker keeps the login of its own registry."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_BLOB = re.compile(r"Copying blob (\S+)")
_WHOLE = "Creating SIF file"
"""What apptainer says when it has all layers."""
_LINE_CHARS = 500


def registry_of(image: str) -> str:
    """The registry that an image comes from: host and port."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first
    return DOCKER_HUB


@dataclasses.dataclass(frozen=True, slots=True)
class Login:
    """A login for a registry."""

    username: str
    password: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class ContainerSettings:
    """How a site runs containers."""

    runtime: str = AUTO
    """One of `RUNTIMES`, or the first one that a host has."""
    socket: str = ""
    """Where its engine listens, as a URL; empty: as usual."""
    pull: str = MISSING
    """Whether a host that has an image looks for a newer one: MISSING or ALWAYS."""
    logins: Mapping[str, Login] = dataclasses.field(default_factory=dict)
    """By registry."""


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """An image that a host has."""

    runtime: str
    """What runs it there."""
    id: str
    """What it is run by."""
    digest: str
    """"sha256:…", as its registry knows it; of its configuration where it came from none; empty
    where nobody tells it."""


class ImageRefused(Exception):
    """An image can't be had on a host.

    Args:
        reason: As an attempt ends: IMAGE_NOT_FOUND, IMAGE_AUTH, REGISTRY_UNREACHABLE, NODE_FAIL or
            START_FAILED.
        text: For people; one line.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


Told = Callable[[str], None]


class _Pull:
    """One pull, and who waits for it."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.text = ""
        self.task: asyncio.Task[Image] | None = None

    def tell(self, text: str) -> None:
        self.text = text
        for told in self.told:
            told(text)


class Images:
    """The images on all hosts of a site.

    Args:
        settings: How the site runs containers.
    """

    def __init__(self, settings: ContainerSettings) -> None:
        self._settings = settings
        self._pulls: dict[tuple[Host, str, Login | None], _Pull] = {}

    async def have(self, host: Host, image: str, logins: Mapping[str, Login], told: Told) -> Image:
        """Have an image on a host.

        Args:
            host: Where; of an account alone, since only Docker keeps images for all of a host.
            image: Its reference.
            logins: Of the one who wants it, by registry; they come before the site's own.
            told: Called with how far it is, for people.

        Raises:
            ImageRefused: It can't be had there.
            Refusal: NODE_UNREACHABLE.
        """
        registry = registry_of(image)
        login = logins.get(registry) or self._settings.logins.get(registry)
        # Another login may open what this one does not: nobody waits for somebody else's.
        key = (host, image, login)
        pull = self._pulls.get(key)
        if pull is None:
            pull = self._pulls[key] = _Pull()
            pull.task = asyncio.create_task(
                self._pull(host, image, login, pull), name=f"pull of {image} on {host.node}"
            )
            pull.task.add_done_callback(lambda _: self._pulls.pop(key, None))
        assert pull.task is not None  # noqa: S101 - for the type only
        pull.told.append(told)
        if pull.text:
            told(pull.text)
        try:
            return await asyncio.shield(pull.task)
        finally:
            pull.told.remove(told)
            if not pull.told and not pull.task.done():
                # Those who come now begin anew.
                self._pulls.pop(key, None)
                pull.task.cancel()

    async def _pull(self, host: Host, image: str, login: Login | None, pull: _Pull) -> Image:
        settings = self._settings
        is_pinned = "@" in image
        file = f"{hashlib.sha256(image.encode()).hexdigest()[:32]}.of"
        policy = MISSING if is_pinned else settings.pull
        process = await host.run("image", settings.runtime, settings.socket, image, policy, file)
        try:
            process.stdin.write(_login_lines(registry_of(image), login))
            process.stdin.write_eof()
            return await _outcome(host.node, image, _lines(process), pull.tell)
        except (OSError, EOFError) as error:
            raise errors.node_unreachable(
                host.node, f"the link to {host.node} was lost while it pulled {image}"
            ) from error
        finally:
            process.close()


def _login_lines(registry: str, login: Login | None) -> bytes:
    """What image.sh reads: for docker and podman, and for apptainer."""
    if login is None:
        return b"\n\n\n"
    pair = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
    key = _HUB_KEY if registry == DOCKER_HUB else registry
    kept = json.dumps({"auths": {key: {"auth": pair}}})
    return f"{kept}\n{login.username}\n{login.password}\n".encode()


async def _lines(process: Process) -> AsyncIterator[str]:
    while line := await process.stdout.readline():
        yield "".join(c for c in line.decode(errors="replace") if c.isprintable())[:_LINE_CHARS]


async def _outcome(node: str, image: str, lines: AsyncIterator[str], told: Told) -> Image:
    """What became of a pull, by what image.sh printed."""
    progress = Progress(image)
    runtime, last, code = "", "", ""
    async for line in lines:
        name, _, value = line.partition(" ")
        if name == "=lacks":
            what = "none of " + ", ".join(RUNTIMES) if value == AUTO else f"no {value}"
            raise ImageRefused("START_FAILED", f"{node} has {what}, which containers need")
        if name == "=runtime":
            runtime = value
        elif name == "=code":
            code = value
        elif name == "=image":
            words = value.split()
            return Image(runtime, words[0], digest_of(image, words[0], words[1:]))
        elif line:
            last = line
            if text := progress.after(line):
                told(text)
    if not code:
        raise EOFError
    raise refused(node, image, runtime, last)


class Progress:
    """How far a pull is, by what docker, podman or apptainer print."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._done: dict[str, bool] = {}
        self._begun: set[str] = set()
        self._is_whole = False
        self._told = ""

    def after(self, line: str) -> str:
        """What to tell after this line; empty if nothing has changed."""
        layer, _, state = line.partition(": ")
        if re.fullmatch(r"[0-9a-f]{12}", layer):
            is_done = state in {"Pull complete", "Already exists"}
            self._done[layer] = self._done.get(layer, False) or is_done
        elif blob := _BLOB.match(line):
            self._begun.add(blob[1])
        self._is_whole = self._is_whole or _WHOLE in line
        text = f"making a file of {self._image}" if self._is_whole else self._pulling()
        if text == self._told:
            return ""
        self._told = text
        return text

    def _pulling(self) -> str:
        text = f"pulling {self._image}"
        if self._done:
            return f"{text}: {sum(self._done.values())} of {len(self._done)} layers"
        # Those that say what they begin with don't say how many there will be.
        return f"{text}: {len(self._begun)} layers" if self._begun else text


def digest_of(image: str, image_id: str, names: list[str]) -> str:
    """The digest of an image, out of "NAME@DIGEST" for all names that it has."""
    wanted = image.partition("@")[0]
    tail = wanted.rpartition("/")[2]
    repository = wanted.removesuffix(f":{tail.partition(':')[2]}") if ":" in tail else wanted
    fitting = [name for name in names if name.partition("@")[0].endswith(repository)] or names
    for name in (*fitting, image_id):
        if found := _DIGEST.search(name):
            return found[0]
    return ""


_NOT_FOUND = (
    "manifest unknown",
    "not found",
    "name unknown",
    "no matching manifest",
    "repository does not exist",
    "invalid reference format",
)
_AUTH = ("no basic auth credentials", "unauthorized", "authentication required", "denied")
_UNREACHABLE = (
    "connection refused", "no such host", "i/o timeout", "tls handshake", "x509", "certificate",
    "timeout exceeded", "server misbehaving", "network is unreachable", "no route to host",
    "connection reset", "toomanyrequests", "unexpected http status", "eof", "dial tcp",
    "context deadline exceeded", "http response to https",
)  # fmt: skip
_FATAL = re.compile(r"FATAL:?\s+(\[U=\d+,P=\d+\]\s*\S+\(\)\s*)?", re.ASCII)
"""What apptainer says before what it ends by; the rest of it in a debugging run."""
_ENGINE = ("cannot connect to the docker daemon", "is the docker daemon running", "docker.sock")
_NO_ENGINE_RIGHT = "permission denied while trying to connect"


def refused(node: str, image: str, runtime: str, said: str) -> ImageRefused:
    """Why an image can't be had, by what the program that pulls it said last."""
    text = said.removeprefix("Error response from daemon: ").removeprefix("Error: ")
    text = _FATAL.sub("", text, count=1)
    lowered = text.lower()

    def has(*words: str) -> bool:
        return any(word in lowered for word in words)

    registry = registry_of(image)
    if has(_NO_ENGINE_RIGHT):
        mend = "add the account to the group docker there"
        return ImageRefused("START_FAILED", f"{node} does not let jobs use {runtime}; {mend}")
    if has(*_ENGINE):
        return ImageRefused("NODE_FAIL", f"{runtime} on {node} does not answer: {text}")
    if has("no space left"):
        return ImageRefused("START_FAILED", f"{node} has no space left for {image}: {text}")
    # A registry that wants a login says of what is not there that it may be.
    if has(*_NOT_FOUND):
        return ImageRefused("IMAGE_NOT_FOUND", f"{registry} has no image {image}: {text}")
    if has(*_AUTH):
        mend = f'is a login of [registry."{registry}"] at the site, and right?'
        return ImageRefused(
            "IMAGE_AUTH", f"{registry} does not let us have {image}: {text}; {mend}"
        )
    if has(*_UNREACHABLE):
        return ImageRefused(
            "REGISTRY_UNREACHABLE", f"{node} can't reach {registry} for {image}: {text}"
        )
    return ImageRefused("START_FAILED", f"{node} can't pull {image}: {text}")
