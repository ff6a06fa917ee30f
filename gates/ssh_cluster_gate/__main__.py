"""`swm-ssh-gate`: the gate of hosts that are reached by SSH, as a process of its own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gate_kit import command_line
from gate_kit.command_line import CheckOptions
from rpc_kit import logs, standard_output
from rpc_kit.config_file import ConfigError
from rpc_kit.server import ServeError

_LOCAL = Path(__file__).with_name("local.toml")


def main() -> None:
    """Serve until told to end, or look at the site and end.

    Serving ends with status 0 when it was told to end, and with 2 and one line for each mistake
    when the configuration or the endpoint can't be used.
    """
    options = command_line.parse_with_check(
        "swm-ssh-gate", "A site of hosts that are reached by SSH, or of this machine alone.", _LOCAL
    )
    try:
        if isinstance(options, CheckOptions):
            # Neither of the two loads what the other needs: it takes time, and memory all along.
            from gates.ssh_cluster_gate import check

            sys.exit(check.run(options))
        from gates.ssh_cluster_gate import app

        logs.configure(options.log_level, options.log_format)
        asyncio.run(app.run(options))
    except (ConfigError, ServeError) as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"swm-ssh-gate: {line}\n")
        sys.exit(2)
    except OSError as error:
        text = standard_output.failure_of(error)
        if not text:
            raise
        sys.stderr.write(f"swm-ssh-gate: {text}\n")
        standard_output.drop()
        sys.exit(2)


if __name__ == "__main__":
    main()
