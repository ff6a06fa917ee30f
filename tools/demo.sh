#!/bin/sh
# A whole session on this machine: start a core and the SSH gate, run a job, look at its port while it
# runs, bring its results back, stop everything. The gate's site is this machine, without ssh.
# Needs no root, and touches nothing outside the checkout and a temporary SWM_HOME.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
SWM_HOME=$(mktemp -d "${TMPDIR:-/tmp}/skyport-demo.XXXXXX")
export PATH SWM_HOME
unset SWM_CLIENT

starts_core=
forwarding=

finish() {
    status=$?
    # Nobody who is impatient leaves something running.
    trap '' INT TERM HUP
    trap - EXIT
    [ -z "$forwarding" ] || kill "$forwarding" 2>/dev/null || true
    # A core that was just being started is not known yet by those who would stop it.
    [ -z "$starts_core" ] || swm up >/dev/null 2>&1 || true
    swm down --cancel --timeout 30 >/dev/null 2>&1 || swm down >/dev/null 2>&1 || true
    rm -rf "$SWM_HOME"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold='' plain=''; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
run() {
    say "\$ $*"
    "$@"
}

prepare() {
    rm -rf "$SWM_HOME"
    mkdir -m 700 "$SWM_HOME"
    swm init >/dev/null 2>&1
    configure
}

configure() {
    cat >"$SWM_HOME/here.toml" <<TOML
local = true
description = "this machine"
work_root = "$SWM_HOME/site"
TOML
    cat >>"$SWM_HOME/swm.toml" <<TOML

[sites.here]
command = ["swm-ssh-gate", "--config", "$SWM_HOME/here.toml"]
TOML
}

prepare
starts_core=yes
# Another core may have come up meanwhile at the port that was free when the home was made.
run swm up || { prepare && run swm up; }
starts_core=

# Results land beside the script, so it is not the checkout's own.
cp -R examples/wordcount "$SWM_HOME/wordcount"
visit=$PWD/tools/visit.py
cd "$SWM_HOME/wordcount"
say "\$ swm submit wordcount.sh"
# The job's python3 is that of a login here; where there is none, it gets ours.
if PATH=/usr/local/bin:/usr/bin:/bin command -v python3 >/dev/null; then
    job=$(swm submit wordcount.sh)
else
    job=$(swm submit wordcount.sh --env "PATH=$PATH")
fi
echo "$job"

say "\$ swm forward $job WEB &"
swm forward "$job" WEB >"$SWM_HOME/forwarded" 2>"$SWM_HOME/forward.log" &
forwarding=$!
if ! python3 "$visit" "$SWM_HOME/forwarded" "$forwarding" counts.txt 3; then
    cat "$SWM_HOME/forward.log" >&2
    swm show "$job" >&2
    exit 1
fi

run swm logs -f "$job"
swm wait "$job"
kill "$forwarding" 2>/dev/null || true
forwarding=
run swm jobs --all
run swm fetch "$job" -d results
run head -n 3 results/counts.txt
run swm down
say "The core and its gate have ended, and nothing is left of this demo."
