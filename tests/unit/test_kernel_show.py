# SPDX-License-Identifier: Apache-2.0
"""What a host whose kernel enforces says of itself: by the names of the packet core's, or that it can't."""

from __future__ import annotations

import pytest

from dfw.compile import compile_policy
from dfw.load import load
from dfw.nftables import render_ruleset
from overlay.health import Health, show_health
from overlay.kernel_show import (
    CardTotals,
    KernelCounters,
    judgements,
    read_cards,
    render_metrics,
    show_stats,
    unable_sentence,
)
from overlay.rule_counts import RuleCounts
from tests.unit.test_metrics import samples_of
from tests.unit.test_nftables import HERE

DEVICES = """\
Inter-|   Receive                                            |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo:    0       0    0    0    0     0          0         0     0       0    0    0    0     0       0          0
   pv1:  100       2    0    3    0     0          0         0   400       5    0    6    0     0       0          0
pv12345678901:7 8 0 9 0 0 0 0 10 11 0 12 0 0 0 0
"""


def test_cards_are_read_as_the_kernel_counts_them() -> None:
    found = read_cards(DEVICES)
    assert found["pv1"] == CardTotals(100, 2, 3, 400, 5, 6)
    assert found["pv12345678901"] == CardTotals(7, 8, 9, 10, 11, 12) and "lo" in read_cards()


def test_statistics_and_metrics_have_the_cores_names() -> None:
    world = load([str(HERE / "in.yaml")]).world
    found = render_ruleset(compile_policy(world), [port.name for port in world.inventory])
    counts = {name: (number + 1, 100) for number, name in enumerate(found.rule_of)} | {"no-rule": (50, 1), "n": (9, 9)}
    judged = judgements(found, counts)
    assert judged["DROP", "no-rule"] == 50 and judged["DROP", "invalid"] == 0
    by_action: dict[str, int] = {}
    for name, rule in found.rule_of.items():
        by_action[rule.action.value] = by_action.get(rule.action.value, 0) + counts[name][0]
    assert {word: judged[word, "match"] for word in ("ALLOW", "DROP", "REJECT")} == {
        word: by_action[word] for word in ("ALLOW", "DROP", "REJECT")
    }
    rows = show_stats(judged)
    assert [set(row) for row in rows] == [{"verdict", "reason", "judgements"}] * len(judged)
    assert [row["judgements"] for row in rows] == sorted(judged.values(), reverse=True)
    counters = KernelCounters("k1", judged, 3, 100, {"a": CardTotals(1, 2, 3, 4, 5, 6)}, 8, 7)
    samples = samples_of(render_metrics(counters))
    host = ("host", "k1")
    assert samples["palisade_agent_judgements_total", host, ("reason", "no-rule"), ("verdict", "DROP")] == 50
    values = {"connections": 3, "connections_capacity": 100, "revision_wanted": 8, "revision_realized": 7}
    assert {name: samples[f"palisade_agent_{name}", host] for name in values} == values
    for direction, octets, packets, drops in (("rx", 1, 2, 3), ("tx", 4, 5, 6)):
        where = ("card", "a"), ("direction", direction), host
        assert samples["palisade_agent_card_bytes_total", *where] == octets
        assert samples["palisade_agent_card_packets_total", *where] == packets
        why = ("card", "a"), host, ("reason", f"{direction}-dropped")
        assert samples["palisade_agent_card_drops_total", *why] == drops


def test_health_says_nothing_of_workers_that_are_not_there() -> None:
    checks = [row["check"] for row in show_health(Health(1, 1, None, {}, has_workers=False))]
    assert checks == ["revision", "table", "log", "card"]
    assert {"workers", "epoch", "holder"} < {row["check"] for row in show_health(Health(1, 1, None, {}))}


@pytest.mark.parametrize(("what", "word"), [("capture", "captures"), ("move", "migration"), ("attach", "attaching")])
def test_what_only_the_core_can_is_refused_by_name(what: str, word: str) -> None:
    assert unable_sentence(what) == f"no {word} on a host whose enforcer is nftables"
    assert unable_sentence("dance") == "'dance' is nothing that an agent does"


def test_counters_begin_again_and_those_of_a_rule_that_was_gone_are_not_taken_off() -> None:
    counts = RuleCounts()
    assert counts.shown({"/a": (5, 5, 50)}) == {"/a": (5, 5, 50)} and counts.since is None
    row = {"rule_path": "/a", "hits": 5, "packets": 5, "bytes": 50}
    counts.reset([row], ["/a"])
    assert counts.shown({"/a": (7, 8, 90)}) == {"/a": (2, 3, 40)} and counts.since is not None
    counts.reset([row | {"hits": 2, "packets": 3, "bytes": 40}], ["/a"])
    assert counts.shown({"/a": (7, 8, 90)}) == {"/a": (0, 0, 0)}
    counts.keep(["/b"])
    assert counts.shown({"/a": (1, 1, 9)}) == {"/a": (1, 1, 9)}
