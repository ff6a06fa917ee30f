# What the gate does on a login node about jobs of Slurm. Like the agent of hosts it answers requests,
# a line "VERB WORDS BYTES" and what follows it, for as long as the connection lasts; it is run twice,
# once for what takes a moment, and once for Slurm's own commands. $1 is the name of batch.sh here.

batch=$root/$1
answer=$(mktemp 2>/dev/null) || answer=$root/.slurm.$$
trap 'rm -f "$answer" "$answer.errors"' EXIT
trap 'exit 0' HUP INT TERM PIPE
stat_format='=at %n %.9Y'
case $(stat -c %.9Y / 2>/dev/null) in
'' | *[!0-9.]*) stat_format='=at %n %Y' ;;
esac
tick=0

# Whether the script that Slurm is given is here.
do_prepared() {
    [ ! -f "$batch" ] || echo =yes
}

# That script, as bytes. Each version has a name of its own.
do_prepare() {
    mkdir -p "$root/queue-events" 2>/dev/null
    dd bs="$bytes" count=1 iflag=fullblock of="$batch.$$" 2>/dev/null &&
        mv "$batch.$$" "$batch" 2>/dev/null || refuse_write "$root"
}

# Commands of Slurm, and jobs with them, get a login's environment, without what a site or a user may
# have set for such commands.
SWM_BATCH=$batch
export SWM_BATCH
for name in $(env | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p'); do
    case $name in
    HOME | LOGNAME | USER | SHELL | PATH | SLURM_CONF | SWM_BATCH | LC_ALL | PWD) ;;
    *) unset "$name" 2>/dev/null ;;
    esac
done

# A command of Slurm, which has $1 seconds. A dot comes behind its answer, which without it is not
# whole: commands of Slurm do not say that the disk was full.
ask_slurm() {
    within=$1
    shift
    (
        unset LC_ALL
        exec timeout -k 2 "$within" "$@" </dev/null >"$answer" 2>"$answer.errors"
    )
    code=$?
    { echo . >>"$answer"; } 2>/dev/null
}

# Its answer in lines and the dot, then its errors, then its code.
tell_slurm() {
    if [ -s "$answer" ]; then
        sed 's/^/=/' "$answer"
    fi
    if [ -s "$answer.errors" ]; then
        sed 's/^/=error /' "$answer.errors"
    fi
    printf '=code %s\n' "$code"
}

# SECONDS COMMAND [ARGUMENT]...
do_slurm() {
    ask_slurm "$@"
    tell_slurm
}

# KEY ROOT_UID RANKS FORGOTTEN COMMAND [ARGUMENT]..., and the private variables: submits, unless it was
# submitted; the queue may have forgotten that under the id FORGOTTEN. Each of RANKS gets the variables.
do_submit() {
    if ! check_root "$2"; then
        skip
        return
    fi
    folder=$root/jobs/$1 ranks=$3 forgotten=$4
    if [ -e "$root/tombstones/$1" ]; then
        skip
        refuse JOB_CANCELLED
        return
    fi
    if read_whole "$folder/slurm" && [ "$line" != "$forgotten" ]; then
        skip
        printf '=%s\n=.\n=code 0\n' "$line"
        return
    fi
    shift 4
    # Looked at first: what is not read now would be taken for a request.
    if ! { printf '' >"$folder/private.0"; } 2>/dev/null; then
        skip
        refuse_write "$folder"
        return
    fi
    pass lines >"$folder/private.0"
    written=$?
    while [ "$written" -eq 0 ] && [ "$ranks" -gt 1 ]; do
        ranks=$((ranks - 1))
        cp "$folder/private.0" "$folder/private.$ranks" 2>/dev/null
        written=$?
    done
    if [ "$written" -ne 0 ]; then
        refuse_write "$folder"
        return
    fi
    ask_slurm 20 "$@"
    id=
    { IFS= read -r id <"$answer"; } 2>/dev/null
    id=${id%%;*}
    case $id in
    '' | *[!0-9]*) ;;
    *)
        write_whole "$folder/slurm" "$id" || refuse_write "$folder"
        printf '=%s\n=.\n=code 0\n' "$id"
        return
        ;;
    esac
    tell_slurm
}

