"""Several people on one core: `swm user` for its administrator, `swm login` for the others."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from rpc_kit.bundle import Bundle
from tests.cli.conftest import environment
from tests.cli.terminal import Swm
from tests.client.certificates import Installation
from tests.client.fake_core import FakeCore
from tests.system.harness.core import ADMIN, Core, running
from tests.system.harness.sites import static


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    # Named as in the other tests of commands, whose core is a fake one.
    with running(tmp_path_factory.mktemp("user"), {"lab": static()}) as core:
        yield core


@pytest.fixture
def admin(core: Core, tmp_path: Path) -> Swm:
    """The command, for whoever started the core."""
    return Swm(environment(core.home.path), tmp_path)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Swm:
    """The command, for somebody with an empty home."""
    home = tmp_path / "elsewhere"
    home.mkdir(mode=0o700)
    return Swm({**environment(home), "SWM_HOME": ""}, tmp_path)


def test_a_second_user_comes_goes_and_comes_back(admin: Swm, elsewhere: Swm, core: Core) -> None:
    result = admin("user", "add", "flo")
    assert (result.code, result.out) == (0, "flo.swm.toml\n")
    assert "can act as flo" in result.err
    assert f"do not reach the core at {core.endpoint}" in result.err
    file = admin.cwd / "flo.swm.toml"
    assert file.stat().st_mode & 0o777 == 0o600

    told = elsewhere.ok("login", "flo.swm.toml")
    kept = Path(elsewhere.environment["HOME"]) / ".swm" / "client.toml"
    assert told.startswith(f"you are flo at {core.endpoint} until ")
    assert told.endswith(f"kept in {kept}\n")
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert "user          flo\n" in elsewhere.ok("whoami")
    job = "#!/bin/sh\n#SWM site lab\nsleep 600\n"
    job_id = elsewhere("submit", "-", stdin=job).out.strip()
    assert elsewhere("user", "list").err == "swm: only an administrator may do this\n"
    listed = dict(line.split()[:2] for line in admin.ok("user", "list").splitlines())
    assert listed == {**listed, "USER": "ROLE", ADMIN: "admin", "flo": "user"}

    result = admin("user", "revoke", "flo")
    assert result.out == "revoked all certificates of flo\n"
    assert "1 job of flo go on" in result.err.replace("goes", "go")
    assert "flo   user" in admin.ok("user", "list")
    assert "revoked" in admin.ok("user", "list")
    assert elsewhere("whoami").err == (
        "swm: the certificate was revoked; ask the administrator for a new bundle\n"
    )
    admin.ok("cancel", "--wait", job_id)

    assert "--force" in admin("user", "renew", "flo").err
    admin.ok("user", "renew", "flo", "--force")
    assert "--force" in elsewhere("login", "flo.swm.toml").err
    elsewhere.ok("login", "flo.swm.toml", "--force")
    assert "CANCELLED" in elsewhere.ok("jobs", "--all")
    stop = elsewhere("down")
    assert (stop.code, stop.out) == (1, "")
    assert "only the bundle of one elsewhere; stop it there" in stop.err
    assert '"name": "flo"' in admin.ok("user", "list", "--json")


@pytest.mark.parametrize("what", ["file", "link", "folder"])
def test_what_is_there_is_not_written_over_and_nobody_is_made(admin: Swm, what: str) -> None:
    path = admin.cwd / "eve.toml"
    match what:
        case "file":
            path.write_text("precious")
        case "link":
            path.symlink_to(admin.cwd / "nowhere")
        case "folder":
            path = admin.cwd / "no" / "such" / "folder.toml"
    result = admin("user", "add", "eve", "-o", str(path))
    assert (result.code, result.out) == (1, "")
    assert result.err.count("\n") == 1
    assert "--output" in result.err
    assert "eve" not in admin.ok("user", "list")
    assert not (admin.cwd / "nowhere").exists()
    if what == "file":
        assert path.read_text() == "precious"


def test_force_takes_the_place_of_a_link_and_leaves_alone_what_it_leads_to(admin: Swm) -> None:
    target, link = admin.cwd / "precious", admin.cwd / "link.toml"
    target.write_text("precious")
    link.symlink_to(target)
    admin.ok("user", "add", "gil", "-o", "link.toml", "--force", "--address", "core.lab:7717")
    assert target.read_text() == "precious"
    assert not link.is_symlink()
    bundle = Bundle.read(link)
    assert (bundle.user, bundle.endpoint) == ("gil", "core.lab:7717")
    result = admin("user", "renew", "gil", "-o", "other.toml", "--address", "nowhere")
    assert result.code == 2
    assert '"nowhere" is not an address' in result.err


def test_a_bundle_that_is_not_good_is_not_kept(
    admin: Swm, elsewhere: Swm, installation: Installation
) -> None:
    kept = Path(elsewhere.environment["HOME"]) / ".swm" / "client.toml"
    admin.ok("user", "add", "hal")
    file = admin.cwd / "hal.swm.toml"
    file.chmod(0o644)
    assert f"chmod 600 {file.name}" in elsewhere("login", "hal.swm.toml").err
    assert "no such file" in elsewhere("login", "gone.toml").err
    stranger = installation.bundle(Bundle.parse(file.read_text(), "hal").endpoint)
    stranger.write_new(admin.cwd / "stranger.toml")
    assert "another installation answers there" in elsewhere("login", "stranger.toml").err
    assert not kept.exists()


def test_a_home_is_of_a_core_here_or_of_a_user_of_one_elsewhere(
    admin: Swm, elsewhere: Swm, core: Core
) -> None:
    before = core.home.bundle.read_bytes()
    admin.ok("user", "add", "ida")
    result = admin("login", "ida.swm.toml", "--force")
    assert result.code == 1
    assert "SWM_CLIENT" in result.err
    assert core.home.bundle.read_bytes() == before
    own = str(admin.cwd / "ida-here.toml")
    admin.ok("login", "ida.swm.toml", SWM_CLIENT=own)
    assert "user          ida\n" in admin.ok("whoami", SWM_CLIENT=own)
    elsewhere.ok("login", "ida.swm.toml")
    result = elsewhere("up")
    assert (result.code, result.out) == (1, "")
    assert "set SWM_HOME to another folder" in result.err


def test_a_core_whose_owner_is_locked_out_can_still_be_ended(admin: Swm, core: Core) -> None:
    admin.ok("user", "add", "jan", "--admin")
    jan = str(admin.cwd / "jan.swm.toml")
    admin.ok("user", "revoke", ADMIN, SWM_CLIENT=jan)
    result = admin("down")
    assert result.code == 1
    assert f"(process {core.pid}) can be ended by `kill {core.pid}`" in result.err
    # The owner of the home has the CA, and helps himself.
    core.home.bundle.unlink()
    admin.ok("init", "--user", ADMIN)
    core.restart()
    assert "administrator" in admin.ok("whoami")
    admin.ok("user", "revoke", "jan")


@pytest.mark.parametrize(("days", "told"), [(3, "in 2d23h"), (20, ""), (None, ""), (-1, "")])
def test_a_certificate_that_ends_soon_is_told_of(
    tmp_path: Path, installation: Installation, fake: FakeCore, days: int | None, told: str
) -> None:
    bundle = installation.bundle(fake.endpoint)
    if days is not None:
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        bundle = dataclasses.replace(bundle, expires=end.isoformat())
    path = tmp_path / "own.toml"
    bundle.write_new(path)
    swm = Swm({**environment(tmp_path), "SWM_CLIENT": str(path)}, tmp_path)
    result = swm("sites")
    assert result.code == 0
    lines = [line for line in result.err.splitlines() if "certificate" in line]
    if told:
        (line,) = lines
        assert line == (
            f"swm: your certificate ends {told}; ask the administrator for a new bundle "
            "(`swm user renew ann`)"
        )
    else:
        assert not lines


@pytest.fixture
def fake(installation: Installation, tmp_path: Path) -> Iterator[FakeCore]:
    core = FakeCore(installation.core(), tmp_path / "jobs")
    core.start()
    yield core
    core.stop()
