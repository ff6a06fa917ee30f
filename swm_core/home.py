"""SWM_HOME: where the core keeps everything, and its first run."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import hashlib
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rpc_kit import private_files
from rpc_kit.bundle import Bundle, BundleError
from rpc_kit.endpoint import Endpoint
from rpc_kit.identity import Kind
from rpc_kit.tls import KeyFiles, KeyPair
from swm_core import config
from swm_core.security.names import is_user_name, new_installation

if TYPE_CHECKING:
    from swm_core.security.ca import CertificateAuthority

DEFAULT_PORT = 7717

_SOCKET_PATH_BYTES = 100  # the kernel takes 107; a few for what a gate may append


class HomeError(Exception):
    """SWM_HOME can't be used; the message is one line that says why and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Home:
    """The folders and files under SWM_HOME."""

    path: Path

    @classmethod
    def find(cls, environ: Mapping[str, str] = os.environ) -> Home:
        """The one that $SWM_HOME names, otherwise ~/.swm."""
        named = environ.get("SWM_HOME")
        return cls(Path(named).expanduser().absolute() if named else Path.home() / ".swm")

    @property
    def config(self) -> Path:
        return self.path / "swm.toml"

    @property
    def bundle(self) -> Path:
        """What the first user's terminals read."""
        return self.path / "client.toml"

    @property
    def pki(self) -> Path:
        return self.path / "pki"

    @property
    def ca_cert(self) -> Path:
        return self.pki / "ca.crt"

    @property
    def ca_key(self) -> Path:
        return self.pki / "ca.key"

    @property
    def core_cert(self) -> Path:
        return self.pki / "core.crt"

    @property
    def core_key(self) -> Path:
        return self.pki / "core.key"

    def gate_cert(self, gate: str) -> Path:
        return self.pki / "gates" / f"{gate}.crt"

    def gate_key(self, gate: str) -> Path:
        return self.pki / "gates" / f"{gate}.key"

    @property
    def database(self) -> Path:
        return self.path / "store" / "swm.db"

    @property
    def spool(self) -> Path:
        return self.path / "spool"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def pid_file(self) -> Path:
        """The process id of the core that runs, as text."""
        return self.run / "core.pid"

    @property
    def lock_file(self) -> Path:
        return self.run / "swm.lock"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def core_log(self) -> Path:
        return self.log / "core.log"

    def gate_log(self, gate: str) -> Path:
        return self.log / f"gate-{gate}.log"

    @property
    def folders(self) -> tuple[Path, ...]:
        """All of them, each after the one that it is in."""
        return (
            self.path,
            self.pki,
            self.pki / "gates",
            self.database.parent,
            self.spool,
            self.run,
            self.run / "gates",
            self.log,
        )

    def gate_socket(self, gate: str, environ: Mapping[str, str] = os.environ) -> Path:
        """Where a gate that the core starts listens; its folder is made, 0700.

        Normally under `run/`. Where that path is too long for a socket, in a folder named after
        this home under $XDG_RUNTIME_DIR or /tmp.

        Raises:
            HomeError: That folder is somebody else's.
        """
        path = self.run / "gates" / f"{gate}.sock"
        if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
            name = hashlib.sha256(os.fsencode(self.path.resolve())).hexdigest()[:12]
            runtime = environ.get("XDG_RUNTIME_DIR") or "/tmp"  # noqa: S108 - checked below  # nosec B108
            path = Path(runtime, f"swm-{os.geteuid()}-{name}", f"{gate}.sock")
        with as_home_error():
            private_files.make_folder(path.parent)
        return path

    def core_keys(self) -> KeyPair:
        """The core's certificate and key, as they are now.

        Raises:
            HomeError: There are none yet.
        """
        return self.core_files().pair

    def core_files(self) -> KeyFiles:
        """The files of the core's certificate and key, which may be renewed.

        Raises:
            HomeError: There are none yet.
        """
        try:
            return KeyFiles(self.ca_cert, self.core_cert, self.core_key)
        except OSError as error:
            raise HomeError(f"{error.filename}: {error.strerror}; run `swm init`") from None


@dataclasses.dataclass(frozen=True, slots=True)
class Initialised:
    """What a home holds after `initialise`, and which files that made."""

    home: Home
    installation: str
    listen: Endpoint
    user: str
    """The first user, an administrator."""
    created: tuple[Path, ...]


