# SPDX-License-Identifier: Apache-2.0
"""Peers of `bench lab`: the kernel's bridge and VXLAN, with its connection tracking and rules of three makes."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from pathlib import Path

from overlay.bench_fabric import (
    DENIED_PORT,
    POD_MTU,
    TEPS,
    VNI,
    Fabric,
    MissingError,
    Pods,
    ip,
    plan_denied,
    plan_pair,
    pod_address,
    run,
)


class KernelVxlan(Fabric):
    """The kernel's bridge and VXLAN, connections tracked and judged on the bridge; the outer packets untracked."""

    def up(self) -> Pods:
        hosts, pods = plan_pair(self)
        for number, (host, pod) in enumerate(zip(hosts, pods, strict=True)):
            ip(host, f"link add vif0 mtu {POD_MTU} type veth peer name eth0 netns {pod}")
            ip(host, "link set vif0 up")
            pod_address(pod, number)
            ip(host, f"addr add {TEPS[number]}/24 dev ul0")
            ip(host, f"link add br0 mtu {POD_MTU} type bridge")
            ip(
                host,
                f"link add vx0 mtu {POD_MTU} type vxlan id {VNI} local {TEPS[number]} remote {TEPS[1 - number]} "
                "dstport 4789",
            )
            for port in ("vx0", "vif0"):
                ip(host, f"link set {port} master br0 up")
            ip(host, "link set br0 up")
            try:
                run(["sh", "-c", "echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables"], host)
            except MissingError:
                raise MissingError("the kernel has no br_netfilter: modprobe br_netfilter") from None
            self.rules(host)
        return Pods(*map(str, pods))

    @abstractmethod
    def rules(self, host: Path) -> None:
        """The 1,000, in force on this host. Raises MissingError."""


class KernelNft(KernelVxlan):
    """nftables, a rule each."""

    name = "kernel-vxlan-nft"

    def rules(self, host: Path) -> None:
        run(["nft", "-f", "-"], host, render_nft(render_linear()))

    def note(self) -> str:
        return "inet forward chain: established accepted first, then 1,000 rules; outer UDP not tracked"


class KernelNftSets(KernelVxlan):
    """nftables as who knows it well writes it: the 999 are one set, and one look-up."""

    name = "kernel-vxlan-nft-sets"

    def rules(self, host: Path) -> None:
        run(["nft", "-f", "-"], host, render_nft(render_set()))

    def note(self) -> str:
        return "as kernel-vxlan-nft, but the 999 are elements of one hash set, looked up once"


class KernelIptables(KernelVxlan):
    """iptables, a rule each: x_tables where the kernel has it, else nftables' translation of it."""

    name = "kernel-vxlan-iptables"
    COMMANDS = ("iptables-legacy-restore", "iptables-restore")

    def rules(self, host: Path) -> None:
        said = "no command iptables-restore: apt-get install -y --no-install-recommends iptables"
        for command in filter(shutil.which, self.COMMANDS):
            try:
                run([command], host, render_iptables())
            except MissingError as error:
                said = str(error)
                continue
            self.command = command
            return
        raise MissingError(said)

    def note(self) -> str:
        return (
            f"{self.command} ({run([self.command, '--version']).strip()}): established accepted first, then 1,000 rules"
        )


def render_linear() -> str:
    """The 999 rules that never match, one after the other."""
    return "\n".join(f"ip saddr {source} tcp dport {port} drop" for source, port in plan_denied())


def render_set() -> str:
    """The 999 as one look-up in a set."""
    elements = ", ".join(f"{source} . {port}" for source, port in plan_denied())
    return f"ip saddr . tcp dport {{ {elements} }} drop"


def render_nft(rules: str) -> str:
    """nftables' rule set around the 999."""
    outer = "\n".join(
        f"chain {hook} {{\ntype filter hook {hook} priority -300; policy accept;\nudp dport 4789 notrack\n}}"
        for hook in ("prerouting", "output")
    )
    return (
        "table inet rules {\nchain f {\ntype filter hook forward priority 0; policy accept;\n"
        f"ct state established,related accept\n{rules}\ntcp dport {DENIED_PORT} drop\n}}\n}}\n"
        f"table inet outer {{\n{outer}\n}}\n"
    )


def render_iptables() -> str:
    """The 1,000 rules as iptables-restore reads them."""
    denied = "\n".join(f"-A FORWARD -s {source} -p tcp --dport {port} -j DROP" for source, port in plan_denied())
    outer = "\n".join(f"-A {chain} -p udp --dport 4789 -j CT --notrack" for chain in ("PREROUTING", "OUTPUT"))
    return (
        f"*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{outer}\nCOMMIT\n"
        "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n"
        f"{denied}\n-A FORWARD -p tcp --dport {DENIED_PORT} -j DROP\nCOMMIT\n"
    )