# ID of the last telling: where batch.sh has said that something began or ended. What was told is
# removed. To look for a name that is not there has a network file system ask its server.
do_events() {
    tick=$((tick + 1))
    [ ! -e "$root/queue-events/.$$.$tick" ] || return 0
    set -- "$root/queue-events"/*
    [ -e "$1" ] || return 0
    for event; do
        printf '=%s\n' "${event##*/}"
    done
    # Where nobody has looked for long they may be more than fit on a command line.
    if [ $# -gt 1000 ]; then
        printf '%s\0' "$@" | xargs -0 rm -f
    else
        rm -f "$@"
    fi
}

# The kind of file system that the work root is on.
do_filesystem() {
    printf '=%s\n' "$(stat -f -c %T "$root" 2>/dev/null)"
}

# MODE [KEY ROOT_UID]...: what lies of attempts; "all" of it, or what changes.
do_look() {
    mode=$1
    shift
    files=
    while [ $# -gt 1 ]; do
        printf '=of %s\n' "$1"
        if check_root "$2"; then
            show "$1"
        else
            printf '=refused %s\n' "${failed#!}"
            failed=.
        fi
        shift 2
    done
    tell_times
}

# INSTALLATION: all attempts of one, or of all with a star.
do_list() {
    find_root
    mode=all files=
    for folder in "$root/jobs"/*/$1/*.*; do
        [ -d "$folder" ] || continue
        key=${folder#"$root/jobs/"}
        # The account's own processes may have made it, with any name.
        case $key in *[!A-Za-z0-9._/-]*) continue ;; esac
        printf '=of %s\n' "$key"
        show "$key"
    done
    printf '=of \n=root_uid %s\n' "$found"
    tell_times
}

# What lies of the attempt $1; adds to `files` those whose times tell something.
show() {
    folder=$root/jobs/$1
    printf '=root_uid %s\n' "$found"
    [ ! -e "$root/tombstones/$1" ] || echo =buried
    [ -d "$folder" ] || return 0
    # To read a folder has a network file system ask its server which names are there by now.
    true "$folder"/[0-9]*
    echo =folder
    for name in labels spec; do
        [ "$mode" = all ] && read_whole "$folder/$name" && printf '=%s %s\n' "$name" "$line"
    done
    if [ "$mode" = all ] && [ -f "$folder/workdir" ]; then
        text=$(cat "$folder/workdir" && echo .)
        text=${text%.}
        printf '=workdir\n#%s\n%s' "${#text}" "$text"
    fi
    ! read_whole "$folder/slurm" || printf '=slurm %s\n' "$line"
    ! read_whole "$folder/image.0" || printf '=image %s\n' "$line"
    # In this order: what comes later in a job's life is written later.
    for name in final end.0; do
        tell_lines "$folder" "$name"
    done
    for file in "$folder"/end.[1-9]*; do
        [ ! -f "$file" ] || tell_lines "$folder" "${file##*/}"
    done
    [ ! -e "$folder/claim.0" ] || echo '=has claim.0'
    [ ! -s "$folder/slurm.log" ] || echo '=logged'
    tell_lines "$folder" given
    [ ! -e "$folder/given" ] || files="$files $1/given"
}

tell_lines() {
    [ -f "$1/$2" ] || return 0
    # What comes after the dot is room that was kept for the end.
    while IFS= read -r line; do
        printf '=%s %s\n' "$2" "$line"
        [ "$line" != . ] || break
    done <"$1/$2"
    files="$files ${1#"$root/jobs/"}/$2"
} 2>/dev/null

tell_times() {
    # shellcheck disable=SC2086 - keys have letters that need no quotes
    [ -z "$files" ] || (cd "$root/jobs" && stat -c "$stat_format" -- $files 2>/dev/null)
}

# KEY: the end of what Slurm itself has written about a job.
do_log() {
    [ ! -s "$root/jobs/$1/slurm.log" ] || tail -c 4000 "$root/jobs/$1/slurm.log" | sed 's/^/=/'
}

# KEY KIND REASON: writes down an end that no runner has told; the first one counts.
do_settle() {
    link_whole "$root/jobs/$1/final" "$2 $3
."
}

# KEY: what only the job may see is not needed any more.
do_conceal() {
    rm -f "$root/jobs/$1"/private.* 2>/dev/null
}

while read -r verb count bytes; do
    failed=.
    set --
    while [ "$count" -gt 0 ]; do
        read_word || exit
        set -- "$@" "$word"
        count=$((count - 1))
    done
    "do_$verb" "$@"
    printf '%s\n' "$failed"
done
