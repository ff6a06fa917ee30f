# What the gate does on a host, for one account: answers requests on its standard input, one after the
# other, for as long as the connection lasts. It lives in memory only, and nothing depends on it.
#
# A request is a line "VERB WORDS BYTES", then its words, a line each, then that many bytes. An answer
# is lines that begin with =, or with # and a number of bytes that follow, and then a line "." or
# "!REASON text". prelude.sh comes before this.

out=
# A line of the answer. Each write would be a packet on its way, so lines go out together.
say() {
    out="$out=$1$newline"
    [ "${#out}" -lt 4096 ] || flush
}

flush() {
    printf '%s' "$out"
    out=
}

# ROOT PARTITION NODE RUNNER TOOLS: who and what is here.
do_hello() {
    case $1 in
    '~') root=$HOME ;;
    '~/'*) root=$HOME/${1#??} ;;
    *) root=$1 ;;
    esac
    partition=$2 node=$3 runner=$root/$4
    find_root
    boot=
    { IFS= read -r boot </proc/sys/kernel/random/boot_id; } 2>/dev/null
    stat_format='=at %n %.9Y'
    case $(stat -c %.9Y / 2>/dev/null) in
    '' | *[!0-9.]*) stat_format='=at %n %Y' ;;
    esac
    user=$(id -un)
    printf '=root %s\n=root_uid %s\n=boot_id %s\n=user %s\n=home %s\n=path %s\n=shell %s\n' \
        "$root" "$found" "$boot" "$user" "$HOME" "$PATH" "$SHELL"
    printf '=time %s\n=lang %s\n=lc_all %s\n=tz %s\n' "$(date +%s)" "$LANG" "$SITE_LC_ALL" "$TZ"
    for tool in $5; do
        command -v "$tool" >/dev/null 2>&1 || printf '=lacks %s\n' "$tool"
    done
    [ ! -f "$runner" ] || echo =runner
    tell_limits
    if [ -n "$found" ]; then
        {
            find "$root/tombstones" -type f -mtime +7 -exec rm -f {} +
            # What a shell before this one was removing when its link was lost.
            find "$root/trash" -mindepth 1 -maxdepth 1 -mmin +10 -exec rm -rf {} +
        } </dev/null >/dev/null 2>&1 &
    fi
}

# Whether an ordinary account may put limits on what it runs. Without lingering all that would end with
# the last login.
tell_limits() {
    command -v systemd-run >/dev/null 2>&1 && command -v loginctl >/dev/null 2>&1 || return
    [ -n "$runtime_dir" ] || while read -r name uid _; do
        [ "$name" != Uid: ] || runtime_dir=/run/user/$uid
    done </proc/self/status
    [ -d "$runtime_dir" ] || return
    [ "$(loginctl show-user "$user" --property Linger --value)" = yes ] || return
    XDG_RUNTIME_DIR=$runtime_dir \
        systemd-run --user --scope --quiet --property MemoryMax=1G true || return
    printf '=limits %s\n' "$runtime_dir"
} </dev/null 2>/dev/null

# A runner gets a session of its own, and nobody waits for it. Without -f, the first setsid makes a
# session, whose leader can't make another, so the second one forks.
find_detach() {
    setsid -f true </dev/null >/dev/null 2>&1 && detach='setsid -f' || detach='setsid setsid'
}

# ROOT_UID: the identity of the place, made at the first contact that writes.
do_make_root() {
    mkdir -p "$root" "$root/events" "$root/trash" 2>/dev/null
    find_root
    if [ -z "$found" ]; then
        link_whole "$root/root_uid" "$1"
        find_root
    fi
    if [ -z "$found" ]; then
        refuse_write "$root"
        return
    fi
    printf '=root_uid %s\n' "$found"
}

# [NAME]: a script, as bytes; the runner where it has no name. Shells read as they go: one that is in use
# must not change, so each version has a name of its own.
do_install() {
    script=$runner
    [ -z "$1" ] || script=$root/$1
    # Nodes may share it, and their shells may have the same number.
    draft=$script.$node.$$ taken=
    { taken=yes && dd bs="$bytes" count=1 iflag=fullblock; } 2>/dev/null >"$draft" &&
        mv "$draft" "$script" 2>/dev/null && return
    # Where nothing could be made nothing was read, and would be taken for a request.
    [ -n "$taken" ] || skip
    rm -f "$draft" 2>/dev/null
    refuse_write "$root"
}

