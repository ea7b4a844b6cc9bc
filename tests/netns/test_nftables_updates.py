# SPDX-License-Identifier: Apache-2.0
"""Rules change while a connection runs: none of its packets is refused, nothing of it is lost, counters count on."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from dfw.compile import compile_policy
from dfw.load import load
from dfw.model import Family, Policy, PolicySet, Tier
from dfw.nftables import Ruleset, plan_update, render_ruleset, vnic_mark
from dfw.nftables.frame_staged import FRAMES_CUT
from dfw.nftables.frames import FrameRules
from dfw.nftables.load import RulesetLink, apply_ruleset
from dfw.nftables.namespace import PrivateNamespace
from dfw.nftables.render import Rendered
from dfw.nftables.ruleset import Chain, ChainRule, Hook
from dfw.nftables.shared import OWN_COUNTERS
from dfw.nftables.staged import CUT
from tests.conftest import LONG
from tests.support.patience import PATIENCE, until

UPDATES = 1000 if LONG else 200
POLICY = """\
apiVersion: palisade.internal/v1alpha1
kind: Inventory
segments: [{name: s, vni: 5001, subnets: [10.0.0.0/16]}]
ports:
  - {name: client, segment: s, ips: [10.0.0.2]}
  - {name: server, segment: s, ips: [10.0.1.2]}
---
resource_type: Group
id: clients
expression: [{resource_type: IPAddressExpression, ip_addresses: [10.0.0.2, 192.0.2.1]}]
---
resource_type: SecurityPolicy
id: p
category: Application
sequence_number: 1
rules:
  - {id: web, source_groups: [clients], services: [HTTP], action: ALLOW}
  - {id: ssh, source_groups: [clients], services: [SSH], action: ALLOW}
  - {id: rest, action: DROP}
"""
OF_ALL = """\
---
resource_type: SecurityPolicy
id: frames
category: Ethernet
rules:
  - {id: lldp, service_entries: [{resource_type: EtherTypeServiceEntry, ether_type: 0x88cc}], action: DROP}
  - {id: stranger, source_groups: [strangers], action: DROP}
---
resource_type: Group
id: strangers
expression: [{resource_type: MACAddressExpression, mac_addresses: ["06:00:00:00:00:99"]}]
---
resource_type: SecurityPolicy
id: frames
category: Ethernet
staged: true
rules:
  - id: no-ip
    service_entries: [{resource_type: EtherTypeServiceEntry, ether_type: 0x800}]
    action: DROP
    direction: IN
---
resource_type: SecurityPolicy
id: p
category: Application
sequence_number: 1
staged: true
rules:
  - {id: web, source_groups: [clients], services: [HTTP], action: ALLOW}
  - {id: rest, action: REJECT}
"""


def run(inside: PrivateNamespace, *lines: str) -> None:
    """Commands of `ip`, in a namespace."""
    text = "\n".join(lines)
    inside.run(lambda: subprocess.run(["ip", "-batch", "-"], input=text, text=True, check=True))


def retransmissions(connection: socket.socket) -> tuple[int, int]:
    """Segments that were sent again, and those of them that the other end reported as duplicates: tcpi_total_retrans
    and tcpi_dsack_dups of linux/tcp.h."""
    found = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    again, in_vain = (struct.unpack_from("=I", found, offset)[0] for offset in (100, 216))
    return again, in_vain


def ipv4_counts(inside: PrivateNamespace) -> dict[str, int]:
    """What a namespace's kernel has counted of IPv4 packets (RFC 4293), by its own names: `InReceives` and others."""
    text = inside.run(Path("/proc/thread-self/net/snmp").read_text)
    names, values = (line.split()[1:] for line in text.splitlines() if line.startswith("Ip:"))
    return dict(zip(names, map(int, values), strict=True))


