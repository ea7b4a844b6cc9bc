# SPDX-License-Identifier: Apache-2.0
"""How soon a change is in force where the kernel enforces: 10,000 rules on 200 vNICs in a network namespace of its own.

Run as a program, as root: `python benchmarks/nftables_updates.py [--rules 10000] [--vnics 200] [--runs 15] -o json`.
`--frames N`: with N layer-2 rules at all vNICs (at most 128), one of which comes and goes with the rule. `--staged`:
all policies are staged as well, as they are in force, but for one that would refuse.
Times are milliseconds on the clock, medians with the least and the greatest:
- `full_load`: the whole ruleset into an empty namespace; `render` made it
- `rule_added`, `rule_gone`, `member`: from the changed tables to the kernel's word that all of it is in force, of which
  `..._render` and `..._plan` are this process's share; `member` is one of a hash set of `--members`
`verified`: after each change of a rule, a packet that only this rule allows was delivered, or refused, by the kernel,
and after each change of the set, one from that member; at the end the kernel has what a full load would have put there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dfw.bench.machine import read_machine  # noqa: E402
from dfw.compile import Compiled, compile_policy  # noqa: E402
from dfw.errors import EnvironmentLacksError  # noqa: E402
from dfw.model import (  # noqa: E402
    PROTO_TCP,
    Action,
    Address,
    Addresses,
    AddressRange,
    Family,
    Group,
    GroupMember,
    Inventory,
    MacAddresses,
    Machine,
    Peers,
    Policy,
    PolicySet,
    Port,
    PortMember,
    PortRange,
    Rule,
    Segment,
    Service,
    ServiceEntry,
    Tier,
    default_policy,
)
from dfw.nftables import plan_update, render_ruleset, ruleset_sorted, vnic_mark  # noqa: E402
from dfw.nftables.judge import KernelJudge, ipv4_summed  # noqa: E402
from dfw.nftables.load import RulesetLink  # noqa: E402
from dfw.nftables.render import Rendered  # noqa: E402
from dfw.nftables.ruleset import Ruleset  # noqa: E402

FIRST = int.from_bytes(bytes((10, 0, 0, 1)), "big")
OUTSIDE = int.from_bytes(bytes((172, 16, 0, 1)), "big")
PROBE, MANY = 9, 10
"""Ports that one rule each allows: at the first vNIC."""


def world_make(given: argparse.Namespace, *, probed: bool, member: bool) -> PolicySet:
    """A policy for each vNIC. `probed`: with the rule that is added; `member`: with the member that is added."""
    rules, vnics, members = given.rules, given.vnics, given.members
    ports = {
        f"v{n}": Port(f"v{n}", "h", "s", f"v{n}", f"06:00:00:00:{n >> 8:02x}:{n & 255:02x}", ips=(_address(FIRST + n),))
        for n in range(vnics)
    }
    inventory = Inventory(
        segments={"s": Segment("s", 1)}, machines={name: Machine(name) for name in ports}, ports=ports
    )
    groups = {}
    for n in range(100):
        items = tuple(_range(FIRST + (n * 37 + k) % vnics) for k in range(10))
        groups[f"/g/{n}"] = Group(f"/g/{n}", Addresses(items))
    many = tuple(_range(OUTSIDE + 2 * n) for n in range(members + member))
    groups["/g/many"] = Group("/g/many", Addresses(many))
    each = rules // vnics
    policies = []
    for n, name in enumerate(ports):
        made = [_rule(n, at) for at in range(each)]
        if n == 0:
            made.insert(0, _one("/p0/many", MANY, Peers((GroupMember("/g/many"),))))
            if probed:
                made.insert(each // 2, _one("/p0/probe", PROBE, Peers(None)))
        applied = Peers((PortMember(name),))
        policies.append(Policy(f"/p{n}", Tier.APPLICATION, n, rules=tuple(made), applied_to=applied))
    if given.frames:
        frames = tuple(_frame_rule(at) for at in range(given.frames - (not probed)))
        policies.append(Policy("/l2", Tier.ETHERNET, 0, rules=frames, stateful=False, tcp_strict=False))
    staged = tuple(map(_staged, policies)) if given.staged else ()
    default = default_policy(Action.DROP)
    return PolicySet(tuple(policies), groups=groups, inventory=inventory, default=default, staged=staged)


def _frame_rule(at: int) -> Rule:
    """Half of them look at who sends; no packet of this benchmark is meant."""
    kind = ServiceEntry(ether_type=0x9000 + at)
    sources = Peers((MacAddresses((f"06:77:00:00:00:{at:02x}",)),)) if at % 2 else Peers(None)
    path = f"/l2/rules/{at}"
    return Rule(path, path, 90_000 + at, Action.DROP, sources, services=(Service("", (kind,)),))


def _staged(policy: Policy) -> Policy:
    """As it is, with numbers of its own; of the first one's, one rule would be another one."""
    rules = tuple(replace(rule, number=100_000 + rule.number) for rule in policy.rules)
    if policy.path == "/p0":
        rules = (*rules[:-1], replace(rules[-1], action=Action.REJECT))
    return replace(policy, rules=rules, staged=True)


