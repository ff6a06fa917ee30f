from __future__ import annotations

import asyncio
import getpass
import os
import re
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rpc_kit import config_file, private_files, tls
from rpc_kit.bundle import Bundle
from rpc_kit.config_file import ConfigError
from rpc_kit.endpoint import Endpoint
from rpc_kit.identity import Kind, of_certificate
from rpc_kit.server import RpcServer
from swm_core import config
from swm_core.config import Config
from swm_core.home import Home, HomeError, initialise, load_ca, lock
from swm_core.security.gates import certify_gate, issue_gate


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "swm")


def files_of(home: Home) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}


def test_it_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert Home.find({}).path == tmp_path / ".swm"
    assert Home.find({"SWM_HOME": ""}).path == tmp_path / ".swm"
    assert Home.find({"SWM_HOME": "~/x"}).path == tmp_path / "x"
    assert Home.find({"SWM_HOME": "here"}).path == tmp_path / "here"


def test_the_first_run_makes_all_and_only_the_owner_can_read_it(home: Home) -> None:
    made = initialise(home, "ann")
    assert (
        set(made.created)
        == set(files_of(home))
        == {
            home.ca_key,
            home.ca_cert,
            home.core_key,
            home.core_cert,
            home.config,
            home.bundle,
        }
    )
    for path in (home.path, *home.path.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert re.fullmatch(r"[a-z0-9]{12}", made.installation)
    bundle = Bundle.read(home.bundle)
    assert (bundle.user, bundle.installation) == (made.user, made.installation)
    assert Endpoint.parse(bundle.endpoint) == config.load(home.config).listen == made.listen
    who = of_certificate(bundle.key_pair.cert_pem)
    assert (who.kind, who.name, who.installation) == (Kind.USER, "ann", made.installation)


async def test_what_the_first_run_made_connects_a_terminal_with_the_core(home: Home) -> None:
    made = initialise(home)
    server = RpcServer("skyport.test")
    await server.start(made.listen, home.core_keys())
    bundle = Bundle.read(home.bundle)
    async with grpc.aio.secure_channel(
        Endpoint.parse(bundle.endpoint).target,
        tls.channel_credentials(bundle.key_pair),
        options=tls.channel_options(bundle.server_name),
    ) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    await server.stop(0)


def test_a_second_run_changes_nothing(home: Home) -> None:
    first = initialise(home, "ann")
    before = files_of(home)
    again = initialise(home, "bob")
    assert again.created == ()
    assert (again.user, again.installation) == ("ann", first.installation)
    assert files_of(home) == before


@pytest.mark.parametrize("survived", range(6))
def test_a_run_that_was_cut_is_completed_by_the_next(
    home: Home, survived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_new = private_files.write_new
    written: list[Path] = []

    def cut(path: Path, data: bytes) -> bool:
        if len(written) == survived:
            raise KeyboardInterrupt
        written.append(path)
        return write_new(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(private_files, "write_new", cut)
        with pytest.raises(KeyboardInterrupt):
            initialise(home, "ann")
    before = files_of(home)
    assert len(before) == survived

    made = initialise(home, "ann")
    after = files_of(home)
    assert len(after) == 6
    assert before.items() <= after.items()
    assert set(made.created) == after.keys() - before.keys()
    # All belongs together: the core's key to its certificate, and both to the CA of the bundle.
    core = of_certificate(home.core_keys().cert_pem)
    bundle = Bundle.read(home.bundle)
    assert core.installation == bundle.installation == made.installation
    assert bundle.ca_pem.encode() == home.core_keys().ca_pem
    tls.server_credentials(home.core_keys())
    check_pair(home.core_cert, home.core_key)


def check_pair(cert: Path, key: Path) -> None:
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)


def test_a_configuration_that_is_there_is_used_and_kept(home: Home) -> None:
    private_files.make_folder(home.path)
    home.config.write_text('listen = "0.0.0.0:7999"\nallow_remote = true\n')
    made = initialise(home)
    assert home.config.read_text().startswith('listen = "0.0.0.0:7999"')
    assert home.config not in made.created
    assert Bundle.read(home.bundle).endpoint == "127.0.0.1:7999"


def test_a_configuration_with_mistakes_stops_the_first_run(home: Home) -> None:
    private_files.make_folder(home.path)
    home.config.write_text("listen = 3\n")
    with pytest.raises(ConfigError, match=r"swm\.toml:1: listen"):
        initialise(home)
    assert not home.bundle.exists()


def test_the_template_says_what_the_defaults_are(home: Home) -> None:
    made = initialise(home)
    text = home.config.read_text()
    plain = config.load(home.config)
    assert plain == Config(made.listen)
    settings, sites = text.split("# Where jobs run")
    everything = re.sub(r"^# (?=\w+ = )", "", settings, flags=re.MULTILINE)
    assert everything.count(" = ") > settings.count("\nlisten = ")
    assert config_file.parse(everything, Config, "swm.toml") == plain
    # Each setting is there to be found, the sites as an example.
    tables = ("spool", "log", "limits", "certificates", "deadlines", "metrics", "reconciliation")
    for table in tables:
        for name in type(getattr(plain, table)).__dataclass_fields__:
            assert re.search(rf"^# {name} = ", settings, flags=re.MULTILINE), name
    example = sites.replace("# [sites", "[sites").replace("# command", "command")
    read = config_file.parse(f'listen = "127.0.0.1:1"\n# {example}', Config, "swm.toml")
    assert read.sites["here"].command == ("swm-ssh-gate", "--local")


def test_a_port_that_is_taken_is_not_chosen(home: Home) -> None:
    with socket.socket() as busy:
        busy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            busy.bind(("127.0.0.1", 7717))
            busy.listen()
        except OSError:
            pass  # somebody else has it: as good
        assert initialise(home).listen.port not in (0, 7717)


@pytest.mark.parametrize(
    ("login", "user"),
    [
        ("ann", "ann"),
        ("Ann Lee", "ann-lee"),
        ("DOMÄN\\ann", "dom-n-ann"),
        ("", "admin"),
        ("..", "admin"),
    ],
)
def test_the_first_user_is_named_after_the_login(
    home: Home, monkeypatch: pytest.MonkeyPatch, login: str, user: str
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: login)
    assert initialise(home).user == user


def test_a_bad_user_name_is_refused(home: Home) -> None:
    with pytest.raises(HomeError, match="can't be the name of a user"):
        initialise(home, "../root")


def test_a_folder_with_other_files_is_not_taken_over(home: Home) -> None:
    home.path.mkdir(mode=0o755)
    (home.path / "thesis.tex").write_text("")
    with pytest.raises(HomeError, match="holds other files"):
        initialise(home)
    assert home.path.stat().st_mode & 0o777 == 0o755
    assert len(list(home.path.iterdir())) == 1


def test_an_empty_folder_is_closed_and_used(home: Home) -> None:
    home.path.mkdir(mode=0o755)
    initialise(home)
    assert home.path.stat().st_mode & 0o777 == 0o700


def test_a_home_that_was_opened_to_others_is_refused(home: Home) -> None:
    initialise(home)
    home.path.chmod(0o750)
    with pytest.raises(HomeError, match=re.escape(f"{home.path} is open to other users")):
        initialise(home)


def test_a_file_in_the_way_is_told(home: Home) -> None:
    home.path.write_text("")
    with pytest.raises(HomeError, match=re.escape(str(home.path))):
        initialise(home)


def test_a_lost_ca_key_is_told_and_never_made_anew(home: Home) -> None:
    initialise(home)
    home.ca_key.unlink()
    assert initialise(home).created == ()  # nothing has to be signed
    home.bundle.unlink()
    with pytest.raises(HomeError, match=r"ca\.key: No such file"):
        initialise(home)
    assert not home.ca_key.exists()
    with pytest.raises(HomeError, match="restore it"):
        load_ca(home)


def test_a_core_without_certificates_is_told_what_to_do(home: Home) -> None:
    with pytest.raises(HomeError, match="run `swm init`"):
        home.core_keys()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["renew-ca"], 1, "swm-core: there is no core at {home}; make one with `swm init`"),
        (["gate-certificate", "lab"], 1, "swm-core: there is no core at {home}; "),
        (["frob"], 2, "swm-core: no such command 'frob'; see `swm-core --help`"),
        (["restore"], 2, "swm-core restore: missing argument 'FILE'; see `swm-core restore --help"),
    ],
)
def test_what_swm_core_can_not_do_is_one_line(
    tmp_path: Path, words: list[str], code: int, says: str
) -> None:
    path = tmp_path / "none"
    done = subprocess.run(
        [sys.executable, "-m", "swm_core", *words],
        env={**os.environ, "SWM_HOME": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert done.stderr.startswith(says.format(home=path))
    assert not path.exists()


def test_the_socket_of_a_gate_lies_in_the_home(home: Home) -> None:
    short = Home(Path("/tmp") / f"swm-test-{os.getpid()}")
    try:
        assert short.gate_socket("lab") == short.run / "gates" / "lab.sock"
        assert (short.run / "gates").stat().st_mode & 0o777 == 0o700
    finally:
        subprocess.run(["rm", "-r", short.path], check=True)


def test_a_home_too_deep_for_sockets_gets_a_private_folder_elsewhere(tmp_path: Path) -> None:
    runtime = private_files.make_folder(tmp_path.parent / "r")
    environ = {"XDG_RUNTIME_DIR": str(runtime)}
    deep = Home(tmp_path / ("x" * 100))
    path = deep.gate_socket("lab", environ)
    assert path.parent.parent == runtime
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path == deep.gate_socket("lab", environ)
    assert path.parent != Home(tmp_path / ("y" * 100)).gate_socket("lab", environ).parent
    # Somebody who is quicker than us and makes it his own does not get our gates.
    path.parent.chmod(0o777)
    with pytest.raises(HomeError, match="open to other users"):
        deep.gate_socket("lab", environ)


HOLDER = """
import sys
from pathlib import Path
from swm_core.home import Home, lock
with lock(Home(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


async def test_two_cores_never_share_a_home(home: Home) -> None:
    initialise(home)
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDER, str(home.path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    async with asyncio.timeout(20):
        assert await holder.stdout.readline() == b"held\n"
        assert int(home.pid_file.read_text()) == holder.pid
        with pytest.raises(HomeError, match=rf"is in use .*\(process {holder.pid}\)"), lock(home):
            pass
        assert int(home.pid_file.read_text()) == holder.pid
        holder.kill()
        await holder.wait()
    # What a killed core left does not keep the next one off, nor does it stay.
    drafts = [home.run / ".core.pid.0a1b2c3d", home.database.parent / ".lineage.json.0a1b2c3d"]
    for draft in drafts:
        draft.write_bytes(b"")
    with lock(home):
        assert int(home.pid_file.read_text()) == os.getpid()
        assert not any(draft.exists() for draft in drafts)
    assert not home.pid_file.exists()


def test_a_gate_on_tcp_gets_a_certificate_that_serves_only_as_that_gate(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    first = initialise(home)
    cert, key = issue_gate(home, "lab")
    loaded = x509.load_pem_x509_certificate(cert.read_bytes())
    names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [f"gate-lab.{first.installation}.swm"]
    assert (cert.stat().st_mode | key.stat().st_mode) & 0o077 == 0
    before = cert.read_bytes(), key.read_bytes()
    assert issue_gate(home, "lab") == (cert, key)
    assert (cert.read_bytes(), key.read_bytes()) == before


def test_a_gate_s_name_must_be_one(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    initialise(home)
    with pytest.raises(HomeError, match="can't be a gate's name"):
        issue_gate(home, "../core")


def test_a_gate_whose_key_is_elsewhere_brings_a_request(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    initialise(home)
    key, request = tmp_path / "gate.key", tmp_path / "gate.csr"
    # As docs/users.md says it.
    made = ("ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", str(key))
    subprocess.run(["openssl", *made], check=True, capture_output=True)
    asked = ("req", "-new", "-key", str(key), "-subj", "/CN=gate", "-out", str(request))
    subprocess.run(["openssl", *asked], check=True, capture_output=True)
    cert = certify_gate(home, "lab", request.read_bytes())
    check_pair(cert, key)
    assert of_certificate(cert.read_bytes()).uri.endswith(".swm/gate/lab")
    assert not home.gate_key("lab").exists()
    before = cert.read_bytes()
    with pytest.raises(HomeError, match="move it away"):
        certify_gate(home, "lab", request.read_bytes())
    with pytest.raises(HomeError, match="for a key that is not"):
        issue_gate(home, "lab")
    assert cert.read_bytes() == before
    with pytest.raises(HomeError, match="no certificate signing request"):
        certify_gate(home, "other", b"nonsense")
