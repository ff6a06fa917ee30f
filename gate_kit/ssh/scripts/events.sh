# Passes on what runners tell of claims and ends, until the gate goes. Runners write to each pipe that
# lies in `events`; each of ours has the number of this process in its name.

# One of another host that has the same root, and whose name begins as ours does, is none of ours.
for old in "$root/events/$partition.$node."*; do
    pid=${old#"$root/events/$partition.$node."}
    case $pid in *[!0-9]*) continue ;; esac
    [ ! -p "$old" ] || [ -d "/proc/$pid" ] || rm -f "$old"
done
pipe=$root/events/$partition.$node.$$
[ -d "$root/events" ] || make_folder "$root/events"
mkfifo "$pipe" 2>/dev/null || exit 3
trap 'rm -f "$pipe"' EXIT
trap 'exit 0' HUP INT TERM PIPE
# Opened for writing too: it does not end when the last runner closes it.
cat <>"$pipe" &
echo ready
# The gate never writes to us: this ends with the connection.
cat >/dev/null
kill "$!"
