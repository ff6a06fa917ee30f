from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from rpc_kit import logs
from rpc_kit.logs import LogFormat, LogLevel, job_context
from rpc_kit.tls import KeyPair
from skyport.gate.v1 import job_pb2

log = logging.getLogger("skyport.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_a_terminal_gets_short_coloured_text_and_a_file_gets_json() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        logs.configure(stream=stream)
        log.warning("disk at %d %%", 91)
    assert re.fullmatch(
        r"\x1b\[33m\d\d:\d\d:\d\d\.\d{3} W skyport\.test disk at 91 %\x1b\[0m\n",
        terminal.getvalue(),
    )
    told = json.loads(file.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told.pop("time"))
    assert told == {"level": "WARNING", "logger": "skyport.test", "message": "disk at 91 %"}


def test_text_that_is_piped_has_no_colours() -> None:
    stream = io.StringIO()
    logs.configure(format=LogFormat.TEXT, stream=stream)
    log.error("x")
    assert "\x1b" not in stream.getvalue()


def test_what_is_below_the_level_is_left_out() -> None:
    stream = io.StringIO()
    logs.configure(LogLevel.WARNING, LogFormat.TEXT, stream)
    log.info("quiet")
    log.warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


async def test_records_name_the_job_that_they_are_about_also_in_its_tasks() -> None:
    stream = io.StringIO()
    logs.configure(format=LogFormat.JSON, stream=stream)

    async def tell(text: str) -> None:
        log.info(text)

    async with asyncio.TaskGroup() as group:
        with job_context("j1", 2):
            group.create_task(tell("in a task"))
            log.info("inside")
        with job_context("j2"):
            log.info("as a whole")
        log.info("outside")
    told = {line["message"]: line for line in map(json.loads, stream.getvalue().splitlines())}
    for message in ("in a task", "inside"):
        assert (told[message]["job"], told[message]["attempt"]) == ("j1", 2)
    assert told["as a whole"]["job"] == "j2"
    assert "attempt" not in told["as a whole"]
    assert "job" not in told["outside"]


def test_text_shows_the_job_too() -> None:
    stream = io.StringIO()
    logs.configure(format=LogFormat.TEXT, stream=stream)
    with job_context("j1", 2):
        log.info("started")
    with job_context("j1"):
        log.info("submitted")
    assert "[j1/2] started\n" in stream.getvalue()
    assert "[j1] submitted\n" in stream.getvalue()


@pytest.mark.parametrize("format_", [LogFormat.TEXT, LogFormat.JSON])
def test_a_message_of_the_contracts_shows_no_secret(format_: LogFormat) -> None:
    stream = io.StringIO()
    logs.configure(format=format_, stream=stream)
    request = job_pb2.StartJobRequest(secret_env={"TOKEN": "hunter2"})
    log.info("asked %s", request)
    log.info("asked %(request)s", {"request": request})
    log.info(request)
    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count("TOKEN") == 3


@pytest.mark.parametrize("format_", [LogFormat.TEXT, LogFormat.JSON])
def test_a_private_key_is_masked_wherever_it_appears(
    format_: LogFormat, user_keys: KeyPair
) -> None:
    stream = io.StringIO()
    logs.configure(format=format_, stream=stream)
    key = user_keys.key_pem.decode()
    log.info("read %s", key)
    log.info("read %r, cut: %s", key, key[:80])
    try:
        raise ValueError(key)
    except ValueError:
        log.exception("failed")
    middle = key.splitlines()[1]
    assert middle[:20] not in stream.getvalue()
    assert "***" in stream.getvalue()


def test_a_logged_text_can_neither_fake_a_line_nor_move_the_cursor() -> None:
    stream = io.StringIO()
    logs.configure(format=LogFormat.TEXT, stream=stream)
    log.info("name %s", "a\nERROR all is lost\x1b[2J\r")
    assert stream.getvalue().count("\n") == 1
    assert r"a\nERROR all is lost\x1b[2J\r" in stream.getvalue()


def test_a_traceback_is_kept() -> None:
    for format_ in (LogFormat.TEXT, LogFormat.JSON):
        stream = io.StringIO()
        logs.configure(format=format_, stream=stream)
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("failed")
        assert "Traceback" in stream.getvalue()
        assert "ValueError: why" in stream.getvalue()
