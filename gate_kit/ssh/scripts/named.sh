# Puts a tree that lies in the cache into a work folder of the user's own, and takes it back: the other
# end of gate_kit/ssh/named_inputs.py. Arguments: KEY ID ROOT_UID MANIFEST WORKDIR.
#
# What is made is noted before it is made, in the file `placed` of the attempt: absolute paths that each
# end with NUL, files first, then folders from below. Requests and answers are as in put.sh. Paths come
# as bytes, each ended by NUL; those in the folder begin with "./".

key=$1 id=$2 root_uid=$3 manifest=$4 workdir=$5
folder=$root/jobs/$key
tree=$root/cache/trees/$manifest
if [ -z "$workdir" ] && [ -f "$folder/workdir" ]; then
    workdir=$(cat "$folder/workdir" && echo .)
    workdir=${workdir%.}
    workdir=${workdir%/}
fi
draft=$workdir/.swm-$id
failed=

bytes() { dd bs="$1" count=1 iflag=fullblock 2>/dev/null; }

# Why something could not be written, in $said.
refuse_said() {
    for why in 'No space left on device' 'quota exceeded' 'Read-only file system' 'Permission denied'; do
        case $said in
        *"$why"*)
            refuse WRITE "$workdir: $why"
            return
            ;;
        esac
    done
    refuse_write "$workdir"
}

# Each path that comes in a line after "$1 ", with a slash at its end; a backslash and a newline in it as
# \0134 and \0012.
# shellcheck disable=SC2016 - for the inner shell
names='
kind=$0
for path; do
    case $path in
    *\\*|*"
"*)
        path=$(printf "%s/" "$path" | awk "{ gsub(/\\\\/, \"\\\\0134\"); printf \"%s%s\", between, \$0; between = \"\\\\0012\" }")
        path=${path%/}
        ;;
    esac
    printf "%s %s/\n" "$kind" "$path"
done
'

# The paths that were noted, as lines "own PATH/" and, by other attempts of the job, "other PATH/".
noted() {
    [ ! -s "$folder/placed" ] || xargs -0 -r sh -c "$names" own <"$folder/placed"
    for list in "${folder%.*}".*/placed; do
        [ "$list" = "$folder/placed" ] || [ ! -s "$list" ] ||
            xargs -0 -r sh -c "$names" other <"$list"
    done
}

do_open() {
    check_root "$root_uid" || return
    if [ -e "$root/tombstones/$key" ] || [ ! -d "$folder" ]; then
        refuse JOB_CANCELLED
    elif [ -e "$folder/spec" ]; then
        refuse JOB_STARTED
    else
        noted | sed 's/^/=/'
    fi
}

# TOP BYTES, and paths: of each a letter, in the order of the paths: l a link, d a folder, f a file,
# o something else, n nothing. TOP is "/" or "." for the work folder.
do_see() {
    place=/
    [ "$1" = / ] || place=$workdir
    # shellcheck disable=SC2016 - for the inner shell
    bytes "$2" | { cd "$place" && xargs -0 -r sh -c '
        for path; do
            if [ -h "$path" ]; then echo =l
            elif [ -d "$path" ]; then echo =d
            elif [ -f "$path" ]; then echo =f
            elif [ -e "$path" ]; then echo =o
            else echo =n; fi
        done' sh; }
}

# BYTES, and paths: of each "y" if the work folder has the same as the tree, "n" if not.
do_same() {
    # shellcheck disable=SC2016 - for the inner shell
    bytes "$1" | { cd "$workdir" && xargs -0 -r sh -c '
        for path; do
            if [ -h "$path" ]; then
                [ -h "$0/l/$path" ] && [ "$(readlink "$path"; echo .)" = "$(readlink "$0/l/$path"; echo .)" ]
            else
                [ -f "$0/t/$path" ] && [ "$(sha256sum <"$path")" = "$(sha256sum <"$0/t/$path")" ]
            fi && echo =y || echo =n
        done' "$tree"; }
}

# BYTES, and absolute paths: notes them.
do_note() {
    said=$({ bytes "$1" >>"$folder/placed"; } 2>&1) || refuse_said
}

# BYTES, and absolute paths of folders, from above.
do_mkdir() {
    said=$(bytes "$1" | xargs -0 -r mkdir -m 700 2>&1) || refuse_said
}

# BYTES, and the path of a folder, and names of what is moved there from the same folder of the draft.
do_move() {
    # shellcheck disable=SC2016 - for the inner shell
    said=$(bytes "$1" | { cd "$draft" && xargs -0 -r sh -c '
        to=$1
        shift
        cd "./$to" && exec mv -f "$@" "$0/$to/"' "$workdir"; } 2>&1) || refuse_said
}

# MODE BYTES, and paths.
do_chmod() {
    said=$(bytes "$2" | { cd "$workdir" && xargs -0 -r chmod "$1"; } 2>&1) || refuse_said
}

# All is in its place: the draft goes, and the rest to the disk.
do_done() {
    rm -rf "$draft"
    sync -f "$workdir" "$folder" 2>/dev/null || sync
}

# Removes what was noted, but for what other attempts of the job have noted, and folders that hold more.
do_take_back() {
    [ -s "$folder/placed" ] || return 0
    # The draft is ours, whatever is in it: an attempt that was cut may have left it.
    if [ -n "$workdir" ]; then
        chmod -R u+rwx "$draft" 2>/dev/null
        rm -rf "$draft" 2>/dev/null
    fi
    list=$(noted | awk '
        $1 == "other" { others[substr($0, 7)] = 1; next }
        { own[++count] = substr($0, 5) }
        END { for (i = 1; i <= count; i++) if (!(own[i] in others)) print own[i] }')
    # What several calls have noted may come in any order, and folders may let nobody in: as long as
    # something changes.
    before=
    while left=$(remove_once) && [ "$left" != "$before" ]; do
        before=$left
    done
    rm -f "$folder/placed"
}

# Removes of $list what can be removed; prints a dot for each path that is left.
# shellcheck disable=SC2016 - for the inner shell
remove_once() {
    ours | xargs -0 -r sh -c '
        for path; do
            [ ! -d "$path" ] || [ -h "$path" ] || { [ -w "$path" ] && [ -x "$path" ]; } ||
                chmod u+rwx "$path"
        done
        rm -f "$@"
        rmdir "$@"
        for path; do
            [ ! -e "$path" ] && [ ! -h "$path" ] || echo .
        done' sh 2>/dev/null
    return 0
}

# The paths in $list, each ended by NUL.
ours() {
    [ -z "$list" ] || printf '%s\n' "$list" | while IFS= read -r line; do
        printf '%b\0' "${line%/}"
    done
}

while read -r verb words; do
    failed=
    # shellcheck disable=SC2086 - words of letters that need no quotes
    "do_$verb" $words
    printf '%s\n' "${failed:-.}"
done
