"""A look at the whole site: is every host such that jobs can run there, and what mends it if not.

All hosts are looked at in parallel, the accounts of one host one after another, since sshd slows
down who opens many connections at once. Each has a deadline, so a host that hangs holds up nobody.
"""

from __future__ import annotations

import dataclasses
import queue
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gate_kit.command_line import CheckOptions
from gate_kit.ssh.host import TOOLS
from gate_kit.verdicts import State, Verdict
from gates.ssh_cluster_gate import check_rules, plan
from gates.ssh_cluster_gate import config as configuration
from gates.ssh_cluster_gate.check_rules import Found, Promised
from gates.ssh_cluster_gate.config import Config
from gates.ssh_cluster_gate.plan import NodePlan, SitePlan

if TYPE_CHECKING:
    from gate_kit.ssh.target import SshTarget
    from gates.ssh_cluster_gate import check_contact
    from gates.ssh_cluster_gate.check_contact import Answer
    from gates.ssh_cluster_gate.check_report import Seen

_PROBE = Path(__file__).with_name("check_probe.sh")
_AT_ONCE = 64
"""Hosts."""
_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def run(options: CheckOptions) -> int:
    """Look at the site, print what was found, and return the exit code: 1 if something failed.

    A Ctrl-C ends it; what was found until then is printed all the same.

    Raises:
        rpc_kit.config_file.ConfigError: The configuration can't be used.
    """
    site = plan.make(configuration.load(options.config))
    # Who compares hosts has to wait for all of them.
    is_compared = site.config.shared_filesystem
    all_seen: list[Seen] = []
    is_whole = True
    try:
        for seen in _look_at_all(site):
            all_seen.append(seen)
            if options.as_json and not is_compared:
                _print([seen])
    except KeyboardInterrupt:
        is_whole = False
    order = {name: number for number, name in enumerate(site.nodes)}
    all_seen.sort(key=lambda seen: order[seen.host])
    if is_compared:
        all_seen = _compared(all_seen)
    if options.as_json and is_compared:
        _print(all_seen)
    elif not options.as_json and all_seen:
        from gates.ssh_cluster_gate import check_report

        check_report.show(all_seen)
    if not is_whole:
        return _INTERRUPTED
    return 1 if any(seen.failed for seen in all_seen) else 0


def _compared(all_seen: list[Seen]) -> list[Seen]:
    """Told of hosts that are said to have one file system: whether an account's root is one."""
    compared = []
    for seen in all_seen:
        alike = {
            each.host: each.root_uid
            for each in all_seen
            if (each.partition, each.account) == (seen.partition, seen.account)
            and each.root_uid is not None
        }
        verdicts = seen.verdicts
        if seen.host in alike and (why := check_rules.same_place(alike)):
            mend = "shared_filesystem = false"
            verdicts = [
                Verdict("work_root", State.FAILED, "", why, mend)
                if each.check == "work_root" and each.state is not State.FAILED
                else each
                for each in verdicts
            ]
        compared.append(dataclasses.replace(seen, verdicts=verdicts))
    return compared


def _print(all_seen: Iterable[Seen]) -> None:
    # What draws and what logs in is imported late: a gate that serves needs neither.
    from gates.ssh_cluster_gate import check_report

    for seen in all_seen:
        for line in check_report.json_lines(seen):
            sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _look_at_all(site: SitePlan) -> Iterator[Seen]:
    """What was found, as hosts answer.

    The threads are daemons: what hangs on a host does not hold up the end of a check that was
    interrupted.
    """
    nodes: queue.SimpleQueue[NodePlan] = queue.SimpleQueue()
    done: queue.SimpleQueue[list[Seen] | BaseException] = queue.SimpleQueue()
    for node in site.nodes.values():
        nodes.put(node)

    def work() -> None:
        try:
            while True:  # ends when there are no more
                done.put(_look_at(site, nodes.get_nowait()))
        except queue.Empty:
            pass
        except BaseException as error:  # noqa: BLE001 - raised below
            done.put(error)

    for _ in range(min(_AT_ONCE, len(site.nodes))):
        threading.Thread(target=work, daemon=True).start()
    for _ in site.nodes:
        found = done.get()
        if isinstance(found, BaseException):
            raise found
        yield from found


