"""What a site's own queue says, and what users say to it."""

from __future__ import annotations

from gate_kit.ssh.shell import Reply
from gates.ssh_cluster_gate.slurm import directives, evidence, inventory, judgement, queue, sbatch
from gates.ssh_cluster_gate.slurm.judgement import Missing


def directive_lines(data: bytes) -> None:
    """`#SBATCH` lines of a script."""
    found, warnings = directives.read(data.decode(errors="replace"))
    arguments, more = directives.merge(found, {"qos": "x", "exclusive": "yes"}, {"mem", "time"})
    for argument in arguments:
        assert argument.startswith("--"), argument
        name = argument[2:].partition("=")[0]
        assert name not in directives.OURS, argument
    assert all(len(text) < 1 << 20 for text in (*warnings, *more))


def queue_lines(data: bytes) -> None:
    """Rows of sinfo, squeue and sacct, and the answer of sbatch."""
    text = data.decode(errors="surrogateescape")
    lines = text.split("\n")
    for partition in inventory.read_sinfo(lines).values():
        assert partition.longest_s >= 0
        for node in partition.nodes.values():
            assert node.flavor
    for row in (*queue.read_squeue(lines).values(), *queue.read_sacct(lines).values()):
        assert row.slurm_id.isdigit()
        _ = row.stage, row.text, row.why
    assert (queue.read_count(lines) or 0) >= 0
    queue.why_of_log(text)
    assert sbatch.job_id(text) == "" or sbatch.job_id(text).isdigit()
    assert sbatch.refusal(lines, 1).message


def look_lines(data: bytes) -> None:
    """What lies of attempts, as the login node tells it: jobs can write there."""
    lines = data.decode(errors="surrogateescape").split("\n")
    for found in evidence.read_look(Reply(lines, [data[:50]])).values():
        for word in (Missing.UNASKED, Missing.UNKNOWN, queue.Row("1", "TIMEOUT", "n")):
            judged = judgement.judge(found, word, now_ns=1)
            if judged.status is not None:
                judged.status.SerializeToString()
