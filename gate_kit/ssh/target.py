"""Which account on which host, and how ssh itself is configured to get there."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path


@dataclasses.dataclass(frozen=True, slots=True)
class SshTarget:
    """An account on a host, as `ssh` takes it: what is left out comes from its configuration."""

    host: str
    """A name of the configuration, a host name, or an address."""
    user: str = ""
    """Empty: as configured, else the gate's own account name."""
    port: int = 0
    """0: as configured, else 22."""
    config: Path | None = Path("~/.ssh/config")
    """Honoured: HostName, Port, User, IdentityFile, ProxyJump, UserKnownHostsFile and what else
    asyncssh knows. A file that is not there counts as empty; None: none is read."""
    known_hosts: Path | None = None
    """Host keys that are trusted; None: as configured, else ~/.ssh/known_hosts."""
    identities: tuple[Path, ...] = ()
    """Private keys; none: as configured, else the agent's and the usual files."""
    use_agent: bool = True
    """Whether keys of the ssh agent are offered."""
    via: SshTarget | None = None
    """The account on another host that the way leads through, whatever the configuration says."""

    @property
    def config_file(self) -> Path | None:
        """The configuration, if it is there."""
        if self.config is None:
            return None
        path = self.config.expanduser()
        return path if path.is_file() else None

    def command(self, *remote: str) -> str:
        """The line that a person types to get there, with `remote` to run there."""
        words = ["ssh"]
        if self.config is not None and self.config != Path("~/.ssh/config"):
            words += ["-F", str(self.config)]
        if self.known_hosts is not None:
            words += ["-o", f"UserKnownHostsFile={self.known_hosts}"]
        for identity in self.identities:
            words += ["-i", str(identity)]
        if self.port:
            words += ["-p", str(self.port)]
        words.append(f"{self.user}@{self.host}" if self.user else self.host)
        return shlex.join([*words, *remote])

    def __str__(self) -> str:
        named = f"{self.user}@{self.host}" if self.user else self.host
        return f"{named}:{self.port}" if self.port else named
