# Runs an attempt on one node. It is started in the attempt's folder, in a session of its own:
#
#   sh runner.sh NODE EVENTS UNSYNCED TOMBSTONE WORK INPUT LIMIT GRACE MARK SETSID PATH PROGRAM
#       [ARGUMENT]...
#
# EVENTS begins the names of the pipes that claim and end are told on ("" is none), UNSYNCED names the
# files here that have to be on the disk before anything runs ("" is none), LIMIT is in seconds ("" is
# none), GRACE in tenths of a second; MARK is KEY/NODE; and tells the processes of the attempt;
# SETSID is that program's path, and PATH the one of the job. Standard input has variables that only
# the job may see, each as its name, the number of its lines, and those lines. Standard output gets a
# line with our process id when the claim was made. All else that the job gets is in our own
# environment, so our own variables have names that no one else gives.
#
# Where PATH is "", PROGRAM is container.sh: it gets the variables, and sees to the rest itself.

_swm_node=$1 _swm_events=$2 _swm_unsynced=$3 _swm_tombstone=$4 _swm_work=$5 _swm_input=$6
_swm_limit=$7 _swm_grace=$8 _swm_mark=$9
shift 9
_swm_setsid=$1 _swm_path=$2
shift 2
_swm_home=$PWD
umask 022
ulimit -S -n 1024 2>/dev/null
IFS=. read -r _swm_begun _swm_rest </proc/uptime

