# SPDX-License-Identifier: Apache-2.0
"""The shared packet table (tests/packets): policy documents, packets, and what each vNIC says, by every way we have.

The oracle and the packet core judge the packets; `explain` evaluates rule by rule; `matrix` evaluates all pairs. All of
them must name the verdict and the rule that the table names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dfw.documents import documents_parse
from dfw.endpoint import endpoint_parse
from dfw.explanation import explain_at
from dfw.load import load_documents
from dfw.model import Direction, Family, PolicySet
from dfw.probe import EPHEMERAL_PORT, Probe, judge_both
from tests.support.kube import PROTOCOLS, Pairs
from tests.support.yaml_cases import cases_read

PACKETS = Path(__file__).parents[1] / "packets"
ORDER = cases_read(PACKETS / "order.yaml")
MEANINGS = cases_read(PACKETS / "meanings.yaml")
SEMANTICS = Path(__file__).parents[2] / "docs" / "policy-semantics.md"


def world_of(case: Mapping[str, Any]) -> PolicySet:
    documents = documents_parse((PACKETS / "cluster.yaml").read_bytes(), "cluster.yaml")
    return load_documents([*documents, *case["documents"]]).world


def probe_of(world: PolicySet, packet: Mapping[str, Any]) -> Probe:
    ends = [endpoint_parse(packet[side], world) for side in ("from", "to")]
    protocol, port = packet["service"].split("/")
    for family in Family:
        sides = [next(iter(end.peers(family)), None) for end in ends]
        if sides[0] is not None and sides[1] is not None:
            return Probe(sides[0], sides[1], PROTOCOLS[protocol.upper()], EPHEMERAL_PORT, int(port))
    raise AssertionError(packet)


def expected(packet: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for side in ("out", "in"):
        if side in packet:
            yield (side.upper(), *packet[side])


@pytest.mark.parametrize("case", [*ORDER, *MEANINGS], ids=lambda case: case.get("case") or " / ".join(case["pair"]))
def test_every_enforcer_says_what_the_table_says(case: Mapping[str, Any]) -> None:
    world = world_of(case)
    pairs = Pairs(world)
    for packet in case["packets"]:
        probe = probe_of(world, packet)
        (verdicts,) = judge_both(world, [probe], world.inventory)
        assert [(item.dir, item.verdict, item.rule_path) for item in verdicts] == list(expected(packet)), packet
        for direction, verdict, rule_path in expected(packet):
            port = probe.source.port if direction == "OUT" else probe.destination.port
            found = explain_at(world, port, Direction[direction], probe)
            assert found.match is not None
            decided = found.match.effective.rule
            assert (decided.action.value, decided.path) == (verdict, rule_path)
        check_matrix(pairs, probe, packet)


def check_matrix(pairs: Pairs, probe: Probe, packet: Mapping[str, Any]) -> None:
    """The matrix knows workloads only, and of each pair its first family: in this cluster IPv4."""
    ends = probe.source.port, probe.destination.port
    if ends[0] is None or ends[1] is None or probe.family is not Family.IPV4:
        return
    word = next(name for name, number in PROTOCOLS.items() if number == probe.protocol)
    question = (ends[0].name, ends[1].name, word, probe.dport)
    _, egress, ingress = pairs.judge(*question)
    assert egress is (packet["out"][0] == "ALLOW")
    assert "in" not in packet or ingress is (packet["in"][0] == "ALLOW")
    assert pairs.by(*question) == (packet["in"] if "in" in packet else packet["out"])[1]


def test_the_documentation_has_a_row_for_each_pair_of_kinds_and_no_other() -> None:
    text = SEMANTICS.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([A-Z][\w ]+?) \| ([A-Z][\w ]+?) \| (.+) \|$", text, re.MULTILINE)
    known = {frozenset(case["pair"]): case["why"] for case in ORDER}
    assert {frozenset((one, other)): why for one, other, why in rows if frozenset((one, other)) in known} == known
    kinds = sorted({kind for pair in known for kind in pair})
    assert len(kinds) == 5
    assert set(known) == {frozenset((one, other)) for one in kinds for other in kinds}
