"""Folders of the user's own that jobs may work in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gate_kit import Refusal
from gate_kit.ssh import workdirs
from gate_kit.ssh.host import Host
from gate_kit.ssh.local import LocalTransport


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    made = Host(LocalTransport("n1"), "local", str(tmp_path / "root"))
    yield made
    await made.close()


@pytest.mark.parametrize(
    "folder",
    [
        "{data}",
        "{data}/",
        "{data}/new/deeper",
        "{data}/with 'odd\nname",
        "{linked}/new",
        "~home",
    ],
)
async def test_a_root_and_what_lies_below_is_allowed(
    host: Host, tmp_path: Path, folder: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "linked").symlink_to(data)
    facts = await host.open()
    wanted = folder.format(data=data, linked=tmp_path / "linked")
    if wanted == "~home":
        wanted = f"{facts.home}/below"
    await workdirs.check(host, wanted, ["~", "/no/such", str(data)])


@pytest.mark.parametrize(
    "folder",
    [
        "relative",
        "{data}/../other",
        "{data}x",
        "{out}",
        "{out}/new",
        "{data}/dangling/new",
        "{data}/file/new",
        "/",
        "{data}/nul\0",
        "{data}/{long}",
    ],
)
async def test_everything_else_is_not_whatever_links_say(
    host: Host, tmp_path: Path, folder: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "out").symlink_to(tmp_path)
    (data / "dangling").symlink_to("/no/such/place")
    (data / "file").write_text("")
    wanted = folder.format(data=data, out=data / "out", long="x/" * 2_100)
    with pytest.raises(Refusal) as refused:
        await workdirs.check(host, wanted, [str(data)])
    assert refused.value.reason == "WORKDIR_NOT_ALLOWED"
    assert str(data) in refused.value.message
