# SPDX-License-Identifier: Apache-2.0
"""What `bench lab` compares: two pods on two hosts, joined by Palisade or by a peer, each in namespaces of its own.

All have the same shape: an underlay of one veth pair with MTU 1700, pods with `eth0`, MTU 1500, and the same 1,000
rules: 999 that never match, and one that refuses TCP port 9 in silence, by which it is seen that they are in force.
Offloads are as the kernel makes them, but for AF_XDP, which has none.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from overlay.namespace import apply_namespace

RULES: Final = 1000
UNDERLAY_MTU: Final = 1700
POD_MTU: Final = 1500
DENIED_PORT: Final = 9
ADDRESSES: Final = ("10.244.0.11", "10.244.0.12")
_TEPS: Final = ("192.168.77.1", "192.168.77.2")
_VNI: Final = 77


class MissingError(RuntimeError):
    """A peer cannot be set up here: what is missing, in a sentence."""


@dataclass(frozen=True, slots=True)
class Pods:
    """The two pods' network namespaces, by path."""

    sender: str
    receiver: str


class Fabric(ABC):
    """One way from pod to pod. `has_rules`: the 1,000 are in force on it."""

    name: str
    has_rules = True

    def __init__(self, room: Path, folder: Path) -> None:
        self.room, self.folder = room, folder

    @abstractmethod
    def up(self) -> Pods:
        """Make it. Raises MissingError."""

    def down(self) -> None:  # noqa: B027 - most have nothing of the kind
        """End what does not end with its namespaces."""

    def note(self) -> str:
        """What is to be known about the figures."""
        return ""

    def namespace(self, name: str) -> Path:
        """A new network namespace of this fabric."""
        path = self.room / f"{self.name}-{name}"
        apply_namespace(path)
        return path


def run(command: Sequence[str], netns: Path | None = None, text: str | None = None) -> str:
    """Run a command in a namespace. Raises MissingError with what it said, or where there is no such command."""
    words = [*(["nsenter", f"--net={netns}", "--"] if netns is not None else []), *command]
    if shutil.which(command[0]) is None:
        raise MissingError(f"no command {command[0]}")
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().split("\n", 1)[0]
        raise MissingError(f"{' '.join(command[:6])}: {said}")
    return done.stdout


def ip(netns: Path, words: str) -> None:
    """`ip WORDS` in a namespace."""
    run(["ip", *words.split()], netns)


def pod_address(netns: Path, number: int) -> None:
    """A pod's interface and address."""
    ip(netns, f"link set eth0 mtu {POD_MTU} up")
    ip(netns, f"addr add {ADDRESSES[number]}/24 dev eth0")


def plan_denied() -> list[tuple[str, int]]:
    """Source and TCP port of the 999 rules that never match."""
    return [(f"172.16.{number >> 8}.{number & 255}", 10000 + number) for number in range(RULES - 1)]


class Veth(Fabric):
    """A veth pair from pod to pod: the floor, without hosts, tunnel or rules."""

    name = "veth"
    has_rules = False

    def up(self) -> Pods:
        one, two = self.namespace("p1"), self.namespace("p2")
        ip(one, f"link add eth0 type veth peer name eth0 netns {two}")
        pod_address(one, 0)
        pod_address(two, 1)
        return Pods(str(one), str(two))


class KernelVxlan(Fabric):
    """The kernel's bridge and VXLAN, with nftables' connection tracking and rules; the outer packets untracked."""

    name = "kernel-vxlan-nft"

    def up(self) -> Pods:
        hosts, pods = plan_pair(self)
        for number, (host, pod) in enumerate(zip(hosts, pods, strict=True)):
            ip(host, f"link add vif0 mtu {POD_MTU} type veth peer name eth0 netns {pod}")
            ip(host, "link set vif0 up")
            pod_address(pod, number)
            ip(host, f"addr add {_TEPS[number]}/24 dev ul0")
            ip(host, f"link add br0 mtu {POD_MTU} type bridge")
            ip(
                host,
                f"link add vx0 mtu {POD_MTU} type vxlan id {_VNI} local {_TEPS[number]} remote {_TEPS[1 - number]} "
                "dstport 4789",
            )
            for port in ("vx0", "vif0"):
                ip(host, f"link set {port} master br0 up")
            ip(host, "link set br0 up")
            try:
                run(["sh", "-c", "echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables"], host)
            except MissingError:
                raise MissingError("the kernel has no br_netfilter: modprobe br_netfilter") from None
            run(["nft", "-f", "-"], host, render_nft())
        return Pods(*map(str, pods))

    def note(self) -> str:
        return "inet forward chain: established accepted first, then 1,000 rules; outer UDP not tracked"