def initialise(home: Home, user: str | None = None) -> Initialised:
    """Make what is missing in a home: certificates, configuration, the first user's bundle.

    What exists is never touched, so that a run that was cut is completed by the next one, and a
    further one does nothing.

    Args:
        home: Where; a new or empty folder, or one that was initialised before.
        user: The first user's name; default: that of the operating system's user.

    Raises:
        HomeError: It can't be done, and why.
        ConfigError: There is a swm.toml with mistakes.
    """
    # Signing is for the first run only; the core loads this module at every start.
    from swm_core.security.ca import CaError

    try:
        with as_home_error():
            return _Initialisation(home).run(user or _login_name())
    except CaError as error:
        raise HomeError(f"{home.pki}: {error}") from None


class _Initialisation:
    """The steps of the first run.

    Each file is written whole, and each key before what is signed with it, so that whatever exists
    is complete.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._created: list[Path] = []

    def run(self, user: str) -> Initialised:
        from swm_core.security.ca import installation_of

        home = self._home
        self._make_folders()
        self._make_ca()
        installation = installation_of(home.ca_cert.read_bytes())
        self._make_core_certificate()
        self._write(home.config, lambda: _TEMPLATE.format(port=_free_port()).encode())
        listen = config.load(home.config).listen
        if not home.bundle.exists():
            self._write(home.bundle, lambda: self._bundle(installation, listen, user))
        return Initialised(
            home, installation, listen, Bundle.read(home.bundle).user, tuple(self._created)
        )

    def _make_folders(self) -> None:
        home = self._home
        if home.path.is_dir() and not home.path.is_symlink():
            if not any(home.path.iterdir()):
                home.path.chmod(0o700)
            elif not (home.pki.is_dir() or home.config.exists()):
                raise HomeError(
                    f"{home.path} holds other files; set SWM_HOME to a new or an empty folder"
                )
        for folder in home.folders:
            private_files.make_folder(folder)

    def _make_ca(self) -> None:
        from swm_core.security.ca import CertificateAuthority, new_key

        home = self._home
        if home.ca_cert.exists():
            return
        self._write(home.ca_key, new_key)
        ca = CertificateAuthority.create(new_installation(), home.ca_key.read_bytes())
        self._write(home.ca_cert, lambda: ca.cert_pem)

    def _make_core_certificate(self) -> None:
        from swm_core.security.ca import new_key

        home = self._home
        if home.core_cert.exists():
            return
        self._write(home.core_key, new_key)
        issued = load_ca(home).issue(Kind.CORE, key_pem=home.core_key.read_bytes())
        self._write(home.core_cert, lambda: issued.cert_pem)

    def _bundle(self, installation: str, listen: Endpoint, user: str) -> bytes:
        ca = load_ca(self._home)
        issued = ca.issue(Kind.USER, user)
        # Who listens everywhere is reached here too.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104 - only told  # nosec B104
        bundle = Bundle(
            endpoint=str(Endpoint(host, listen.port)),
            installation=installation,
            user=user,
            ca_pem=ca.cert_pem.decode(),
            cert_pem=issued.cert_pem.decode(),
            key_pem=issued.key_pem.decode(),
            expires=issued.expires_at.isoformat(),
        )
        return bundle.to_toml().encode()

    def _write(self, path: Path, make: Callable[[], bytes]) -> None:
        if not path.exists() and private_files.write_new(path, make()):
            self._created.append(path)


def load_ca(home: Home) -> CertificateAuthority:
    """The CA of a home, to sign with.

    Raises:
        HomeError: Its certificate or key is not there.
        CaError: They can't be used.
    """
    from swm_core.security.ca import CertificateAuthority

    try:
        return CertificateAuthority(home.ca_cert.read_bytes(), home.ca_key.read_bytes())
    except OSError as error:
        if not home.pki.is_dir():
            raise HomeError(
                f"there is no core at {home.path}; make one with `swm init`, set SWM_HOME to where "
                "it is, or restore it from a backup"
            ) from None
        raise HomeError(f"{error.filename}: {error.strerror}; restore it from a backup") from None


@contextlib.contextmanager
def lock(home: Home) -> Iterator[None]:
    """Keep other cores off a home while the block runs, and tell our process id in it.

    Raises:
        HomeError: Another core runs on it.
    """
    from filelock import FileLock, Timeout

    with as_home_error():
        private_files.make_folder(home.run)
    held = FileLock(home.lock_file, timeout=0, mode=0o600)
    try:
        held.acquire()
    except Timeout:
        pid = home.pid_file.read_text().strip() if home.pid_file.exists() else "unknown"
        raise HomeError(
            f"{home.path} is in use by a core that runs already (process {pid}); "
            "end it with `swm down`, or set SWM_HOME to another folder"
        ) from None
    try:
        # Nobody but the core writes there; in other folders people's commands do.
        for folder in (home.run, home.database.parent):
            if folder.is_dir():
                private_files.remove_drafts(folder)
        private_files.replace(home.pid_file, f"{os.getpid()}\n".encode())
        yield
    finally:
        home.pid_file.unlink(missing_ok=True)
        held.release()


@contextlib.contextmanager
def as_home_error() -> Iterator[None]:
    """Raise what goes wrong with files in the block as a HomeError."""
    try:
        yield
    except BundleError as error:
        raise HomeError(str(error)) from None
    except OSError as error:
        # Ours have no errno and say it all.
        where = f"{error.filename}: {error.strerror}" if error.errno else str(error)
        raise HomeError(where) from None


def _login_name() -> str:
    """The operating system's user, with letters that a certificate can't name replaced."""
    try:
        name = re.sub(r"[^a-z0-9._-]", "-", getpass.getuser().lower())[:32]
    except (OSError, KeyError):  # no such user: a container started under a bare number
        name = ""
    return name if is_user_name(name) else "admin"


def _free_port() -> int:
    """The default port, or any other if that is taken now."""
    for port in (DEFAULT_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise HomeError("no port is free on 127.0.0.1")


_TEMPLATE = """\
# Configuration of the core. What is commented out shows the default.
# After a change: swm-core check-config, then swm down and swm up.

