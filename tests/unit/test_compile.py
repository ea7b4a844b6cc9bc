# SPDX-License-Identifier: Apache-2.0
"""Compiling: the arrays mean what the model means, packet by packet, for every vNIC and for a tap.

First match is decided twice: by the model's own plain evaluation, and by a linear scan of the decoded arrays.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfw.compile import Compiled, RuleTable, compile_policy
from dfw.errors import UnsupportedError
from dfw.layout import PROTO_ANY, RANGE_DTYPE, RULE_DTYPE
from dfw.membership import Membership
from dfw.model import (
    Action,
    Address,
    Addresses,
    AddressRange,
    Alg,
    Condition,
    ConditionKey,
    EffectiveRule,
    Family,
    Group,
    GroupMember,
    Inventory,
    Machine,
    MemberType,
    Operator,
    Peers,
    Policy,
    PolicySet,
    Port,
    PortRange,
    Rule,
    Segment,
    Service,
    ServiceEntry,
    Tier,
    rules_for,
    rules_for_tap,
)
from tests.support.random_policies import ADDRESSES, Packet, packets, worlds


def model_match(world: PolicySet, rules: list[EffectiveRule], packet: Packet) -> EffectiveRule | None:
    for item in rules:
        rule = item.rule
        family = packet.source.family
        if family not in rule.families or not item.direction & packet.direction:
            continue
        if not rule.sources.is_any and world.contains(rule.sources, packet.source) is rule.sources_excluded:
            continue
        if (
            not rule.destinations.is_any
            and world.contains(rule.destinations, packet.destination) is rule.destinations_excluded
        ):
            continue
        entries = [entry for service in rule.services for entry in service.entries]
        parts = (family, packet.protocol, packet.first, packet.second, packet.flags)
        if not rule.services or any(entry.matches(*parts) for entry in entries):
            return item
    return None


def array_match(compiled: Compiled, table: RuleTable, packet: Packet) -> int | None:
    """The number of the first entry that matches, exactly as the comment of pal_rule says."""
    sport, dport = packet.first, packet.second
    if packet.protocol in (1, 58):
        sport, dport = 0, packet.first << 8 | packet.second
    for number, row in enumerate(table.entries):
        if not row["family"] & packet.source.family or not row["dir"] & packet.direction:
            continue
        if row["proto"] not in (PROTO_ANY, packet.protocol):
            continue
        if not row["sport_lo"] <= sport <= row["sport_hi"] or not row["dport_lo"] <= dport <= row["dport_hi"]:
            continue
        if packet.flags & row["tcp_mask"] != row["tcp_value"]:
            continue
        if all(
            not row[f"{side}_n"] or in_sets(compiled, table, row, side, address) is not bool(row["flags"] & negated)
            for side, address, negated in (("src", packet.source, 8), ("dst", packet.destination, 16))
        ):
            return number
    return None


def in_sets(compiled: Compiled, table: RuleTable, row: np.void, side: str, address: Address) -> bool:
    wanted = address.packed.ljust(16, b"\0")
    for set_id in table.set_refs[row[f"{side}_off"] : row[f"{side}_off"] + row[f"{side}_n"]]:
        for item in compiled.sets[set_id].ranges:
            if item["family"] == address.family and bytes(item["lo"]) <= wanted <= bytes(item["hi"]):
                return True
    return False


def assert_same(compiled: Compiled, table: RuleTable, expected: EffectiveRule | None, packet: Packet) -> None:
    found = array_match(compiled, table, packet)
    assert (found is None) is (expected is None)
    if found is None or expected is None:
        return
    row = table.entries[found]
    rule = compiled.rules[row["rule"]]
    assert (rule.path, rule.rule_id, rule.policy) == (expected.rule.path, expected.rule.number, expected.policy.path)
    assert (
        {0: Action.ALLOW, 1: Action.DROP, 2: Action.REJECT}[int(row["action"])] is expected.rule.action is rule.action
    )
    assert bool(row["flags"] & 1) is expected.stateful
    assert bool(row["flags"] & 2) is expected.tcp_strict
    assert bool(row["flags"] & 4) is expected.rule.logged is rule.logged


@given(worlds(), st.lists(packets(), min_size=8, max_size=8))
def test_arrays_mean_what_the_model_means(world: PolicySet, some: list[Packet]) -> None:
    compiled = compile_policy(world)
    for packet in some:
        assert_same(compiled, compiled.tap, model_match(world, rules_for_tap(world), packet), packet)
        for port in world.inventory:
            table = compiled.tables[compiled.table_of[port.name]]
            assert_same(compiled, table, model_match(world, rules_for(world, port), packet), packet)


@given(worlds())
def test_membership_equals_the_models(world: PolicySet) -> None:
    membership = Membership(world)
    peers = [
        side
        for policy in world.policies
        for rule in policy.rules
        for side in (rule.sources, rule.destinations, rule.applied_to, policy.applied_to)
    ]
    for side in peers:
        assert [membership.ports[number] for number in sorted(membership.members(side))] == list(world.members(side))
        if side.terms is not None:
            ranges = membership.addresses(side.terms)
            for address in ADDRESSES:
                assert any(item.contains(address) for item in ranges) is world.contains(side, address)


@given(worlds())
def test_layout_of_tables_and_sets(world: PolicySet) -> None:
    compiled = compile_policy(world)
    for table in (*compiled.tables, compiled.tap):
        assert table.entries.dtype == RULE_DTYPE
        assert table.set_refs.dtype == np.uint32
        ends = np.concatenate([table.entries[f"{side}_off"] + table.entries[f"{side}_n"] for side in ("src", "dst")])
        assert (ends <= len(table.set_refs)).all()
        assert (table.set_refs < len(compiled.sets)).all()
        assert (np.diff(table.entries["rule"].astype(np.int64)) >= 0).all()
        assert (table.entries["family"] > 0).all()
    assert [item.set_id for item in compiled.sets] == list(range(len(compiled.sets)))
    for item in compiled.sets:
        assert item.ranges.dtype == RANGE_DTYPE
        bounds = [(int(r["family"]), bytes(r["lo"]), bytes(r["hi"])) for r in item.ranges]
        assert bounds == sorted(bounds)
        assert all(low <= high for _, low, high in bounds)
    assert set(compiled.table_of) == set(world.inventory.ports)
    for port in world.inventory:
        assert compiled.timers_of.get(port.name, compiled.timers) == world.timers_for(port)
        assert compiled.flood_of.get(port.name, compiled.flood) == world.flood_for(port)


def test_dtypes_are_the_headers(root_folder: Path) -> None:
    """Offsets by the C rules (no padding is needed), field by field from the header's own text."""
    header = (root_folder / "native" / "include" / "palisade_core.h").read_text(encoding="utf-8")
    sizes = {"uint32_t": 4, "uint16_t": 2, "uint8_t": 1}
    for name, dtype in (("pal_rule", RULE_DTYPE), ("pal_range", RANGE_DTYPE)):
        body = re.search(rf"typedef struct {name} {{(.*?)}} {name};", header, re.DOTALL)
        assert body is not None
        offset, fields = 0, []
        for kind, names in re.findall(r"(uint\d+_t) ([^;]+);", re.sub(r"/\*.*?\*/", "", body[1], flags=re.DOTALL)):
            for member in names.split(","):
                found = re.fullmatch(r"\s*(\w+)(?:\[(\d+)\])?\s*", member)
                assert found is not None
                fields.append((found[1], offset))
                offset += sizes[kind] * int(found[2] or 1)
        assert [(member, dtype.fields[member][1]) for member in dtype.names] == fields
        assert dtype.itemsize == offset


