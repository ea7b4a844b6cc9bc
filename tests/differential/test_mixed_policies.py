# SPDX-License-Identifier: Apache-2.0
"""Random policies of all kinds together: oracle, packet core, `explain` and `matrix` give one answer to each packet."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfw.endpoint import Peer, endpoint_parse
from dfw.explanation import explain_at
from dfw.membership import Membership
from dfw.model import Action, Direction, Family, PolicySet
from dfw.probe import EPHEMERAL_PORT, Probe, Verdict, judge_both
from tests.support.kube import PROTOCOLS, Pairs, loaded
from tests.support.random_clusters import MACHINES, OUTSIDE, PODS, PORTS, cluster, policies

JUDGEMENTS_LONG = 1_000_000
WORDS = {number: name for name, number in PROTOCOLS.items()}


def peers_of(world: PolicySet) -> list[Peer]:
    """Every address of every workload, and some of nobody's."""
    ends = [endpoint_parse(name, world) for name in (*PODS, *MACHINES, *OUTSIDE)]
    return [peer for end in ends for family in Family for peer in end.peers(family)]


def probes_of(world: PolicySet, random: Random, count: int) -> list[Probe]:
    """Random first packets between any two addresses of a family."""
    peers = peers_of(world)
    ends = [(one, other) for one, other in product(peers, peers) if one.address != other.address]
    ends = [pair for pair in ends if pair[0].address.family is pair[1].address.family]
    chosen = random.choices(ends, k=count)
    protocols, ports = tuple(PROTOCOLS.values()), (*PORTS, 53, 9000)
    return [Probe(*pair, random.choice(protocols), EPHEMERAL_PORT, random.choice(ports)) for pair in chosen]


def check(random: Random, packets: int, explained: int) -> int:
    """One world. Returns how many judgements were compared; `judge_both` compares oracle and core. `explained`: of so
    many packets the rules passed over are told too."""
    documents = [*cluster(random), *policies(random)]
    world = loaded(*documents).world
    probes = probes_of(world, random, packets)
    verdicts = judge_both(world, probes, world.inventory)
    pairs = Pairs(world)
    for number, (probe, found) in enumerate(zip(probes, verdicts, strict=True)):
        check_matrix(pairs, probe, found)
        check_explanation(world, probe, found, above=3 if number < explained else 0)
    return sum(map(len, verdicts))


def check_explanation(world: PolicySet, probe: Probe, found: tuple[Verdict, ...], above: int) -> None:
    for verdict in found:
        if verdict.vnic is None:
            continue
        explanation = explain_at(world, world.inventory.ports[verdict.vnic], Direction[str(verdict.dir)], probe, above)
        assert explanation.match is not None
        rule = explanation.match.effective.rule
        assert (rule.path, rule.action) == (verdict.rule_path, Action(verdict.verdict))


def check_matrix(pairs: Pairs, probe: Probe, found: tuple[Verdict, ...]) -> None:
    sender, receiver = probe.source.port, probe.destination.port
    if sender is None or receiver is None or sender.name == receiver.name:
        return
    if pairs.family(sender.name, receiver.name) is not probe.family:
        return
    question = (sender.name, receiver.name, WORDS[probe.protocol], probe.dport)
    allowed, egress, ingress = pairs.judge(*question)
    assert (found[0].dir, egress) == ("OUT", found[0].verdict == "ALLOW"), question
    assert allowed is all(verdict.verdict == "ALLOW" for verdict in found)
    assert pairs.by(*question) == found[-1].rule_path
    if len(found) > 1:
        assert ingress is (found[1].verdict == "ALLOW")


@settings(max_examples=25)
@given(st.randoms(use_true_random=False))
def test_all_kinds_together(random: Random) -> None:
    check(random, packets=60, explained=20)


def test_many_seeds() -> None:
    assert sum(check(Random(seed), packets=250, explained=25) for seed in range(40)) > 10_000


@pytest.mark.long
def test_a_million_judgements() -> None:
    done, seed = 0, 1000
    while done < JUDGEMENTS_LONG:
        done += check(Random(seed), packets=2500, explained=100)
        seed += 1


@given(st.randoms(use_true_random=False))
def test_the_fast_resolver_finds_the_members_that_the_model_finds(random: Random) -> None:
    world = loaded(*cluster(random), *policies(random)).world
    membership = Membership(world)
    for policy in world.policies:
        for rule in policy.rules:
            for peers in (rule.sources, rule.destinations, rule.applied_to, policy.applied_to):
                found = {membership.ports[number].name for number in membership.members(peers)}
                assert found == {port.name for port in world.members(peers)}
