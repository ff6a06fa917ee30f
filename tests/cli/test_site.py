"""`swm site check`: the gate's own look at its site, run as the core would run the gate."""

from __future__ import annotations

import os
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import environment
from tests.cli.terminal import Swm

_GATE = """\
#!/bin/sh
case " $* " in
*" --help "*) echo "usage: gate --config FILE [--check] [--json]"; exit 0 ;;
esac
echo "args: $*"
echo "in: $PWD"
"""

Home = Callable[..., Swm]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home whose site `lab` has the gate with this script."""

    def make(script: str = _GATE, more: str = "") -> Swm:
        folder = tmp_path / "home"
        folder.mkdir()
        gate = folder / "gate.sh"
        gate.write_text(script)
        gate.chmod(0o700)
        (folder / "swm.toml").write_text(
            'listen = "127.0.0.1:7717"\n\n[sites.lab]\n'
            f'command = ["{gate}", "--config", "lab.toml"]\n{more}'
        )
        return Swm(environment(folder), tmp_path)

    return make


def test_the_gate_is_run_with_check_where_the_core_would_run_it(home: Home, tmp_path: Path) -> None:
    swm = home()
    out = swm.ok("site", "check", "lab")
    assert out == f"args: --config lab.toml --check\nin: {tmp_path / 'home'}\n"
    assert "args: --config lab.toml --check --json\n" in swm.ok("site", "check", "lab", "--json")


@pytest.mark.parametrize(("code", "ours"), [(0, 0), (1, 1), (2, 1), (3, 1)])
def test_what_failed_at_the_site_is_exit_code_1(home: Home, code: int, ours: int) -> None:
    result = home(f"{_GATE}\necho bad >&2\nexit {code}\n")("site", "check", "lab")
    assert result.code == ours
    assert result.err == "bad\n"


def test_programs_beside_swm_are_found_as_the_core_finds_them(home: Home) -> None:
    swm = home(more='[sites.demo]\ncommand = ["swm-fake-gate", "--config", "x"]\n')
    result = swm("site", "check", "demo", PATH="/usr/bin:/bin")
    assert result.code == 1
    assert result.err.startswith("swm: the gate of site demo (swm-fake-gate) has no check; ")
    assert result.err.count("\n") == 1


def test_a_gate_without_a_check_is_never_started(home: Home, tmp_path: Path) -> None:
    started = tmp_path / "started"
    swm = home(f'#!/bin/sh\ncase "$*" in *--help*) echo usage ;; *) touch {started} ;; esac\n')
    result = swm("site", "check", "lab")
    assert result.code == 1
    assert "has no check" in result.err
    assert not started.exists()


def test_an_unknown_site_is_told_with_those_there_are(home: Home, tmp_path: Path) -> None:
    result = home(more='[sites.demo]\ncommand = ["x"]\n')("site", "check", "lba")
    assert (result.code, result.out) == (1, "")
    assert result.err == (f'swm: {tmp_path}/home/swm.toml has no site "lba"; it has lab, demo\n')


def test_a_gate_that_somebody_else_runs_is_told_as_such(home: Home) -> None:
    swm = home(more='[sites.far]\nendpoint = "gate.example.org:7000"\n')
    result = swm("site", "check", "far")
    assert result.code == 1
    assert "is run by somebody else, at gate.example.org:7000" in result.err
    assert "--check" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[sites]\nlab = 3\n", "has no gate; add command"),
        ("[sites.lab]\ncommand = []\n", "has no gate; add command"),
        ('[sites.lab]\ncommand = ["/not/there"]\n', "can't be run: /not/there: No such file"),
        ("sites = [", "is not TOML"),
        ("", 'has no site "lab"; it has none'),
    ],
)
def test_what_cannot_work_is_one_line(home: Home, tmp_path: Path, toml: str, says: str) -> None:
    swm = home()
    (tmp_path / "home/swm.toml").write_text(toml)
    result = swm("site", "check", "lab")
    assert (result.code, result.out) == (1, "")
    assert says in result.err
    assert result.err.count("\n") == 1


def test_no_home_says_what_to_do(tmp_path: Path) -> None:
    result = Swm(environment(tmp_path / "none"), tmp_path)("site", "check", "lab")
    assert result.code == 1
    assert "run `swm init`" in result.err


@pytest.mark.parametrize("words", [("site", "check", "lab"), ("gate", "add", "azure")])
def test_in_a_home_of_a_user_the_core_is_said_to_be_elsewhere(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/client.toml").touch()
    result = Swm(environment(tmp_path / "home"), tmp_path)(*words)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "has no core, only the bundle of one elsewhere" in result.err
    assert "init" not in result.err


def test_a_gate_that_can_not_tell_its_help_is_told_with_its_last_words(home: Home) -> None:
    result = home("#!/bin/sh\necho 'no module named asyncssh' >&2\nexit 1\n")(
        "site", "check", "lab"
    )
    assert result.code == 1
    assert "no module named asyncssh" in result.err
    assert result.err.count("\n") == 1


def test_output_comes_while_the_check_goes_on_and_ctrl_c_ends_it(
    home: Home, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    swm = home(f"{_GATE}\necho $$ >{pid_file}\necho one host\nexec sleep 600\n")
    with swm.on_terminal("site", "check", "lab") as terminal:
        terminal.read_until("one host")
        terminal.type("\x03")
        assert terminal.finish() == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_a_check_that_ignores_ctrl_c_is_ended_all_the_same(home: Home, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    swm = home(f"{_GATE}\ntrap '' INT\necho $$ >{pid_file}\necho on\nexec sleep 600\n")
    with swm.on_terminal("site", "check", "lab") as terminal:
        terminal.read_until("on\n")
        os.kill(terminal.process.pid, signal.SIGINT)
        assert terminal.finish() == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_a_setting_made_while_a_gate_is_set_up_is_not_lost(home: Home, tmp_path: Path) -> None:
    swm = home()
    config = tmp_path / "home" / "swm.toml"
    gate = tmp_path / "swm-toy-gate"
    gate.write_text(
        '#!/bin/sh\ncase " $* " in *" --help "*) echo set-up; exit 0 ;; esac\n'
        f"printf '\\n[sites.other]\\ncommand = [\"other\"]\\n' >>{config}\n"
    )
    gate.chmod(0o700)
    swm.ok("gate", "add", "toy", PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert list(tomllib.loads(config.read_text())["sites"]) == ["lab", "other", "toy"]