def _look_at(site: SitePlan, node: NodePlan) -> list[Seen]:
    """All accounts of a host; when it can't be reached as one, it can't as any other."""
    from gates.ssh_cluster_gate.check_report import Seen

    all_seen: list[Seen] = []
    logins = ("",) if node.is_local else site.logins
    for login in logins:
        verdicts, root_uid = _look_as(site, node, login)
        user = next((each.value for each in verdicts if each.check == "login"), "")
        account = login or node.user or user
        all_seen.append(Seen(node.name, node.partition_id, account, verdicts, root_uid))
        if any(each.state is State.FAILED for each in verdicts[:2]):
            break
    return all_seen


def _look_as(site: SitePlan, node: NodePlan, login: str) -> tuple[list[Verdict], str | None]:
    """What is found of an account, and the identity of its root; None: that is not known."""
    from gates.ssh_cluster_gate import check_contact

    probe = _probe(site.config)
    limits = check_contact.Limits()
    target = None if node.is_local else site.target(node, login)

    def on_host(command: str) -> str:
        if target is None:
            return command
        # sudo may want to ask for a password.
        return target.command(command).replace("ssh ", "ssh -t ", 1)

    try:
        if target is None:
            answer = check_contact.ask_local(probe, limits)
        else:
            answer = check_contact.ask(target, probe, limits)
    except check_contact.Trouble as trouble:
        return check_rules.not_reached(trouble.check, trouble.text, trouble.mend), None
    found = Found.parse(answer.text)
    if found is None:
        return check_rules.not_reached("login", _no_shell(answer), on_host("echo in")), None
    promised = Promised(login or node.user, node.cpus, node.memory_bytes, node.gpus)
    verdicts = check_rules.judge(
        found,
        promised,
        on_host,
        answer.asked_s,
        answer.ended_s,
        forwards=answer.forwards,
    )
    if site.has_queue:
        # No job runs on the login node.
        verdicts = [
            Verdict(each.check, State.OK) if each.check == "limits" else each
            for each in verdicts
            if each.check != "containers"
        ]
        verdicts = [*verdicts, *_of_queue(site, target, limits)]
    return verdicts, found.one("root_uid")


def _of_queue(
    site: SitePlan, target: SshTarget | None, limits: check_contact.Limits
) -> list[Verdict]:
    """What is found of Slurm, as an account whose login is well."""
    from gates.ssh_cluster_gate import check_contact
    from gates.ssh_cluster_gate.slurm import check as slurm

    text = f"{_root(site.config.work_root)}\n{helpers()}\n{slurm.probe()}"
    try:
        if target is None:
            answer = check_contact.ask_local(text, limits)
        else:
            answer = check_contact.ask(target, text, limits)
    except check_contact.Trouble:
        return slurm.unknown()
    found = Found.parse(answer.text)
    return slurm.unknown() if found is None else slurm.judge(found, site.config)


def helpers() -> str:
    """What a probe is written with, for one that is sent by itself."""
    return _PROBE.read_text().partition("echo check-begins")[0]


def _no_shell(answer: Answer) -> str:
    last = (answer.text.strip().splitlines() or ["nothing"])[-1][:200]
    return f"the key is taken, and its login shell runs no commands; it said: {last}"


def _probe(config: Config) -> str:
    """What is asked of a host, for any POSIX shell."""
    socket = f"socket=$(printf '%b' '{_encoded(config.containers.socket)}')"
    root = _root(config.work_root)
    return f"{root}\n{socket}\ntools='{' '.join(TOOLS)}'\n{_PROBE.read_text()}"


def _root(work_root: str) -> str:
    return f"root=$(printf '%b' '{_encoded(work_root)}')"


def _encoded(text: str) -> str:
    """A word for `printf %b` that needs no quotes, whatever is in it."""
    return "".join(
        letter
        if letter.isascii() and (letter.isalnum() or letter in "/._~-")
        else "".join(f"\\0{byte:03o}" for byte in letter.encode())
        for letter in text
    )
