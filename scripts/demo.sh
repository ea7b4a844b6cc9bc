#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The demo: a shop of nine machines in network namespaces on one wire, real clients and servers, everything recorded; then
# the recording through the shop's policy, at every vNIC.
#
#     web-1 web-2 web-3   app-1 app-2   db-1   ops-1 backup-1 dns-1      (pal-demo-<pid>-NAME, one veth each)
#        └──────┴──────┴──────┴──┬──┴──────┴──────┴──────┴──────┘
#                           bridge "wire"  ── recorder                   (pal-demo-<pid>-wire)
#
# Nothing outside these namespaces is touched, and all of them are gone at the end, also when interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."
palisade=$PWD/.venv/bin/palisade
python=$PWD/.venv/bin/python
endpoint=$PWD/scripts/demo/endpoint.py
policy=examples/shop/policy.yaml
inventory=examples/shop/inventory.yaml
prefix=pal-demo-$$
work=$(mktemp -d)
pids=()

clean_up() {
    local pid name
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for name in $(ip netns list 2>/dev/null | awk -v p="$prefix-" 'index($1, p) == 1 {print $1}'); do
        ip netns pids "$name" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
        ip netns delete "$name" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
inside() { # inside NAME COMMAND…
    local name=$1
    shift
    ip netns exec "$prefix-$name" "$@"
}
serve() { # serve NAME PROGRAM ARGUMENT…: in the background, until the end
    inside "$1" "$python" "$endpoint" "${@:2}" 2>/dev/null &
    pids+=($!)
}
act() { inside "$1" "$python" "$endpoint" "${@:2}" 2>/dev/null || true; }

speed() { # a result as JSON on standard input
    "$python" -c '
import json, sys
d = json.load(sys.stdin)
print("{}: {} packets, {} ns each in the core, {} million a second".format(
    d.get("case", "the recording"), d["packets"], d["ns_per_packet"], d["mpps"]))'
}

machines() { # name, MAC, IPv4, IPv6 of each port of the inventory
    "$python" - "$inventory" <<'PY'
import sys
from dfw.load import load
for port in load([sys.argv[1]]).world.inventory:
    four, six = (next(str(a) for a in port.ips if (":" in str(a)) == v6) for v6 in (False, True))
    print(port.name, port.mac, four, six)
PY
}

bring_up() {
    ip netns add "$prefix-wire"
    inside wire ip link add wire type bridge
    inside wire ip link set wire up promisc on
    local name mac four six number=0
    while read -r name mac four six; do
        number=$((number + 1))
        ip netns add "$prefix-$name"
        ip link add "v$number" netns "$prefix-wire" type veth peer name eth0 netns "$prefix-$name"
        inside wire ip link set "v$number" master wire up
        inside "$name" ip link set eth0 address "$mac" up
        inside "$name" ip link set lo up
        inside "$name" ip address add "$four/16" dev eth0
        inside "$name" ip -6 address add "$six/32" dev eth0 nodad 2>/dev/null || true
    done < <(machines)
}

live() {
    say "a shop of nine machines on one wire: real programs talk, everything is recorded"
    bring_up
    serve wire record wire "$work/shop.pcap"
    for name in web-1 web-2 web-3; do serve "$name" http 80; done
    for name in app-1 app-2; do serve "$name" http 8080; done
    serve db-1 http 3306
    serve db-1 http 22
    serve dns-1 udp 53
    serve backup-1 ftp 10.1.4.21
    sleep 1.5
    act ops-1 ping 10.1.1.11 10.1.3.11 2001:db8:1::11
    act web-1 ask 10.1.4.53 53 40 40 4000                  # names; the last one in fragments
    act web-2 ask 2001:db8:4::53 53 40 3000
    act ops-1 fetch http://10.1.1.11/ "http://[2001:db8:1::12]/" http://10.1.1.11/big
    act web-1 fetch http://10.1.2.11:8080/ http://10.1.2.12:8080/big
    act app-1 fetch http://10.1.3.11:3306/                  # allowed
    act web-2 fetch http://10.1.3.11:3306/                  # refused: the web has no business with the database
    act web-2 scan 10.1.3.11 3303 3308                      # nor with its other ports
    act web-3 fetch http://10.1.2.11:8080/ http://10.1.1.11/ # in quarantine
    act ops-1 fetch http://10.1.3.11:22/
    act db-1 upload 10.1.4.21                               # FTP, passive and active
    sleep 0.5
    kill -TERM "${pids[0]}"
    wait "${pids[0]}" 2>/dev/null || true
    captures=("$work/shop.pcap")
}

recorded() {
    say "no root, no namespaces, or no ip command: captures without a network"
    echo "(as root, with iproute2, the demo records real programs instead)"
    "$python" scripts/demo/synthesise.py "$inventory" "$work/shop.pcap"
    captures=("$work/shop.pcap")
}

if [ "$(id -u)" = 0 ] && command -v ip >/dev/null && ip netns add "$prefix-probe" 2>/dev/null; then
    ip netns delete "$prefix-probe"
    live
else
    recorded
fi

say "the policy"
"$palisade" check "$policy" "$inventory"

say "judged at every vNIC: OUT at the sender, IN at the receiver"
"$palisade" replay "${captures[@]}" --policy "$policy" --inventory "$inventory" --verdicts "$work/verdicts.jsonl" \
    --flows "$work/flows.csv" --dropped "$work/dropped.pcapng" --generated "$work/generated.pcapng"

say "one verdict line of each reason that dropped something"
awk -F'"reason": "' '/"verdict": "(DROP|REJECT)"/ {split($2, r, "\""); if (!seen[r[1]]++) print}' "$work/verdicts.jsonl" | head -4

say "the same packets, for time: one filter, five runs"
"$palisade" replay "${captures[@]}" --policy "$policy" --tap --repeat 5 -o json | speed
"$palisade" bench conntrack --connections 1000 --runs 3 -o json | speed

if [ -d ../shared/data ]; then
    say "the captures of ../shared/data, each by itself, by a policy that lets everything begin"
    find ../shared/data \( -name '*.pcap' -o -name '*.pcapng' -o -name '*.cap' -o -name '*.pcap.gz' \) -print0 | sort -z |
        xargs -0 "$palisade" replay --policy examples/shop/open.yaml --tap --each 2>"$work/not-read" | sed '/^NOT READ/,$d' || true
    echo "$(wc -l <"$work/not-read") remarks about files that were cut or of link types that we don't read"
fi

say "done: nothing is left behind"
