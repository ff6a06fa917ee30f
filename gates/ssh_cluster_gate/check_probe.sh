# What `--check` asks of an account on a host. Standard input is this text; before it stand lines
# that set `root`, `tools` and `socket`. It prints lines "NAME VALUE", each thing at most once unless told otherwise, and
# leaves nothing behind. It finds out which programs are missing, so it counts on none of them.

LC_ALL=C
export LC_ALL
umask 077
cd /

has() { command -v "$1" >/dev/null 2>&1; }
say() { printf '%s %s\n' "$1" "$2"; }

# What a program said, in one line.
flat() {
    set -f
    # shellcheck disable=SC2086 # into words, on purpose
    set -- $1
    set +f
    printf '%s' "${*:-it does not answer}"
}

# Runs a program that may hang. Without `timeout` the deadline of the whole check ends it.
limited() {
    if has timeout; then timeout 10 "$@" </dev/null; else "$@" </dev/null; fi
}

echo check-begins
say began "$(date +%s)"
say user "$(id -un 2>/dev/null)"

# `lacks` may come many times.
for tool in $tools; do
    has "$tool" || say lacks "$tool"
done
for manager in apt-get dnf yum zypper pacman apk; do
    has "$manager" && { say packages "$manager"; break; }
done

# The work root, or the folder that it would be made in.
case $root in
'~') root=$HOME ;;
'~/'*) root=$HOME/${root#??} ;;
esac
say root "$root"
place=$root
while [ ! -d "$place" ] && [ "${place%/*}" != "$place" ]; do place=${place%/*}; done
place=${place:-/}
say place "$place"
[ -e "$root/root_uid" ] && { IFS= read -r uid <"$root/root_uid" && say root_uid "$uid"; } 2>/dev/null
if [ -d "$root" ] && has stat; then say mode "$(stat -c '%a %U' "$root" 2>/dev/null)"; fi
file=$place/.swm-check.$$
said=$({ printf '#!/bin/sh\nexit 0\n' >"$file"; } 2>&1)
if [ -f "$file" ] && [ -s "$file" ]; then
    say writable yes
    chmod 700 "$file" 2>/dev/null && { "$file" >/dev/null 2>&1 && say executes yes || say executes no; }
else
    said=${said##*: }
    # Not every shell says why.
    if [ -f "$file" ]; then said='No space left on device'; fi
    say writable "no ${said:-it can not be written}"
fi
rm -f "$file" 2>/dev/null

if has df; then
    df -Pk "$place" 2>/dev/null | { IFS= read -r _ && read -r _ total _ free _ mount && say disk "$total $free $mount"; }
    df -Pi "$place" 2>/dev/null | { IFS= read -r _ && read -r _ total _ free _ mount && say inodes "$total $free $mount"; }
fi

# What it has.
cpus=$(nproc 2>/dev/null) || cpus=$(getconf _NPROCESSORS_ONLN 2>/dev/null)
say cpus "$cpus"
if [ -r /proc/meminfo ]; then
    while read -r name kib _; do
        case $name in
        MemTotal:) say memory "$kib" ;;
        MemAvailable:) say available "$kib" ;;
        esac
    done </proc/meminfo
fi
if has nvidia-smi; then
    if listed=$(limited nvidia-smi -L 2>&1); then
        count=0
        while IFS= read -r line; do
            case $line in 'GPU '*) count=$((count + 1)) ;; esac
        done <<LISTED
$listed
LISTED
        say gpus "$count"
    else
        say gpu_trouble "$(flat "$listed")"
    fi
fi

# Containers: `engine` may come many times. `socket` is set as `root` is.
[ -z "$socket" ] || export DOCKER_HOST="$socket" CONTAINER_HOST="$socket"
engine() {
    program=$1
    shift
    has "$program" || return
    if told=$(limited "$program" "$@" 2>&1); then
        say engine "$program yes ${told##* }"
    else
        say engine "$program no $(flat "$told")"
    fi
}
engine docker version --format '{{.Server.Version}}'
engine podman info --format '{{.Version.Version}}'
engine apptainer --version
has apptainer || engine singularity --version

# Whether limits can be put on jobs: by a systemd of the account's own, that outlives its logins. It is
# found the same way when jobs are started.
if has systemd-run && has loginctl; then
    [ "$(limited loginctl show-user "$(id -un)" --property Linger --value 2>/dev/null)" != yes ] || say lingers yes
    XDG_RUNTIME_DIR=/run/user/$(id -u)
    export XDG_RUNTIME_DIR
    if told=$(limited systemd-run --user --scope --quiet --property MemoryMax=1G true 2>&1); then
        say systemd_run yes
    else
        say systemd_run "no $(flat "$told")"
    fi
fi
say processes "$(ulimit -u 2>/dev/null)"
say files "$(ulimit -n 2>/dev/null)"

# Whether a job outlives the login that started it.
if has busctl; then
    told=$(limited busctl get-property org.freedesktop.login1 /org/freedesktop/login1 \
        org.freedesktop.login1.Manager KillUserProcesses 2>/dev/null) && say kills "${told##* }"
fi
say ended "$(date +%s)"
echo check-ends
