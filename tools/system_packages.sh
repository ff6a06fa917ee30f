#!/bin/sh
# Makes sure of the Debian packages that a list names: as root it installs those that are missing,
# otherwise it names them and fails.
#
#     sh tools/system_packages.sh LIST
#
# A line of LIST is a package and a command that succeeds where it (or its like) is there already;
# so a machine that has the program from elsewhere is left alone.
set -eu

missing=
while read -r package probe || [ -n "$package" ]; do
    case $package in '' | '#'*) continue ;; esac
    sh -c "$probe" </dev/null >/dev/null 2>&1 || missing="$missing $package"
done <"$1"

[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing on this system (by the names of Debian's packages):$missing" >&2
    exit 1
fi
echo "installing$missing"
# The tests start servers of their own; Debian would start those that it installs.
policy=${POLICY_RC_D:-/usr/sbin/policy-rc.d}
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086  # a list of words
apt-get install -y -qq --no-install-recommends $missing >/dev/null
