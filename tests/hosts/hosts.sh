#!/usr/bin/env bash
# Simulated hosts from network namespaces on this machine: each has its own address, name and link to a common switch.
# They share the file system and the processors. Requires root.
#
# usage: hosts.sh up SET N             N hosts h1 to hN of a set of this name: 10.77.0.1 to 10.77.0.N
#        hosts.sh down SET             ends their processes and removes them
#        hosts.sh cut SET HOST         takes a host's link down
#        hosts.sh heal SET HOST        takes it up again, and waits until the host reaches another
#        hosts.sh on SET HOST COMMAND...
#        hosts.sh check                checks whether this machine supports them; prints why not
# HOSTS_HOME gives each host a separate home in that folder.
# As a remote shell for mpirun (OMPI_MCA_plm_rsh_agent): HOSTS_SET is the set, the arguments are HOST COMMAND...
set -euo pipefail

die() { printf 'hosts.sh: %s\n' "$*" >&2; exit 1; }

# When its last process ends, each namespace of a set removes its links, addresses and the bridge.
namespace() { printf '%s-%s\n' "$1" "$2"; }

up() {
    local set=$1 n=$2 i switch
    switch=$(namespace "$set" switch)
    ip netns add "$switch"
    ip -n "$switch" link add bridge type bridge
    ip -n "$switch" link set bridge up
    for ((i = 1; i <= n; i++)); do
        local host
        host=$(namespace "$set" "h$i")
        ip netns add "$host"
        ip -n "$switch" link add "to-h$i" type veth peer name net0 netns "$host"
        ip -n "$switch" link set "to-h$i" master bridge up
        ip -n "$host" link set lo up
        ip -n "$host" address add "10.77.0.$i/24" dev net0
        ip -n "$host" link set net0 up
        # `ip netns exec` lays these over /etc.
        mkdir -p "/etc/netns/$host"
        for ((j = 1; j <= n; j++)); do printf '10.77.0.%d h%d\n' "$j" "$j"; done >"/etc/netns/$host/hosts"
        printf '127.0.0.1 localhost\n' >>"/etc/netns/$host/hosts"
    done
}

down() {
    local set=$1 space
    for space in $(ip netns list | cut -d ' ' -f 1 | grep -E "^$set-(switch|h[0-9]+)$" || true); do
        ip netns pids "$space" | xargs --no-run-if-empty kill -KILL || true
        ip netns delete "$space"
        rm -rf "/etc/netns/$space"
    done
    rmdir /etc/netns 2>/dev/null || true
}

on() {
    local space host=$2
    space=$(namespace "$1" "$host")
    if [[ -n ${HOSTS_HOME:-} ]]; then
        export HOME="$HOSTS_HOME/$host"
        mkdir -p "$HOME"
    fi
    # shellcheck disable=SC2016 # for the inner shell
    exec ip netns exec "$space" unshare --uts sh -c 'hostname "$0" && exec "$@"' "$host" "${@:3}"
}

check() {
    ((EUID == 0)) || die "network namespaces require root"
    command -v ip >/dev/null || die "ip is missing (Debian: iproute2)"
    local set=check$$ refused
    refused=$( { up "$set" 1 && on "$set" h1 true; } 2>&1) || { down "$set"; die "${refused//$'\n'/; }"; }
    down "$set"
}

# The kernel may take a second to use the link, and longer to ask for an address that it did not find.
heal() {
    local space other=h1 tries told
    [[ $2 != h1 ]] || other=h2
    space=$(namespace "$1" "$2")
    ip -n "$(namespace "$1" switch)" link set "to-$2" up
    for ((tries = 0; tries < 120; tries++)); do
        # Nothing listens there: a host that is reached says so.
        told=$(LC_ALL=C ip netns exec "$space" timeout 5 bash -c "exec 3<>/dev/tcp/10.77.0.${other#h}/9" 2>&1) || true
        [[ $told != *refused* ]] || return 0
        sleep 0.2
    done
    die "$2 does not reach $other although its link is up: $told"
}

case ${1:-} in
up | down | on | check) "$@" ;;
cut) ip -n "$(namespace "$2" switch)" link set "to-$3" down ;;
heal) heal "$2" "$3" ;;
h[0-9]*)
    # Like sshd, passes the command to a shell as one string.
    on "${HOSTS_SET:?names the set of hosts}" "$1" sh -c "${*:2}"
    ;;
*) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
