"""Logging of every Sky Port process: short text on a terminal, JSON lines otherwise.

A record carries the job and attempt that it is about (`job_context`). Messages of the contracts
given as arguments are shown by `safe_text`, and private keys are masked wherever they appear.
"""

from __future__ import annotations

import contextlib
import datetime
import enum
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import IO, TYPE_CHECKING, Any

from google.protobuf.message import Message

from rpc_kit.redaction import MASK, safe_text


class LogFormat(enum.StrEnum):
    """`AUTO` is text on a terminal and JSON otherwise."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


class LogLevel(enum.StrEnum):
    """From which level on records are kept."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


if TYPE_CHECKING:  # generic to the type checker only
    _StreamHandler = logging.StreamHandler[IO[str]]
else:
    _StreamHandler = logging.StreamHandler

_job: ContextVar[tuple[str, int] | None] = ContextVar("job", default=None)

_PRIVATE_KEY = re.compile(
    r"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?(-----END \1PRIVATE KEY-----|\Z)", re.DOTALL
)
# What could move the cursor of a terminal or fake a second line.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_COLOURS = {
    "DEBUG": "\033[2m",
    "WARNING": "\033[33m",
    "ERROR": "\033[31m",
    "CRITICAL": "\033[1;31m",
}


def configure(
    level: LogLevel = LogLevel.INFO,
    format: LogFormat = LogFormat.AUTO,  # noqa: A002 - what every configuration calls it
    stream: IO[str] | None = None,
) -> None:
    """Send all records from `level` on to `stream` (default: standard error), replacing handlers.

    Colours are for a terminal only.
    """
    out = sys.stderr if stream is None else stream
    on_terminal = out.isatty()
    handler = _Handler(out)
    if format is LogFormat.TEXT or (format is LogFormat.AUTO and on_terminal):
        handler.setFormatter(_TextFormatter(coloured=on_terminal))
    else:
        handler.setFormatter(_json_formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # asyncio tells at debug which selector it uses; no one who debugs jobs asks for that.
    logging.getLogger("asyncio").setLevel(logging.INFO)


@contextlib.contextmanager
def job_context(job_id: str, attempt: int = 0) -> Iterator[None]:
    """Mark all records of this block, and of tasks started in it, with a job.

    Args:
        job_id: The job's id.
        attempt: Its attempt; 0 if it is about the job as a whole.
    """
    token = _job.set((job_id, attempt))
    try:
        yield
    finally:
        _job.reset(token)


class _Handler(_StreamHandler):
    """Writes records with the job that they are about, and with arguments that are safe to show."""

    def emit(self, record: logging.LogRecord) -> None:
        record = logging.makeLogRecord(record.__dict__)  # other handlers get theirs unchanged
        job = _job.get()
        if job is not None:
            record.job = job[0]
            if job[1]:
                record.attempt = job[1]
        if isinstance(record.args, tuple):
            record.args = tuple(_safe(value) for value in record.args)
        elif isinstance(record.args, Mapping):
            record.args = {key: _safe(value) for key, value in record.args.items()}
        record.msg = _safe(record.msg)
        super().emit(record)


def _safe(value: Any) -> Any:
    return safe_text(value) if isinstance(value, Message) else value


def _masked(text: str) -> str:
    if "PRIVATE KEY-----" not in text:
        return text
    # In JSON a line break is written as \n; the pattern takes either.
    return _PRIVATE_KEY.sub(MASK, text)


class _TextFormatter(logging.Formatter):
    """`12:34:56.789 W swm_core.spool [job/attempt] message`, times local."""

    def __init__(self, *, coloured: bool) -> None:
        super().__init__()
        self._coloured = coloured

    def formatMessage(self, record: logging.LogRecord) -> str:
        at = datetime.datetime.fromtimestamp(record.created).astimezone()
        job = getattr(record, "job", "")
        attempt = getattr(record, "attempt", 0)
        mark = f" [{job}/{attempt}]" if attempt else f" [{job}]" if job else ""
        text = _CONTROL.sub(lambda found: repr(found[0])[1:-1], record.message)
        clock = f"{at:%H:%M:%S}.{int(record.msecs):03}"
        line = f"{clock} {record.levelname[0]} {record.name}{mark} {text}"
        colour = _COLOURS.get(record.levelname) if self._coloured else None
        return f"{colour}{line}\033[0m" if colour else line

    def format(self, record: logging.LogRecord) -> str:
        return _masked(super().format(record))


def _json_formatter() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    class Formatter(JsonFormatter):
        def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
            at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
            return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

        def format(self, record: logging.LogRecord) -> str:
            return _masked(super().format(record))

    return Formatter(
        ["asctime", "levelname", "name", "message"],
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
    )
