# SPDX-License-Identifier: Apache-2.0
"""REJECT's budgets where the kernel enforces: for each vNIC and side, prefix and source, as the packet core has them.

The kernel's budgets fill again while a test runs, so what is asserted counts with the time that it took.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import pytest

from dfw.compile import compile_policy
from dfw.model import Action, Address, Family, Inventory, Machine, Port, Segment
from dfw.nftables import render_ruleset, vnic_mark
from dfw.nftables.judge import KernelJudge
from dfw.nftables.load import RulesetLink
from tests.support.oracle_bench import SYN, policies, rule, tcp

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_tun,
    pytest.mark.needs_tool("nft", "ip"),
    pytest.mark.needs_kernel_judge,
]
OWN = {4: "10.0.0.{}", 6: "fd00::{}"}
SIDE, PREFIX, SOURCE = 50, 25, 10
PORTS = {
    f"v{n}": Port(f"v{n}", "h", "s", f"v{n}", f"06:00:00:00:00:0{n}", ips=(Address(Family.IPV4, (10 << 24) + n),))
    for n in (1, 2)
}


@pytest.fixture
def judge() -> Iterator[KernelJudge]:
    """Two vNICs whose rules reject everything."""
    inventory = Inventory(
        segments={"s": Segment("s", 1)}, machines={name: Machine(name) for name in PORTS}, ports=PORTS
    )
    world = replace(policies(rule("no", Action.REJECT)), inventory=inventory)
    with KernelJudge(render_ruleset(compile_policy(world), list(PORTS)).ruleset) as found:
        yield found


class Sender:
    """Sends SYNs, each of another connection, and counts the answers."""

    def __init__(self, judge: KernelJudge) -> None:
        self.judge, self.ports = judge, count(1024)

    def answered(self, sources: list[str], target: str, mark: int) -> tuple[int, float]:
        """How many of these are answered, and in how many seconds."""
        began = time.monotonic()
        found = sum(
            self.judge.judge(tcp(source, target, (next(self.ports), 80), SYN, 1), mark).made for source in sources
        )
        return found, time.monotonic() - began


def sources(version: int, prefixes: int, hosts: int) -> list[str]:
    """Addresses of that many /24 or /56."""
    if version == 4:
        return [f"198.51.{n}.{host + 1}" for n in range(prefixes) for host in range(hosts)]
    return [f"2001:db8:0:{n:x}00::{host + 1:x}" for n in range(prefixes) for host in range(hosts)]


def assert_within(found: tuple[int, float], budget: int, sent: int) -> None:
    """As many as the budget holds, and what has come to it meanwhile."""
    answers, seconds = found
    assert min(budget, sent) <= answers <= budget * (1 + seconds) + 1, (answers, seconds)


@pytest.mark.parametrize("version", [4, 6])
def test_one_source_uses_up_its_own_budget_only(judge: KernelJudge, version: int) -> None:
    sender, target = Sender(judge), OWN[version].format(1)
    one, other = sources(version, 2, 1)
    assert_within(sender.answered([one] * 40, target, vnic_mark(0, 1)), SOURCE, 40)
    assert sender.answered([other], target, vnic_mark(0, 1))[0] == 1
    # At the other vNIC it has another budget.
    assert sender.answered([one], OWN[version].format(2), vnic_mark(0, 2))[0] == 1


@pytest.mark.parametrize("version", [4, 6])
def test_one_prefix_uses_up_its_own_budget_only(judge: KernelJudge, version: int) -> None:
    sender, target = Sender(judge), OWN[version].format(1)
    many = sources(version, 2, 100)
    assert_within(sender.answered(many[:100], target, vnic_mark(0, 1)), PREFIX, 100)
    assert sender.answered(many[100:101], target, vnic_mark(0, 1))[0] == 1


def test_others_use_up_their_half_of_one_vnics_budget_only(judge: KernelJudge) -> None:
    sender, target = Sender(judge), OWN[4].format(1)
    many = sources(4, 200, 1)
    assert_within(sender.answered(many, target, vnic_mark(0, 1)), SIDE, len(many))
    assert sender.answered([target], "203.0.113.1", vnic_mark(1, 0))[0] == 1  # the vNIC's own workload
    assert sender.answered(many[:1], OWN[4].format(2), vnic_mark(0, 2))[0] == 1
    # And its own workload uses up its half, source by source.
    own = [f"10.9.{n}.1" for n in range(200)]
    assert_within(sender.answered(own, "203.0.113.1", vnic_mark(2, 0)), SIDE, len(own))
    assert sender.answered(many[1:2], OWN[4].format(2), vnic_mark(0, 2))[0] == 1


def test_what_is_not_answered_is_counted_and_refused(judge: KernelJudge) -> None:
    sender = Sender(judge)
    packets = [tcp("198.51.100.1", OWN[4].format(1), (port, 80), SYN, 1) for port in range(2000, 2400)]
    answers = [judge.judge(packet, vnic_mark(0, 1)) for packet in packets]
    assert sum(answer.delivered for answer in answers) == 0
    with judge.inside().run(lambda: RulesetLink("palisade")) as link:
        counters = link.counters()
    assert counters["reject-rate"][0] == sum(answer.made == 0 for answer in answers) > 0
    assert sender.answered(["198.51.101.1"], OWN[4].format(1), vnic_mark(0, 1))[0] == 1
