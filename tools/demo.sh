#!/bin/sh
# A whole session on this machine: start a core, run a job, bring its results back, stop everything.
# Needs no root, and touches nothing outside the checkout and a temporary SWM_HOME.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
SWM_HOME=$(mktemp -d "${TMPDIR:-/tmp}/skyport-demo.XXXXXX")
export PATH SWM_HOME
unset SWM_CLIENT

finish() {
    status=$?
    trap - EXIT INT TERM
    swm down --cancel >/dev/null 2>&1 || true
    rm -rf "$SWM_HOME"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

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
    mkdir "$SWM_HOME/demo"
    configure
}

configure() {
    cat >"$SWM_HOME/demo/gate.toml" <<'TOML'
state_dir = "site"

[partitions.local]
kind = "static"
nodes = [{ name = "node1", cpus = 2, memory = "2G" }]
TOML
    cat >>"$SWM_HOME/swm.toml" <<TOML

[sites.demo]
command = ["swm-fake-gate", "--config", "$SWM_HOME/demo/gate.toml"]
TOML
}

prepare
# Another core may have come up meanwhile at the port that was free when the home was made.
run swm up || { prepare && run swm up; }
cd examples/wordcount
run swm submit wordcount.sh --follow
job=$(swm jobs --all --json | sed -n 's/.*"job_id": *"\([^"]*\)".*/\1/p' | head -n 1)
run swm jobs --all
run swm fetch "$job" -d "$SWM_HOME/results"
run head -n 5 "$SWM_HOME/results/counts.txt"
run swm down
say "The core and its gate have ended, and nothing is left of this demo."
