#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The demo: real programs talk on a little network of their own, their packets are captured, and the firewall judges the
# capture by examples/shop. Called by `make demo`, after set-up and build. Without root or namespaces the packets are made.
# Then a lab: two hosts with an agent each, pods on both, real connections between all of them through Geneve and two
# firewalls, and a pod that moves. The network lives in namespaces that end with their first process; the lab is taken
# down; the files stand in a folder that goes with this script.
# usage: scripts/demo.sh        PALISADE_DEMO=offline: no network even where there could be one
cd "$(dirname "$0")/.." || exit
PY=.venv/bin/python
export PYTHONDONTWRITEBYTECODE=1
directory=$(mktemp -d "${TMPDIR:-/tmp}/pal-demo-XXXXXX") || exit
child=
lab=
palisade() { "$PY" -m dfw "$@"; }
clean() {
  # unshare --kill-child: with it dies the first process of the namespaces, and with that everything in them.
  [ -z "$child" ] || { kill -KILL "$child" && wait "$child"; } 2>/dev/null
  [ -z "$lab" ] || palisade lab down --name "$lab" >/dev/null 2>&1
  rm -rf "$directory"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
# In the background, so that a signal to this script is heard at once.
run() { "$@" </dev/null & child=$!; status=0; wait "$child" || status=$?; child=; return $status; }

why=
if [ "${PALISADE_DEMO:-}" = offline ]; then
  why="PALISADE_DEMO=offline"
elif [ "$(id -u)" != 0 ]; then
  why="not running as root"
elif ! unshare --net --mount --pid --fork --kill-child --mount-proc true 2>/dev/null; then
  why="this machine makes no namespaces"
else
  echo "-- a network for examples/shop: real servers and clients, IPv4 and IPv6"
  run unshare --net --mount --pid --fork --kill-child --mount-proc "$PY" -m scripts.demo.network "$directory"
  case $? in
    0) ;;
    3) why="this machine can't have the network" ;;
    *) echo "demo: the network failed" >&2; exit 1 ;;
  esac
fi
if [ -n "$why" ]; then
  echo "-- no network of our own ($why): packets made by the demo itself instead"
  run "$PY" -m scripts.demo.synthetic "$directory" || exit
fi
run "$PY" -m scripts.demo.report "$directory" || exit
if [ -z "$why" ]; then
  echo "-- a lab: two hosts, their agents, Geneve between them, pods on both; real connections between all of them"
  lab=demo-$$
  run palisade lab up --name "$lab" 2>"$directory/lab.log"
  case $? in
    0)
      run palisade lab status --name "$lab" || exit
      run palisade lab probe --name "$lab" --ports tcp/80,tcp/8080,udp/53,icmp --grid 2>/dev/null || exit
      echo "-- web-1 moves to the other host while app-2 sends to it; connections, rules and addresses go along"
      run "$PY" -m scripts.demo.moving "$lab" app-2 web-1 esx-2 || exit
      run palisade lab probe --name "$lab" --ports tcp/80,tcp/8080,udp/53,icmp --family 6 --grid 2>/dev/null || exit
      ;;
    3) echo "-- no lab on this machine: $(tail -n 1 "$directory/lab.log")" ;;
    *) cat "$directory/lab.log" >&2; echo "demo: the lab failed" >&2; exit 1 ;;
  esac
  run palisade lab down --name "$lab" 2>/dev/null && lab= || exit
  if [ -c /dev/net/tun ] && [ -x .venv/bin/kubectl ]; then
    echo "-- a Supervisor: Namespaces become networks and isolation, by real kubectl"
    lab=demo-sup-$$
    run "$PY" -m scripts.demo.supervisor "$lab" .venv/bin/kubectl || exit
    run palisade lab down --name "$lab" 2>/dev/null && lab= || exit
  fi
fi
echo "-- done; nothing is left behind"
