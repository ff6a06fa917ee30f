"""`swm-azure-gate`: the gate of an Azure subscription, as a process of its own."""

from __future__ import annotations

import asyncio
import sys

from gate_kit import command_line
from rpc_kit import logs
from rpc_kit.config_file import ConfigError
from rpc_kit.server import ServeError

_PROGRAM = "swm-azure-gate"
_SUMMARY = "A site of virtual machines that are made in Azure for jobs, and deleted after them."


def main() -> None:
    """Serve until told to end.

    Ends with status 0 when it was told to end, and with 2 and one line for each mistake when the
    configuration or the endpoint can't be used.
    """
    options = command_line.parse(_PROGRAM, _SUMMARY)
    from gates.azure_gate import app

    logs.configure(options.log_level, options.log_format)
    try:
        asyncio.run(app.run(options))
    except (ConfigError, ServeError) as error:
        sys.stderr.write(f"{_PROGRAM}: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
