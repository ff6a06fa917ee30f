#!/bin/sh
# What Slurm runs for an attempt, on the first of its nodes. sbatch is started with this file and
#
#   first|every ROOT KEY NAME RUNNER WORKDIR STDIN LIMIT GRACE PATH PORTS PROGRAM [ARGUMENT]...
#
# ROOT is the work root, KEY the attempt's path in it and NAME the same without slashes; WORKDIR is
# empty for one of our own; LIMIT, GRACE, PATH and PROGRAM are as runner.sh has them: PATH is empty where
# PROGRAM is container.sh. PORTS are words NUMBER/NAME, of which one may be empty. Of several submissions
# of one attempt the first that links `given` goes on; it says what the queue gave. The script itself is
# run by runner.sh, for which each rank is a node.

mode=$1 root=$2 key=$3 name=$4 runner=$5 workdir=$6 stdin=$7 limit=$8 grace=$9
umask 077
folder=$root/jobs/$key
cd "$folder" 2>/dev/null || exit 0

# Slurm sends signals to our process group, in which the script is not. What guards the script outlives
# them, so that it can tell the end, and a watcher passes them on to all processes of the script: TERM,
# also where Slurm itself ends the job, and USR1 as KILL.
trap : TERM USR1

pass_on() {
    pids=$(grep -lszF -e "SWM_MARK=$key/$rank;" /proc/[0-9]*/environ | sed 's|^/proc/\([0-9]*\)/.*|\1|')
    [ -z "$pids" ] || kill -s "$1" $pids
    [ "$1" != TERM ] || [ -z "$pids" ] || kill -s CONT $pids
} 2>/dev/null

watch() {
    trap 'pass_on TERM' TERM
    trap 'pass_on KILL' USR1
    trap 'kill -s KILL $!; exit' HUP
    while :; do
        sleep 3600 &
        wait $!
    done
}

# What a container gets of what Slurm and we have set, as inside.sh reads it: its environment is the
# image's own.
surroundings() {
    for name in $(env | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p'); do
        case $name in
        SLURM_* | SLURMD_* | SWM_* | *_VISIBLE_DEVICES | GPU_DEVICE_ORDINAL | ZE_AFFINITY_MASK) ;;
        *) continue ;;
        esac
        eval "value=\$$name"
        printf '%s\n%s\n%s\n' "$name" "$(printf '%s\n' "$value" | wc -l)" "$value"
    done
}

# Run the script for rank $1.
run_rank() {
    rank=$1
    shift 9
    path=$2
    shift 3
    work=${workdir:-$folder/work} input=/dev/null
    [ -z "$stdin" ] || input=$work/$stdin
    export SWM_NODE_RANK="$rank"
    unset SWM_BATCH
    if [ -z "$path" ]; then
        { surroundings && cat "private.$rank"; } >"private.$rank.all" &&
            mv "private.$rank.all" "private.$rank"
    fi
    watch </dev/null >/dev/null 2>&1 &
    watcher=$!
    # In a part of this shell: another one would be a program more to start.
    (
        trap : TERM USR1
        set -- "$rank" "" "" "$root/tombstones/$key" "$work" "$input" "$limit" "$grace" \
            "$key/$rank;" setsid "$path" "$@" "$folder/script"
        . "$runner"
    ) <"private.$rank" >/dev/null
    kill -s HUP "$watcher" 2>/dev/null
}

if [ "$mode" = rank ]; then
    run_rank "$SLURM_PROCID" "$@"
    exit 0
fi

# Have the gate look here. What is told twice does no harm, and what is not told is found later.
tell() {
    : >"$root/queue-events/$name,$SLURM_JOB_ID,$1"
} 2>/dev/null

address_of() {
    address=$(getent ahostsv4 "$1" 2>/dev/null)
    address=${address%%[!0-9.]*}
    [ -n "$address" ] || address=$1
}

# Whether nothing here has the port $1, by what the kernel says.
is_free() {
    hex=$(printf '%04X' "$1")
    ! cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -q ":$hex [0-9A-F]*:[0-9A-F]* 0A"
}

nodes=$SLURM_JOB_NODELIST
[ "$SLURM_JOB_NUM_NODES" = 1 ] || nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
gpus=${SLURM_JOB_GPUS:-$CUDA_VISIBLE_DEVICES}
candidate=$((20000 + SLURM_JOB_ID * 7 % 9000))
addresses='' all='' ports=''
{
    printf 'slurm %s\n' "$SLURM_JOB_ID"
    for node in $nodes; do
        address_of "$node"
        addresses=$addresses,$address all=$all,$node
        printf 'node %s %s\n' "$node" "$address"
    done
    printf 'gpus %s\n' "$gpus"
    for port in ${11}; do
        number=${port%%/*}
        if [ -z "$number" ]; then
            until is_free "$candidate"; do
                candidate=$((candidate + 1))
            done
            number=$candidate candidate=$((candidate + 1))
        fi
        ports="$ports $number/${port#*/}"
        printf 'port %s %s\n' "$number" "${port#*/}"
    done
    echo .
} >".given.$SLURM_JOB_ID" || exit 4
ln ".given.$SLURM_JOB_ID" given 2>/dev/null || {
    # Another submission has it; or Slurm runs this one a second time.
    rm -f ".given.$SLURM_JOB_ID"
    exit 0
}
printf '%s\n' $nodes >hosts
tell begun

export SWM_NODES="${all#,}" SWM_NODE_IPS="${addresses#,}" SWM_NUM_NODES="$SLURM_JOB_NUM_NODES" \
    SWM_GPUS="$gpus" SWM_HOSTFILE="$folder/hosts"
for port in $ports; do
    export "SWM_PORT_${port%%/*}=${port%%/*}"
    [ -z "${port#*/}" ] || export "SWM_PORT_${port#*/}=${port%%/*}"
done

if [ "$mode" = first ] || [ "$SLURM_JOB_NUM_NODES" = 1 ]; then
    run_rank 0 "$@"
else
    shift
    setsid srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
        --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=0 --wait=0 --input=none \
        --export=ALL sh "$SWM_BATCH" rank "$@"
fi
tell ended
exit 0
