"""The core: one gRPC server that owns all jobs, their files and all decisions.

It never talks to a remote site; gates do. `app` puts the parts together.
"""

from importlib.metadata import version

import rpc_kit  # noqa: F401  before grpc: it decides what grpc itself prints

__version__ = version("skyport")
