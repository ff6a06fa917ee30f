"""The core: one gRPC server that owns all jobs, their files and all decisions.

It never talks to a remote site; gates do. `app` puts the parts together.
"""

from importlib.metadata import version

__version__ = version("skyport")
