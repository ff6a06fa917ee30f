# Tells when files grow, sooner than who asks now and then. Each line on our input names files, below
# `jobs`, and takes the place of the one before; "grown" tells once that one of them has grown since.
# Files that are not there yet are not waited for.

case $(tail --help 2>&1) in
*--pid*) ;;
*) exit 3 ;; # it would look now and then as well, and stay when we are gone
esac
cd "$root/jobs" || exit 3

watcher=
forget() {
    [ -z "$watcher" ] || kill -s TERM -- "-$watcher" 2>/dev/null
    watcher=
}
trap forget EXIT
trap 'exit 0' HUP INT TERM PIPE

while read -r files; do
    forget
    # In a process group of its own, which ends together. What is named has letters that need no quotes.
    # shellcheck disable=SC2016,SC2086
    setsid sh -c '
        owner=$0
        tail --pid="$owner" -q -c 0 -f -- "$@" 2>/dev/null | {
            [ -z "$(head -c 1 | tr "\000" .)" ] || echo grown
            kill -s TERM 0
        }
    ' "$$" $files </dev/null &
    watcher=$!
done
