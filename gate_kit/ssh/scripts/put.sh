# Brings the inputs of an attempt into the account's cache, and from there into its work folder: the
# other end of gate_kit/ssh/cached_inputs.py. Arguments: KEY ID ROOT_UID MANIFEST WORKDIR; the last one
# is empty where the work folder is our own.
#
#     cache/whole/MODE/HEX      contents, by mode since a mode belongs to the file and not to its names
#     cache/trees/MANIFEST/     what a manifest names: b/MODE/HEX are its contents (the same files as
#                               in whole/), t/ has them under their paths, l/ has the links, odd/N.MODE
#                               lists paths with modes that would keep us from copying them
#     cache/in/ID/              a tree that is growing, for one attempt; contents of many pieces in part/
#     cache/in/ID.w             a work folder that is growing; for one of the user's own, WORKDIR/.swm-ID
#
# A request is a line, for some followed by bytes. An answer is lines that begin with =, and then a line
# "." or "!REASON text". What is in a cache may have been damaged by a power cut or by the user, so
# what was not received just now is verified while it is copied.

key=$1 id=$2 root_uid=$3 manifest=$4
cache=$root/cache
stage=$cache/in/$id
tree=$cache/trees/$manifest
work=$stage.w
[ -z "$5" ] || work=$5/.swm-$id
watcher=

# Why something could not be written, as programs have said it or as a trial shows.
refuse_said() {
    for why in 'No space left on device' 'quota exceeded' 'Read-only file system' 'Permission denied'; do
        case $said in
        *"$why"*)
            refuse WRITE "$cache: $why"
            return
            ;;
        esac
    done
    refuse_write "$cache"
}

bytes() { dd bs="$1" count=1 iflag=fullblock 2>/dev/null; }

# What of the manifest is here: the whole tree, or what an earlier call has left.
do_open() {
    check_root "$root_uid" || return
    if [ -d "$tree/t" ]; then
        touch -c "$tree" 2>/dev/null
        echo =tree
        return
    fi
    rm -rf "$stage/t" "$stage/l" "$stage/odd"
    said=$(mkdir -p "$cache/whole" "$cache/trees" "$stage/b" "$stage/t" "$stage/part" 2>&1) || {
        refuse_said
        return
    }
    cd "$stage" || return
    find b -type f -exec stat -c '=staged %s %n' {} +
    find part -type f -exec stat -c '=part %s %n' {} +
    for folder in "$cache/whole"/*/; do
        folder=${folder%/}
        [ ! -d "$folder" ] || printf '=mode %s\n' "${folder##*/}"
    done
}

# BYTES, and digests: which of them are in whole/.
do_find() {
    said=$(bytes "$1" 2>&1 >"$stage/wanted") && [ -s "$stage/wanted" ] || {
        refuse_said
        return
    }
    for folder in "$cache/whole"/*/; do
        cd "$folder" || continue
        folder=${folder%/}
        xargs -r stat -c "=whole %s %h ${folder##*/}/%n" <"$stage/wanted" 2>/dev/null
    done
    rm -f "$stage/wanted"
}

# FROM TO BYTES, and digests: puts the contents of the folder FROM of the cache into b/TO as they are.
do_link() {
    mkdir -p "$stage/b/$2" 2>/dev/null
    # shellcheck disable=SC2016 - for the inner shell
    said=$(bytes "$3" | { cd "$cache/$1" && xargs -r sh -c 'exec ln -f "$@" "$0"' "$stage/b/$2"; } 2>&1) ||
        refuse_gone
}

# FROM TO MODE BYTES, and digests: as before, but as files of their own with a mode of their own.
do_copy() {
    mkdir -p "$stage/b/$2" 2>/dev/null
    # shellcheck disable=SC2016 - for the inner shell
    said=$(bytes "$4" | {
        cd "$cache/$1" && xargs -r sh -c '
            mode=$1
            shift
            cp -f "$@" "$0" && cd "$0" && exec chmod "$mode" "$@"
        ' "$stage/b/$2" "$3"
    } 2>&1) || refuse_gone
}

# Something that was in the cache is not there any more; or it could not be written.
refuse_gone() {
    case $said in
    *'No such file'*) refuse BUSY "the cache is being trimmed" ;;
    *) refuse_said ;;
    esac
}

# BLOCKS, and an archive of so many blocks of 64 KiB.
do_tar() {
    said=$(
        cd "$stage" && umask 0 || exit
        bytes_of_blocks "$1" | {
            tar -x -m -o -p -f - 2>&1
            code=$?
            cat >/dev/null
            exit "$code"
        }
    ) || refuse_said
}

bytes_of_blocks() { dd bs=65536 count="$1" iflag=fullblock 2>/dev/null; }

# HEX START BLOCKS REST, and bytes: a part of a content, from block START on. What is left of an earlier
# call may still be writing too; it writes the same bytes to the same places.
do_part() {
    said=$(
        exec 2>&1
        into="$stage/part/$1"
        [ "$3" -eq 0 ] || dd bs=65536 count="$3" iflag=fullblock seek="$2" conv=notrunc of="$into" || exit
        [ "$4" -eq 0 ] || bytes "$4" | dd bs=65536 seek="$(($2 + $3))" conv=notrunc of="$into"
    ) || refuse_said
}

