"""The file that a site of hosts is described by: what it means, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gate_kit.ssh.images import Login
from gates.ssh_cluster_gate import config as configuration
from gates.ssh_cluster_gate import plan as planning
from gates.ssh_cluster_gate.plan import SitePlan
from rpc_kit import config_file
from rpc_kit.config_file import ConfigError
from skyport.gate.v1 import types_pb2


def _plan(text: str) -> SitePlan:
    return planning.make(config_file.parse(text, configuration.Config, "lab.toml"))


def _mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        _plan(text)
    return str(error.value).splitlines()


def test_a_site_takes_two_lines() -> None:
    plan = _plan('hosts = ["node[1-8]"]\nshared_account = true\n')
    assert list(plan.partitions) == ["default"]
    assert list(plan.partitions["default"]) == [f"node{number}" for number in range(1, 9)]
    node = plan.nodes["node3"]
    assert (node.address, node.user, node.port, node.identity) == ("node3", "", 0, "")
    assert (node.cpus, node.memory_bytes, node.gpus) == (None, None, None)
    assert (node.first_port, node.last_port) == (20_000, 29_999)
    assert plan.login("whoever") == ""
    target = plan.target(node, "")
    assert (target.host, target.user, target.port) == ("node3", "", 0)
    assert target.config == Path("~/.ssh/config").expanduser()
    assert target.known_hosts is None
    assert target.identities == ()


def test_the_narrower_setting_wins_and_of_two_patterns_the_later_one() -> None:
    plan = _plan("""
        shared_account = true
        port = 22
        cpus = 8
        labels = { room = "1", rack = "a" }
        [partitions.gpu]
        hosts = ["gpu[01-04,07]"]
        user = "runner"
        cpus = 16
        [host."gpu[01-07]"]
        flavor = "a100"
        gpus = 4
        labels = { rack = "b" }
        [host.gpu07]
        gpus = 0
        address = "10.1.1.7"
        port = 2222
    """)
    first, last = plan.nodes["gpu01"], plan.nodes["gpu07"]
    assert (first.port, first.cpus, first.gpus, first.user) == (22, 16, 4, "runner")
    assert (last.port, last.cpus, last.gpus, last.address) == (2222, 16, 0, "10.1.1.7")
    assert first.flavor == last.flavor == "a100"
    assert dict(last.labels) == {"room": "1", "rack": "b"}
    assert (
        plan.target(last, "").command()
        == "ssh -F " + str(Path("~/.ssh/config").expanduser()) + " -p 2222 runner@10.1.1.7"
    )


def test_owners_have_the_accounts_that_the_file_gives_them_and_their_keys() -> None:
    plan = _plan("""
        hosts = ["n1"]
        identity = "/etc/keys/%r@%h"
        [users]
        ann = "u_ann"
        bo = "bo"
    """)
    assert (plan.login("ann"), plan.login("bo"), plan.login("cy")) == ("u_ann", "bo", None)
    assert plan.logins == ("u_ann", "bo")
    target = plan.target(plan.nodes["n1"], "u_ann")
    assert (target.user, target.identities) == ("u_ann", (Path("/etc/keys/u_ann@n1"),))
    assert types_pb2.CAPABILITY_USER_MAPPING in plan.capabilities


def test_capabilities_follow_from_the_file() -> None:
    always = {
        types_pb2.CAPABILITY_STATIC_PARTITIONS,
        types_pb2.CAPABILITY_MULTI_NODE,
        types_pb2.CAPABILITY_TUNNELS,
        types_pb2.CAPABILITY_REVERSE_TUNNELS,
        types_pb2.CAPABILITY_CONTAINERS,
    }
    assert _plan("local = true\n").capabilities == always
    shared = _plan('hosts = ["n1"]\nshared_account = true\nshared_filesystem = true\n')
    assert shared.capabilities == always | {
        types_pb2.CAPABILITY_SHARED_FILESYSTEM,
        types_pb2.CAPABILITY_SHARED_ACCOUNT,
    }
    volumes = _plan('local = true\n[volumes]\ndata = "/srv/data:ro"\n')
    assert volumes.capabilities == always | {types_pb2.CAPABILITY_STORAGE}
    assert {name: str(volume) for name, volume in volumes.volumes.items()} == {
        "data": "/srv/data:ro"
    }
    bare = _plan('local = true\n[containers]\nruntime = "none"\n')
    assert bare.capabilities == always - {types_pb2.CAPABILITY_CONTAINERS}


def test_a_login_at_a_registry_comes_from_a_file_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("psst\n")
    text = f"""local = true
