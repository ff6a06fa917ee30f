"""What can go wrong for a client.

    ClientError
    ├── BundleInvalid          there is no bundle, or it can't be used
    ├── CallFailed             a call did not succeed; `problem`, `reason` and `code` tell which way
    │   ├── CoreUnreachable    no answer at all: not running, network, certificates
    │   ├── RequestInvalid     the request can't be served as it is; `violations` name the places
    │   ├── NotFound           there is no such object, or not for this user
    │   ├── NotAllowed         this user may not, or is not known (any more)
    │   ├── CertificateRenewed     ours ended meanwhile; the same call is made with the new one
    │   └── WatchExpired       the resume token is older than what the core's journal keeps
    ├── LocalFileError         something about files on this machine
    │   ├── InputsInvalid      inputs that are missing, unreadable or in conflict; `problems`
    │   ├── InputChanged       a file changed between reading and sending
    │   └── OutputRefused      a name or link that would lead out of the folder, or can't be written
    ├── JobNotFound            no job of this user has an id that begins so
    ├── JobAmbiguous           several have
    └── DataDamaged            what arrived is not what was sent

The text of each is one line for people: what was wrong, and what to do. Programs decide by class
and `reason`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc

    from rpc_kit.errors import Problem, Violation


class ClientError(Exception):
    """Everything that this package raises on purpose."""


class BundleInvalid(ClientError):
    """There is no bundle, or it can't be used."""


class CallFailed(ClientError):
    """A call to the core did not succeed.

    Attributes:
        problem: What the core (or the transport) said.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem

    @property
    def code(self) -> grpc.StatusCode:
        """The canonical code."""
        return self.problem.code

    @property
    def reason(self) -> str:
        """The core's reason; empty when the transport made the status."""
        return self.problem.reason or ""

    @property
    def violations(self) -> Sequence[Violation]:
        """The places of the request that are at fault, if the core named any."""
        return self.problem.violations

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed in a moment: the core restarts, or a line was cut."""
        name = self.problem.code.name
        # The second: a core that ends cuts what is open, without a word of its own.
        return name == "UNAVAILABLE" or (name == "CANCELLED" and not self.reason)

    def __str__(self) -> str:
        if self.reason:
            return self.problem.message
        return _without_reason(self.problem.code.name, self.problem.message)


class CoreUnreachable(CallFailed):
    """The core does not answer.

    Finding out why takes a connection of its own (up to ten seconds), so that waits until somebody
    wants the text.
    """

    def __init__(self, problem: Problem, explain: Callable[[], str]) -> None:
        super().__init__(problem)
        self._explain = explain
        self._explanation = ""

    def __str__(self) -> str:
        self._explanation = self._explanation or self._explain()
        return self._explanation


class RequestInvalid(CallFailed):
    """The request can't be served as it is."""


class NotFound(CallFailed):
    """There is no such object, or not for this user."""


class NotAllowed(CallFailed):
    """This user may not, or is not known (any more)."""


class CertificateRenewed(CallFailed):
    """Our certificate ended during the call, and its file has a new one by now."""

    @property
    def transient(self) -> bool:
        """The same call again is made with the new one."""
        return True


class WatchExpired(CallFailed):
    """The resume token is older than what the core's journal keeps: list again."""


class LocalFileError(ClientError):
    """Something about files on this machine."""


class InputsInvalid(LocalFileError):
    """Inputs that can't be taken along.

    Attributes:
        problems: One line for each, at least one.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class InputChanged(LocalFileError):
    """A file changed between reading and sending."""


class OutputRefused(LocalFileError):
    """A name or a link that would lead out of the folder, or something that can't be written."""


class JobNotFound(ClientError):
    """No job of this user has such an id."""


class JobAmbiguous(ClientError):
    """Several jobs have ids that begin so."""


class DataDamaged(ClientError):
    """What arrived is not what was sent."""


def failure(problem: Problem, explain: Callable[[], str]) -> CallFailed:
    """The error that stands for `problem`.

    Args:
        problem: What the core or the transport said.
        explain: Finds out why the core can't be reached.
    """
    name = problem.code.name
    if name in ("UNAVAILABLE", "DEADLINE_EXCEEDED") and problem.reason is None:
        return CoreUnreachable(problem, explain)
    if problem.reason == "WATCH_EXPIRED":
        return WatchExpired(problem)
    kinds: dict[str, type[CallFailed]] = {
        "INVALID_ARGUMENT": RequestInvalid,
        "NOT_FOUND": NotFound,
        "PERMISSION_DENIED": NotAllowed,
        "UNAUTHENTICATED": NotAllowed,
    }
    return kinds.get(name, CallFailed)(problem)


def _without_reason(code: str, message: str) -> str:
    """Words for a status that the transport made, or a server that is not a core."""
    match code:
        case "UNIMPLEMENTED":
            return "this core does not serve that; update the core, or use a swm of its version"
        case "RESOURCE_EXHAUSTED":
            return f"a message is over the limit of 4 MiB ({message}); ask for less at once"
        case "CANCELLED":
            return "the call was cut; try again"
    return f"the call failed: {message or code}"