# HEX MODE VERIFY: a content is whole.
do_whole() {
    from=$stage/part/$1
    if [ "$3" = verify ]; then
        sum=$(sha256sum "$from" 2>/dev/null)
        if [ "${sum%% *}" != "$1" ]; then
            do_drop "$1"
            refuse DIGEST_MISMATCH "$1"
            return
        fi
    fi
    said=$({ mkdir -p "$stage/b/$2" && chmod "$2" "$from" && mv -f "$from" "$stage/b/$2/$1"; } 2>&1) ||
        refuse_said
}

do_drop() { rm -f "$stage/part/$1"; }

# What has grown is a tree now, and its contents can be had by others.
do_tree() {
    cd "$stage/b" || return
    for folder in *; do
        case $folder in
        '*' | *.*) continue ;;
        esac
        mkdir -p "$cache/whole/$folder" 2>/dev/null
        # What is there already stays.
        # shellcheck disable=SC2016 - for the inner shell
        (cd "$folder" && find . -type f | xargs -r sh -c 'exec ln "$@" "$0"' "$cache/whole/$folder") 2>/dev/null
    done
    rm -rf "$stage/part"
    if [ -d "$tree" ]; then
        rm -rf "$stage"
        return
    fi
    said=$(mv "$stage" "$tree" 2>&1) || refuse_said
}

# Digests of the files whose names come, as sha256sum prints them. Where openssl is, it may be several
# times as fast, since it uses what the processor has for that.
sums() {
    case $(openssl dgst -sha256 -r </dev/null 2>/dev/null) in
    e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855*) xargs -r openssl dgst -sha256 -r ;;
    *) xargs -r sha256sum ;;
    esac
}

# Prints the contents that are not what their names say; "?" if that can't be told. Reads their names.
damaged() {
    cd "$tree/b" && { sums 2>/dev/null || echo '? ?'; } |
        awk '{ sub(/^\*/, "", $2); n = split($2, part, "/"); if (part[n] != $1 || $1 == "?") print $2 }'
}

# VERIFY BYTES, and names of contents: copies the tree, while those contents are verified, all or none
# of them. When the gate goes meanwhile, that ends. A line is read before the next request.
do_work() {
    names=
    [ "$1" != some ] || names=$(bytes "$2")
    exec 3<&0
    { read -r line <&3 || kill -TERM 0; } >/dev/null 2>&1 &
    watcher=$!
    rm -rf "$work"
    reflink=
    case $(cp --help 2>&1) in
    *--reflink*) reflink=--reflink=auto ;;
    esac
    # Both at once: names of what is wrong, then slashes, then what cp says.
    said=$(
        {
            case $1 in
            all) cd "$tree/b" && find . -type f | damaged ;;
            some) printf '%s\n' "$names" | damaged ;;
            esac
        } &
        # shellcheck disable=SC2086 - one option or none
        told=$(
            umask 0
            exec 2>&1
            cp -RL $reflink "$tree/t" "$work" && { [ ! -d "$tree/l" ] || cp -RP "$tree/l/." "$work"; }
        )
        code=$?
        wait "$!"
        printf '///%s' "$told"
        exit "$code"
    )
    code=$?
    wrong=${said%%///*}
    said=${said#*///}
    if [ -n "$wrong" ]; then
        damage "$wrong"
    elif [ "$code" -ne 0 ]; then
        refuse_said
    fi
    [ -z "$failed" ] || rm -rf "$work"
}

# $1: names of contents that are damaged. They are dropped, and the tree with them.
damage() {
    hex=
    for name in $1; do
        hex=${name##*/}
        rm -f "$cache/whole"/*/"$hex"
    done
    rm -rf "$tree"
    refuse DIGEST_MISMATCH "$hex"
}

# The work folder gets its modes, and its name once it is whole; then all of it goes to the disk.
do_appear() {
    folder=$root/jobs/$key
    for list in "$tree/odd"/*; do
        [ -f "$list" ] || continue
        said=$({ cd "$work" && xargs -0 chmod "${list##*.}" <"$list"; } 2>&1) || {
            refuse_said
            return
        }
    done
    if [ -e "$root/tombstones/$key" ] || [ ! -d "$folder" ]; then
        refuse JOB_CANCELLED
    elif [ -e "$folder/spec" ]; then
        refuse JOB_STARTED
    else
        # One that an earlier call has left, with whatever was done to it.
        if [ -e "$folder/work" ]; then
            rm -rf "$work.old"
            mv "$folder/work" "$work.old" && { chmod -R u+rwx "$work.old"; rm -rf "$work.old"; }
        fi 2>/dev/null
        said=$(mv "$work" "$folder/work" 2>&1) || refuse_said
    fi
    if [ -n "$failed" ]; then
        chmod -R u+rwx "$work"
        rm -rf "$work"
    else
        sync -f "$folder" 2>/dev/null || sync
    fi
}

while read -r verb words; do
    failed=
    # shellcheck disable=SC2086 - words of letters that need no quotes
    "do_$verb" $words
    printf '%s\n' "${failed:-.}"
    [ -z "$watcher" ] || wait "$watcher"
    watcher=
done