# KEY ROOT_UID LABELS WORKDIR: makes the attempt's folder, and tells what is known of its inputs.
do_begin() {
    check_root "$2" || return
    folder=$root/jobs/$1
    if [ -e "$root/tombstones/$1" ]; then
        refuse JOB_CANCELLED
        return
    fi
    if read_whole "$folder/spec"; then
        refuse JOB_STARTED
        return
    fi
    if [ ! -d "$folder" ] && ! make_folder "$folder"; then
        refuse_write "$root"
        return
    fi
    if ! read_whole "$folder/labels"; then
        { [ -z "$4" ] || printf '%s' "$4" >"$folder/workdir"; } 2>/dev/null &&
            write_whole "$folder/labels" "$3" || {
            refuse_write "$folder"
            return
        }
    fi
    ! read_whole "$folder/manifest" || printf '=manifest %s\n' "$line"
    ! read_whole "$folder/inputs" || printf '=inputs %s\n' "$line"
}

# KEY ROOT_UID NAME DIGEST: notes the manifest that was sent, or that is whole.
do_note() {
    check_root "$2" || return
    if [ -e "$root/tombstones/$1" ]; then
        refuse JOB_CANCELLED
        return
    fi
    write_whole "$root/jobs/$1/$3" "$4" || refuse_write "$root/jobs/$1"
}

# KEY ROOT_UID MANIFEST WORKDIR STDIN SPEC HOSTS, and the script: what is to be started. Tells the spec
# that is there already, if one is.
do_spec() {
    if ! check_root "$2"; then
        skip
        return
    fi
    folder=$root/jobs/$1
    work=${4:-$folder/work}
    if [ -e "$root/tombstones/$1" ]; then
        skip
        refuse JOB_CANCELLED
        return
    fi
    if read_whole "$folder/spec"; then
        skip
        printf '=spec %s\n' "$line"
        return
    fi
    if [ -n "$3" ] && { ! read_whole "$folder/inputs" || [ "$line" != "$3" ]; }; then
        skip
        refuse INPUTS_MISSING
        return
    fi
    if [ -n "$5" ] && [ ! -f "$work/$5" ]; then
        skip
        refuse FILE_NOT_FOUND
        return
    fi
    # One of our own comes with the folder that it lies in.
    if [ -n "$4" ] && [ ! -d "$folder" ] && ! make_folder "$folder"; then
        skip
        refuse_write "$root"
        return
    fi
    if [ ! -d "$work" ]; then
        # In a folder of the user's own it is noted first what has to be taken away again.
        if [ -n "$4" ]; then
            { printf '%s' "$4" >"$folder/workdir" && note_missing "$work"; } 2>/dev/null
        fi
        if ! mkdir -p "$work" 2>/dev/null; then
            skip
            [ -d "${work%/*}" ] || work=$root/
            refuse_write "${work%/*}"
            return
        fi
    fi
    # Looked at first: what is not read now would be taken for a request.
    if ! { printf '' >"$folder/script"; } 2>/dev/null; then
        skip
        refuse_write "$folder"
        return
    fi
    if pass "$kind" >"$folder/script" &&
        { printf '%s' "$7" >"$folder/hosts"; } 2>/dev/null &&
        write_whole "$folder/spec" "$6"; then
        return
    fi
    rm -f "$folder/spec" 2>/dev/null
    refuse_write "$folder"
}

# As `spec`, with a script that is text in whole lines.
do_spec_text() {
    kind=lines
    do_spec "$@"
    kind=
}

# KEY...: waits until what they are started with is on the disk.
do_settle() {
    files=
    for key; do
        files="$files $key/spec $key/script"
    done
    # shellcheck disable=SC2086 - keys have letters that need no quotes
    { cd "$root/jobs" && sync -- $files || sync; } </dev/null >/dev/null 2>&1
    cd /
}

# Notes the folders on the way to $1 that are not there, the topmost first.
note_missing() {
    [ ! -e "$1" ] || return 0
    note_missing "${1%/*}"
    printf '%s\0' "$1" >>"$folder/placed"
}

