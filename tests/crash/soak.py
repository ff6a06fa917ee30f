"""The soak: many jobs at once while core and gates are killed at random; nothing may come of it.

    python -m tests.crash.soak --kills 2000 --seed 7

Its last line is `kills n, jobs n, lost n, doubled n, leaked n`. If one of the last three is not 0,
the exit code is 1, each is told with what shows it, and the folder with everything is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rpc_kit.bundle import Bundle
from terminals.client import Client
from tests.crash import ending
from tests.crash.checks import Verdict, verdict
from tests.crash.stories import Notes, Person
from tests.crash.world import SITES, World, running_world

IN_FLIGHT = 50
SETTLE_S = 400.0
"""How long what is under way may take once nothing is killed any more."""
_USERS = ("bo", "cy")

# What a kill befalls: core, one gate, both, all gates, everything.
_TARGETS: dict[Callable[[random.Random], tuple[str, ...]], int] = {
    lambda _: ("core",): 4,
    lambda chance: (chance.choice(SITES),): 5,
    lambda chance: ("core", chance.choice(SITES)): 2,
    lambda _: SITES: 1,
    lambda _: ("core", *SITES): 1,
}

Say = Callable[[str], None]


def soak(
    world: World,
    kills: int,
    seed: int,
    say: Say = lambda _: None,
    *,
    within_s: float = math.inf,
) -> Verdict:
    """Kill and work, let everything come to its end, and look at what is there.

    Args:
        world: It runs; it has no jobs yet.
        kills: How often to kill.
        seed: Of all that is left to chance.
        say: Told how far it is.
        within_s: Seconds after which no more is killed, however often it was until then.
    """
    notes = Notes()
    clients = {name: _client(world, name) for name in _USERS}
    stopping = threading.Event()
    people = []
    for number in range(IN_FLIGHT):
        user = _USERS[number % len(_USERS)]
        chance = random.Random(f"{seed} {number}")  # noqa: S311  no secret
        people.append(Person(world, clients[user], user, chance, notes))
    threads = [
        threading.Thread(target=person.run, args=(stopping,), daemon=True) for person in people
    ]
    for thread in threads:
        thread.start()
    try:
        _kill(world, kills, random.Random(f"{seed} kills"), say, within_s)  # noqa: S311
    finally:
        stopping.set()
    world.start()
    until = time.monotonic() + SETTLE_S
    for person, thread in zip(people, threads, strict=True):
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            notes.problem(f"job {person.job_id}: whoever has it waits after {SETTLE_S:.0f} s still")
    for client in clients.values():
        client.close()
    say(", ".join(f"{what} {times}" for what, times in sorted(notes.done.items())))
    found = verdict(world)
    found.lost += notes.problems
    return found


def _client(world: World, user: str) -> Client:
    keys = world.core.keys(user)
    pems = (keys.ca_pem, keys.cert_pem, keys.key_pem)
    client = Client(
        Bundle(
            str(world.core.endpoint), world.core.installation, user, *(pem.decode() for pem in pems)
        )
    )
    client.has_answered = True  # it is known to be the right one: it is waited for
    world.core.user(user)  # so that checks find a connection that stands
    return client


def _kill(world: World, kills: int, chance: random.Random, say: Say, within_s: float) -> None:
    """Kill, and start again what was killed, perhaps before it all runs as before."""
    until = time.monotonic() + within_s
    for number in range(1, kills + 1):
        if time.monotonic() > until:
            return
        # Now and then long enough for jobs to get somewhere.
        time.sleep(chance.uniform(0, 0.6) if chance.random() < 0.85 else chance.uniform(1, 3))
        (target,) = chance.choices(list(_TARGETS), list(_TARGETS.values()))
        parts = target(chance)
        world.kill(*parts)
        time.sleep(chance.choice((0, 0, chance.uniform(0, 1))))
        for part in parts:
            if part != "core":
                world.start_gate(part)
        if "core" in parts:
            world.start_core()
        if number % 10 == 0 or number == kills:
            say(f"kills {number} of {kills}, jobs {len(world.jobs)}")


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which no more")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak"))
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)  # noqa: T201

    ending.heed()
    world = contextlib.ExitStack()
    try:
        with ending.held():
            running = world.enter_context(running_world(folder))
        within_s = arguments.minutes * 60
        found = soak(running, arguments.kills, arguments.seed, say, within_s=within_s)
    except SystemExit:
        with ending.held():
            world.close()
            shutil.rmtree(folder)
        raise
    finally:
        with ending.held():
            world.close()
    if found.is_clean:
        shutil.rmtree(folder)
    else:
        print(f"everything is in {folder}; the seed was {arguments.seed}")  # noqa: T201
    print(found)  # noqa: T201
    return 0 if found.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
