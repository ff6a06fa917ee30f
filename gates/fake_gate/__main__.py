"""`swm-fake-gate`: the fake gate as a process of its own."""

from __future__ import annotations

import asyncio
import sys

from gate_kit import command_line
from gates.fake_gate import app
from rpc_kit import logs
from rpc_kit.config_file import ConfigError
from rpc_kit.server import ServeError


def main() -> None:
    """Serve until told to end.

    It ends with status 0 when it was told to, and with 2 and one line for each mistake when the
    configuration or the endpoint can't be used.
    """
    options = command_line.parse(
        "swm-fake-gate", "A site that is pretended on this machine, for tests and demonstrations."
    )
    logs.configure(options.log_level, options.log_format)
    try:
        asyncio.run(app.run(options))
    except (ConfigError, ServeError) as error:
        sys.stderr.write(f"swm-fake-gate: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