def _address(value: int) -> Address:
    return Address(Family.IPV4, value)


def _range(value: int) -> AddressRange:
    return AddressRange(Family.IPV4, value, value)


def _rule(policy: int, at: int) -> Rule:
    """Every fourth has several ranges of ports, every fifth refuses."""
    ranges = [PortRange(1000 + at, 1000 + at)]
    if at % 4 == 0:
        ranges += [PortRange(3000 + 10 * k, 3004 + 10 * k) for k in range(1 + (policy + at) % 40)]
    entry = ServiceEntry(PROTO_TCP, destination_ports=tuple(ranges))
    action = Action.DROP if at % 5 == 0 else Action.ALLOW
    sources = Peers((GroupMember(f"/g/{(policy + at) % 100}"),))
    path = f"/p{policy}/rules/{at}"
    return Rule(path, path, at, action, sources, services=(Service("", (entry,)),))


def _one(path: str, port: int, sources: Peers) -> Rule:
    entry = ServiceEntry(PROTO_TCP, destination_ports=(PortRange(port, port),))
    return Rule(path, path, 0, Action.ALLOW, sources, services=(Service("", (entry,)),))


def syn(source: int, sport: int, dport: int) -> bytes:
    """A TCP SYN to the first vNIC."""
    tcp = struct.pack(">HHIIBBHHH", sport, dport, 1, 0, 0x50, 2, 1000, 0, 0)
    head = struct.pack(">BBHHHBBHII", 0x45, 0, 40, 0, 0, 64, PROTO_TCP, 0, source, FIRST)
    return ipv4_summed(head) + tcp


Worlds = tuple[Compiled, Compiled | None]
"""The tables in force, and as staged policies would have them."""


