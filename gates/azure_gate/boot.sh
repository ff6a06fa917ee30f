#!/bin/sh
# Makes a machine ready for jobs; cloud-init runs it as root, late in each boot.
#
# It tells how far it is in /run/skyport, which the gate reads over SSH: `step` is what it does now,
# and at the end there is `ready`, or `failed` with the reason and the last lines that were said.

state=/run/skyport
config=/etc/skyport
lines=12
waits_s=180

mkdir -p "$state"
chmod 755 "$state"
rm -f "$state/ready" "$state/failed" "$state/step"
exec >"$state/log" 2>&1 </dev/null
chmod 600 "$state/log"

tell() {
    cat >"$state/.$1" && chmod 644 "$state/.$1" && mv "$state/.$1" "$state/$1"
}

step() {
    echo "== $1"
    echo "$1" | tell step
}

fail() {
    echo "== failed: $1"
    { echo "$1"; grep -v '^==' "$state/log" | tail -n "$lines" | cut -c 1-300; } | tell failed
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

has_systemd() { [ -d /run/systemd/system ]; }

install_packages() {
    has apt-get || fail "$* is missing, and there is no apt-get to install it"
    DEBIAN_FRONTEND=noninteractive
    export DEBIAN_FRONTEND
    # Another may hold the lock at boot, and a mirror may be slow to answer for the first time.
    for try in 1 2 3; do
        apt-get -q -o DPkg::Lock::Timeout=120 update &&
            apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends "$@" && return
        sleep $((try * 3))
    done
    fail "$* could not be installed"
}

# Wait for a command to succeed.
until_done() {
    left=$((waits_s * 5))
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || return 1
        sleep 0.2
    done
}

# UID MATCH...: have nothing of the account get to what matches.
reject() {
    account=$1
    shift
    set -- OUTPUT "$@" -m owner --uid-owner "$account" -j REJECT
    iptables -w -C "$@" 2>/dev/null || iptables -w -I "$@" ||
        fail "the metadata service could not be closed to jobs"
}

# Metadata hands out what the machine may do in Azure; its neighbour hands out its set-up, and is
# also the name server of machines that have none of their own.
close_metadata() {
    step "closing the metadata service to jobs"
    has iptables || install_packages iptables
    reject "$1" -d 169.254.169.254
    reject "$1" -d 168.63.129.16 -p tcp ! --dport 53
}

start_docker() {
    if ! has docker; then
        step "installing docker"
        install_packages docker.io
    fi
    step "starting docker"
    if has_systemd; then
        systemctl enable --now docker || fail "docker does not start"
    fi
    until_done docker info || fail "docker does not answer after $waits_s s: $(docker info 2>&1 | tail -n 1)"
    usermod -a -G docker "$1" || fail "$1 can't be let at docker"
}

install_blobfuse() {
    step "installing blobfuse2"
    has curl || install_packages curl ca-certificates
    . /etc/os-release
    package=https://packages.microsoft.com/config/$ID/$VERSION_ID/packages-microsoft-prod.deb
    curl -fsSL --retry 3 -o /tmp/packages-microsoft-prod.deb "$package" &&
        dpkg -i /tmp/packages-microsoft-prod.deb || fail "the packages of blobfuse2 are not to be had"
    install_packages blobfuse2 fuse3
}

mount_storage() {
    has blobfuse2 || install_blobfuse
    while IFS= read -r name; do
        [ -n "$name" ] || continue
        step "mounting storage $name"
        place=/mnt/skyport/$name
        mkdir -p "$place"
        mountpoint -q "$place" && continue
        blobfuse2 mount "$place" --config-file="$config/storage.$name.yaml" --read-only -o ro \
            -o allow_other || fail "storage $name could not be mounted"
    done <"$config/storage"
}

login=$(cat "$config/login") || fail "cloud-init has not written $config"
uid=$(id -u "$login") || fail "cloud-init has not made the account $login"
close_metadata "$uid"
[ "$(cat "$config/containers")" != yes ] || start_docker "$login"
[ ! -s "$config/storage" ] || mount_storage
step "ready"
date -u +%s | tell ready