def test_dtypes_are_the_cores() -> None:
    core = pytest.importorskip("dfw.core", reason="the packet core is not built")
    for name, dtype in (("pal_rule", RULE_DTYPE), ("pal_range", RANGE_DTYPE)):
        assert core.ffi.sizeof(name) == dtype.itemsize
        for member in dtype.names:
            assert core.ffi.offsetof(name, member) == dtype.fields[member][1]


def rule(name: str, **fields: object) -> Rule:
    return replace(Rule(path=name, id=name, number=1001, action=Action.ALLOW), **fields)  # type: ignore[arg-type]


def test_groups_are_shared_and_ports_with_equal_rules_share_a_table() -> None:
    group = Group("/g/web", Condition(MemberType.SEGMENT_PORT, ConditionKey.NAME, Operator.STARTSWITH, "p"))
    peers = Peers((GroupMember("/g/web"),))
    raw = Peers((Addresses((AddressRange(Family.IPV4, 1, 2), AddressRange(Family.IPV4, 3, 4))),))
    same = Peers((Addresses((AddressRange(Family.IPV4, 1, 4),)),))
    rules = tuple(rule(f"r{n}", sources=peers, destinations=raw if n % 2 else same) for n in range(100))
    ports = {f"p{n}": Port(f"p{n}", "h", "s", "m", f"02:00:00:00:00:{n:02x}", (ADDRESSES[0],)) for n in range(200)}
    inventory = Inventory(segments={"s": Segment("s", 1)}, machines={"m": Machine("m")}, ports=ports)
    world = PolicySet((Policy("/p", Tier.APPLICATION, 0, rules=rules),), {"/g/web": group}, {}, inventory)
    compiled = compile_policy(world)
    assert [item.name for item in compiled.sets] == ["/g/web", ""]
    assert len(compiled.tables) == 1
    assert set(compiled.table_of.values()) == {0}
    assert list(compiled.tap.set_refs) == [0, 1]


def test_a_hundred_thousand_members_are_one_set() -> None:
    items = tuple(AddressRange(Family.IPV4, 2 * n, 2 * n) for n in range(100_000))
    world = PolicySet((Policy("/p", Tier.APPLICATION, 0, rules=(rule("r", sources=Peers((Addresses(items),))),)),))
    (found,) = compile_policy(world).sets
    assert len(found.ranges) == 100_000
    assert bytes(found.ranges[99_999]["lo"]) == (2 * 99_999).to_bytes(4, "big").ljust(16, b"\0")


def test_persist_and_alg() -> None:
    ftp = Service("", (ServiceEntry(protocol=6, destination_ports=(PortRange(21, 21),), alg=Alg.FTP),))
    world = PolicySet((Policy("/p", Tier.APPLICATION, 0, rules=(rule("r", services=(ftp,), persist=True),)),))
    first = compile_policy(world).tap.entries[0]
    assert (first["alg"], first["flags"] & 32) == (1, 32)


@pytest.mark.parametrize(
    ("policy", "feature"),
    [
        (Policy("/p", Tier.ETHERNET, 0, rules=(rule("r", action=Action.REJECT),)), "the action REJECT"),
        (
            Policy(
                "/p",
                Tier.APPLICATION,
                0,
                rules=(rule("r", services=(Service("", (ServiceEntry(alg=Alg.MS_RPC_TCP),)),)),),
            ),
            "the ALG MS_RPC_TCP",
        ),
    ],
)
def test_what_the_core_cannot_do_is_refused_never_weakened(policy: Policy, feature: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        compile_policy(PolicySet((policy,)))
    assert caught.value.enforcer == "native"
    assert feature in caught.value.feature
    off = replace(policy, rules=tuple(replace(item, disabled=True) for item in policy.rules))
    compile_policy(PolicySet((off,)))