class Timed:
    """Changes in turn, each timed and its verdict looked at."""

    def __init__(self, given: argparse.Namespace) -> None:
        def compiled(*, probed: bool, member: bool) -> Worlds:
            world = world_make(given, probed=probed, member=member)
            return compile_policy(world), compile_policy(world.what_if) if world.staged else None

        self.names = [f"v{n}" for n in range(given.vnics)]
        self.plain = compiled(probed=False, member=False)
        self.probed = compiled(probed=True, member=False)
        self.member = compiled(probed=False, member=True)
        self.last_member = OUTSIDE + 2 * given.members
        self.times: dict[str, list[float]] = {}
        self.verified = True
        self._sport = 1024

    def run(self, runs: int) -> None:
        """Raises EnvironmentLacksError, LoadError, OSError."""
        began = perf_counter()
        whole = render_ruleset(self.plain[0], self.names, staged=self.plain[1])
        self._add("render", began)
        for _ in range(3):
            with KernelJudge(Ruleset("palisade")) as judge:
                link = judge.inside().run(lambda: RulesetLink("palisade"))
                began = perf_counter()
                link.apply(whole.ruleset)
                self._add("full_load", began)
                link.close()
        with KernelJudge(whole.ruleset) as judge, judge.inside().run(lambda: RulesetLink("palisade")) as link:
            last = whole
            for _ in range(runs):
                last = self._change("rule_added", link, last, self.probed)
                self._look(judge, FIRST + 1, PROBE, delivered=True)
                last = self._change("rule_gone", link, last, self.plain)
                self._look(judge, FIRST + 1, PROBE, delivered=False)
                last = self._change("member", link, last, self.member)
                self._look(judge, self.last_member, MANY, delivered=True)
                last = self._change("member", link, last, self.plain)
                self._look(judge, self.last_member, MANY, delivered=False)
            self.verified &= ruleset_sorted(link.read()) == ruleset_sorted(last.ruleset)
            self.counters = len(last.ruleset.counters)
            self.kernel_rules = sum(len(chain.rules) for chain in last.ruleset.chains)

    def _change(self, name: str, link: RulesetLink, last: Rendered, tables: Worlds) -> Rendered:
        began = perf_counter()
        now = render_ruleset(tables[0], self.names, before=last, staged=tables[1])
        rendered = perf_counter()
        update = plan_update(last.ruleset, now.ruleset)
        planned = perf_counter()
        link.update(update)
        self._add(name, began)
        self._add(f"{name}_transaction", planned)
        self.times.setdefault(f"{name}_render", []).append((rendered - began) * 1e3)
        self.times.setdefault(f"{name}_plan", []).append((planned - rendered) * 1e3)
        return now

    def _add(self, name: str, began: float) -> None:
        self.times.setdefault(name, []).append((perf_counter() - began) * 1e3)

    def _look(self, judge: KernelJudge, source: int, port: int, *, delivered: bool) -> None:
        """Always another connection, so that the rules are asked."""
        self._sport += 1
        self.verified &= bool(judge.judge(syn(source, self._sport, port), vnic_mark(0, 1)).delivered) is delivered


def _more(given: argparse.Namespace) -> str:
    return (f"-frames{given.frames}" if given.frames else "") + ("-staged" if given.staged else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 where a verdict was not the policy's, 3 where the machine lacks something."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, default in (("rules", 10_000), ("vnics", 200), ("members", 100_000), ("runs", 15), ("frames", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--staged", action="store_true")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    given = parser.parse_args(arguments)
    if min(given.rules // max(given.vnics, 1), given.vnics, given.members, given.runs) < 1 or given.vnics > 60_000:
        parser.error("at least one rule for each vNIC, one member, one run; at most 60,000 vNICs")
    timed = Timed(given)
    try:
        timed.run(given.runs)
    except EnvironmentLacksError as error:
        print(error, file=sys.stderr)
        return 3
    figures = {
        name: {"median": round(statistics.median(some), 3), "min": round(min(some), 3), "max": round(max(some), 3)}
        for name, some in timed.times.items()
    }
    result: dict[str, Any] = {
        "case": f"nftables-updates/{given.rules}-{given.vnics}-{given.members}{_more(given)}/v1",
        "unit": "ms",
        "runs": given.runs,
        "counters": timed.counters,
        "kernel_rules": timed.kernel_rules,
        **figures,
        "verified": timed.verified,
        "machine": read_machine(),
    }
    if given.output == "json":
        print(json.dumps(result))
    else:
        for name, figure in figures.items():
            print(f"{name:24} {figure['median']:10.3f} ms   {figure['min']:10.3f} to {figure['max']:.3f}")
        print(f"verified: {timed.verified}")
    return 0 if timed.verified else 1


if __name__ == "__main__":
    sys.exit(main())
