"""How the value of one directive is read. Each reader returns it checked, or raises `Refused`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from rpc_kit.units import parse_duration, parse_size
from swm_core.domain.job import Direction, Launch, Port
from swm_core.domain.money import Money

MAX_ENV_BYTES = 128 * 1024
"""MAX_ARG_STRLEN of Linux: exec refuses a longer `NAME=VALUE`, its closing NUL counted."""

_MAX_PORT = 65_535
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_OPTION_NAME = re.compile(r"[a-z][a-z0-9-]*\.[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_PORT = re.compile(
    r"([0-9]{1,5})/tcp(?:/(in|out))?(?:[ \t]+([A-Za-z][A-Za-z0-9_]{0,39}))?", re.ASCII
)
_ADDRESS = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*|\[[0-9A-Fa-f:.]+\]",
    re.ASCII,
)
_IN, _OUT = Direction.IN, Direction.OUT
_IMAGE_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    # A registry has a dot, a port, or is localhost; anything else before "/" is part of the name.
    r"(?:(?:localhost|[A-Za-z0-9][A-Za-z0-9-]*(?:\.[A-Za-z0-9-]+)+)(?::[0-9]{1,5})?/"
    r"|[A-Za-z0-9-]+:[0-9]{1,5}/)?"
    rf"{_IMAGE_PART}(?:/{_IMAGE_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
"""As Docker has it: https://github.com/distribution/reference, apart from addresses of IPv6."""
_YES_NO = {"true": True, "yes": True, "false": False, "no": False}