# Where terminals reach the core. Other machines reach a loopback address only through a tunnel.
listen = "127.0.0.1:{port}"
# allow_remote = false         # true: listen may be an address that other machines reach

[spool]
# max_size = "100G"            # sizes: bytes, or a number with K M G T (powers of 1024)
# A job goes so long after its end, with its results and logs.
# job_retention = "30d"        # durations: seconds, MM:SS, HH:MM:SS, or as "1d2h30m"

[log]
# level = "info"               # debug, info, warning, error
# format = "auto"              # auto (text on a terminal, JSON otherwise), text, json

[metrics]
# listen = ""                  # for Prometheus, as "127.0.0.1:9177"; empty: off

[limits]
# log_bytes_per_job = "256M"   # of output mirrored while a job runs; the end is always kept
# active_jobs_per_user = 10000 # that have not ended; 0: no limit
# streams_per_user = 500       # watches, transfers, connections to ports; 0: no limit
# spool_bytes_per_user = 0     # as "20G"; 0: as much as the spool has room for

# What users may spend in a month on nodes that cost money, as "100 EUR".
[budgets]
# per_user = ""                # of each user who is not in [budgets.users]; empty: no limit
# users = {{}}                   # as {{bo = "250 EUR"}}
# default_time = "1d"          # the limit of jobs without one on such nodes; 0: none

# Ports of jobs at this side: addresses, networks or names, each with a port or without.
[ports]
# in_at = ["127.0.0.0/8", "::1"]    # where the core may listen for in ports
# out_to = ["127.0.0.0/8", "::1"]   # whereto the core may connect for out ports

[certificates]
# lifetime = "365d"            # of those that are made from now on

# How long a job may wait in a state before it has failed.
[deadlines]
# provisioning = "30m"
# staging = "6h"
# starting = "10m"
# staging_out = "6h"
# site_lost = "1d"             # a site that can't be reached

# What sites have is compared with what the core knows.
[reconciliation]
# every = "5m"
# grace = "1h"                 # how long what the core does not know is left before it is deleted

# Where jobs run: one table for each site, with the gate that speaks to it. This is this machine:
# [sites.here]
# command = ["swm-ssh-gate", "--local"]    # started and supervised by the core, or
# endpoint = "unix:///run/demo/gate.sock"  # reached where it runs: one of the two
# certificate = ""             # the name in that of a gate on TCP; empty: the site's
# max_partitions = 0           # that the core makes there; 0: as many as the gate allows
# idle_time = 0                # how long one waits for the next job of its owner, as "10m"
# monthly_budget = ""          # of all users together, as "500 EUR"; empty: no limit
"""
