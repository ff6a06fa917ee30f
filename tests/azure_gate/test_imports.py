"""Packages of Azure cost a second and 100 MiB: nobody pays for them before they are wanted."""

from __future__ import annotations

import subprocess
import sys

_LOOK = """
import sys
{code}
theirs = ("azure", "msal", "aiohttp")
print("loaded:", *sorted(name for name in sys.modules if name.split(".")[0] in theirs))
"""


def _loaded(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _LOOK.format(code=code)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.splitlines()[-1].removeprefix("loaded:").strip()


def test_no_module_of_the_gate_imports_azure() -> None:
    every = (
        "import importlib, pkgutil, gates.azure_gate as gate\n"
        "for module in pkgutil.walk_packages(gate.__path__, 'gates.azure_gate.'):\n"
        "    importlib.import_module(module.name)\n"
    )
    assert _loaded(every) == ""
    # The look itself sees what is there.
    assert "azure.core" in _loaded("import azure.core")


def test_the_help_imports_no_azure() -> None:
    told = _loaded(
        "from gates.azure_gate import __main__ as gate\n"
        "sys.argv = ['swm-azure-gate', '--help']\n"
        "try:\n    gate.main()\nexcept SystemExit:\n    pass\n"
    )
    assert told == ""
