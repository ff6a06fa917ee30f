# Lists and sends files of a work folder: the other end of gate_kit/ssh/remote_files.py. Arguments: KEY
# ROOT_UID. First it says who reads and which records it makes, "=find UID GID...", or "!REASON text".
# Then a request is a line, for some followed by bytes or further lines, and what comes back is said with
# each.
#
# A file is told in a record, without following links:
#     by find: "MODE SIZE TIME UID GID KIND PATH", NUL, the target of a link, NUL; MODE is octal
#     by stat: "MODE SIZE TIME UID GID PATH//'PATH' -> 'TARGET'//" and a newline; MODE is hexadecimal,
#     with the kind. No path holds two slashes in a row, and of the target the size is known.

failed=
exec 4>&1
check_root "$2"
folder=$root/jobs/$1
[ -n "$failed" ] || [ -d "$folder" ] || refuse JOB_NOT_FOUND
if [ -n "$failed" ]; then
    printf '%s\n' "$failed"
    exit
fi
work=$folder/work
if [ -f "$folder/workdir" ]; then
    work=$(cat "$folder/workdir" && echo .)
    work=${work%.}
fi
# A job may have removed it: then there is nothing in it.
gone=
cd "$work" 2>/dev/null || gone=gone

QUOTING_STYLE=literal
export QUOTING_STYLE
style=stat
if find / -prune -printf '' 2>/dev/null; then
    style=find
    of_find='-printf "%m %s %T@ %U %G %y %p\0%l\0"'
    tell="find \"\$@\" -maxdepth 0 $of_find"
    tell_all="find \"\$@\" $of_find"
else
    of_stat="stat -c '%f %s %Y %u %g %n//%N//'"
    tell="$of_stat \"\$@\""
    tell_all="find \"\$@\" -exec $of_stat {} +"
fi
printf '=%s %s %s\n' "$style" "$(id -u)" "$(id -G)"

bytes() { dd bs="$1" count=1 iflag=fullblock 2>/dev/null; }

# COUNT, and patterns, a line each: the records of what their literal parts and stars match, and of all
# below it; some twice. Then a line ".".
do_list() {
    count=$1
    while [ "$count" -gt 0 ]; do
        count=$((count - 1))
        read_word || exit
        [ -n "$gone" ] || starts
    done | xargs -0 -r sh -c "$tell_all" sh 2>/dev/null
    echo .
}

# Where to begin for the pattern $word, each ended by NUL. Never through a link.
starts() {
    set -- .
    rest=$word/
    IFS=
    while [ -n "$rest" ]; do
        part=${rest%%/*}
        rest=${rest#*/}
        count_now=$#
        for above; do
            [ "$above" = . ] || { [ -d "$above" ] && [ ! -h "$above" ]; } || continue
            case $part in
            '**') rest= && printf '%s\0' "$above" ;;
            .)
                [ "$above" != . ] || printf '.\0'
                ;;
            *)
                for found in "$above/"$part; do
                    case ${found##*/} in
                    . | ..) continue ;;
                    esac
                    [ -e "$found" ] || [ -h "$found" ] || continue
                    if [ -n "$rest" ]; then
                        set -- "$@" "$found"
                    else
                        printf '%s\0' "$found"
                    fi
                done
                ;;
            esac
        done
        shift "$count_now"
    done
    unset IFS
}

# Of each path one letter, in a line: f for a file that can be read, u for one that can't, l for what
# lies behind a link or is no file, m for what is missing. Then the records, and a line ".".
# shellcheck disable=SC2016 - for the inner shell
look='
folder=. state=
for path; do
    if [ "${path%/*}" != "$folder" ]; then
        folder=${path%/*} state= above=$folder
        while [ "$above" != . ]; do
            [ ! -h "$above" ] || state=l
            above=${above%/*}
        done
    fi
    if [ -n "$state" ]; then printf l
    elif [ -h "$path" ]; then printf l
    elif [ ! -e "$path" ]; then printf m
    elif [ ! -f "$path" ]; then printf l
    elif [ ! -r "$path" ]; then printf u
    else printf f; fi
done
echo
'

# BYTES, and paths that each end with NUL.
do_look() {
    if [ -n "$gone" ]; then
        bytes "$1" | xargs -0 -r sh -c 'for path; do printf m; done; echo' sh
    else
        bytes "$1" | xargs -0 -r sh -c "$look $tell" sh 2>/dev/null
    fi
    echo .
}

# BYTES, and paths of small files: their records, a line ".", an archive of them, their records again,
# and a line ".".
do_small() {
    bytes "$1" | xargs -0 -r sh -c "$tell; echo .; tar -c -f - \"\$@\"; $tell" sh 2>/dev/null
    echo .
}

# BYTES, and the path of a file: its record and a line ".". Then a line is read, "OFFSET LENGTH", and so
# many bytes come, with zeros for those that are missing; then whether it could be read, "=0" or not, its
# record again, and a line ".".
do_large() {
    path=$(bytes "$1" && echo .)
    path=${path%.}
    set -- "$path"
    eval "$tell" 2>/dev/null
    echo .
    read -r offset length || exit
    status=$(
        {
            {
                tail -c "+$((offset + 1))" "$path"
                echo "$?" >&3
                exec cat /dev/zero
            } | head -c "$length" >&4
        } 3>&1 2>/dev/null
    )
    printf '=%s\n' "${status:-0}"
    eval "$tell" 2>/dev/null
    echo .
}

while read -r verb words; do
    "do_$verb" "$words"
done
