"""What users say to Slurm, what Slurm says, and what follows, by tables: no cluster is needed."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from gate_kit.job_status import End
from gate_kit.ssh.evidence import Lasting
from gate_kit.ssh.layout import AttemptPath
from gate_kit.verdicts import State
from gates.ssh_cluster_gate import check as site_check
from gates.ssh_cluster_gate import config as configuration
from gates.ssh_cluster_gate import plan as planning
from gates.ssh_cluster_gate.check_rules import Found
from gates.ssh_cluster_gate.config import Config, SlurmConfig
from gates.ssh_cluster_gate.container_config import ContainersConfig, Runtime
from gates.ssh_cluster_gate.slurm import (
    check,
    directives,
    inventory,
    judgement,
    queue,
    sbatch,
)
from gates.ssh_cluster_gate.slurm.evidence import Evidence, Given
from gates.ssh_cluster_gate.slurm.judgement import Missing
from gates.ssh_cluster_gate.slurm.queue import Row
from rpc_kit.config_file import ConfigError
from skyport.gate.v1 import inventory_pb2, job_pb2, types_pb2

GUIDE = (Path(__file__).parents[2] / "docs" / "slurm.md").read_text()


def _load(tmp_path: Path, text: str) -> configuration.Config:
    file = tmp_path / "gate.toml"
    file.write_text(text)
    return configuration.load(file)


def test_the_guide_shows_all_settings_with_their_defaults(tmp_path: Path) -> None:
    site, *_, settings = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    told = _load(tmp_path, site + settings)
    assert told.slurm == SlurmConfig()
    for field in dataclasses.fields(SlurmConfig):
        assert re.search(rf"^{field.name} = ", settings, re.MULTILINE), field.name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('hosts = ["a", "b"]', "needs one host, its login node"),
        ("local = true\nhosts = ['a']", "needs one host, its login node"),
        ("hosts = ['a']\n[partitions.x]\nhosts = ['b']", "a Slurm site tells its own"),
        ("hosts = ['a']\n[slurm]\npartitions = ['a b']", "is not the name of a partition"),
        ("hosts = ['a']\n[slurm]\nmax_jobs = -1", "is -1; 0 to 1000000 serve"),
        ("hosts = ['a']\n[slurm]\nno = 1", "no"),
        ("hosts = ['a']\n[containers]\nruntime = 'docker'", "scancel don't reach them"),
        ("hosts = ['a']\n[containers]\nruntime = 'podman'", 'write runtime = "apptainer"'),
        ("hosts = ['a']\n[containers]\nruntime = 'auto'", "does not say what runs images"),
        ("hosts = ['a']\n[containers]\npull = 'always'", "gate.toml:4: containers: does not say"),
        (
            "hosts = ['a']\n[containers]\nruntime = 'apptainer'\nsocket = 'unix:///run/x'",
            "apptainer has none",
        ),
        ("hosts = ['a']\n[registry.'a.b']\nusername = 'x'", "which this site does not run"),
    ],
)
def test_a_mistake_in_the_configuration_is_told(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        _load(tmp_path, f'scheduler = "slurm"\nshared_account = true\n{text}')


def test_a_site_of_hosts_has_no_settings_of_a_queue(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='is for a site with scheduler = "slurm"'):
        _load(tmp_path, "shared_account = true\nhosts = ['a']\n[slurm]\nmax_jobs = 1")


def test_only_where_nodes_let_people_in_jobs_reach_the_users_side(tmp_path: Path) -> None:
    site = 'scheduler = "slurm"\nhosts = ["login"]\nshared_account = true\n'
    for more, has in (("", False), ("[slurm]\ncompute_ssh = true\n", True)):
        told = planning.make(_load(tmp_path, site + more)).capabilities
        assert types_pb2.CAPABILITY_TUNNELS in told
        assert (types_pb2.CAPABILITY_REVERSE_TUNNELS in told) == has


def test_what_the_file_has_of_images_and_storage_is_offered(tmp_path: Path) -> None:
    site = 'scheduler = "slurm"\nhosts = ["login"]\nshared_account = true\n'
    images, storage = types_pb2.CAPABILITY_CONTAINERS, types_pb2.CAPABILITY_STORAGE
    for more, offered in (
        ("", set()),
        ("[containers]\nruntime = 'none'\n", set()),
        ("[containers]\nruntime = 'apptainer'\n", {images}),
        ("[volumes]\ndata = '/srv/data:ro'\n", {storage}),
    ):
        told = planning.make(_load(tmp_path, site + more)).capabilities
        assert told & {images, storage} == offered, more


# What users say.


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("#SBATCH -N 2", [("nodes", "2")]),
        ("#SBATCH -N2 --mem=4G", [("nodes", "2"), ("mem", "4G")]),
        ("#SBATCH --time 1:00 --exclusive", [("time", "1:00"), ("exclusive", None)]),
        (
            "#SBATCH --exclusive=user -kH",
            [("exclusive", "user"), ("no-kill", None), ("hold", None)],
        ),
        ('#SBATCH --comment="two words"  # why', [("comment", "two words")]),
        ("## SBATCH -N 2", []),
        ("#SBATCH", []),
    ],
)
def test_options_of_a_script_are_read_as_sbatch_does(
    line: str, found: list[tuple[str, str | None]]
) -> None:
    told, warnings = directives.read(f"#!/bin/sh\n\n# a comment\n{line}\ntrue\n#SBATCH -N 9\n")
    assert [(each.name, each.value) for each in told] == found
    assert not warnings


@pytest.mark.parametrize("line", ["#SBATCH --time", "#SBATCH what", "#SBATCH -Z 1", '#SBATCH "'])
def test_what_nobody_understands_is_left_out_with_a_warning(line: str) -> None:
    told, (warning,) = directives.read(f"{line}\ntrue")
    assert not told
    assert warning.startswith(f"{line}: left out, ")


def test_ours_win_and_a_warning_says_which() -> None:
    script = "#SBATCH -p gpu -o out.txt --mem-per-cpu=1G --qos=low -C fast\n#SBATCH -C slow"
    script += "\n#SBATCH --comment=mine"
    told, _ = directives.read(script)
    arguments, warnings = directives.merge(told, {"qos": "high", "exclusive": "yes"}, {"mem"})
    assert arguments == ["--constraint=slow", "--qos=high", "--exclusive"]
    assert warnings == [
        "#SBATCH -p gpu: not used, say it as #SWM partition",
        "#SBATCH -o out.txt: not used, output is kept by Sky Port",
        "#SBATCH --mem-per-cpu=1G: not used, #SWM says --mem",
        "#SBATCH --qos=low: not used, #SWM site-option slurm.qos says it",
        "#SBATCH --comment=mine: not used, it says whose the job is",
    ]


@pytest.mark.parametrize(
    ("value", "is_every", "arguments"),
    [
        ("B:USR1@60", False, []),
        ("USR1@60", False, ["--signal=USR1@60"]),
        ("R:USR1@60", False, ["--signal=R:USR1@60"]),
        ("USR1@60", True, []),
    ],
)
def test_no_signal_is_asked_for_that_would_not_reach_the_script(
    value: str, is_every: bool, arguments: list[str]
) -> None:
    told, _ = directives.read(f"#SBATCH --signal={value}")
    given, warnings = directives.merge(told, {}, (), is_every=is_every)
    assert given == arguments
    assert bool(warnings) == (not arguments)


def test_a_check_says_what_mends_with_the_names_of_the_site() -> None:
    found = Found({"controller": ["yes"], "node": ["debug n1 idle"]})
    slurm = SlurmConfig(partitions=("gpu",))
    verdicts = check.judge(found, Config(hosts=("h",), work_root="/scratch/x", slurm=slurm))
    partitions = next(each for each in verdicts if each.check == "partitions")
    assert partitions.mend == 'partitions = ["debug"] in [slurm]'
    shared = next(each for each in verdicts if each.check == "shared")
    assert (shared.state, shared.mend) == (State.WARNING, "srun -N1 ls /scratch/x")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        # What `timeout` makes of one that hangs.
        (124, "the controller does not answer: sinfo took more than 10 s"),
        (1, "the controller does not answer: a word of Slurm"),
    ],
)
def test_a_check_asks_no_more_of_a_controller_that_does_not_answer(
    tmp_path: Path, code: int, why: str
) -> None:
    for name in ("sinfo", "squeue", "sbatch", "scancel", "scontrol", "srun"):
        program = tmp_path / name
        words = "echo a word of Slurm >&2; " if code == 1 else ""
        program.write_text(f'#!/bin/sh\necho {name} >>"{tmp_path}/called"; {words}exit {code}\n')
        program.chmod(0o755)
    helpers = site_check.helpers()
    told = subprocess.run(
        ["/bin/sh", "-s"],
        input=f"root={tmp_path}/root\n{helpers}\n{check.probe()}",
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (tmp_path / "called").read_text() == "sinfo\n"
    found = Found.parse(told)
    assert found is not None
    slurm, *rest = check.judge(found, Config(hosts=("h",)))
    assert (slurm.state, slurm.text) == (State.FAILED, why)
    assert {each.state for each in rest if each.check != "containers"} == {State.UNKNOWN}


@pytest.mark.parametrize(
    ("said", "state", "text"),
    [
        ({"apptainer": ["1.3.4"], "node_apptainer": ["yes"]}, State.OK, ""),
        ({"apptainer": ["1.3.4"], "node_apptainer": ["no"]}, State.FAILED, "a compute node has no"),
        ({"apptainer": ["1.3.4"], "controller": ["yes"]}, State.WARNING, "is not known"),
        ({"apptainer": ["1.3.4"]}, State.UNKNOWN, ""),
        ({"node_apptainer": ["yes"]}, State.FAILED, "it lacks apptainer"),
    ],
)
def test_a_check_says_where_images_can_run(
    said: dict[str, list[str]], state: State, text: str
) -> None:
    containers = ContainersConfig(runtime=Runtime.APPTAINER)
    verdicts = check.judge(Found(said), Config(hosts=("h",), containers=containers))
    found = next(each for each in verdicts if each.check == "containers")
    assert found.state is state
    assert text in found.text


def _start(**spec: object) -> job_pb2.StartJobRequest:
    ref = types_pb2.JobRef(installation="i", partition_id="p", job_id="j", attempt=2, owner="o")
    made = job_pb2.JobSpec(
        script=b"true",
        resources=job_pb2.Resources(cpus=2),
        node_count=1,
        launch=job_pb2.LAUNCH_FIRST,
        **spec,  # type: ignore[arg-type]
    )
    return job_pb2.StartJobRequest(ref=ref, spec=made)


def test_a_start_is_asked_of_the_queue() -> None:
    start = _start(account="acc", time_limit=Duration(seconds=90), grace=Duration(seconds=30))
    start.spec.resources.memory_bytes = (1 << 20) + 1
    start.spec.resources.gpus = 2
    asked = sbatch.request(start, "/r/jobs/p/i/j.2", "uid", 0)
    assert set(asked.options) >= {
        "--parsable", "--no-requeue", "--job-name=swm-j.2", "--comment=uid/p/i/j.2",
        "--partition=p", "--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=2", "--mem=2M",
        "--gpus-per-node=2", "--time=3", "--account=acc", "--output=/r/jobs/p/i/j.2/slurm.log",
    }  # fmt: skip
    # The partition gives less than the room that is wanted.
    assert "--time=2" in sbatch.request(start, "/f", "uid", 100).options


@pytest.mark.parametrize(
    ("told", "code", "reason"),
    [
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", 1, "SITE_QUEUE_FULL"),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping", 124, "SITE_QUEUE_FULL"),
        ("sbatch: error: Unable to contact slurm controller (refused)", 1, "SITE_UNREACHABLE"),
        ("sbatch: fatal: Could not establish a configuration source", 1, "SITE_UNREACHABLE"),
        ("", 124, "SITE_UNREACHABLE"),
        ("timeout: failed to run command 'sbatch': No such file or directory", 127,
         "SITE_UNREACHABLE"),
        ("sbatch: error: invalid partition specified: x", 1, "FIELD_MALFORMED"),
    ],
)  # fmt: skip
def test_what_sbatch_does_not_take_has_its_reason(told: str, code: int, reason: str) -> None:
    assert sbatch.refusal([told], code).reason == reason


# What Slurm says.


def test_the_id_is_what_sbatch_printed() -> None:
    assert sbatch.job_id("a message of the site\n12;cluster\n") == "12"
    assert sbatch.job_id("sbatch: error") == ""


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("idle", inventory_pb2.NODE_STATE_UP),
        ("mixed-", inventory_pb2.NODE_STATE_UP),
        ("allocated", inventory_pb2.NODE_STATE_UP),
        ("idle~", inventory_pb2.NODE_STATE_UP),
        ("drained", inventory_pb2.NODE_STATE_DRAINED),
        ("draining@", inventory_pb2.NODE_STATE_DRAINED),
        ("idle*", inventory_pb2.NODE_STATE_DOWN),
        ("down", inventory_pb2.NODE_STATE_DOWN),
        ("a word of tomorrow", inventory_pb2.NODE_STATE_DOWN),
    ],
)
def test_states_of_nodes(text: str, state: inventory_pb2.NodeState.ValueType) -> None:
    assert inventory.node_state(text) == state


def test_partitions_come_from_the_lines_of_sinfo() -> None:
    lines = [
        "gpu|n1|mixed|64|512000|2-00:00:00|up|1000|gpu:a100:4(S:0-1),license:3|fast,ib|none",
        "gpu|n2|down*|64|512000|2-00:00:00|up|1000|(null)|(null)|broken | really",
        "all|n1|mixed|64|512000|infinite|down|1000|(null)|(null)|none",
        "all|n3|idle|8|1000|infinite|down|1000|gpu:1g.5gb:4(S:0-1),gpu:a100:2(S:2)|(null)|none",
        "bad name|n1|idle|1|1|1:00|up|1|(null)|(null)|none",
        "half a line",
    ]
    found = inventory.read_sinfo(lines)
    assert list(found) == ["gpu", "all"]
    assert (found["gpu"].longest_s, found["all"].longest_s) == (172_800, 0)
    assert not found["all"].is_up
    one, two = found["gpu"].nodes.values()
    assert (one.gpus, one.gpu_model, one.flavor) == (4, "a100", "64c-512000m-4a100")
    assert two.message == "Slurm says down*: broken | really"
    assert found["all"].nodes["n3"].gpus == 6, "of several kinds all count"


def test_rows_of_squeue_and_sacct() -> None:
    rows = queue.read_squeue(["7|PENDING|a name|(null)|Resources", "x|RUNNING|n|c|None", "8|odd"])
    assert rows == {"7": Row("7", "PENDING", "a name", "", "Resources")}
    verbose = ["names      = (null)", "last_update_time=1795901 records=2", "7|PENDING|n|c|None"]
    assert (queue.read_count(verbose), queue.read_count(verbose[2:])) == (2, None)
    told = queue.read_sacct(["9|CANCELLED by 1000|n", "9.batch|FAILED|batch"])
    assert told == {"9": Row("9", "CANCELLED", "n")}
    assert queue.Row("1", "A_STATE_OF_TOMORROW", "n").stage is queue.Stage.ON_NODES


def test_whether_slurm_keeps_accounts() -> None:
    assert queue.has_accounts("accounting_storage/slurmdbd")
    for told in ("accounting_storage/none", "(null)", ""):
        assert not queue.has_accounts(told)


def test_which_rows_are_of_an_attempt() -> None:
    key, ours = AttemptPath("i", "j", 2, "p"), "uid/p/i/j.2"
    rows = [
        Row("1", "RUNNING", "swm-j.2", ours),
        Row("2", "RUNNING", "swm-j.2"),  # the site has taken its comment away
        Row("3", "RUNNING", "step 5", ours),  # the job has changed its name
        Row("4", "RUNNING", "swm-j.2", "step 5"),  # or its comment
        Row("5", "RUNNING", "swm-j.2", "other/p/i/j.2"),
        Row("6", "RUNNING", "another", ""),
    ]
    word = queue.Word(0.0, {row.slurm_id: row for row in rows})
    assert [row.slurm_id for row in word.of(key, "uid")] == ["1", "2", "3"]
    assert [row.slurm_id for row in word.of(key, "uid", {"4", "6"})] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("*** JOB 5 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***", "TIME_LIMIT"),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=5.batch", "OUT_OF_MEMORY"),
        ("*** JOB 5 ON n1 CANCELLED AT x DUE TO NODE FAILURE, SEE SLURMCTLD LOG ***", "NODE_FAIL"),
        ("*** JOB 5 ON n1 CANCELLED AT x DUE TO PREEMPTION ***", "PREEMPTED"),
        ("*** JOB 5 ON n1 CANCELLED AT x ***", "CANCELLED"),
        ("a word of a plugin", ""),
    ],
)
def test_slurms_log_of_a_job_says_why_it_ended(text: str, reason: str) -> None:
    assert queue.why_of_log(text) == reason


# What follows.

SPEC = _start()
GIVEN = Given("7", ("n1",), {"n1": "10.0.0.1"}, (), (), 5)
TWO = Given("7", ("n1", "n2"), {}, (), (), 5)
WELL = End("exit", "0", 0.0, 9)
KILLED = End("signal", "9", 0.0, 9)


def _found(**more: object) -> Evidence:
    return Evidence("uid", exists=True, lasting=Lasting(spec=SPEC), **more)  # type: ignore[arg-type]


def _row(state: str, reason: str = "") -> Row:
    return Row("7", state, "swm-j.2", "", reason)


@pytest.mark.parametrize(
    ("found", "word", "state", "outcome"),
    [
        # Nothing was claimed.
        ({}, _row("PENDING", "Priority"), "QUEUED_AT_SITE", "Priority"),
        ({}, _row("RUNNING"), "QUEUED_AT_SITE", "begins"),
        ({}, _row("CANCELLED"), "ENDED", "CANCELLED"),
        ({}, _row("COMPLETED"), "ENDED", "START_FAILED"),
        ({}, _row("NODE_FAIL"), "ENDED", "START_FAILED"),
        ({"slurm_id": "7"}, Missing.UNASKED, "QUEUED_AT_SITE", "queued"),
        ({"slurm_id": "7"}, Missing.UNKNOWN, "STAGED", ""),
        ({"is_buried": True}, Missing.UNKNOWN, "ENDED", "CANCELLED"),
        # It was claimed, and no end is there.
        ({"given": GIVEN}, Missing.UNASKED, "RUNNING", ""),
        ({"given": GIVEN}, _row("PENDING", "Priority"), "RUNNING", ""),
        ({"given": GIVEN}, _row("COMPLETING"), "RUNNING", "completing"),
        ({"given": GIVEN}, _row("TIMEOUT"), "ENDED", "TIME_LIMIT"),
        ({"given": GIVEN}, _row("DEADLINE"), "ENDED", "TIME_LIMIT"),
        ({"given": GIVEN}, _row("OUT_OF_MEMORY"), "ENDED", "OUT_OF_MEMORY"),
        ({"given": GIVEN}, _row("NODE_FAIL"), "ENDED", "NODE_FAIL"),
        ({"given": GIVEN}, _row("BOOT_FAIL"), "ENDED", "NODE_FAIL"),
        ({"given": GIVEN}, _row("PREEMPTED"), "ENDED", "PREEMPTED"),
        ({"given": GIVEN}, _row("CANCELLED"), "ENDED", "CANCELLED"),
        ({"given": GIVEN}, _row("FAILED"), "ENDED", "NODE_FAIL"),
        ({"given": GIVEN}, Missing.UNKNOWN, "ENDED", "END_UNKNOWN"),
        # Its folder has been deleted.
        ({"is_gone": True}, _row("PENDING"), "QUEUED_AT_SITE", ""),
        ({"is_gone": True}, _row("COMPLETED"), "ENDED", "END_UNKNOWN"),
        ({"is_gone": True, "slurm_id": "7"}, Missing.UNKNOWN, "ENDED", "END_UNKNOWN"),
        ({"is_gone": True, "is_buried": True}, Missing.UNKNOWN, "ENDED", "CANCELLED"),
        ({"given": GIVEN, "is_gone": True}, _row("RUNNING"), "RUNNING", ""),
        ({"given": GIVEN, "is_gone": True}, _row("COMPLETED"), "ENDED", "END_UNKNOWN"),
        ({"given": GIVEN, "is_gone": True}, _row("TIMEOUT"), "ENDED", "TIME_LIMIT"),
        # The end is there.
        ({"given": GIVEN, "ends": {0: WELL}}, Missing.UNASKED, "ENDED", 0),
        ({"given": GIVEN, "ends": {0: WELL}}, _row("TIMEOUT"), "ENDED", 0),
        ({"given": GIVEN, "ends": {0: KILLED}}, Missing.UNASKED, "RUNNING", "ends"),
        ({"given": GIVEN, "ends": {0: KILLED}}, _row("FAILED"), "ENDED", 9),
        ({"given": GIVEN, "ends": {0: KILLED}}, Missing.UNKNOWN, "ENDED", 9),
        ({"given": GIVEN, "ends": {0: KILLED}}, _row("OUT_OF_MEMORY"), "ENDED", "OUT_OF_MEMORY"),
        ({"given": GIVEN, "ends": {0: KILLED}}, _row("TIMEOUT"), "ENDED", "TIME_LIMIT"),
        (
            {"given": GIVEN, "ends": {0: WELL}, "is_logged": True},
            _row("TIMEOUT"),
            "ENDED",
            "TIME_LIMIT",
        ),
        ({"given": GIVEN, "ends": {0: WELL}, "is_logged": True}, _row("COMPLETED"), "ENDED", 0),
        (
            {"given": GIVEN, "ends": {0: WELL}, "is_logged": True},
            _row("RUNNING"),
            "RUNNING",
            "ends",
        ),
        # Other nodes may be busy still.
        ({"given": TWO, "ends": {0: WELL}}, Missing.UNASKED, "RUNNING", "ends"),
        ({"given": TWO, "ends": {0: WELL}}, _row("RUNNING"), "RUNNING", "ends"),
        ({"given": TWO, "ends": {0: WELL}}, _row("COMPLETED"), "ENDED", 0),
        # What was written down stays.
        ({"final": End("failure", "PREEMPTED", 0.0, 9)}, Missing.UNKNOWN, "ENDED", "PREEMPTED"),
    ],
)
def test_what_follows_from_the_folder_and_the_queue(
    found: dict[str, object], word: Row | Missing, state: str, outcome: object
) -> None:
    judged = judgement.judge(_found(**found), word, now_ns=8)
    status = judged.status
    assert status is not None
    assert job_pb2.JobState.Name(status.state) == f"JOB_STATE_{state}"
    if not status.HasField("end"):
        assert str(outcome) in status.text
        return
    end = status.end
    told = {"failure": end.failure.reason, "exit_code": end.exit_code, "signal": end.signal}
    assert told[str(end.WhichOneof("outcome"))] == outcome
    assert end.HasField("start_time") == ("given" in found)


def test_an_end_of_which_only_the_queue_knows_is_not_hurried_and_is_written_down() -> None:
    found = _found(given=GIVEN)
    early = judgement.judge(found, _row("NODE_FAIL"), is_settled=False, now_ns=8)
    assert early.status is not None
    assert not early.status.HasField("end")
    assert early.needs_word
    late = judgement.judge(found, _row("NODE_FAIL"), now_ns=8)
    assert late.settle == End("failure", "NODE_FAIL", 0.0, 8)


@pytest.mark.parametrize("word", [Missing.UNASKED, _row("COMPLETED"), Missing.UNKNOWN])
def test_an_end_counts_once_all_that_was_written_before_it_can_be_read(word: Row | Missing) -> None:
    found = _found(given=GIVEN, ends={0: WELL})
    early = judgement.judge(found, word, is_whole=False, now_ns=8).status
    late = judgement.judge(found, word, now_ns=8).status
    assert early is not None
    assert late is not None
    assert (early.HasField("end"), late.HasField("end")) == (False, True)


def test_how_far_a_start_is_is_told_until_it_is_cancelled_or_in_the_queue() -> None:
    def told(word: Row | Missing, **found: object) -> tuple[str, str]:
        judged = judgement.judge(_found(**found), word, is_starting=True, text="pulling x")
        assert judged.status is not None
        return job_pb2.JobState.Name(judged.status.state)[10:], judged.status.text

    assert told(Missing.UNASKED) == ("STARTING", "pulling x")
    assert told(Missing.UNKNOWN) == ("STARTING", "pulling x")
    assert told(Missing.UNASKED, is_buried=True) == ("ENDED", "")
    assert told(_row("PENDING", "Priority"))[0] == "QUEUED_AT_SITE"


def test_an_attempt_that_names_no_nodes_ends_as_well() -> None:
    every = _start()
    every.spec.launch = job_pb2.LAUNCH_EVERY
    given = Given("7", (), {}, (), (), 5)
    found = dataclasses.replace(_found(given=given), lasting=Lasting(spec=every))
    status = judgement.judge(found, _row("NODE_FAIL"), now_ns=8).status
    assert status is not None
    assert status.end.failure.reason == "NODE_FAIL"


def test_of_what_nobody_knows_nothing_is_said() -> None:
    judged = judgement.judge(_found(), Missing.UNASKED, now_ns=8)
    assert judged.status is None
    assert judged.needs_word
