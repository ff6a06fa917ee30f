"""Asking after operations."""

from __future__ import annotations

from typing import Any

from tests.testbed.azure_arm.calls import IN_SUBSCRIPTION, Answer, Call, Routes
from tests.testbed.azure_arm.faults import OPERATION

__all__ = ["routes"]

routes = Routes()
_PATH = IN_SUBSCRIPTION + "/providers/{provider}/locations/{location}"


@routes.add("GET", _PATH + "/operations/{operation}", OPERATION)
async def get(call: Call) -> Answer:
    """Tell how far one is."""
    if call.query.get("monitor") == "true":
        return _result(call)
    cloud = call.cloud
    operation = cloud.operations.get(call.names["operation"])
    body: dict[str, Any] = {"status": operation.status}
    if operation.provider == "Microsoft.Compute":
        body = {"startTime": cloud.clock.stamp(operation.started)}
        if operation.ended is not None:
            body["endTime"] = cloud.clock.stamp(operation.ended)
        body |= {"status": operation.status, "name": operation.id}
    if operation.error is not None:
        body["error"] = operation.error
    headers = {}
    if operation.ended is None and cloud.settings.retry_after_s is not None:
        headers["Retry-After"] = str(cloud.settings.retry_after_s)
    return Answer(200, body, headers)


@routes.add("GET", _PATH + "/operationResults/{operation}", OPERATION)
async def result(call: Call) -> Answer:
    """Tell what came of one."""
    return _result(call)


def _result(call: Call) -> Answer:
    operation = call.cloud.operations.get(call.names["operation"])
    if operation.ended is None:
        return Answer(202)
    if operation.error is not None:
        return Answer(409, {"error": operation.error})
    return Answer(204)
