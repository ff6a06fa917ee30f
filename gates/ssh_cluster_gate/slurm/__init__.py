"""A site whose own queue is Slurm: reached by SSH at a login node.

    app          how it is put together
    inventory    what sinfo says; partitions tells it
    directives   #SBATCH lines and site options
    sbatch       the request to the queue, and what sbatch answers
    queue        rows of squeue and sacct
    evidence     what lies in an attempt's folder
    judgement    what follows from both
    commands     asks Slurm, with deadlines
    words        the queue's latest word, asked for in its own pace; unseen: jobs that are not in it
    judging      has an attempt judged, and asks for what that needs
    jobs         attempts as they are; starting, ending and watching change and follow them

All but the last two lines are pure, or do one thing each. What runs at the site is in agent.sh and
batch.sh.
"""
