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

import pytest

from dfw.compile import compile_policy
from dfw.load import load
from dfw.model import Family
from dfw.nftables import Ruleset, plan_update, render_ruleset, vnic_mark
from dfw.nftables.load import RulesetLink, apply_ruleset
from dfw.nftables.namespace import PrivateNamespace
from dfw.nftables.ruleset import Chain, ChainRule, Hook
from dfw.nftables.shared import OWN_COUNTERS
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


def packets_lost(client: PrivateNamespace, router: PrivateNamespace, server: PrivateNamespace) -> int:
    """Of what both ends have sent, what has not arrived at the router and been passed on, and at the other end."""
    one, middle, other = map(ipv4_counts, (client, router, server))
    sent = one["OutRequests"] + other["OutRequests"]
    received = one["InReceives"] + other["InReceives"]
    return max(abs(sent - count) for count in (middle["InReceives"], middle["ForwDatagrams"], received))


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
def test_a_connection_runs_on_while_rules_change(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    (tmp_path / "in.yaml").write_text(POLICY)
    world = load([str(tmp_path / "in.yaml")]).world
    names = [port.name for port in world.inventory]
    whole = render_ruleset(compile_policy(world), names)
    (policy,) = world.policies
    less = replace(world, policies=(replace(policy, rules=(policy.rules[0], *policy.rules[2:])),))
    without_ssh = render_ruleset(compile_policy(less), names, names=whole.names).ruleset
    (members,) = (item for item in whole.ruleset.sets if item.family is Family.IPV4 and len(item.ranges) == 2)
    fewer = replace(members, ranges=members.ranges[:1])
    without_member = replace(
        whole.ruleset, sets=tuple(fewer if item is members else item for item in whole.ruleset.sets)
    )
    series = [whole.ruleset, without_ssh, whole.ruleset, without_member]
    with routed() as (client, router, server), ExitStack() as opened:
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
            link.update(plan_update(series[number % 4], series[(number + 1) % 4]))
            if number % 50 == 0:
                before = counts[1]
                until(lambda before=before: counts[1] > before, "the transfer stands still")  # type: ignore[misc]
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
        until(lambda: packets_lost(client, router, server) == 0, "packets were lost")
        assert ipv4_counts(router)["ForwDatagrams"] > 100
        found = link.counters()
        web, _, rest = (name for name, rule in whole.rule_of.items() if rule.policy.endswith("/p"))
        assert [found[name][0] for name in (*OWN_COUNTERS, rest)] == [0] * (len(OWN_COUNTERS) + 1)
        assert found[web][0] == 2  # out and in, once: its counter is the one of before all updates
        assert link.read().chains
