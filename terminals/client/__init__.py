r"""A synchronous client of the core, for the command line and for scripts.

    with Client.connect() as client:
        job = client.submit(b"#!/bin/sh\necho hello\n").job
        for job in client.wait_for([job.job_id]):
            print(job.text)

`Client` holds the connection and gives the plain stubs (`client.jobs`, `client.files`, ...)
together with `call`, `pages` and `stream`, which raise our errors. What takes more than one call
has a method of its own, and a module behind it.

Names are imported when they are first used: a command that lists jobs pays for no tunnel.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from terminals.client.connection import Client
    from terminals.client.download import Fetched
    from terminals.client.errors import (
        BundleInvalid,
        CallFailed,
        ClientError,
        CoreUnreachable,
        DataDamaged,
        InputChanged,
        InputsInvalid,
        JobAmbiguous,
        JobNotFound,
        LocalFileError,
        NotAllowed,
        NotFound,
        OutputRefused,
        RequestInvalid,
        WatchExpired,
    )
    from terminals.client.output import Gap
    from terminals.client.progress import Progress
    from terminals.client.tunnel import Forwarding

__all__ = [
    "BundleInvalid",
    "CallFailed",
    "Client",
    "ClientError",
    "CoreUnreachable",
    "DataDamaged",
    "Fetched",
    "Forwarding",
    "Gap",
    "InputChanged",
    "InputsInvalid",
    "JobAmbiguous",
    "JobNotFound",
    "LocalFileError",
    "NotAllowed",
    "NotFound",
    "OutputRefused",
    "Progress",
    "RequestInvalid",
    "WatchExpired",
]

_ELSEWHERE = {
    "Client": "connection",
    "Fetched": "download",
    "Forwarding": "tunnel",
    "Gap": "output",
    "Progress": "progress",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _ELSEWHERE.get(name, "errors")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
