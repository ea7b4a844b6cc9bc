# SPDX-License-Identifier: Apache-2.0
"""Layer-2 rules: asked for every frame before anything else; the packet core says what the oracle says."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dfw.core", reason="the packet core is not built")

from dfw.compile import compile_policy
from dfw.documents import documents_parse
from dfw.endpoint import Peer
from dfw.errors import UnsupportedError
from dfw.load import load_documents
from dfw.model import (
    Action,
    Direction,
    MacAddresses,
    Peers,
    Policy,
    PolicySet,
    PortMember,
    Rule,
    Service,
    ServiceEntry,
    Tier,
)
from dfw.probe import Probe, judge_both
from dfw.reach import ALLOWED, Reachability
from dfw.reach import Service as ServiceAsked
from tests.support.traffic import Commit, Event, Packet, Traffic, scenario_draw
from tests.support.traffic_policies import policies_load
from tests.support.twins import explain_difference, find_difference, native_answers, oracle_answers
from tests.support.wire import End, arp, ethernet, fragments
from tests.support.wire import Path as WirePath

PACKETS = 3_000
PORTS = ("web-1", "web-2", "app-1", "db-1")
MACS = ("02:00:00:00:01:01", "02:00:00:00:02:02", "ff:ff:ff:ff:ff:ff", "02:00:00:00:99:99")


def random_peers(rng: random.Random) -> Peers:
    if rng.random() < 0.4:
        return Peers(None)
    terms: list[Any] = [PortMember(name) for name in rng.sample(PORTS, rng.randint(0, 2))]
    if rng.random() < 0.5:
        terms.append(MacAddresses(tuple(rng.sample(MACS, rng.randint(1, 2)))))
    return Peers(tuple(terms))


def random_layer2(rng: random.Random) -> Policy:
    """Up to four rules that drop some of what the traffic has."""
    rules = []
    for number in range(rng.randint(1, 4)):
        types = rng.sample([0x0800, 0x86DD, 0x0806, 0x88CC], rng.randint(0, 2))
        rules.append(
            Rule(
                path=f"/l2/rules/{number}",
                id=str(number),
                number=9000 + number,
                action=rng.choice([Action.ALLOW, Action.DROP]),
                sources=random_peers(rng),
                destinations=random_peers(rng),
                sources_excluded=rng.random() < 0.3,
                destinations_excluded=rng.random() < 0.3,
                services=(Service("", tuple(ServiceEntry(ether_type=kind) for kind in types)),) if types else (),
                direction=rng.choice([Direction.IN, Direction.OUT, Direction.IN_OUT]),
                disabled=rng.random() < 0.1,
                applied_to=Peers(None) if rng.random() < 0.5 else Peers((PortMember(rng.choice(PORTS)),)),
            )
        )
    return Policy("/l2", Tier.ETHERNET, 0, rules=tuple(rules), stateful=False, tcp_strict=False)


@pytest.mark.parametrize("seed", range(12))
def test_engines_agree_on_random_layer_2_rules(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    scenario = scenario_draw(seed)
    plain = policies_load(tmp_path, short_timers=scenario.short_timers, no_default=scenario.no_default)
    worlds = [replace(world, policies=(*world.policies, random_layer2(rng))) for world in plain]
    events = [event for batch in Traffic(scenario).batches(PACKETS, 1024) for event in batch]
    oracle, native = (answers(events, worlds, scenario) for answers in (oracle_answers, native_answers))
    assert find_difference(oracle, native) is None, explain_difference(events, worlds, scenario)


@pytest.mark.parametrize("seed", range(6))
def test_all_pairs_at_once_say_what_both_engines_say(seed: int, tmp_path: Path) -> None:
    """`matrix` judges layer 2 for all pairs in its own way."""
    rng = random.Random(seed)
    (world, *_) = policies_load(tmp_path)
    world = replace(world, policies=(*world.policies, random_layer2(rng)))
    reach = Reachability(world).judge(ServiceAsked(6, 80))
    ports = tuple(world.inventory)
    asked = [(s, r) for s in range(len(ports)) for r in range(len(ports)) if s != r]
    probes = [Probe(Peer(ports[s], ports[s].ips[0]), Peer(ports[r], ports[r].ips[0]), 6, 49152, 80) for s, r in asked]
    for (s, r), verdicts in zip(asked, judge_both(world, probes, world.inventory), strict=True):
        assert bool(reach.egress[s, r] == ALLOWED) is (verdicts[0].verdict == "ALLOW")
        if len(verdicts) == 2:
            assert bool(reach.ingress[s, r] == ALLOWED) is (verdicts[1].verdict == "ALLOW")


# -- what it means

A, B = End("10.0.0.1", "02:00:00:00:00:01"), End("10.0.0.2", "02:00:00:00:00:02")
THERE = WirePath(A, B)
INVENTORY = {
    "apiVersion": "palisade.internal/v1alpha1",
    "kind": "Inventory",
    "segments": [{"name": "lan", "vni": 1, "subnets": ["10.0.0.0/24"]}],
    "ports": [
        {"name": "a", "segment": "lan", "mac": "02:00:00:00:00:01", "ips": ["10.0.0.1"]},
        {"name": "b", "segment": "lan", "mac": "02:00:00:00:00:02", "ips": ["10.0.0.2"]},
    ],
}


def world_of(*rules: dict[str, Any], scope: Sequence[str] = ("ANY",)) -> PolicySet:
    """A policy whose layer-2 rules are these; layer 3 allows everything."""
    documents = [
        INVENTORY,
        {
            "resource_type": "Group",
            "id": "b-mac",
            "expression": [{"resource_type": "MACAddressExpression", "mac_addresses": ["02:00:00:00:00:02"]}],
        },
        {
            "resource_type": "Group",
            "id": "a-port",
            "expression": [{"resource_type": "PathExpression", "paths": ["/infra/segments/lan/ports/a"]}],
        },
        {
            "resource_type": "Group",
            "id": "b-port",
            "expression": [{"resource_type": "PathExpression", "paths": ["/infra/segments/lan/ports/b"]}],
        },
        {
            "resource_type": "SecurityPolicy",
            "id": "l2",
            "category": "Ethernet",
            "scope": list(scope),
            "rules": [{"id": f"r{number}", **item} for number, item in enumerate(rules)],
        },
    ]
    return load_documents(documents_parse("\n".join(map(json.dumps, documents)).encode(), "f.json")).world


def judged(world: PolicySet, *frames: bytes, vnics: bool = True) -> list[tuple[str, ...]]:
    """(packet, vNIC, direction, verdict, reason, rule) of each judgement, from both engines."""
    scenario = replace(
        scenario_draw(0), vnics=vnics, capacity=None, commits=10**9, stopped=False, verify=False, decap=False, link=1
    )
    events: list[Event] = [Commit(0)]
    for number, frame in enumerate(frames):
        events.append(Packet(data=frame, ts_ns=10**9 * (number + 1), wire=len(frame), link=1))
    oracle, native = (answers(events, [world], scenario) for answers in (oracle_answers, native_answers))
    assert find_difference(oracle, native) is None, (oracle.judgements, native.judgements)
    return [
        (str(row[0]), *(str(item) for item in row[1:5]), str(row[5]).rpartition("/")[2]) for row in native.judgements
    ]


ETHER = {"resource_type": "EtherTypeServiceEntry"}
UDP = ethernet(THERE, THERE.udp(1, 2, b"x"))


def test_arp_and_other_protocols_are_seen() -> None:
    world = world_of({"action": "DROP", "service_entries": [{**ETHER, "ether_type": 0x0806}]})
    assert judged(world, arp(THERE), UDP) == [
        ("1", "a", "OUT", "DROP", "match", "r0"),
        ("2", "a", "OUT", "ALLOW", "match", "egress"),
        ("2", "b", "IN", "ALLOW", "match", "ingress"),
    ]


def test_it_comes_before_state_and_layer_3() -> None:
    """The answer belongs to a connection at both vNICs, which is not asked: its frame is dropped coming in."""
    world = world_of(
        {"action": "DROP", "source_groups": ["b-mac"], "destination_groups": ["a-port"], "direction": "IN"}
    )
    answer = ethernet(THERE.back, THERE.back.udp(2, 1, b"x"))
    assert [row[1:] for row in judged(world, UDP, answer)] == [
        ("a", "OUT", "ALLOW", "match", "egress"),
        ("b", "IN", "ALLOW", "match", "ingress"),
        ("b", "OUT", "ALLOW", "state", "ingress"),
        ("a", "IN", "DROP", "match", "r0"),
    ]


def test_allow_goes_on_to_layer_3_and_first_match_decides() -> None:
    world = world_of(
        {"action": "ALLOW", "source_groups": ["a-port"], "service_entries": [{**ETHER, "ether_type": 0x0800}]},
        {"action": "DROP"},
    )
    assert judged(world, UDP, arp(THERE)) == [
        ("1", "a", "OUT", "ALLOW", "match", "egress"),
        ("1", "b", "IN", "ALLOW", "match", "ingress"),
        ("2", "a", "OUT", "DROP", "match", "r1"),
    ]


def test_applied_to_and_exclusion() -> None:
    world = world_of({"action": "DROP"}, scope=["a-port"])
    assert judged(world, ethernet(THERE.back, THERE.back.udp(1, 2, b"x")), UDP) == [
        ("1", "b", "OUT", "ALLOW", "match", "egress"),
        ("1", "a", "IN", "DROP", "match", "r0"),
        ("2", "a", "OUT", "DROP", "match", "r0"),
    ]
    excluded = replace(world, excluded=Peers((PortMember("a"),)))
    assert judged(excluded, UDP)[0] == ("1", "a", "OUT", "ALLOW", "match", "exclude-list")


def test_fragments_are_frames() -> None:
    pieces = [ethernet(THERE, piece) for piece in fragments(THERE.udp(1, 2, b"x" * 64), [24, 48], 7)]
    world = world_of({"action": "DROP", "direction": "IN", "destination_groups": ["b-mac"]})
    lines = judged(world, *pieces)
    assert [row[1:] for row in lines if row[1] == "a"] == [("a", "OUT", "ALLOW", "match", "egress")] * 3
    assert [row[1:] for row in lines if row[1] == "b"] == [("b", "IN", "DROP", "match", "r0")] * 3
    out = world_of({"action": "DROP", "direction": "OUT"})
    assert [row[1:] for row in judged(out, *pieces)] == [("a", "OUT", "DROP", "match", "r0")] * 3


def test_a_wire_has_them_too() -> None:
    world = world_of({"action": "DROP", "direction": "IN", "service_entries": [{**ETHER, "ether_type": 0x0800}]})
    assert judged(world, UDP, arp(THERE), vnics=False) == [
        ("1", "tap", "IN_OUT", "DROP", "match", "r0"),
        ("2", "tap", "IN_OUT", "ALLOW", "non-ip", "None"),
    ]


def test_more_than_the_core_takes_is_refused() -> None:
    many = [{"action": "DROP", "service_entries": [{**ETHER, "ether_type": 0x0600 + number}]} for number in range(129)]
    with pytest.raises(UnsupportedError, match="129 layer-2 entries at a "):
        compile_policy(world_of(*many))
    compile_policy(world_of(*many[:128]))


def test_the_limit_is_a_filters() -> None:
    many = [
        {"action": "DROP", "scope": [scope], "service_entries": [{**ETHER, "ether_type": 0x0600 + number}]}
        for scope in ("a-port", "b-port")
        for number in range(100)
    ]
    world = world_of(*many, {"action": "DROP", "service_entries": [{**ETHER, "ether_type": 0x0800}]})
    assert judged(world, UDP) == [("1", "a", "OUT", "DROP", "match", "r200")]
    with pytest.raises(UnsupportedError, match="201 layer-2 entries at tap"):
        judged(world, UDP, vnics=False)
