"""A Slurm cluster on one machine: a controller, a login node and compute nodes, each a host.

The hosts are those of `hosts`, with homes that are one folder for all of them. Daemons are ended by
the process ids that they wrote down. Needs root and Debian's packages of Slurm.

    with Slurm() as slurm:
        slurm.login.run("sinfo", user="alice")
        slurm.kill_controller()
        ...
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.testbed.host import BedHost
from tests.testbed.hosts import Bed

_WITHIN_S = 60.0
_DEVICES = ("/dev/zero", "/dev/full")
_LOOK_S = 0.1

_CONFIG = """\
ClusterName=skytest
SlurmctldHost=ctl({controller})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=2
MailProg=/bin/true
SlurmctldTimeout=30
SlurmdTimeout=30
KillWait=3
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
"""
_ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={controller}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=limits,qos
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
"""
_NO_ACCOUNTING = """\
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
"""
_DATABASE = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=ctl
DbdAddr={controller}
SlurmUser=root
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct
"""


class Slurm:
    """A cluster that is up.

    Args:
        nodes: How many compute nodes, n1 and so on.
        cpus: Of each.
        gpus: Of each; devices that every machine has stand for them.
        features: Of each, which jobs may have as constraints.
        accounting: Whether there is a slurmdbd, with its database.
        network_homes: Whether all others have their homes from the controller, by a network file
            system that tells nobody of what others write, and believes for a while what it knows.
        settings: Further lines of slurm.conf.
        partitions: Lines of slurm.conf for partitions.
        sshd: Further lines of each sshd_config.
    """

    def __init__(
        self,
        *,
        nodes: int = 2,
        cpus: int = 4,
        gpus: int = 0,
        features: str = "",
        accounting: bool = False,
        network_homes: bool = False,
        settings: Sequence[str] = (),
        partitions: Sequence[str] = (
            "PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE DefMemPerCPU=1",
            "PartitionName=urgent Nodes=ALL MaxTime=10 PriorityTier=10 DefMemPerCPU=1",
        ),
        sshd: Sequence[str] = (),
    ) -> None:
        self.names = [f"n{number}" for number in range(1, nodes + 1)]
        self.bed = Bed(("ctl", "login", *self.names), shared_home=True, settings=sshd)
        self.has_accounting = accounting
        self._network_homes = network_homes
        self._cpus = cpus
        self._gpus = gpus
        self._features = features
        self._settings = tuple(settings)
        self._partitions = tuple(partitions)
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.enter_context(self.bed)
            if self._network_homes:
                self._mount_homes()
            self._configure()
            self._run(self.controller, "munged", *self._munge_options())
            if self.has_accounting:
                undo.callback(self._stop_database)
                self._start_database()
            self.start_controller()
            for name in self.names:
                self.start_node(name)
            self.until_idle()
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()

    @property
    def controller(self) -> BedHost:
        """Where slurmctld runs."""
        return self.bed["ctl"]

    @property
    def login(self) -> BedHost:
        """Where users log in."""
        return self.bed["login"]

    def node(self, name: str) -> BedHost:
        """A compute node."""
        return self.bed[name]

    @property
    def user(self) -> str:
        """The account whose jobs run there."""
        return self.bed.users[0]

    @property
    def folder(self) -> Path:
        """What belongs to Slurm itself; all hosts see it under this name."""
        return self.bed.folder / "slurm"

    # What users do.

    def ask(self, line: str, *, user: str = "") -> str:
        """What a line of sh says on the login node, as a user."""
        return self.login.run(line, user=user or self.user)

    def jobs(self, form: str = "%i %T %j") -> list[str]:
        """What squeue says of all jobs that it knows."""
        return self.ask(f"squeue -h -a -t all -o '{form}'").splitlines()

    # What programs users find.

    def replace(self, name: str, script: str) -> None:
        """Have a program of the login node be another one; its own is in /usr/bin still."""
        file = self.folder / "bin" / name
        fresh = file.with_name(f".{name}")
        fresh.write_text(f"#!/bin/sh\n{script}\n")
        fresh.chmod(0o755)
        fresh.rename(file)

    def restore(self, name: str) -> None:
        """Have a program be its own again."""
        if name == "squeue":
            self._count_squeue()
        else:
            (self.folder / "bin" / name).unlink(missing_ok=True)

    def _count_squeue(self) -> None:
        self.replace("squeue", f'echo "$@" >>{self.counted}\nexec /usr/bin/squeue "$@"')

    @property
    def counted(self) -> Path:
        """Has a line for each squeue on the login node."""
        return self.folder / "squeue.log"

    @property
    def calls(self) -> list[str]:
        """The arguments of each squeue on the login node until now."""
        return self.counted.read_text().splitlines()

    def until_asked(self, times: int) -> None:
        """Wait until squeue was called so often for all jobs of an account."""
        last = len(self.calls)
        self._until(
            lambda: sum(" -u " in call for call in self.calls[last:]) >= times, "squeue is called"
        )

    # What goes wrong.

    def kill_controller(self) -> None:
        """Have slurmctld gone at once."""
        self._kill(self.controller, "slurmctld")

    def start_controller(self) -> None:
        """Start slurmctld again."""
        self._run(self.controller, "slurmctld")

    def kill_node(self, name: str) -> None:
        """Have the slurmd of a node gone at once; its jobs go on."""
        self._kill(self.node(name), f"slurmd.{name}")

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node again."""
        (self.folder / f"spool.{name}").mkdir(exist_ok=True)
        self._run(self.node(name), "slurmd", "-N", name)

    def crash_node(self, name: str) -> None:
        """Have a node lose its power, and come back with nothing of what ran."""
        host = self.node(name)
        host.crash()
        host.boot()
        host.run(f"mkdir -p /etc/slurm && mount --bind {self.folder}/etc /etc/slurm")
        self.start_node(name)

    def forget(self) -> None:
        """Have the controller lose all that it knew of jobs, and come back."""
        self.kill_controller()
        for file in (self.folder / "state").glob("job_state*"):
            file.unlink()
        self.start_controller()

    def kill_accounting(self) -> None:
        """Have slurmdbd gone at once."""
        self._kill(self.controller, "slurmdbd")

    def start_accounting(self) -> None:
        """Start slurmdbd again."""
        self._run(self.controller, "slurmdbd")
        self._until(self._accounting_answers, "slurmdbd answers")

    def until_accounted(self, ids: Sequence[str], states: Sequence[str]) -> None:
        """Wait until accounts have these states of jobs."""
        line = f"sacct -n -X -P -o State -j {','.join(ids)}"
        self._until(
            lambda: [told.split()[0] for told in self._says(line).split("\n") if told] == [*states],
            f"accounts have {', '.join(states)}",
        )

    def heal(self) -> None:
        """Have all daemons up, and nothing running."""
        if self.has_accounting and not self._is_up(self.controller, "slurmdbd"):
            self.start_accounting()
        if self._is_well():
            return
        self.bed.heal()
        if not self._is_up(self.controller, "slurmctld"):
            self.start_controller()
        for name in self.names:
            if not self._is_up(self.node(name), f"slurmd.{name}"):
                self.start_node(name)
        self.controller.run(f"SLURM_CONF={self._conf} scancel -u {self.user}")
        self.until_idle()

    def _is_well(self) -> bool:
        told = self._says("sinfo -h -N -p debug -o %t").split()
        return told == ["idle"] * len(self.names) and not self._says("squeue -h -o %i")

    def until_idle(self) -> None:
        """Wait until all nodes take jobs and have none."""
        self._until(
            lambda: self._says("sinfo -h -N -p debug -o %t").split() == ["idle"] * len(self.names),
            "all nodes are idle",
        )

    def until_over(self) -> None:
        """Wait until no job waits or runs."""
        self._until(lambda: not self._says("squeue -h -o %i"), "all jobs are over")

    # How it is made.

    @property
    def _conf(self) -> Path:
        return self.folder / "etc" / "slurm.conf"

    def _configure(self) -> None:
        folder = self.folder
        for name in ("", "etc", "log", "run"):
            (folder / name).mkdir()
            (folder / name).chmod(0o755)
        (folder / "state").mkdir(mode=0o700)
        values = {"controller": self.controller.address, "folder": folder}
        self._password = secrets.token_hex(16)
        text = (_CONFIG + (_ACCOUNTING if self.has_accounting else _NO_ACCOUNTING)).format(**values)
        lines = [*self._settings]
        of_each = f"CPUs={self._cpus} RealMemory=2000"
        if self._gpus:
            lines.append("GresTypes=gpu")
            of_each += f" Gres=gpu:{self._gpus}"
            devices = "".join(f"Name=gpu File={file}\n" for file in _DEVICES[: self._gpus])
            (folder / "etc/gres.conf").write_text(devices)
        if self._features:
            of_each += f" Features={self._features}"
        lines += [
            f"NodeName={name} NodeAddr={self.node(name).address} {of_each}" for name in self.names
        ]
        self._conf.write_text(text + "".join(f"{line}\n" for line in [*lines, *self._partitions]))
        (folder / "etc/cgroup.conf").write_text("CgroupAutomount=no\nConstrainCores=no\n")
        if self.has_accounting:
            file = folder / "etc/slurmdbd.conf"
            file.touch(0o600)
            file.write_text(_DATABASE.format(**values, password=self._password))
        for host in self.bed.hosts:
            host.run(f"mkdir -p /etc/slurm && mount --bind {folder}/etc /etc/slurm")
        (folder / "bin").mkdir()
        self.login.run(f"mount --bind {folder}/bin /usr/local/bin")
        self._count_squeue()
        self.counted.touch()
        self.counted.chmod(0o666)

    def _mount_homes(self) -> None:
        """Have the homes of all but the controller be its own, by sshfs.

        What is known of a file is believed for a second, as by default. As on NFS (nfs(5)), names
        are asked for when a folder is opened, and one that was missing is so for a while.
        """
        ssh = f"-F {self.bed.ssh_config}"
        cached = "dir_cache=no,negative_timeout=1"
        for host in self.bed.hosts[1:]:
            for user in self.bed.users:
                login = f"IdentityFile={self.bed.key(user)}"
                host.run(
                    f"sshfs {ssh} -o {login},allow_other,default_permissions,{cached} "
                    f"{user}@ctl:/home/{user} /home/{user}"
                )

    def _munge_options(self) -> list[str]:
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        return [
            f"--socket={self.folder}/munge.socket",
            f"--key-file={key}",
            f"--log-file={self.folder}/log/munged.log",
            f"--pid-file={self.folder}/run/munged.pid",
            f"--seed-file={self.folder}/munge.seed",
            "--force",
        ]

    def _run(self, host: BedHost, *words: str) -> None:
        """Start a daemon, which puts itself into the background."""
        done = subprocess.run(
            host.command("env", f"SLURM_CONF={self._conf}", *words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_WITHIN_S,
            check=False,
        )
        assert done.returncode == 0, f"{words[0]}: {done.stdout}{done.stderr}"

    def _kill(self, host: BedHost, name: str) -> None:
        host.run(f"kill -9 $(cat {self.folder}/run/{name}.pid)")
        self._until(lambda: not self._is_up(host, name), f"{name} is gone")

    def _is_up(self, host: BedHost, name: str) -> bool:
        file = f"{self.folder}/run/{name}.pid"
        kind = name.partition(".")[0]
        line = f'grep -q "^{kind}" /proc/$(cat {file})/comm'
        return subprocess.run(host.command("sh", "-c", line), capture_output=True).returncode == 0

    def _says(self, line: str) -> str:
        done = subprocess.run(
            self.controller.command("timeout", "5", *line.split()),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout if done.returncode == 0 else "?"

    def _until(self, is_so: Callable[[], bool], what: str) -> None:
        last = time.monotonic() + _WITHIN_S
        while not is_so():
            assert time.monotonic() < last, f"not within {_WITHIN_S:g} s: {what}\n{self.logs()}"
            time.sleep(_LOOK_S)

    def logs(self) -> str:
        """The ends of all logs."""
        files = sorted((self.folder / "log").iterdir())
        return "\n".join(f"{file.name}:\n{file.read_text()[-1500:]}" for file in files)

    # The database of accounting.

    def _start_database(self) -> None:
        data, run = self.folder / "mysql", self.folder / "mysqlrun"
        for path in (data, run):
            path.mkdir(mode=0o755)
            subprocess.run(["chown", "mysql:mysql", path], check=True)
        subprocess.run(
            [
                *("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={data}"),
                *("--auth-root-authentication-method=socket", "--skip-test-db"),
            ],
            check=True,
            capture_output=True,
        )
        options = [
            *("--no-defaults", "--user=mysql", f"--datadir={data}", f"--socket={run}/s"),
            *(f"--pid-file={run}/pid", "--bind-address=127.0.0.1"),
            *("--innodb-use-native-aio=0", "--innodb-buffer-pool-size=64M"),
            "--innodb-lock-wait-timeout=900",
        ]
        with (self.folder / "log/mariadb.log").open("ab") as log:
            self._mariadb = subprocess.Popen(
                self.controller.command("mariadbd", *options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        client = ["mariadb", "--no-defaults", "-S", f"{run}/s", "-e"]
        self._until(
            lambda: (
                subprocess.run([*client, "select 1"], capture_output=True, check=False).returncode
                == 0
            ),
            "the database answers",
        )
        grants = "".join(
            f"create user slurm@{place} identified by '{self._password}';"
            f"grant all on slurm_acct.* to slurm@{place};"
            for place in ("127.0.0.1", "localhost")
        )
        subprocess.run([*client, f"create database slurm_acct; {grants}"], check=True)
        self.start_accounting()
        for words in (
            "add cluster skytest",
            "add account test Cluster=skytest",
            *(f"add user {user} account=test" for user in self.bed.users),
        ):
            self.manage(words)

    def manage(self, words: str) -> None:
        """Have sacctmgr change something."""
        self.controller.run(f"sacctmgr -i {words}")

    def _accounting_answers(self) -> bool:
        words = ("timeout", "5", "sacctmgr", "-n", "list", "cluster")
        command = self.controller.command(*words)
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _stop_database(self) -> None:
        for file in (self.folder / "run/slurmdbd.pid", self.folder / "mysqlrun/pid"):
            if file.exists():
                with contextlib.suppress(AssertionError):
                    self.controller.run(f"kill $(cat {file})")
        with contextlib.suppress(AttributeError, subprocess.TimeoutExpired):
            self._mariadb.wait(20)


def is_root() -> bool:
    """Whether this process may make a cluster."""
    return os.geteuid() == 0
