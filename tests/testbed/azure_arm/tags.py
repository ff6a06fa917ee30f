"""What ARM demands of tags, and filters by them."""

from __future__ import annotations

import re
from typing import Any

from tests.testbed.azure_arm.errors import ArmError, invalid

__all__ = ["check", "matching"]

_FORBIDDEN = "<>%&\\?/"
_MAX_NAME, _MAX_VALUE = 512, 256
_FILTER = re.compile(
    r"\s*tagName\s+eq\s+'(?P<name>(?:[^']|'')*)'(?:\s+and\s+tagValue\s+eq\s+'(?P<value>(?:[^']|'')*)')?\s*",
    re.IGNORECASE,
)


def check(tags: Any, most: int) -> dict[str, str]:
    """Tags as they are given; an error unless all is as ARM wants it."""
    if tags is None:
        return {}
    if not isinstance(tags, dict) or not all(isinstance(it, str) for it in tags.values()):
        raise ArmError(
            400,
            "InvalidRequestContent",
            "The request content was invalid and could not be deserialized: 'Tags are an object "
            "whose values are strings.'",
        )
    if len(tags) > most:
        raise ArmError(
            400,
            "InvalidTags",
            f"Too many tags specified. Requested tag count - '{len(tags)}'. Maximum number of tags "
            f"allowed - '{most}'.",
        )
    if len({name.lower() for name in tags}) < len(tags):
        raise invalid("Duplicate tag names: names of tags have no case.", "InvalidTags")
    for name, value in tags.items():
        if not name or len(name) > _MAX_NAME:
            raise ArmError(
                400,
                "InvalidTagNameLength",
                f"Tag name length is invalid; tag name cannot be empty or exceed '{_MAX_NAME}' "
                "characters.",
            )
        if any(it in _FORBIDDEN or ord(it) < 32 for it in name):
            raise ArmError(
                400,
                "InvalidTagNameCharacters",
                f"The tag name '{name}' has reserved characters '<,>,%,&,\\,?,/' or control "
                "characters.",
            )
        if name.lower().startswith(("microsoft", "azure", "windows")):
            raise ArmError(
                400,
                "ReservedTagName",
                f"The tag name '{name}' begins with a reserved prefix: 'microsoft', 'azure', "
                "'windows'.",
            )
        if len(value) > _MAX_VALUE:
            raise ArmError(
                400,
                "InvalidTagValueLength",
                f"Tag value too large.  Following tag value '{value}' exceeded the maximum length. "
                f"Maximum allowed length for tag value - '{_MAX_VALUE}' characters.",
            )
    return dict(tags)


def matching(tags: dict[str, str] | None, text: str) -> bool:
    """Whether tags are what a `$filter` asks for: tagName eq '...' [and tagValue eq '...']."""
    found = _FILTER.fullmatch(text)
    if found is None:
        raise invalid(
            f"Invalid $filter '{text}' specified in the query string.", "InvalidFilterInQueryString"
        )
    name = found["name"].replace("''", "'").lower()
    for key, value in (tags or {}).items():
        if key.lower() == name:
            return found["value"] is None or value == found["value"].replace("''", "'")
    return False