# KEY LIMIT GRACE MARK WORKDIR STDIN PATH PROGRAM [ARGUMENT]..., and the variables: sends a runner,
# unless there is a claim, or nothing to start. $node is where.
do_launch() {
    folder=$root/jobs/$1
    # A start has just written or read what it is started with.
    if [ -e "$folder/claim.$node" ] || { [ -z "$unsynced" ] && ! read_whole "$folder/spec"; }; then
        skip
        return
    fi
    [ -n "$detach" ] || find_detach
    key=$1 limit=$2 grace=$3 mark=$4 work=${5:-$folder/work} input=/dev/null path=$7
    [ -z "$6" ] || input=$work/$6
    shift 7
    # The script's own file is named here, where the folder is known.
    pass lines | {
        cd "$folder" || exit
        unset LANG LC_ALL SITE_LC_ALL TZ
        # What a shell starts in the background ignores interrupts for ever. So it stays in front.
        exec $detach $posix_shell "$runner" "$node" "$root/events/$partition.$node." \
            "$unsynced" "$root/tombstones/$key" "$work" "$input" "$limit" "$grace" "$mark" \
            setsid "$path" "$@" "$folder/script" >/dev/null 2>&1
    }
}

# As `start`, with a script that is text in whole lines.
do_start_text() {
    kind=lines
    do_start "$@"
    kind=
}

# KEY ROOT_UID MANIFEST WORKDIR STDIN SPEC HOSTS BYTES LIMIT GRACE MARK PATH PROGRAM [ARGUMENT]..., the
# script, which has so many bytes, and the variables: both in one, where there is one node. The runner
# sees to it that what it is started with is on the disk before it claims.
do_start() {
    rest=$((bytes - $8)) bytes=$8
    do_spec "$1" "$2" "$3" "$4" "$5" "$6" "$7"
    bytes=$rest
    if [ "$failed" != . ]; then
        skip
        return
    fi
    key=$1 workdir=$4 stdin=$5 limit=$9
    shift 9
    grace=$1 mark=$2 path=$3
    shift 3
    unsynced='spec script'
    do_launch "$key" "$limit" "$grace" "$mark" "$workdir" "$stdin" "$path" "$@"
    unsynced=
}