class Refused(ValueError):
    """A value is not what it has to be. The message says what was wrong and what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def shown(value: str) -> str:
    """The value in quotes for a message, cut to a length that fits a line."""
    return f'"{value}"' if len(value) <= 60 else f'"{value[:60]}…"'


def _invalid(value: str, problem: str) -> Refused:
    # A shell's users expect to comment behind a value. It would be part of it.
    comment = "; a directive takes no comment behind its value" if " #" in value else ""
    return Refused("VALUE_INVALID", f"{problem}{comment}")


def check_printable(value: str) -> None:
    """Refuse control characters, which would garble tables and logs and break command lines.

    Raises:
        Refused: VALUE_INVALID.
    """
    if not value.isprintable() and (found := _CONTROL.search(value)):
        position = found.start() + 1
        raise Refused(
            "VALUE_INVALID",
            f"the value has the control character U+{ord(found[0]):04X} at position {position}; "
            "remove it",
        )


def text(max_chars: int) -> Callable[[str], str]:
    """A reader of free text of at most `max_chars` characters."""

    def read(value: str) -> str:
        if len(value) > max_chars:
            raise Refused(
                "VALUE_INVALID",
                f"{shown(value)} has {len(value)} characters; write at most {max_chars}",
            )
        return value.replace("\t", " ")

    return read


def word(value: str) -> str:
    """A name of one word: no blanks, no option by mistake."""
    if " " in value or "\t" in value:
        raise _invalid(value, f"{shown(value)} has blanks; give one name")
    if value[0] == "-":
        raise _invalid(value, f"{shown(value)} begins with a dash; give the name itself")
    if len(value) > 256:
        raise _invalid(value, f"{shown(value)} is longer than 256 characters; check the name")
    return value


def image(value: str) -> str:
    """The name of a container image: registry, name, and a tag or digest."""
    word(value)
    if not _IMAGE.fullmatch(value):
        raise _invalid(
            value,
            f"{shown(value)} is not the name of an image; "
            "write it as registry.example.org/name:tag, the name in small letters",
        )
    return value


def integer(lowest: int, highest: int) -> Callable[[str], int]:
    """A reader of whole numbers from `lowest` to `highest`, both included."""

    def read(value: str) -> int:
        if not _INTEGER.fullmatch(value):
            raise _invalid(
                value, f"{shown(value)} is not a whole number; give one from {lowest} to {highest}"
            )
        number = int(value)
        if not lowest <= number <= highest:
            raise _invalid(
                value, f"{value} is out of range; give a number from {lowest} to {highest}"
            )
        return number

    return read


@functools.lru_cache(maxsize=256)  # people ask for the same few
def size(value: str) -> int:
    """Bytes, at least 1."""
    try:
        number = parse_size(value)
    except ValueError as error:
        raise _invalid(value, str(error)) from None
    if number == 0:
        raise _invalid(
            value, f"{shown(value)} is nothing; give what a node needs, or leave the directive out"
        )
    return number


@functools.lru_cache(maxsize=256)  # people ask for the same few
def duration(value: str) -> int:
    """Seconds, at least 1."""
    try:
        number = parse_duration(value)
    except ValueError as error:
        raise _invalid(value, str(error)) from None
    if number == 0:
        raise _invalid(
            value, f"{shown(value)} is no time; give one, or leave the directive out for no limit"
        )
    return number


def yes_no(value: str) -> bool:
    """`true`, `yes`, `false` or `no`."""
    answer = _YES_NO.get(value.lower())
    if answer is None:
        raise _invalid(value, f'{shown(value)} is neither yes nor no; write "true" or "false"')
    return answer


def money(value: str) -> Money:
    """An amount, above zero, with its currency behind it."""
    try:
        found = Money.parse(value)
    except ValueError as error:
        raise _invalid(value, str(error)) from None
    if not found.amount:
        raise _invalid(
            value, f"{shown(value)} is nothing; give an amount, or name a site that costs nothing"
        )
    return found


def launch(value: str) -> Launch:
    """`first` or `every`."""
    try:
        return Launch(value)
    except ValueError:
        raise _invalid(
            value,
            f'{shown(value)} is not known; write "first" (the script runs on the first node) '
            'or "every" (on each)',
        ) from None


def address(value: str) -> str:
    """A host name or an IP address, without a port."""
    if len(value) > 255 or not _ADDRESS.fullmatch(value):
        raise _invalid(
            value,
            f"{shown(value)} is not an address; give a host name or an IP address, without a port",
        )
    return value


def check_env_name(name: str) -> None:
    """Return if a user may set a variable of this name in a job's environment.

    Raises:
        ValueError: It is malformed or reserved; the message says which, and `reason` is
        ENV_INVALID.
    """
    if not _ENV_NAME.fullmatch(name):
        raise Refused(
            "ENV_INVALID",
            f"{shown(name)} is no name of a variable; use letters, digits and _, at most 128, no "
            "digit first",
        )
    if name.startswith("SWM_"):
        raise Refused(
            "ENV_INVALID",
            f"{shown(name)} is reserved: the job is told of itself in SWM_ variables; choose "
            "another name",
        )


def check_variable(name: str, value: str) -> None:
    """Refuse what the environment of a process cannot hold.

    Raises:
        Refused: ENV_INVALID.
    """
    check_env_name(name)
    if "\0" in value:
        raise Refused("ENV_INVALID", f"the value of {name} has a NUL character; remove it")
    length = len(name) + len(value) + 2
    if (
        length * 4 > MAX_ENV_BYTES
        and length - len(value) + len(value.encode(errors="replace")) > MAX_ENV_BYTES
    ):
        raise Refused(
            "ENV_INVALID",
            f"the value of {name} is longer than the {MAX_ENV_BYTES} bytes that a variable can "
            "hold; use an input file",
        )


def variable(item: str) -> tuple[str, str]:
    """`NAME=VALUE` for the environment."""
    name, equals, value = item.partition("=")
    if not equals:
        raise Refused("ENV_INVALID", f"{shown(item)} has no value; write {shown(name + '=VALUE')}")
    check_variable(name, value)
    return name, value


def option(item: str) -> tuple[str, str]:
    """`KIND.NAME=VALUE`, for the sites whose options have this prefix."""
    name, equals, value = item.partition("=")
    if not equals or not _OPTION_NAME.fullmatch(name):
        raise Refused(
            "OPTION_INVALID",
            f'{shown(item)} is not an option; write KIND.NAME VALUE, for example "slurm.qos high"',
        )
    return name, value


@functools.lru_cache(maxsize=256)
def port(item: str) -> Port:
    """`N/tcp`, `N/tcp/in` or `N/tcp/out`, with a name behind it where N is 0."""
    found = _PORT.fullmatch(item)
    if not found:
        raise Refused("PORT_INVALID", f"{shown(item)} is not a port; {_port_advice(item)}")
    number = int(found[1])
    direction = _OUT if found[2] == "out" else _IN
    name = found[3] or ""
    if number > _MAX_PORT:
        raise Refused("PORT_INVALID", f"{number} is no port number; the highest is {_MAX_PORT}")
    if number == 0 and direction is _OUT:
        raise Refused(
            "PORT_INVALID",
            f"{shown(item)} names no port of yours to reach; give its number, as in 8081/tcp/out",
        )
    if number == 0 and not name:
        raise Refused(
            "PORT_INVALID",
            f'{shown(item)} asks for a free port without a name to tell it by; add one: "{item} '
            'WEB" '
            "is told as SWM_PORT_WEB",
        )
    return Port(number, direction, name)


def _port_advice(item: str) -> str:
    head, *rest = item.split(maxsplit=1) or [""]
    if head.isascii() and head.isdigit():
        return f'write the protocol too: "{head}/tcp"'
    if "/udp" in head:
        return "only tcp ports can be forwarded"
    if rest and _PORT.fullmatch(head):
        if "/" in rest[0]:
            return f'put a comma between two ports: "{head},{rest[0]}"'
        return "its name has letters, digits and _ only, at most 40, a letter first"
    return (
        'write it as "8888/tcp/in" (from your side to the job) or "8081/tcp/out" (from the job to '
        "your side)"
    )