def render_nft() -> str:
    """The 1,000 rules for nftables."""
    rules = "\n".join(f"ip saddr {source} tcp dport {port} drop" for source, port in plan_denied())
    outer = "\n".join(
        f"chain {hook} {{\ntype filter hook {hook} priority -300; policy accept;\nudp dport 4789 notrack\n}}"
        for hook in ("prerouting", "output")
    )
    return (
        "table inet rules {\nchain f {\ntype filter hook forward priority 0; policy accept;\n"
        f"ct state established,related accept\n{rules}\ntcp dport {DENIED_PORT} drop\n}}\n}}\n"
        f"table inet outer {{\n{outer}\n}}\n"
    )


def plan_pair(fabric: Fabric) -> tuple[list[Path], list[Path]]:
    """Two hosts, joined by their underlay `ul0`, and two pods."""
    hosts = [fabric.namespace(f"h{number}") for number in (1, 2)]
    pods = [fabric.namespace(f"p{number}") for number in (1, 2)]
    ip(hosts[0], f"link add ul0 mtu {UNDERLAY_MTU} type veth peer name ul0 mtu {UNDERLAY_MTU} netns {hosts[1]}")
    for host in hosts:
        ip(host, "link set ul0 up")
    return hosts, pods


class OvsAfxdp(Fabric):
    """Open vSwitch's userspace datapath over AF_XDP ports, Geneve, `ct()` and 1,000 flows."""

    name = "ovs-afxdp"
    SCHEMA: Final = Path("/usr/share/openvswitch/vswitch.ovsschema")
    OFF: Final = "tx off tso off gso off gro off"
    COMMANDS: Final = ("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl", "ethtool")

    def up(self) -> Pods:
        lacking = [name for name in self.COMMANDS if not shutil.which(name)]
        if lacking or not self.SCHEMA.exists():
            line = "apt-get install -y --no-install-recommends openvswitch-switch ethtool"
            raise MissingError(f"no {', '.join(lacking) or self.SCHEMA}: {line}")
        hosts, pods = plan_pair(self)
        for number, (host, pod) in enumerate(zip(hosts, pods, strict=True)):
            ip(host, f"link add vif0 mtu {POD_MTU} type veth peer name eth0 netns {pod}")
            ip(host, "link set vif0 up")
            pod_address(pod, number)
            for netns, interface in ((pod, "eth0"), (host, "vif0"), (host, "ul0")):
                run(["ethtool", "-K", interface, *self.OFF.split()], netns)
            self._switch(number, host)
        return Pods(*map(str, pods))

    def _switch(self, number: int, host: Path) -> None:
        here = self.folder / f"ovs{number}"
        here.mkdir()
        run(["ovsdb-tool", "create", str(here / "conf.db"), str(self.SCHEMA)])
        database = f"unix:{here}/db.sock"
        where = ["env", f"OVS_RUNDIR={here}", f"OVS_LOGDIR={here}", f"OVS_DBDIR={here}"]
        run([*where, "ovsdb-server", str(here / "conf.db"), f"--remote=p{database}", f"--pidfile={here}/db.pid",
             f"--unixctl={here}/db.ctl", "--detach", f"--log-file={here}/db.log"], host)  # fmt: skip
        run(["ovs-vsctl", f"--db={database}", "--no-wait", "init"])
        run([*where, "ovs-vswitchd", database, f"--pidfile={here}/vs.pid", f"--unixctl={here}/vs.ctl", "--detach",
             f"--log-file={here}/vs.log"], host)  # fmt: skip
        xdp = "type=afxdp-nonpmd options:xdp-mode=generic"
        userspace = "datapath_type=netdev"
        protocols = "protocols=OpenFlow10,OpenFlow13,OpenFlow14,OpenFlow15"
        geneve = f"type=geneve options:remote_ip={_TEPS[1 - number]} options:key={_VNI}"
        for words in (
            f"add-br br-phy -- set bridge br-phy {userspace}",
            f"add-port br-phy ul0 -- set interface ul0 {xdp}",
            f"add-br br-int -- set bridge br-int {userspace} fail-mode=secure {protocols}",
            f"add-port br-int vif0 -- set interface vif0 {xdp}",
            f"add-port br-int gnv0 -- set interface gnv0 {geneve}",
        ):
            run(["ovs-vsctl", f"--db={database}", "--timeout=20", *words.split()])
        ip(host, f"addr add {_TEPS[number]}/24 dev br-phy")
        ip(host, f"link set br-phy mtu {UNDERLAY_MTU} up")
        ip(host, "link set br-int up")
        flows = here / "flows"
        flows.write_text(render_flows())
        run(["env", f"OVS_RUNDIR={here}", "ovs-ofctl", "-O", "OpenFlow13", "replace-flows",
             f"unix:{here}/br-int.mgmt", str(flows)])  # fmt: skip

    def down(self) -> None:
        for pid_file in self.folder.glob("ovs*/*.pid"):
            end_by_file(pid_file)

    def note(self) -> str:
        return "AF_XDP in generic mode has no offloads: they are off on its ports"


