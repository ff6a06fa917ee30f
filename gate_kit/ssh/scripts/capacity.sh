# What a host has, as lines "NAME VALUE" and a line with a dot; again for each line that comes. It ends
# with the connection, and by that the gate sees at once that the host is gone.

has() { command -v "$1" >/dev/null 2>&1; }

# A driver that hangs must not keep the rest from being told.
limited() {
    if has timeout; then timeout 20 "$@"; else "$@"; fi </dev/null
}

tell_cpus() {
    cpus=$(nproc 2>/dev/null) || cpus=$(getconf _NPROCESSORS_ONLN 2>/dev/null)
    [ -n "$cpus" ] || cpus=$(grep -c '^processor' /proc/cpuinfo)
    echo "cpus $cpus"
}

tell_memory() {
    while read -r name amount _; do
        [ "$name" != MemTotal: ] || echo "memory $((amount * 1024))"
    done </proc/meminfo
}

# Limits of the group of processes that we are in, and of all that it lies in: jobs have them too.
tell_limits() {
    group=
    while IFS= read -r line; do
        case $line in 0::*) group=${line#0::} ;; esac
    done </proc/self/cgroup
    while :; do
        folder=/sys/fs/cgroup${group%/}
        [ ! -r "$folder/memory.max" ] || { IFS= read -r most <"$folder/memory.max" && echo "memory_limit $most"; }
        [ ! -r "$folder/cpu.max" ] || { IFS= read -r most <"$folder/cpu.max" && echo "cpu_limit $most"; }
        [ -n "${group%/}" ] || break
        group=${group%/*}
    done
    old=/sys/fs/cgroup/memory/memory.limit_in_bytes
    [ ! -r "$old" ] || { IFS= read -r most <"$old" && echo "memory_limit $most"; }
    old=/sys/fs/cgroup/cpu
    [ ! -r "$old/cpu.cfs_quota_us" ] || {
        IFS= read -r most <"$old/cpu.cfs_quota_us" && IFS= read -r period <"$old/cpu.cfs_period_us" &&
            echo "cpu_limit $most $period"
    }
} 2>/dev/null

tell_gpus() {
    has nvidia-smi || return 0
    if listed=$(limited nvidia-smi --query-gpu=index,name --format=csv,noheader 2>&1); then
        printf '%s\n' "$listed" | sed -n 's/^ *\([0-9][0-9]*\), */gpu \1 /p'
    else
        printf 'trouble nvidia-smi: %s\n' "$(printf '%s' "$listed" | head -n 1)"
    fi
}

# Of the folder, or of the one that it would be made in.
tell_disk() {
    place=$root
    while [ ! -d "$place" ] && [ -n "${place%/*}" ]; do place=${place%/*}; done
    [ -d "$place" ] || place=/
    [ -w "$place" ] || echo "unwritable $place"
    df -Pk "$place" 2>/dev/null | {
        IFS= read -r _ && read -r _ _ _ free _ && echo "disk $((free * 1024))"
    }
}

while :; do
    tell_cpus
    tell_memory
    tell_limits
    tell_gpus
    tell_disk
    echo "architecture $(uname -m)"
    # Client and server as sshd saw them: its own address is the third word.
    set -- $SSH_CONNECTION
    echo "address $3"
    echo .
    IFS= read -r _ || exit 0
done
