"""How the Azure gate is put together: read `run` from top to bottom."""

from __future__ import annotations

from gate_kit.command_line import Options
from gate_kit.serving import raise_file_limit
from gates.azure_gate import config as configuration
from gates.azure_gate.sdk import Sdk


async def run(options: Options) -> None:
    """Serve until told to end.

    Raises:
        rpc_kit.config_file.ConfigError: The configuration can't be used.
        rpc_kit.server.ServeError: Nothing can listen at the endpoint.
    """
    config = configuration.load(options.config)
    raise_file_limit()
    sdk = Sdk(config)
    await sdk.close()
