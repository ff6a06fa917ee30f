# What the scripts on hosts have in common. Nearly all of it is done by the shell itself: each program
# that is started costs a millisecond. What can fail is no special builtin: that would end the shell.

LC_ALL=C
export LC_ALL
umask 077

newline='
'

# A word as the gate sends it: a backslash and a newline are written as \0134 and \0012. Sets `word`.
read_word() {
    IFS= read -r word || return
    case $word in
    *\\*)
        word=$(printf '%b.' "$word")
        word=${word%.}
        ;;
    esac
}

# Leaves out the $bytes bytes that come next.
skip() {
    [ "$bytes" -eq 0 ] || dd bs="$bytes" count=1 iflag=fullblock of=/dev/null 2>/dev/null
}

# Passes on the $bytes bytes that come next. With "lines" they are lines without NUL, and if they are few,
# the shell itself does it: to start a program costs as much as to read two thousand letters.
pass() {
    if [ "$1" != lines ] || [ "$bytes" -gt 1500 ]; then
        [ "$bytes" -eq 0 ] || dd bs="$bytes" count=1 iflag=fullblock
        return
    fi
    text=
    while [ "$bytes" -gt 0 ]; do
        IFS= read -r line || exit
        bytes=$((bytes - ${#line} - 1))
        text="$text$line$newline"
    done
    printf '%s' "$text"
} 2>/dev/null

# The last line of an answer: what was refused, and the text for it.
refuse() { failed="!$*"; }

# Where something could not be written: why, in the words of a program.
refuse_write() {
    text=$({ printf '%4096s' '' | cat >"$1/.probe.$$"; } 2>&1 | tail -n 1)
    rm -f "$1/.probe.$$" 2>/dev/null
    refuse WRITE "$1: ${text##*: }"
}

# A file of one line is whole when a line with a dot follows. Sets `line`.
read_whole() {
    line='' stop=''
    [ -f "$1" ] && { IFS= read -r line && IFS= read -r stop; } <"$1"
    [ "$stop" = . ]
}

write_whole() {
    printf '%s\n.\n' "$2" >"$1"
} 2>/dev/null

# Of several who write a file this way the first one counts, and it is whole. Some of them may be on
# other hosts that have the same root, with the same process number.
link_whole() {
    { printf '%s\n' "$2" >"$1.$node.$$" && ln "$1.$node.$$" "$1"; } 2>/dev/null
    linked=$?
    rm -f "$1.$node.$$" 2>/dev/null
    return "$linked"
}

# Sets `found` to the identity of the place under `root`.
find_root() {
    found=
    { IFS= read -r found <"$root/root_uid"; } 2>/dev/null
}

# Whether this is the place that the caller knows: $1 is its root_uid, or empty at a first contact.
check_root() {
    find_root
    [ -z "$1" ] || [ "$1" = "$found" ] || {
        refuse SITE_CHANGED "$found"
        return 1
    }
}

make_folder() {
    mkdir -p "$1" 2>/dev/null
}
