# SPDX-License-Identifier: Apache-2.0
"""What each host is told, and the file that it is told in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dfw.compile import compile_policy
from dfw.layout import RANGE_DTYPE, RULE_DTYPE
from dfw.load import load
from dfw.model import PolicySet
from overlay.hoststate import HostState, StateError, state_decode, state_encode, state_read, state_write
from overlay.span import resolve_span

INVENTORY = """
apiVersion: palisade.internal/v1alpha1
kind: Inventory
hosts:
  - {name: h1, tep: 172.16.0.1, bfd_interval: 300, bfd_multiple: 5}
  - {name: h2, tep: 172.16.0.2}
  - {name: h3, tep: 172.16.0.3}
gateways:
  - {name: t0, tier: 0}
  - {name: t1-a, tier: 1, tier0: t0}
  - {name: t1-b, tier: 1, tier0: t0}
  - {name: t1-c, tier: 1}
segments:
  - {name: a, vni: 1, subnets: [10.0.1.0/24, "2001:db8:1::/64"], gateway: t1-a}
  - {name: b, vni: 2, subnets: [10.0.2.0/24], gateway: t1-b}
  - {name: c, vni: 3, subnets: [10.0.1.0/24], gateway: t1-c}
  - {name: d, vni: 4, subnets: [10.0.4.0/24]}
ports:
  - {name: a1, host: h1, segment: a, ips: [10.0.1.11, "2001:db8:1::11"], tags: [{scope: t, tag: x}]}
  - {name: a2, host: h2, segment: a, ips: [10.0.1.12]}
  - {name: b1, host: h2, segment: b, ips: [10.0.2.11]}
  - {name: c1, host: h3, segment: c, ips: [10.0.1.11]}
  - {name: d1, host: h3, segment: d, ips: [10.0.4.11]}
"""
POLICY = """
resource_type: Group
id: x
expression: [{resource_type: Condition, member_type: SegmentPort, key: Tag, operator: EQUALS, value: "t|x"}]
---
resource_type: SecurityPolicy
id: p
category: Application
rules:
  - {id: only-at-x, source_groups: [10.9.0.0/16], destination_groups: [x], services: [SSH], scope: [x], action: ALLOW}
  - {id: everywhere, source_groups: [x], services: [HTTP], action: REJECT, logged: true, tag: told}