def end_by_file(pid_file: Path) -> None:
    """End the daemon that has written its number there, and wait for it."""
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
        descriptor = os.pidfd_open(pid)
    except (OSError, ValueError):
        return
    try:
        if str(pid_file.parent) in Path(f"/proc/{pid}/cmdline").read_text():  # it is that daemon, and no other
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            deadline = time.monotonic() + 10
            while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def render_flows() -> str:
    """The 1,000 rules as OpenFlow, with connection tracking."""
    head = [
        "table=0,priority=100,arp,actions=NORMAL",
        "table=0,priority=50,ip,ct_state=-trk,actions=ct(table=1,zone=7)",
        "table=1,priority=100,ip,ct_state=+trk+est,actions=NORMAL",
        "table=1,priority=90,ip,ct_state=+trk+rel,actions=NORMAL",
        "table=1,priority=80,ip,ct_state=+trk+new,actions=resubmit(,2)",
    ]
    rules = [
        f"table=2,priority={2000 - number},tcp,nw_src={source},tp_dst={port},actions=drop"
        for number, (source, port) in enumerate(plan_denied())
    ]
    tail = [
        f"table=2,priority=2,tcp,tp_dst={DENIED_PORT},actions=drop",
        "table=2,priority=1,ip,actions=ct(commit,zone=7),NORMAL",
    ]
    return "\n".join([*head, *rules, *tail]) + "\n"


PEERS: Final[tuple[type[Fabric], ...]] = (KernelVxlan, OvsAfxdp, Veth)


class Palisade(Fabric):
    """Palisade itself: a lab of two hosts with their agents."""

    name = "palisade"

    def up(self) -> Pods:
        from overlay import lab_up
        from overlay.lab_record import LabPaths, record_read
        from overlay.progress import Steps

        self.paths = LabPaths(self.folder / "labs" / "bench")
        file = self.folder / "bench.yaml"
        file.write_text(render_policy(), encoding="ascii")
        lab_up.up(self.paths, [str(file)], mtu=UNDERLAY_MTU, dry_run=False, steps=Steps(quiet=True))
        record = record_read(self.paths)
        assert record is not None
        return Pods(*(str(self.paths.room / record.pods[name].netns) for name in ("sender", "receiver")))

    def down(self) -> None:
        from overlay import lab_up
        from overlay.progress import Steps

        if self.paths.folder.is_dir():
            lab_up.down(self.paths, Steps(quiet=True))

    def note(self) -> str:
        from overlay.lab_agents import agent_status

        tiers = {str((agent_status(self.paths, host) or {}).get("tier")) for host in ("one", "two")}
        return f"uplink tier {'/'.join(sorted(tiers))}, one worker a host"


def render_policy() -> str:
    """The lab's file: two hosts, two pods, the 1,000 rules. JSON is YAML too."""
    rules: list[dict[str, object]] = [
        {"id": f"r{number}", "source_groups": [source], "service_entries": [_tcp(port)], "action": "DROP"}
        for number, (source, port) in enumerate(plan_denied())
    ]
    rules.append({"id": "denied", "service_entries": [_tcp(DENIED_PORT)], "action": "DROP"})
    inventory = {
        "apiVersion": "palisade.internal/v1alpha1",
        "kind": "Inventory",
        "hosts": [{"name": name, "tep": tep} for name, tep in zip(("one", "two"), _TEPS, strict=True)],
        "segments": [{"name": "bench", "vni": _VNI, "subnets": ["10.244.0.0/24"]}],
        "ports": [
            {"name": name, "host": host, "segment": "bench", "ips": [address]}
            for name, host, address in zip(("sender", "receiver"), ("one", "two"), ADDRESSES, strict=True)
        ],
    }
    policy = {"resource_type": "SecurityPolicy", "id": "bench", "category": "Application", "rules": rules}
    return "\n---\n".join(json.dumps(item) for item in (inventory, policy)) + "\n"


def _tcp(port: int) -> dict[str, object]:
    return {"resource_type": "L4PortSetServiceEntry", "l4_protocol": "TCP", "destination_ports": [str(port)]}
