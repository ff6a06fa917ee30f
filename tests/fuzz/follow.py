"""One target under atheris: `python -m tests.fuzz.follow TARGET [options of libFuzzer]`."""

from __future__ import annotations

import sys

import atheris

_FOLLOWED = [
    "gate_kit.manifest",
    "gate_kit.patterns",
    "gate_kit.ssh",
    "gate_kit.validation",
    "rpc_kit.bundle",
    "rpc_kit.config_file",
    "rpc_kit.paging",
    "rpc_kit.units",
    "swm_core.domain",
    "swm_core.jobscript",
    "swm_core.spool",
]

# What is imported here tells which of its branches are taken.
with atheris.instrument_imports(include=_FOLLOWED):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Run until the time is up, or an input raises."""
    program, name, *options = sys.argv
    atheris.Setup([program, *options], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
