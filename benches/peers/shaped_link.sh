#!/usr/bin/env bash
# Two network namespaces on one machine, joined by a pair of virtual interfaces that each send at a given rate: what two
# machines with such a network have between them, for benchmarks of communication.
#
#   shaped_link.sh up RATE             as tc writes rates: 1gbit, 400mbit. 10.231.0.1 in sprint-a, 10.231.0.2 in sprint-b
#   shaped_link.sh run A|B COMMAND...  a command in one of the two namespaces
#   shaped_link.sh down                takes both away
#
# Needs root, ip and tc with tbf. Where they are missing, it prints "SKIP: <reason>" and ends with status 0.
set -Eeuo pipefail

a=sprint-a b=sprint-b device=sprint0

skip() {
    echo "SKIP: $*"
    exit 0
}

down() {
    # An interface goes with its namespace, and its peer with it.
    for namespace in "$a" "$b"; do
        ip netns delete "$namespace" 2>/dev/null || true
    done
}

# end NAMESPACE ADDRESS RATE
end() {
    ip -n "$1" address add "$2/24" dev "$device"
    ip -n "$1" link set "$device" up
    ip -n "$1" link set lo up
    # The burst is what goes out at once after a pause, so a message of that size is not shaped. A smaller one would
    # not let 1gbit be reached.
    tc -n "$1" qdisc add dev "$device" root tbf rate "$3" burst 256k latency 20ms
}

up() {
    [ "$(id -u)" = 0 ] || skip "network namespaces need root"
    command -v ip >/dev/null && command -v tc >/dev/null || skip "ip and tc (iproute2) are not there"
    down
    ip netns add "$a" 2>/dev/null || skip "this kernel or container lets nobody make network namespaces"
    ip netns add "$b"
    ip link add name "$device" netns "$a" type veth peer name "$device" netns "$b" 2>/dev/null || {
        down
        skip "this kernel has no veth"
    }
    trap down ERR
    end "$a" 10.231.0.1 "$1"
    end "$b" 10.231.0.2 "$1"
    echo "10.231.0.1 in $a and 10.231.0.2 in $b, $1 each way"
}

case ${1-} in
    up) up "${2:?a rate, such as 1gbit}" ;;
    down) [ "$(id -u)" != 0 ] || down ;;
    run)
        [ "$(id -u)" = 0 ] || skip "network namespaces need root"
        case ${2-} in
            A | a) namespace=$a ;;
            B | b) namespace=$b ;;
            *) echo "shaped_link.sh run: expected A or B, got '${2-}'" >&2; exit 2 ;;
        esac
        shift 2
        exec ip netns exec "$namespace" "$@"
        ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
