"""Run the stand-in: python -m tests.testbed.azure_arm --root DIR."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from tests.testbed.azure_arm import certificates
from tests.testbed.azure_arm.client import Ready
from tests.testbed.azure_arm.cloud import Cloud, Settings
from tests.testbed.azure_arm.control import Control
from tests.testbed.azure_arm.server import Server
from tests.testbed.azure_arm.tokens import Tokens
from tests.testbed.azure_arm.vms import Backend
from tests.testbed.azure_arm.vms.containers import Containers
from tests.testbed.azure_arm.vms.timers import Timers

TENANT = "00000000-0000-0000-0000-00000000c0de"
APP = "00000000-0000-0000-0000-0000000000aa"
SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"


def main() -> None:
    """Run it until it is told to end."""
    parser = argparse.ArgumentParser(prog="python -m tests.testbed.azure_arm", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="a folder for its files")
    parser.add_argument("--backend", choices=("timer", "containers"), default="timer")
    parser.add_argument("--settings", default="{}", help="how it behaves (cloud.Settings), as JSON")
    parser.add_argument("--while-stdin", action="store_true", help="end with standard input")
    wanted = parser.parse_args()
    settings = Settings(**json.loads(wanted.settings))
    backend = Containers() if wanted.backend == "containers" else Timers(settings)
    asyncio.run(run(wanted.root, backend, settings, while_stdin=wanted.while_stdin))


async def run(root: Path, backend: Backend, settings: Settings, *, while_stdin: bool) -> None:
    """Run it; say on standard output where it is."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if while_stdin:
        loop.add_reader(sys.stdin.fileno(), lambda: _read(ended))
    root.mkdir(parents=True, exist_ok=True)
    made = certificates.make(root)
    tokens = Tokens(TENANT, APP)
    tokens.register(made.principal.read_bytes())
    await backend.open()
    try:
        cloud = Cloud(TENANT, SUBSCRIPTION, backend, settings)
        server = Server(cloud, tokens)
        control = Control(server, made.principal.read_bytes())
        base = await server.open(made)
        where = await control.open()
        ready = Ready(
            resource_manager=base,
            authority=base,
            prices=f"{base}/api/retail/prices",
            egress=f"{base}/egress",
            ca_file=str(made.authority),
            principal=str(made.principal),
            tenant=TENANT,
            app=APP,
            subscription=SUBSCRIPTION,
            control=where,
            secret=control.secret,
            pid=os.getpid(),
        )
        print(json.dumps(asdict(ready)), flush=True)  # noqa: T201
        await ended.wait()
        await control.close()
        await server.close()
        await cloud.close()
    finally:
        await backend.close()


def _read(ended: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 1 << 16):
        ended.set()
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())


if __name__ == "__main__":
    main()