[registry."ghcr.io"]
username = "ann"
password_file = "{file}"
"""
    file.chmod(0o644)
    assert _mistakes(text) == [
        (
            f'lab.toml:4: registry.ghcr.io.password_file: "{file}" can be read by others; '
            f"run `chmod 600 {file}`"
        )
    ]
    file.chmod(0o600)
    assert _plan(text).containers.logins == {"ghcr.io": Login("ann", "psst")}
    file.unlink()
    (told,) = _mistakes(text)
    assert told.endswith(f'"{file}" can\'t be read: No such file or directory')


def test_this_machine_is_a_partition_of_its_own_beside_others() -> None:
    plan = _plan(
        'local = true\nhosts = ["n1"]\nshared_account = true\n[host.localhost]\ncpus = 2\n'
    )
    assert list(plan.partitions) == ["local", "default"]
    (node,) = plan.partitions["local"].values()
    assert (node.name, node.is_local, node.cpus) == ("localhost", True, 2)


def test_the_site_of_the_command_line_is_this_machine_alone() -> None:
    path = Path(configuration.__file__).with_name("local.toml")
    plan = planning.make(configuration.load(path))
    assert list(plan.partitions) == ["local"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", 'lab.toml:1: names no hosts; add hosts = ["node[1-8]"], or local = true'),
        ('hosts = ["n1"]\n', "lab.toml:1: does not say who runs as which account; add [users]"),
        (
            "shared_account = true\nhosts = 3\n",
            'lab.toml:2: hosts: 3 is not a list; write it as ["…", "…"]',
        ),
        (
            "shared_account = true\nhosts = [3]\n",
            "lab.toml:2: hosts[0]: 3 is not text; write it in quotes",
        ),
        (
            'shared_account = true\nhosts = [\n "ok",\n "a[1-"]\n',
            'lab.toml:4: hosts[1]: "a[1-" has a bracket without its other half; write it as',
        ),
        (
            'shared_account = true\nhosts = [".n"]\n',
            'lab.toml:2: hosts[0]: ".n" is not the name of a host; letters',
        ),
        (
            'shared_account = true\nhosts = ["a b"]\n',
            'lab.toml:2: hosts[0]: "a b" is not the name of a host; letters',
        ),
        (
            'shared_account = true\n[partitions.".x"]\nhosts = ["n"]\n',
            'lab.toml:2: partitions..x: ".x" is not the name of a partition; letters',
        ),
        (
            'shared_account = true\nhosts = ["n"]\npartition = "../x"\n',
            'lab.toml:3: partition: "../x" is not the name of a partition; letters',
        ),
        (
            'local = true\nshared_account = true\n[partitions.local]\nhosts = ["n"]\n',
            'lab.toml:3: partitions.local: "local" is this machine, by local = true; choose',
        ),
        (
            'shared_account = true\n[partitions]\na.hosts = ["n[1-3]"]\nb.hosts = ["m", "n2"]\n',
            "lab.toml:4: partitions.b.hosts[1]: n2 is in partition a already, and would be given",
        ),
        (
            'local = true\n[host."x[1-2]"]\ncpus = 1\n',
            "lab.toml:2: host.x[1-2]: names no host of any partition; add it to hosts",
        ),
        (
            "local = true\n[host.localhost]\ncpus = 0\n",
            "lab.toml:3: host.localhost.cpus: is 0; 1 to",
        ),
        ("local = true\nport = 70000\n", "lab.toml:2: port: is 70000; 1 to 65535 serve"),
        ("local = true\nfirst_port = 9\nlast_port = 8\n", "lab.toml:3: last_port: is 8, below"),
        ('local = true\nmemory = "lots"\n', 'lab.toml:2: memory: "lots" is not a size; write'),
        ('local = true\nmemory = "0"\n', "lab.toml:2: memory: is nothing; write it as"),
        ("local = true\nhsots = []\n", "lab.toml:2: hsots: there is no such setting; did you mean"),
        ('local = true\nflavor = "-x"\n', 'lab.toml:2: flavor: "-x" is not a name; letters'),
        ('local = true\nuser = "-x"\n', 'lab.toml:2: user: "-x" is not an account; write a login'),
        ('local = true\nwork_root = "jobs"\n', 'lab.toml:2: work_root: "jobs" is not a folder'),
        ('local = true\nwork_root = "/a/../b"\n', 'lab.toml:2: work_root: "/a/../b" is not a'),
        ('local = true\nwork_root = "~"\n', 'lab.toml:2: work_root: "~" is not a folder at the'),
        (
            'local = true\nworkdir_roots = ["~", "x"]\n',
            'lab.toml:2: workdir_roots[1]: "x" is not a',
        ),
        ('local = true\nknown_hosts = "kh"\n', 'lab.toml:2: known_hosts: "kh" depends on where'),
        ('local = true\nidentity = "id"\n', 'lab.toml:2: identity: "id" depends on where the gate'),
        (
            'local = true\nidentity = "/no/such/key"\n',
            'lab.toml:2: identity: "/no/such/key" is not there; make a key by `ssh-keygen -t',
        ),
        ('local = true\n[labels]\n".x" = "1"\n', "lab.toml:3: labels..x: is not a label; 1 to 63"),
        ('local = true\n[labels]\nx = "a\\nb"\n', "lab.toml:3: labels.x: has a value that is not"),
        ('local = true\ndescription = "a\\nb"\n', "lab.toml:2: description: is not one line"),
        ('local = true\n[users]\nann = "a"\n', "lab.toml:1: local: runs as the gate's own account"),
        (
            'hosts = ["n"]\nshared_account = true\n[users]\nann = "a"\n',
            "lab.toml:2: shared_account: stands beside [users]; keep one of the two",
        ),
        ('hosts = ["n"]\n[users]\nAnn = "a"\n', "lab.toml:3: users.Ann: is not a user of Sky Port"),
        (
            'hosts = ["n"]\n[users]\nann = ""\n',
            'lab.toml:3: users.ann: "" is not an account; write',
        ),
        ('hosts = ["n"]\n[users]\nann = "a b"\n', 'lab.toml:3: users.ann: "a b" is not an account'),
        (
            'hosts = ["n"]\n[users]\nann = "u"\nbo = "u"\n',
            'lab.toml:4: users.bo: "u" is the account of ann as well; give each an own one, or use',
        ),
        (
            'hosts = ["n"]\n[users]\nann = "u"\n[host.n]\nuser = "x"\n',
            "lab.toml:5: host.n.user: is for a shared account, and [users] says it here; remove it",
        ),
        (
            'local = true\n[volumes]\ndata = "/srv/data"\n',
            'lab.toml:3: volumes.data: "/srv/data" is no volume; write it as "/srv/data:ro"',
        ),
        (
            'local = true\n[volumes]\ndata = "/srv/../etc:ro"\n',
            'lab.toml:3: volumes.data: "/srv/../etc:ro" is no volume; write it as "/srv/data:ro"',
        ),
        (
            'local = true\n[containers]\nruntime = "lxc"\n',
            "lab.toml:3: containers.runtime:",
        ),
        (
            'local = true\n[containers]\nsocket = "/run/docker.sock"\n',
            'lab.toml:3: containers.socket: "/run/docker.sock" is no socket; write it as "unix:',
        ),
        ("hosts = [\n", "lab.toml:2: is not TOML:"),
    ],
)
def test_a_mistake_is_told_with_its_line_its_field_and_its_mend(text: str, told: str) -> None:
    (line,) = _mistakes(text)
    assert line.startswith(told)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    lines = _mistakes('port = 0\nhosts = ["a["]\ncpus = -1\n[users]\n"A" = "a"\n')
    assert [line.split(": ")[0] for line in lines] == [
        "lab.toml:1",
        "lab.toml:2",
        "lab.toml:3",
        "lab.toml:5",
    ]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.toml:1: can't be read: No such file"):
        configuration.load(tmp_path / "no.toml")