# Claim first: of all runners of this attempt on this node, one gets the link.
IFS= read -r _swm_boot </proc/sys/kernel/random/boot_id
IFS= read -r _swm_stat </proc/$$/stat
_swm_started() { shift 19; _swm_start=$1; }
_swm_started ${_swm_stat##*) }
printf '%s %s %s\n' "$_swm_boot" $$ "$_swm_start" >".claim.$_swm_node.$$" || exit 4
# Room for the end, however full the job makes the disk. What is left of the blanks has no newline, and
# so counts for nothing.
printf '%512s' '' >".end.$_swm_node.$$" || exit 4
[ -z "$_swm_unsynced" ] || { sync $_swm_unsynced || sync; } </dev/null >/dev/null 2>&1
ln ".claim.$_swm_node.$$" "claim.$_swm_node" 2>/dev/null || exit 3

# The gate may be gone, and nobody may read any more.
trap '' PIPE
echo $$ 2>/dev/null
trap - PIPE
exec >/dev/null 2>"notice.$_swm_node"

# A line with KEY on each pipe says that something has changed here. Nobody waits for it: a reader that
# has stopped reading must not hold up the job.
_swm_tell() {
    for _swm_pipe in "$_swm_events"*; do
        [ ! -p "$_swm_pipe" ] || printf '%s\n' "${_swm_mark%/*}" 1<>"$_swm_pipe"
    done
} 2>/dev/null
[ -z "$_swm_events" ] || _swm_tell &

# What it has used; in a container that is not seen from here.
_swm_times() {
    [ -s "usage.$_swm_node" ] || {
        times
        return
    }
    while IFS= read -r _swm_line; do
        printf '%s\n' "$_swm_line"
    done <"usage.$_swm_node"
}

# The end is linked into place when it is whole: of two, the first counts. It reaches the disk right
# after; should the power fail in between, what is there has no last line and counts as none. This is
# our last act, so no other process is needed for it.
_swm_end() {
    { printf '%s\n' "$1" && _swm_times && echo .; } 1<>".end.$_swm_node.$$" &&
        ln ".end.$_swm_node.$$" "end.$_swm_node"
    [ -z "$_swm_events" ] || _swm_tell &
    exec sync "end.$_swm_node" </dev/null >/dev/null 2>&1
}

if [ -e "$_swm_tombstone" ]; then
    _swm_end 'unstarted CANCELLED'
fi

# A queue hands over the private variables in a file, which has done its duty now.
[ ! -e "private.$_swm_node" ] || rm -f "private.$_swm_node"

# Looks for processes of this node's part among those whose files are given: by the mark in their
# environment, or by the job's own session. Both in one go, since each look costs a process. The
# first argument says what to do with what is found. Zombies count for nothing.
_swm_look() {
    # 0 and 1 are the system's own, and our folder may be gone: then there is no session to look for.
    _swm_session=none
    [ ! -s "session.$_swm_node" ] || read -r _swm_session <"session.$_swm_node"
    [ "$_swm_session" -gt 1 ] 2>/dev/null || _swm_session=none
    _swm_mode=$1
    shift
    grep "$_swm_mode" -szE -e "SWM_MARK=$_swm_mark" \
        -e "\) [^Z] [0-9]+ [0-9]+ $_swm_session " "$@"
}

_swm_look_everywhere() {
    _swm_look "$1" /proc/[0-9]*/environ /proc/[0-9]*/stat
}

# Whether the script has left anything behind. To look at every process of a machine takes longer
# than all the rest of a short job, and what is ours is younger than we are: it has a higher number,
# unless the numbers have begun anew since. They have if the last one is below ours; and once round
# (32,768 at the least) is not possible within three seconds.
_swm_left() {
    _swm_after=0
    read -r _swm_rest _swm_rest _swm_rest _swm_rest _swm_last </proc/loadavg
    IFS=. read -r _swm_now _swm_rest </proc/uptime
    if [ "$_swm_last" -gt $$ ] && [ $((_swm_now - _swm_begun)) -lt 3 ]; then
        _swm_after=$$
    fi
    _swm_files=
    for _swm_folder in /proc/[0-9]*; do
        [ "${_swm_folder#/proc/}" -le "$_swm_after" ] ||
            _swm_files="$_swm_files $_swm_folder/environ $_swm_folder/stat"
    done
    [ -n "$_swm_files" ] && _swm_look -q $_swm_files
}

_swm_signal() {
    _swm_pids=$(_swm_look_everywhere -l | sed -n 's|^/proc/\([0-9]*\)/.*|\1|p')
    [ -n "$_swm_pids" ] || return 1
    kill -s "$1" $_swm_pids
    kill -s CONT $_swm_pids
    return 0
} 2>/dev/null

_swm_stop() {
    _swm_signal TERM || return
    _swm_tick=0
    while [ "$_swm_tick" -lt "$_swm_grace" ]; do
        _swm_look_everywhere -q || return
        sleep 0.1
        _swm_tick=$((_swm_tick + 1))
    done
    # One that forks faster than we look is caught by the next look.
    _swm_tick=0
    while [ "$_swm_tick" -lt 100 ] && _swm_signal KILL; do
        sleep 0.05
        _swm_tick=$((_swm_tick + 1))
    done
}

_swm_timer=
if [ -n "$_swm_limit" ]; then
    (
        # A child that was just forked may still catch TERM as we do, and lose it. Nobody catches KILL.
        trap 'kill -s KILL $!; exit' TERM
        sleep "$_swm_limit" &
        wait $!
        trap '' TERM
        set -C
        echo TIME_LIMIT >"verdict.$_swm_node"
        _swm_stop
    ) </dev/null >/dev/null 2>&1 &
    _swm_timer=$!
    echo "$_swm_timer" >"timer.$_swm_node"
fi

# In the foreground: a shell makes what it starts in the background ignore interrupts.
(
    [ -n "$_swm_path" ] || exec "$@"
    # Our own number, from the only name there: to read a file costs a call for each letter.
    for _swm_pid in /proc/self/task/*; do :; done
    echo "${_swm_pid##*/}" >"session.$_swm_node"
    while IFS= read -r _swm_name && IFS= read -r _swm_lines; do
        _swm_value=
        while [ "$_swm_lines" -gt 0 ]; do
            IFS= read -r _swm_line
            _swm_lines=$((_swm_lines - 1))
            _swm_value=$_swm_value$_swm_line
            [ "$_swm_lines" -eq 0 ] || _swm_value="$_swm_value
"
        done
        # bash keeps some names, as UID, to itself, and would end here.
        command export "$_swm_name=$_swm_value" 2>/dev/null
        [ "$_swm_name" != PATH ] || _swm_path=$_swm_value
    done
    export PATH="$_swm_path"
    cd "$_swm_work" && [ -r "$_swm_input" ] && command -v "$1" >/dev/null || {
        echo START_FAILED >"$_swm_home/verdict.$_swm_node"
        exit 1
    }
    exec <"$_swm_input" >"$_swm_home/stdout.$_swm_node" 2>"$_swm_home/stderr.$_swm_node"
    export SWM_MARK="$_swm_mark"
    unset OLDPWD
    exec "$_swm_setsid" "$@"
)
_swm_code=$?

# A shell tells an end by signal as 128 + number, like an exit with that code. It says so besides,
# on our standard error, except for INT and PIPE.
_swm_outcome="exit $_swm_code"
if [ "$_swm_code" -gt 128 ] && { [ -s "notice.$_swm_node" ] ||
    [ "$_swm_code" -eq 130 ] || [ "$_swm_code" -eq 141 ]; }; then
    _swm_outcome="signal $((_swm_code - 128))"
fi

if [ -n "$_swm_timer" ]; then
    # Once it has begun to stop the attempt it finishes that; before, it is not needed any more.
    # The verdict may be somebody else's: a cancel does not wait for the limit.
    _swm_reason=
    [ ! -s "verdict.$_swm_node" ] || read -r _swm_reason <"verdict.$_swm_node"
    [ "$_swm_reason" = TIME_LIMIT ] || kill "$_swm_timer" 2>/dev/null
    wait "$_swm_timer" 2>/dev/null
fi
if [ -s "verdict.$_swm_node" ]; then
    read -r _swm_reason <"verdict.$_swm_node"
    _swm_outcome="failure $_swm_reason"
fi

! _swm_left || _swm_stop
_swm_end "$_swm_outcome"