"""


@pytest.fixture
def world(tmp_path: Path) -> PolicySet:
    (tmp_path / "i.yaml").write_text(INVENTORY)
    (tmp_path / "p.yaml").write_text(POLICY)
    return load([str(tmp_path / "i.yaml"), str(tmp_path / "p.yaml")]).world


def names(state: HostState) -> set[str]:
    return {segment.name for segment in state.segments}


def test_a_host_knows_its_own_segments_and_those_routed_together_with_them(world: PolicySet) -> None:
    span = resolve_span(world, 7, {})
    assert names(span["h1"]) == {"a", "b"}  # b is behind the same Tier-0
    assert names(span["h3"]) == {"c", "d"}  # c has a's addresses, in a routing domain of its own
    assert [tep.host for tep in span["h1"].teps] == ["h2"]
    assert span["h3"].teps == ()
    assert span["h1"].gateways == ("t1-a", "t0", "t1-b") or set(span["h1"].gateways) == {"t1-a", "t0", "t1-b"}
    assert {state.revision for state in span.values()} == {7}


def test_bfd_is_each_hosts_own(world: PolicySet) -> None:
    span = resolve_span(world, 1, {})
    assert [(span[host].bfd.interval, span[host].bfd.multiplier) for host in ("h1", "h2")] == [(300, 5), (1000, 3)]


def test_who_is_here_and_who_is_behind_a_tep(world: PolicySet) -> None:
    state = resolve_span(world, 1, {})["h1"]
    found = {(item.ip, item.vnic, item.tep) for item in state.neighbours}
    assert found == {
        ("10.0.1.11", "a1", None),
        ("2001:db8:1::11", "a1", None),
        ("10.0.1.12", None, 0),
        ("10.0.2.11", None, 0),
    }
    assert {segment.name: segment.replicas for segment in state.segments} == {"a": (0,), "b": (0,)}


def test_routes_go_up_to_the_tier_0_and_down_again(world: PolicySet) -> None:
    state = resolve_span(world, 1, {})["h1"]
    number = {name: at for at, name in enumerate(state.gateways)}
    segment = {item.name: at for at, item in enumerate(state.segments)}
    rows = {(row.gateway, row.prefix, row.kind, row.target) for row in state.routes}
    assert (number["t1-a"], "10.0.1.0/24", "connected", segment["a"]) in rows
    assert (number["t1-a"], "0.0.0.0/0", "gateway", number["t0"]) in rows
    assert (number["t1-a"], "::/0", "gateway", number["t0"]) in rows
    assert (number["t0"], "10.0.2.0/24", "gateway", number["t1-b"]) in rows
    assert not any(row[1] == "10.0.4.0/24" for row in rows)
    assert {(item.ip, item.segment) for item in state.interfaces} == {
        ("10.0.1.1", segment["a"]),
        ("2001:db8:1::1", segment["a"]),
        ("10.0.2.1", segment["b"]),
    }


def test_rules_and_sets_are_those_of_the_hosts_own_vnics(world: PolicySet) -> None:
    span = resolve_span(world, 1, {})
    assert any(rule.path.endswith("only-at-x") for rule in span["h1"].rules)
    assert not any(rule.path.endswith("only-at-x") for rule in span["h2"].rules)
    told = next(rule for rule in span["h2"].rules if rule.path.endswith("everywhere"))
    assert (told.action, told.logged, told.tag) == ("REJECT", True, "told")
    for state in span.values():
        for table in state.tables:
            entries = np.frombuffer(table.entries, RULE_DTYPE)
            refs = np.frombuffer(table.refs, np.uint32)
            assert (entries["rule"] < len(state.rules)).all()
            for side in ("src", "dst"):
                assert (entries[f"{side}_off"] + entries[f"{side}_n"] <= len(refs)).all()
            assert (refs < len(state.sets)).all()


def test_tables_say_what_the_whole_policys_say(world: PolicySet) -> None:
    """Every entry of every vNIC's table, with its sets' contents, as compiled for the whole."""
    compiled = compile_policy(world)
    for state in resolve_span(world, 1, {}).values():
        for vnic in state.vnics:
            whole = compiled.tables[compiled.table_of[vnic.name]]
            own = state.tables[vnic.table]
            entries, refs = np.frombuffer(own.entries, RULE_DTYPE), np.frombuffer(own.refs, np.uint32)
            assert len(entries) == len(whole.entries) > 0
            for mine, theirs in zip(entries, whole.entries, strict=True):
                assert state.rules[mine["rule"]].path == compiled.rules[theirs["rule"]].path
                for side in ("src", "dst"):
                    here = [state.sets[refs[mine[f"{side}_off"] + i]].ranges for i in range(int(mine[f"{side}_n"]))]
                    there = [
                        compiled.sets[whole.set_refs[theirs[f"{side}_off"] + i]].ranges.tobytes()
                        for i in range(int(theirs[f"{side}_n"]))
                    ]
                    assert here == there
                for name in (
                    "sport_lo",
                    "sport_hi",
                    "dport_lo",
                    "dport_hi",
                    "proto",
                    "action",
                    "dir",
                    "family",
                    "flags",
                ):
                    assert mine[name] == theirs[name]


def test_a_card_is_where_it_is_attached(world: PolicySet) -> None:
    state = resolve_span(world, 1, {"a1": "/somewhere/ns"}, underlay_mtu=1450)["h1"]
    vnic = state.vnics[0]
    assert (vnic.netns, vnic.ips, vnic.gateways) == (
        "/somewhere/ns",
        ("10.0.1.11/24", "2001:db8:1::11/64"),
        ("10.0.1.1", "2001:db8:1::1"),
    )
    assert vnic.mtu == 1450 - 66  # outer IPv4, UDP, Geneve with options, inner Ethernet


def test_addresses_of_no_subnet_are_on_one_link(tmp_path: Path) -> None:
    """Pods as their manifests have them, and ports without a segment: no length says who is a neighbour."""
    (tmp_path / "f.yaml").write_text("""\
apiVersion: palisade.internal/v1alpha1
kind: Inventory
hosts: [{name: h}]
segments: [{name: s, subnets: [10.1.1.0/24]}]
ports: [{name: one, segment: s, ips: [10.1.1.11, "2001:db8::1"]}, {name: two, segment: s}]
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: x}
status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: x}
""")
    vnics = resolve_span(load([str(tmp_path / "f.yaml")]).world, 1, {})["h"].vnics
    assert {vnic.name: vnic.gateways for vnic in vnics} == {
        "one": ("::",),  # its segment has a subnet of IPv4 only
        "two": (),
        "x/a": ("0.0.0.0", "::"),
        "x/b": ("0.0.0.0",),  # its own address is of a subnet, x/a's is not
    }


def test_the_file_holds_the_state(world: PolicySet, tmp_path: Path) -> None:
    state = resolve_span(world, 3, {})["h1"]
    state_write(tmp_path / "desired.json", state)
    assert state_read(tmp_path / "desired.json") == state
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []
    assert np.frombuffer(state.sets[0].ranges, RANGE_DTYPE)["family"][0] in (1, 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "version 2"),
        ({"byte_order": "middle"}, "middle-endian"),
        ({"surprise": 1}, "surprise"),
        ({"vnics": [{"name": "x"}]}, "mac"),
        ({"tables": [{"entries": "!!", "refs": ""}]}, "base64"),
        ({"revision": "one"}, "revision"),
    ],
)
def test_what_it_does_not_know_is_refused(world: PolicySet, change: dict[str, object], says: str) -> None:
    row = json.loads(state_encode(resolve_span(world, 3, {})["h1"]))
    with pytest.raises(StateError, match=says):
        state_decode(json.dumps(row | change).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"version": 1}'])
def test_no_state_at_all(data: bytes) -> None:
    with pytest.raises(StateError):
        state_decode(data)