def packets_lost(client: PrivateNamespace, router: PrivateNamespace | None, server: PrivateNamespace) -> int:
    """Of what both ends have sent, what has not arrived at the router and been passed on, and at the other end."""
    one, other = map(ipv4_counts, (client, server))
    if router is None:
        return abs(one["OutRequests"] + other["OutRequests"] - one["InReceives"] - other["InReceives"])
    middle = ipv4_counts(router)
    sent = one["OutRequests"] + other["OutRequests"]
    received = one["InReceives"] + other["InReceives"]
    return max(abs(sent - count) for count in (middle["InReceives"], middle["ForwDatagrams"], received))


def _one_less(policy: Policy) -> Policy:
    return replace(policy, rules=policy.rules[1:])


@contextmanager
def bridged() -> Iterator[tuple[PrivateNamespace, PrivateNamespace, PrivateNamespace]]:
    """A client, a bridge that judges, a server."""
    with ExitStack() as opened:
        client, bridge, server = (opened.enter_context(PrivateNamespace()) for _ in range(3))
        # Nobody says anything but the two.
        for inside in (client, bridge, server):
            inside.run(lambda: Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1"))
        run(bridge, "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0", "link set br0 up")
        for number, end in enumerate((client, server)):
            run(
                bridge,
                f"link add v{number} type veth peer name eth0 netns {end.path}",
                f"link set v{number} master br0 up",
            )
            run(end, f"addr add 10.0.{number}.2/16 dev eth0", "link set eth0 up")
        for tool in ("iptables", "ip6tables"):
            setting = Path(f"/proc/sys/net/bridge/bridge-nf-call-{tool}")
            bridge.run(lambda setting=setting: setting.write_text("1"))  # type: ignore[misc]
        rules = (
            ChainRule(
                (
                    {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": name}},
                    {"mangle": {"key": {"meta": {"key": "mark"}}, "value": mark}},
                )
            )
            for name, mark in (("v0", vnic_mark(1, 2)), ("v1", vnic_mark(2, 1)))
        )
        chains = (Chain("ends", tuple(rules), Hook("prerouting", -300, "accept")),)
        bridge.run(lambda: apply_ruleset(Ruleset("ends", frames=FrameRules(chains=chains))))
        yield client, bridge, server


@contextmanager
def routed() -> Iterator[tuple[PrivateNamespace, PrivateNamespace, PrivateNamespace]]:
    """A client, a router that judges, a server."""
    with ExitStack() as opened:
        client, router, server = (opened.enter_context(PrivateNamespace()) for _ in range(3))
        for number, end in enumerate((client, server)):
            run(
                router,
                f"link add v{number} type veth peer name eth0 netns {end.path}",
                f"addr add 10.0.{number}.1/24 dev v{number}",
                f"link set v{number} up",
            )
            run(
                end,
                f"addr add 10.0.{number}.2/24 dev eth0",
                "link set eth0 up",
                f"route add default via 10.0.{number}.1",
            )
        router.run(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        rules = [
            ChainRule(
                (
                    {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": name}},
                    {"mangle": {"key": {"meta": {"key": "mark"}}, "value": mark}},
                )
            )
            for name, mark in (("v0", vnic_mark(1, 2)), ("v1", vnic_mark(2, 1)))
        ]
        ends = Ruleset("ends", chains=(Chain("ends", tuple(rules), Hook("forward", -10, "accept")),))
        router.run(lambda: apply_ruleset(ends))
        yield client, router, server


@pytest.mark.needs_root
@pytest.mark.needs_netns
@pytest.mark.needs_tool("nft", "ip")
@pytest.mark.needs_kernel_judge
@pytest.mark.parametrize(
    "across",
    [pytest.param(routed, id="layer 3"), pytest.param(bridged, id="all", marks=pytest.mark.needs_vxlan)],
)
def test_a_connection_runs_on_while_rules_change(
    tmp_path: Path, record_property: Callable[[str, object], None], across: Any
) -> None:
    """`all`: with rules for frames and staged ones of both layers too, which change as well."""
    of_all = across is bridged
    (tmp_path / "in.yaml").write_text(POLICY + (OF_ALL if of_all else ""))
    world = load([str(tmp_path / "in.yaml")]).world
    names = [port.name for port in world.inventory]

    def ruleset_of(world: PolicySet, before: Rendered | None = None) -> Rendered:
        staged = compile_policy(world.what_if) if world.staged else None
        return render_ruleset(compile_policy(world), names, before=before, staged=staged)

    whole = ruleset_of(world)
    (policy, *frames) = sorted(world.policies, key=lambda item: item.tier is Tier.ETHERNET)
    less = replace(world, policies=(replace(policy, rules=(policy.rules[0], *policy.rules[2:])), *frames))
    without_ssh = ruleset_of(less, whole).ruleset
    (members,) = (item for item in whole.ruleset.sets if item.family is Family.IPV4 and len(item.ranges) == 2)
    fewer = replace(members, ranges=members.ranges[:1])
    without_member = replace(
        whole.ruleset, sets=tuple(fewer if item is members else item for item in whole.ruleset.sets)
    )
    series = [whole.ruleset, without_ssh, whole.ruleset, without_member]
    if of_all:
        fewer_frames = (replace(item, rules=item.rules[1:]) for item in frames)
        series.append(ruleset_of(replace(world, policies=(policy, *fewer_frames)), whole).ruleset)
        series.append(ruleset_of(replace(world, staged=tuple(map(_one_less, world.staged))), whole).ruleset)
    with across() as (client, router, server), ExitStack() as opened:
        link = opened.enter_context(router.run(lambda: RulesetLink(whole.ruleset.table)))
        link.apply(whole.ruleset)
        listener = opened.enter_context(server.run(socket.socket))
        listener.bind(("10.0.1.2", 80))
        listener.listen()
        sender = opened.enter_context(client.run(socket.socket))
        sender.settimeout(PATIENCE)
        sender.connect(("10.0.1.2", 80))
        receiver = opened.enter_context(listener.accept()[0])
        receiver.settimeout(PATIENCE)
        stop, counts = Event(), [0, 0]

        def send() -> None:
            block = bytes(1 << 14)
            while not stop.is_set():
                sender.sendall(block)
                counts[0] += len(block)
            sender.shutdown(socket.SHUT_WR)

        def receive() -> None:
            while data := receiver.recv(1 << 16):
                counts[1] += len(data)

        threads = [Thread(target=work, daemon=True) for work in (send, receive)]
        for thread in threads:
            thread.start()
        for number in range(UPDATES):
            link.update(plan_update(series[number % len(series)], series[(number + 1) % len(series)]))
            if number % 50 == 0:
                before = counts[1]
                until(lambda before=before: counts[1] > before, "the transfer stands still")  # type: ignore[misc]
        link.update(plan_update(series[UPDATES % len(series)], whole.ruleset))
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert counts[0] == counts[1] > 0
        again, in_vain = retransmissions(sender)
        for name, value in (
            ("updates", UPDATES),
            ("bytes", counts[1]),
            ("sent again", again),
            ("for nothing", in_vain),
        ):
            record_property(name, value)
        # Two processors reorder segments, and TCP sends some of them again, with or without updates. That is no loss.
        through = None if of_all else router
        until(lambda: packets_lost(client, through, server) == 0, "packets were lost")
        assert ipv4_counts(router)["ForwDatagrams"] > 100 or of_all
        found = link.counters()
        web, _, rest = (name for name, rule in whole.rule_of.items() if rule.policy.endswith("/p"))
        assert [found[name][0] for name in (*OWN_COUNTERS, rest)] == [0] * (len(OWN_COUNTERS) + 1)
        assert found[web][0] == 2  # out and in, once: its counter is the one of before all updates
        assert link.read().chains
        if of_all:
            drops = [name for name, rule in whole.rule_of.items() if rule.policy.endswith("/frames")]
            assert len(drops) == 2 and [found[name][0] for name in drops] == [0, 0]
            assert found[CUT][0] == 0 and found[FRAMES_CUT][0] > 100  # each packet, by the staged rule for frames
