"""What ARM says when it refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["ArmError", "body_of"]


class ArmError(Exception):
    """An answer that is an error, in ARM's own form.

    Args:
        status: The HTTP status.
        code: What `error.code` is.
        message: What `error.message` is.
        details: What `error.details` is, if there are any.
        headers: Further headers, as Retry-After.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.details = [dict(it) for it in details]
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """What is answered."""
        return {"error": body_of(self.code, self.message, self.details)}


def body_of(code: str, message: str, details: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """An error as it stands in a body or in an operation that failed."""
    body: dict[str, Any] = {"code": code, "message": message}
    if details:
        body["details"] = [dict(it) for it in details]
    return body


def no_group(name: str) -> ArmError:
    """There is no such resource group."""
    return ArmError(404, "ResourceGroupNotFound", f"Resource group '{name}' could not be found.")


def no_resource(kind: str, name: str, group: str) -> ArmError:
    """There is no such resource."""
    return ArmError(
        404,
        "ResourceNotFound",
        f"The Resource '{kind}/{name}' under resource group '{group}' was not found. "
        "For more details please go to https://aka.ms/ARMResourceNotFoundFix",
    )


def invalid(message: str, code: str = "InvalidParameter") -> ArmError:
    """Something in the request is not as it has to be."""
    return ArmError(400, code, message)
