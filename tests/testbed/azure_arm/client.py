"""The stand-in as tests see it: a process of its own, and what they tell it.

with AzureArm(tmp_path) as arm:
    arm.faults.add(faults.failed_operation("AllocationFailed"))
    ...
    arm.books().require_nothing_left()
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tests.testbed.azure_arm.books import Billed, Books, Booted
from tests.testbed.azure_arm.faults import Fault, GuestFault
from tests.testbed.azure_arm.server import Asked, Logged

__all__ = ["AzureArm", "Ready"]

_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Ready:
    """Where the stand-in is, and who may use it.

    Attributes:
        resource_manager: The URL of ARM.
        authority: The URL of the token endpoint.
        prices: The URL of the retail prices.
        egress: The URL that says where one's connections come from.
        ca_file: The certificate to trust.
        principal: The file with key and certificate of the service principal.
        tenant: Its tenant.
        app: Its application.
        subscription: The subscription.
        control: Where tests tell it something.
        secret: What they have to know for it.
        pid: Of the process.
    """

    resource_manager: str
    authority: str
    prices: str
    egress: str
    ca_file: str
    principal: str
    tenant: str
    app: str
    subscription: str
    control: str
    secret: str
    pid: int


class _Wire:
    def __init__(self, ready: Ready) -> None:
        self._ready = ready

    def tell(self, command: str, **what: Any) -> Any:
        request = urllib.request.Request(  # noqa: S310
            f"{self._ready.control}/{command}",
            data=json.dumps(what).encode(),
            headers={
                "Authorization": f"Bearer {self._ready.secret}",
                "Content-Type": "application/json",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{command}: {error.read().decode()}") from None


class _Faults:
    """What shall go wrong."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def add(self, fault: Fault | GuestFault) -> int:
        """Have it happen; the number by which it is asked after and removed."""
        command = "fault" if isinstance(fault, Fault) else "guest_fault"
        return int(self._wire.tell(command, **asdict(fault)))

    def remove(self, number: int) -> None:
        """Have it happen no more."""
        self._wire.tell("remove_fault", number=number)

    def clear(self) -> None:
        """Have nothing happen any more."""
        self._wire.tell("clear_faults")

    def hits(self, number: int) -> int:
        """How often it has happened."""
        return int(self._wire.tell("hits", number=number))


class _Clock:
    """The time of the stand-in's cloud: of cost, schedules, lag of lists, reserved interfaces."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def advance(self, seconds: float) -> float:
        """Move it on; what it is then."""
        return float(self._wire.tell("advance", seconds=seconds))

    def now(self) -> float:
        """Seconds since 1970."""
        return self.advance(0)


class AzureArm:
    """A stand-in that runs while this is entered.

    Args:
        root: A folder for its files.
        backend: What VMs are made of.
        settings: As of `cloud.Settings`.
    """

    def __init__(
        self,
        root: Path,
        *,
        backend: Literal["timer", "containers"] = "timer",
        **settings: Any,
    ) -> None:
        self.root = root
        self._words = ["--root", str(root), "--backend", backend]
        self._words += ["--settings", json.dumps(settings)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "stand-in.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.testbed.azure_arm", *self._words, "--while-stdin"],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._end()
            raise AssertionError(f"the stand-in does not start: {self.log_text()}")
        self.ready = Ready(**json.loads(line))
        self._wire = _Wire(self.ready)
        self.faults = _Faults(self._wire)
        self.clock = _Clock(self._wire)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def log_text(self) -> str:
        """What the process says."""
        return (self.root / "stand-in.log").read_text(errors="replace")

    def books(self) -> Books:
        """What has cost what, and what is there."""
        found = self._wire.tell("books")
        return Books(
            tuple(Billed(**it) for it in found["entries"]),
            tuple(found["resources"]),
            tuple(found["processes"]),
        )

    def boots(self) -> list[Booted]:
        """Each boot of a VM that has come to its end, in the order of their ends."""
        return [Booted(**it) for it in self._wire.tell("boots")]

    def calls(self, since: int = 0) -> list[Logged]:
        """What was called, in order; without the first `since`."""
        return [Logged(**it) for it in self._wire.tell("log", since=since)]

    def asked(self) -> list[Asked]:
        """What the latest calls with a body have brought, in order; those for a token too."""
        return [Asked(**it) for it in self._wire.tell("asked")]

    def tokens(self) -> list[str]:
        """All that were given."""
        return [str(it) for it in self._wire.tell("tokens")]

    def evict(self, vm: str) -> None:
        """Take a VM away, as if others needed its place. By its id, or as "group/name"."""
        self._wire.tell("evict", vm=vm)

    def remove_group(self, name: str) -> None:
        """Have somebody remove a group, with all that is in it."""
        self._wire.tell("remove_group", name=name)

    def set(self, **settings: Any) -> None:
        """Change how it behaves: what `cloud.Settings` has."""
        self._wire.tell("settings", **settings)

    def move_egress(self) -> str:
        """Have connections to VMs come from another address, as of a laptop on the move."""
        return str(self._wire.tell("egress", move=True))

    def egress(self) -> str:
        """Where connections to VMs come from."""
        return str(self._wire.tell("egress", ask=True))

    def say_egress(self, text: str | None) -> None:
        """Have the egress URL say this; None is the truth."""
        self._wire.tell("egress", say=text)

    def run(self, vm: str, line: str) -> tuple[int, str]:
        """What a line of sh ends with and says on a VM, as root."""
        code, said = self._wire.tell("run", vm=vm, line=line)
        return int(code), str(said)

    def load_image(self, vm: str, archive: Path) -> None:
        """Load a `docker save` into the engine of a VM."""
        self._wire.tell("load_image", vm=vm, archive=str(archive))

    def add_image(self, image_id: str) -> None:
        """Have an own image by its id."""
        self._wire.tell("image", id=image_id)

    def register(self, certificate: str) -> None:
        """Let who has the key of a certificate (PEM) be the service principal too."""
        self._wire.tell("principal", certificate=certificate)

    def forget_certificates(self) -> None:
        """Let nobody get a token any more."""
        self._wire.tell("principal")

    def revoke_tokens(self) -> None:
        """Have no token be good any more."""
        self._wire.tell("revoke")

    def set_permissions(self, actions: Sequence[str], not_actions: Sequence[str] = ()) -> None:
        """What the principal may do, as roles say it."""
        one = {"actions": list(actions), "notActions": list(not_actions)}
        self._wire.tell("permissions", permissions=[one])

    def set_provider(self, name: str, state: str) -> None:
        """Whether a provider is "Registered" or "NotRegistered"."""
        self._wire.tell("provider", name=name, state=state)

    def set_subscription(self, state: str) -> None:
        """Whether the subscription is "Enabled" or "Disabled"."""
        self._wire.tell("subscription", state=state)

    def reset(self) -> None:
        """Remove all there is, books too, so that a next test finds it empty."""
        self._wire.tell("reset")
