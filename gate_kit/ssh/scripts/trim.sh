# Drops what was not used for longest from the cache, until it takes no more than KIB. Argument: KIB.
# It is run when no upload of the gate's own uses the cache.

cache=$root/cache
used() {
    used=$(du -sk "$cache" 2>/dev/null)
    used=${used%%[!0-9]*}
}

# Contents that no tree has any more.
drop_contents() {
    find "$cache/whole" -type f -links 1 -exec rm -f {} + 2>/dev/null
}

trim() {
    [ -d "$cache" ] || return 0
    # What is left of uploads whose attempts are gone, or that nobody has gone on with for a week.
    for stage in "$cache/in"/*; do
        [ -d "$stage" ] || continue
        key=${stage##*/}
        key=${key%.old}
        key=${key%.w}
        attempt=$(printf '%s\n' "$key" | tr , /)
        if [ ! -d "$root/jobs/$attempt" ] || [ -n "$(find "$stage" -prune -mtime +7)" ]; then
            chmod -R u+rwx "$stage" 2>/dev/null
            rm -rf "$stage"
        fi
    done
    used
    [ "$used" -gt "$1" ] || return 0
    drop_contents
    # Another gate may be at work; what it uses was used in the last hour.
    age=
    [ -z "$(find "$cache/in" -mindepth 1 -maxdepth 1 -mmin -60)" ] || age='-mmin +60'
    # By the time of their last use, the oldest first.
    # shellcheck disable=SC2086 - two words or none
    find "$cache/trees" -mindepth 1 -maxdepth 1 -type d $age -exec stat -c '%Y %n' {} + |
        sort -n | while read -r _ tree; do
        used
        [ "$used" -gt "$1" ] || break
        rm -rf "$cache/trees/${tree##*/}"
        drop_contents
    done
}

while read -r verb; do
    "$verb" "$1"
    echo .
done