# Whether the process $1 is the one that began at tick $2.
is_alive() {
    { IFS= read -r line <"/proc/$1/stat"; } 2>/dev/null || return
    set -- "$2" ${line##*) }
    [ "$2" != Z ] && [ "${21}" = "$1" ]
}

# The claim on this node: sets `claim`, and `state` to "alive", "gone", or "none" if there is none. With
# "over" nobody looks for its process.
read_claim() {
    claim='' state=none
    [ -f "$1/claim.$node" ] || return 0
    { IFS= read -r claim <"$1/claim.$node"; } 2>/dev/null
    state=gone
    [ "$2" != over ] || return 0
    set -- $claim
    [ "$1" != "$boot" ] || [ $# -ne 3 ] || ! is_alive "$2" "$3" || state=alive
}

# The end on this node: sets `ended` to its lines, as answers have them. Fails if it is not whole.
read_end() {
    ended=
    [ -f "$1/end.$node" ] || return
    while IFS= read -r line; do
        ended="$ended=end $line$newline"
        [ "$line" != . ] || return 0
    done <"$1/end.$node"
    return 1
}

# What lies in the folder $1 of an attempt; "all" of it, or without what never changes and the times.
show() {
    [ -d "$1" ] || return 0
    say folder
    if [ "$2" = all ]; then
        for name in labels spec manifest inputs; do
            ! read_whole "$1/$name" || say "$name $line"
        done
        if [ -f "$1/workdir" ]; then
            text=$(cat "$1/workdir" && echo .)
            text=${text%.}
            say workdir
            flush
            printf '#%s\n%s' "${#text}" "$text"
        fi
    fi
    # In this order: a runner writes the end before it goes.
    if read_end "$1"; then
        read_claim "$1" over
    else
        read_claim "$1"
        read_end "$1"
    fi
    [ "$state" = none ] || say "claim $state $claim"
    if [ -f "$1/verdict.$node" ]; then
        { IFS= read -r line <"$1/verdict.$node"; } 2>/dev/null
        say "verdict $line"
    fi
    ! read_whole "$1/image.$node" || say "image $line"
    out=$out$ended
    if [ "$state" != none ] && [ "$2" = all ]; then
        flush
        (cd "$1" && stat -c "$stat_format" "claim.$node" "end.$node" 2>/dev/null)
    fi
}

# KEY ROOT_UID MODE: one attempt.
do_status() {
    check_root "$2" || return
    say "root_uid $found"
    [ ! -e "$root/tombstones/$1" ] || say buried
    show "$root/jobs/$1" "$3"
}

# [KEY ROOT_UID]...: what changes of attempts, and then the times of all, by one program.
do_glance() {
    files=
    find_root
    while [ $# -gt 1 ]; do
        say "of $1"
        if [ -z "$2" ] || [ "$2" = "$found" ]; then
            say "root_uid $found"
            [ ! -e "$root/tombstones/$1" ] || say buried
            state=none
            show "$root/jobs/$1" phase
            [ "$state" = none ] || files="$files $1/claim.$node $1/end.$node"
        else
            say "refused SITE_CHANGED $found"
        fi
        shift 2
    done
    [ -n "$files" ] || return 0
    # shellcheck disable=SC2086 - keys have letters that need no quotes
    files=$(cd "$root/jobs" && stat -c "$stat_format" -- $files 2>/dev/null)
    [ -z "$files" ] || out=$out$files$newline
}

# INSTALLATION: the attempts of an installation; of all with a star.
do_list() {
    find_root
    say "root_uid $found"
    for folder in "$root/jobs/$partition"/$1/*.*; do
        [ -d "$folder" ] || continue
        key=${folder#"$root/jobs/"}
        # The account's own processes may have made it, with any name.
        case $key in *[!A-Za-z0-9._/-]*) continue ;; esac
        say "key $key"
        [ ! -e "$root/tombstones/$key" ] || say buried
        show "$folder" all
    done
}

# KEY...: how far each is here: "KEY alive", "KEY gone", "KEY none" (no claim), or "KEY ended".
do_scan() {
    for key; do
        state=ended
        [ -f "$root/jobs/$key/end.$node" ] || read_claim "$root/jobs/$key"
        say "$key $state"
    done
}

# KEY ROOT_UID REASON: the attempt never starts (again); who runs says REASON when it ends.
do_bury() {
    check_root "$2" || return
    tombstone=$root/tombstones/$1 folder=$root/jobs/$1
    if [ ! -e "$tombstone" ]; then
        if [ ! -d "${tombstone%/*}" ] && ! make_folder "${tombstone%/*}"; then
            refuse_write "$root"
            return
        fi
        { printf '' >"$tombstone"; } 2>/dev/null || {
            refuse_write "$root"
            return
        }
    fi
    # What has ended stays as it is.
    if [ -e "$folder/end.$node" ] || ! read_whole "$folder/spec"; then
        return 0
    fi
    do_end "$1" "$3" unstarted none
    do_judge "$1" "$3"
}

# KEY REASON: the reason why it is being ended; the first one counts.
do_judge() {
    [ -e "$root/jobs/$1/verdict.$node" ] ||
        { printf '%s\n' "$2" >"$root/jobs/$1/verdict.$node"; } 2>/dev/null
}

# KEY REASON KIND STATE: writes the end that no runner writes, if the claim is in that state. With
# "none" the claim is taken first, so that no runner can.
do_end() {
    folder=$root/jobs/$1
    [ -d "$folder" ] && [ ! -e "$folder/end.$node" ] || return 0
    read_claim "$folder"
    [ "$state" = "$4" ] || return 0
    [ "$4" != none ] || link_whole "$folder/claim.$node" cancelled || return 0
    link_whole "$folder/end.$node" "$3 $2
."
    [ -e "$folder/end.$node" ] || refuse_write "$folder"
}

# KEY MARK SIGNAL [PID]...: sends a signal to all processes of the attempt here but the runner, and tells
# their numbers. Those that are named are told only; signal 0 is sent to nobody.
do_signal() {
    folder=$root/jobs/$1 mark=$2 signal=$3
    shift 3
    told=" $* " session=none
    read_claim "$folder"
    # Once it has ended, or after a boot, the number of its session may be another's; 0 and 1 are the
    # system's own.
    if [ "${claim%% *}" = "$boot" ] && [ -s "$folder/session.$node" ] &&
        [ ! -e "$folder/end.$node" ]; then
        { read -r session <"$folder/session.$node"; } 2>/dev/null
        [ "$session" -gt 1 ] 2>/dev/null || session=none
    fi
    files=$(grep -lszF -e "SWM_MARK=$mark" /proc/[0-9]*/environ)
    [ "$session" = none ] || files="$files
$(grep -lszE -e "\\) [^Z] [0-9]+ [0-9]+ $session " /proc/[0-9]*/stat)"
    seen=' '
    for pid in $files; do
        pid=${pid#/proc/}
        pid=${pid%%/*}
        case $seen in *" $pid "*) continue ;; esac
        seen="$seen$pid "
        kill -s 0 "$pid" 2>/dev/null || continue
        printf '=%s\n' "$pid"
        case $signal$told in 0* | *" $pid "*) continue ;; esac
        kill -s "$signal" "$pid" 2>/dev/null
        [ "$signal" != TERM ] || kill -s CONT "$pid" 2>/dev/null
    done
}

# KEY: kills the runner, which has nothing left to guard.
do_kill_runner() {
    read_claim "$root/jobs/$1"
    [ "$state" = alive ] || return 0
    set -- $claim
    kill -s KILL "$2" 2>/dev/null
}

# KEY ROOT_UID INPUTS MODE: adds to `thrown` what lies of an attempt below $root, and what lies in the
# cache's `in` under names that begin with INPUTS. In mode "bury" it gets its tombstone first. What
# lies in a folder of the user's own has been taken back before.
throw_away() {
    if [ "$4" = bury ]; then
        do_bury "$1" "$2" CANCELLED
        [ "$failed" = . ] || return
    fi
    check_root "$2" || return
    for each in "jobs/$1" "cache/in/$3" "cache/in/$3".*; do
        [ ! -d "$each" ] || thrown="$thrown $each"
    done
}

# [KEY ROOT_UID INPUTS MODE]...: begins to remove what was made for attempts of one installation, and
# tells where that goes on; `removed` tells when it is over.
do_remove() {
    trashed=$((trashed + 1))
    trash=trash/$node.$$.$trashed thrown='' keys='' installation=${1%/*}
    cd "$root" 2>/dev/null || cd /
    while [ $# -gt 3 ]; do
        throw_away "$@"
        if [ "$failed" = . ]; then
            keys="$keys $1"
        else
            say "refused $1 ${failed#!}"
            failed=.
        fi
        shift 4
    done
    # A disk may be so full that no folder can be made: the first of them takes the others then.
    # shellcheck disable=SC2086 - keys have letters that need no quotes
    [ -z "$thrown" ] || {
        set -- $thrown
        if mkdir -p "$trash"; then
            mv "$@" "$trash"
        else
            mv "$1" "$trash" && shift && { [ $# -eq 0 ] || mv "$@" "$trash"; }
        fi
    } 2>/dev/null
    for key in $keys; do
        [ ! -d "jobs/$key" ] || say "left $key $root/jobs/$key"
    done
    if [ -d "$trash" ]; then
        set -- "jobs/$installation"/*
        [ -e "$1" ] || rmdir "jobs/$installation" 2>/dev/null
        # A job may have taken its own rights away; and a network file system keeps for a while what
        # somebody has open.
        {
            tries=0
            until rm -rf "$trash" || [ "$tries" -ge 60 ]; do
                [ "$tries" -eq 0 ] || sleep 1
                tries=$((tries + 1))
                find "$trash" -type d ! -perm -700 -exec chmod u+rwx {} \;
            done
        } </dev/null >/dev/null 2>&1 &
        say "trash $trash"
    fi
    cd /
}

# TRASH: whether what was being removed is gone.
do_removed() {
    [ -e "$root/$1" ] || say gone
}

# To open a file has a network file system ask its server how big it is by now.
open_anew() {
    [ ! -f "$1" ] || true <"$1"
} 2>/dev/null

# LIMIT [FILE OFFSET]...: what output files hold from an offset on: for each its size, and up to LIMIT
# bytes. FILE is KEY/NAME.
do_read() {
    limit=$1
    shift
    while [ $# -gt 1 ]; do
        file=$root/jobs/$1 size=0
        open_anew "$file"
        [ ! -s "$file" ] || size=$(stat -c %s "$file" 2>/dev/null)
        say "${size:-0}"
        more=$((${size:-0} - $2))
        [ "$more" -le "$limit" ] || more=$limit
        if [ "$more" -gt 0 ]; then
            flush
            printf '#%s\n' "$more"
            # A file that was cut meanwhile, or lets nobody read it, is made up for: so many bytes
            # were promised.
            { tail -c +$(($2 + 1)) "$file"; head -c "$more" /dev/zero; } | head -c "$more"
        fi
        shift 2
    done
}

# [FILE]...: the sizes of output files.
do_sizes() {
    cd "$root/jobs" || return 0
    for file; do
        open_anew "$file"
    done
    stat -c '=%s %n' -- "$@" 2>/dev/null
    cd /
}

cd /
trashed=0 unsynced='' kind='' detach='' runtime_dir=$SITE_RUNTIME_DIR
unset SITE_RUNTIME_DIR
printf '\n%s\n' "$nonce"
while read -r verb count bytes; do
    failed=.
    set --
    while [ "$count" -gt 0 ]; do
        read_word || exit
        set -- "$@" "$word"
        count=$((count - 1))
    done
    "do_$verb" "$@"
    printf '%s%s\n' "$out" "$failed"
    out=
done
