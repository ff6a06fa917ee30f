from __future__ import annotations

import subprocess
import sys

import pytest

import terminals.client


def test_every_public_name_can_be_imported() -> None:
    for name in terminals.client.__all__:
        assert getattr(terminals.client, name).__name__ == name
    assert set(terminals.client.__all__) <= set(dir(terminals.client))


def test_what_is_not_public_is_not_there() -> None:
    with pytest.raises(AttributeError, match="Upload"):
        _ = terminals.client.Upload


def test_errors_are_one_tree_as_drawn() -> None:
    errors = terminals.client.errors
    lines = (errors.__doc__ or "").splitlines()
    drawn = [line for line in lines if line.startswith("    ")]
    above: list[type] = []
    for line in drawn:
        name = line.strip("│├└─ ").split()[0]
        depth = line.index(name) // 4 - 1
        kind = getattr(errors, name)
        assert depth == 0 or kind.__bases__ == (above[depth - 1],), name
        above[depth:] = [kind]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(drawn) == len([kind for kind in kinds if issubclass(kind, errors.ClientError)])


def test_importing_the_package_imports_no_grpc() -> None:
    code = "import sys, terminals.client, terminals.client.errors; sys.exit('grpc' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
