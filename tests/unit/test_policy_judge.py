# SPDX-License-Identifier: Apache-2.0
"""Many packets judged at once, and again by a policy with one rule changed: what the model and the packet core say."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from dfw.model import Action, Direction, MacAddresses, Peers, Policy, PolicySet, Rule, Service, ServiceEntry, Tier
from dfw.packetdiff import policies_differ
from dfw.policytest.corners import Kinds
from dfw.policytest.judge import Judge, Resolved, answers_of, rules_in_order
from dfw.policytest.mutants import _Changed
from dfw.policytest.mutations import mutate, mutations_of
from dfw.policytest.worlds import arrives
from dfw.probe import EPHEMERAL_PORT, Probe, judge_both
from dfw.reach_walk import ALLOWED, DENIED, UNKNOWN
from tests.differential.test_mixed_policies import probes_of
from tests.support.kube import labels, loaded, namespace, network_policy, pod
from tests.support.random_clusters import cluster, policies


def a_world(random: Random, sections: int = 9) -> PolicySet:
    return loaded(*cluster(random), *policies(random)[:sections]).world


def plain(probes: list[Probe]) -> list[Probe]:
    return [probe for probe in probes if probe.source.name != probe.destination.name]


def seeds(bounded: int, long_run: bool) -> range:
    return range(bounded * 100 if long_run else bounded)


def test_it_says_what_the_engines_say(long_run: bool) -> None:
    for seed in seeds(5, long_run):
        check_engines(Random(seed))


def check_engines(random: Random) -> None:
    world = a_world(random)
    for at in (world.inventory, None):
        probes = plain(probes_of(world, random, 40))
        judge = Judge(Resolved(world, at is not None), probes)
        answers = answers_of(judge.points, judge.verdicts())
        for number, found in enumerate(judge_both(world, probes, at)):
            rule = int(answers.decided[number])
            path = judge.rules[rule].rule.path if rule >= 0 else None
            assert (arrives(found), found[-1].rule_path) == (answers.codes[number] == ALLOWED, path), probes[number]


def test_a_changed_rule_is_as_a_policy_written_so(long_run: bool) -> None:
    for seed in seeds(2, long_run):
        check_changed(Random(seed))


def check_changed(random: Random) -> None:
    world = a_world(random)
    probes = plain(probes_of(world, random, 60))
    base = _Changed(Judge(Resolved(world, True), probes))
    for mutation in mutations_of(world):
        fresh = Judge(Resolved(mutate(world, mutation), True), probes)
        wanted = answers_of(fresh.points, fresh.verdicts())
        found = base.changed(mutation)
        seen = base.answers if found is None else found.answers
        rules = base.judge.rules if found is None else found.rules
        assert seen.codes.tolist() == wanted.codes.tolist(), mutation
        paths = [[rules[number].rule.path if number >= 0 else None for number in seen.decided]]
        paths.append([fresh.rules[number].rule.path if number >= 0 else None for number in wanted.decided])
        assert paths[0] == paths[1], mutation


def test_a_packet_of_each_kind_is_as_good_as_any(long_run: bool) -> None:
    """Where all kinds fare alike under a mutation, so do packets drawn at random from more ports than rules name."""
    for seed in seeds(1, long_run):
        check_corners(Random(seed))


def check_corners(random: Random) -> None:
    world = a_world(random, sections=3)
    rules = rules_in_order(world, True)
    kinds = Kinds(Resolved(world, True))
    assert kinds.are_few
    corners = kinds.corners()
    assert corners.complete
    base = _Changed(Judge(Resolved(world, True), corners.probes))
    others = [replace(item, dport=random.randrange(65536)) for item in plain(probes_of(world, random, 300))]
    drawn = _Changed(Judge(Resolved(world, True), others))
    for number, mutation in enumerate(mutations_of(world)):
        found, also = base.changed(mutation), drawn.changed(mutation)
        is_alike = found is None or bool((found.answers.codes == base.answers.codes).all())
        if is_alike and also is not None:
            assert (also.answers.codes == drawn.answers.codes).all(), mutation
        if number % 5:
            continue
        # Sets of packets say of all packets what packets of each kind say of those that workloads send.
        assert is_alike or policies_differ(world, mutate(world, mutation)) is not None, mutation
        # The same from the packets alone that the changed rules may match.
        touched = [item for item in rules if item.rule.path in mutation.rules]
        few = kinds.corners([*touched, *(item for item in mutation.rules.values() if item is not None)])
        own = _Changed(Judge(Resolved(world, True), few.probes))
        again = own.changed(mutation)
        assert is_alike == (again is None or bool((again.answers.codes == own.answers.codes).all())), mutation


def test_an_address_that_nobody_gave_is_not_known() -> None:
    world = loaded(
        namespace("x"),
        pod("x/a", app="a"),
        pod("x/b", "10.1.0.2", app="b"),
        network_policy("x/net", podSelector=labels(app="b"), ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]),
        network_policy("x/all", podSelector=labels(app="a"), ingress=[{}]),
    ).world
    a, b = world.inventory.ports.values()
    from dfw.endpoint import Peer

    probes = [
        Probe(Peer(one, one.ips[0]), Peer(two, two.ips[0]), 6, EPHEMERAL_PORT, 80) for one, two in ((a, b), (b, a))
    ]
    judge = Judge(Resolved(world, True), probes)
    answers = answers_of(judge.points, judge.verdicts())
    assert answers.codes.tolist() == [UNKNOWN, ALLOWED]


@pytest.mark.parametrize("on_wire", [False, True])
def test_layer_2_rules_come_first(on_wire: bool) -> None:
    world = loaded(namespace("x"), pod("x/a", "10.1.0.1"), pod("x/b", "10.1.0.2")).world
    a, b = world.inventory.ports.values()
    mac = Peers((MacAddresses((a.mac,)),))
    ipv6 = Service("", (ServiceEntry(ether_type=0x86DD),))
    rules = (
        Rule("e/six", "six", 1, Action.DROP, services=(ipv6,)),
        Rule("e/ok", "ok", 2, Action.ALLOW, sources=mac, direction=Direction.OUT),
        Rule("e/no", "no", 3, Action.DROP, sources=mac, direction=Direction.IN_OUT),
    )
    world = replace(world, policies=(Policy("e", Tier.ETHERNET, 0, rules=rules),))
    from dfw.endpoint import Peer

    probes = [
        Probe(Peer(one, one.ips[0]), Peer(two, two.ips[0]), 6, EPHEMERAL_PORT, 80) for one, two in ((a, b), (b, a))
    ]
    judge = Judge(Resolved(world, not on_wire), probes)
    verdicts = judge.verdicts()
    answers = answers_of(judge.points, verdicts)
    assert answers.codes.tolist() == ([ALLOWED, ALLOWED] if on_wire else [DENIED, ALLOWED])
    found = judge_both(world, probes, None if on_wire else world.inventory)
    assert [arrives(item) for item in found] == (answers.codes == ALLOWED).tolist()
    assert {judge.rules[number].rule.path for number in verdicts.passed} == {"e/ok"}


def test_every_kind_of_mutation() -> None:
    world = a_world(Random(5))
    kinds = {mutation.kind for seed in range(8) for mutation in mutations_of(a_world(Random(seed)))}
    assert kinds == {"drop", "flip", "sources", "destinations", "services", "applied-to", "direction", "family"}
    rules = sum(not rule.disabled for policy in world.policies for rule in policy.rules)
    dropped = [mutation for mutation in mutations_of(world) if mutation.kind == "drop"]
    assert len(dropped) == rules > 5
    for mutation in dropped:
        paths = [rule.path for policy in mutate(world, mutation).policies for rule in policy.rules]
        assert mutation.path not in paths
        assert len(paths) == sum(len(policy.rules) for policy in world.policies) - 1
    assert np.unique([mutation.change for mutation in dropped]).tolist() == ["dropped"]
