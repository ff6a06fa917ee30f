"""A call of ARM, what is answered, and which function answers it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.testbed.azure_arm.cloud import Cloud
from tests.testbed.azure_arm.errors import ArmError
from tests.testbed.azure_arm.faults import Fault
from tests.testbed.azure_arm.operations import Operation

__all__ = ["IN_GROUP", "IN_SUBSCRIPTION", "Answer", "Call", "Route", "Routes", "begin", "pages"]

IN_SUBSCRIPTION = "/subscriptions/{subscription}"
IN_GROUP = IN_SUBSCRIPTION + "/resourceGroups/{group}"


@dataclass
class Answer:
    """What is answered."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Call:
    """What is asked.

    Attributes:
        cloud: Of whom.
        method: Of HTTP.
        kind: What it is about, as faults name it.
        names: What stands for the names in the path.
        query: The query, of which names of parameters have no case.
        body: The JSON of the body; None if there is none.
        fault: The fault by which its operation shall fail.
    """

    cloud: Cloud
    method: str
    kind: str
    names: dict[str, str]
    query: Mapping[str, str]
    body: Any
    fault: Fault | None = None

    def document(self) -> dict[str, Any]:
        """The body, which there must be."""
        if not isinstance(self.body, dict):
            raise ArmError(
                400,
                "InvalidRequestContent",
                "The request content was invalid and could not be deserialized: 'A JSON object is "
                "required, and the body is empty or something else.'",
            )
        return self.body

    def located(self) -> tuple[dict[str, Any], str]:
        """The body, and its location, which there must be too."""
        document = self.document()
        location = document.get("location")
        if not location or not isinstance(location, str):
            raise ArmError(
                400,
                "LocationRequired",
                "The location property is required for this definition.",
            )
        return document, location.replace(" ", "").lower()

    @property
    def version(self) -> str:
        """The API's version."""
        return self.query["api-version"]


Handler = Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True)
class Route:
    """Which calls a function answers.

    Attributes:
        method: Of HTTP.
        pattern: Of the path.
        kind: What these calls are about.
        action: What a role has to allow for it.
        name: Which of the names in the path is that of the resource.
        answer: The function.
    """

    method: str
    pattern: re.Pattern[str]
    kind: str
    action: str
    name: str
    answer: Handler


_VERBS = {"GET": "read", "HEAD": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete"}


class Routes:
    """All that a module answers."""

    def __init__(self) -> None:
        self.all: list[Route] = []

    def add(self, method: str, path: str, kind: str) -> Callable[[Handler], Handler]:
        """Have a function answer calls; names in the path stand in braces."""
        pieces = re.split(r"\{(\w+)\}", path)
        pattern = "".join(
            f"(?P<{it}>[^/]+)" if odd % 2 else re.escape(it) for odd, it in enumerate(pieces)
        )
        verb = _VERBS.get(method, "action")
        name = next((it for it in reversed(pieces[1::2]) if it in {"name", "group"}), "")

        def put(handler: Handler) -> Handler:
            compiled = re.compile(pattern, re.IGNORECASE)
            self.all.append(Route(method, compiled, kind, f"{kind}/{verb}", name, handler))
            return handler

        return put


def begin(
    call: Call,
    status: int,
    location: str,
    work: Coroutine[Any, Any, None],
    body: Any = None,
    *,
    ended: Callable[[Operation], None] | None = None,
) -> Answer:
    """Accept a call, and do the work afterwards.

    Args:
        call: It.
        status: 200, 201 or 202.
        location: Where the resource is.
        work: What is done. An ArmError from it is what the operation fails with.
        body: What is answered at once.
        ended: Is called when the operation has ended.
    """
    cloud = call.cloud
    provider = call.kind.split("/", 1)[0]
    operation = cloud.operations.begin(provider, location)

    async def go() -> None:
        try:
            await work
        except ArmError as error:
            cloud.operations.fail(operation, error)
        else:
            cloud.operations.succeed(operation)
        if ended is not None:
            ended(operation)

    cloud.run(go())
    place = f"{cloud.base}/subscriptions/{cloud.subscription}/providers/{provider}"
    place += f"/locations/{location}"
    version = f"api-version={call.version}"
    headers = {
        "Azure-AsyncOperation": f"{place}/operations/{operation.id}?{version}",
        "Azure-AsyncNotification": "Enabled",
    }
    if status == 202:
        if provider == "Microsoft.Network":
            headers["Location"] = f"{place}/operationResults/{operation.id}?{version}"
        else:
            headers["Location"] = f"{place}/operations/{operation.id}?monitor=true&{version}"
    if cloud.settings.retry_after_s is not None:
        headers["Retry-After"] = str(cloud.settings.retry_after_s)
    return Answer(status, body, headers)


def pages(call: Call, items: list[Any], path: str) -> Answer:
    """A list, in pages if the stand-in is set so."""
    size = call.cloud.settings.page
    begin_at = int(call.query.get("$skiptoken", "0"))
    if not size or begin_at + size >= len(items):
        return Answer(200, {"value": items[begin_at:]})
    others = "".join(f"&{key}={value}" for key, value in call.query.items() if key != "$skiptoken")
    link = f"{call.cloud.base}{path}?$skiptoken={begin_at + size}{others}"
    return Answer(200, {"value": items[begin_at : begin_at + size], "nextLink": link})
