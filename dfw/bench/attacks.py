# SPDX-License-Identifier: Apache-2.0
"""What an adversary may send, by kind of packet, and the benign packets that it is compared with.

A kind's attack is described by genes: a name and one of a few values each. Everything here can be caused from outside,
by whoever owns one workload or writes rules: nobody knows the table's hash keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from dfw.bench.arena import BEGUN, DROP, EXPIRED, STATEFUL, STATELESS, Arena, Scenario
from dfw.bench.attack_common import OWN_SENT, TCP_SENT, Genes
from dfw.bench.attack_fragments import fragments
from dfw.bench.attack_hits import hits
from dfw.bench.attack_misses import allowed, opening, refused, setups, steady
from dfw.bench.frames import (
    ACK,
    UDP,
    ethernet,
    frames_join,
    ip_packets,
    udp,
)
from dfw.bench.hostile_rules import RULE_GENES, headers_draw
from dfw.classbench import RuleTable

_SHAPE: Final[Mapping[str, tuple[Any, ...]]] = {
    "ip_options": ("none", "nops", "many", "record"),
    "tags": (0, 1, 2),
    "size": (60, 128, 512),
    "due": (0.0, 0.25, 0.5),  # part of the table that has run out, all at one tick
}
GENES: Final[Mapping[str, Mapping[str, tuple[Any, ...]]]] = {
    "hit": {
        **_SHAPE,
        "sent": (*TCP_SENT, "error", *OWN_SENT),
        "order": ("random", "one", "few", "turn"),
        "tcp_options": ("none", "nops"),
        "judged_again": (False, True),
    },
    "allowed": {**_SHAPE, **RULE_GENES, "expected": (False, True)},
    "refused": {**_SHAPE, **RULE_GENES, "sent": ("syn", "misfit", "error", "reject"), "expected": (False, True)},
    "setup": {**_SHAPE, **RULE_GENES, "sent": ("syn", "udp", "reopen", "tftp", "sctp"), "full": (False, True)},
    "fragment": {
        "ip_options": ("none", "nops", "record"),
        "pieces": (1, 2, 3, 16, 63, 64),
        "payload": (8, 64, 256, 1408),
        "order": ("forward", "reverse", "outside-in", "random"),
        "spoil": ("no", "overlap", "duplicate", "no-end"),
        "interleaved": (1, 8, 64),
        "sources": (1, 16, 256),
        "held": (0, 200, 256),
        "due": (0.0, 0.5),
    },
}
"""Genes of each kind, with their values."""

MEANINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "hit": ("state", "tcp-window", "tcp-ack", "tcp-rst", "tcp-state", "related", "icmp-unrelated", "sctp-state"),
    "allowed": ("match",),
    "refused": ("match", "no-rule", "reject-rate", "tcp-state", "icmp-state", "icmp-unrelated", "icmp-quote"),
    "setup": ("match",),
    "fragment": ("held", "match", "state", "frag-overlap", "frag-duplicate", "frag-limit", "frag-timeout"),
}
"""The reasons that a packet of each kind may be judged with."""


# ---- benign packets -------------------------------------------------------------------------------------------------


def benign(kind: str, arena: Arena, count: int, seed: int) -> Scenario:
    """What the attacks of a kind are compared with, at the same table."""
    rng = np.random.default_rng([seed, count])
    if kind == "hit":
        frames = arena.segments(rng.integers(0, arena.connections, count), rng.random(count) < 0.5, ACK)
        return Scenario(None, frames.at(clock=BEGUN, filter_number=STATEFUL))
    if kind == "fragment":
        return fragments(arena, {"pieces": 3, "payload": 1408, "order": "forward", "sources": 256}, count, rng)
    genes = {"shape": "acl", "headers": "rules"}
    keys = headers_draw(arena.benign, genes, count, arena.family, seed)
    frames = opening(arena, keys, {}, "syn" if kind == "setup" else "both")
    if kind == "setup":
        return Scenario(None, frames.at(clock=steady(arena, count), filter_number=STATEFUL))
    return Scenario(None, frames.at(clock=BEGUN, filter_number=STATELESS if kind == "allowed" else DROP))


# ---- attacks --------------------------------------------------------------------------------------------------------


def attack(kind: str, arena: Arena, genes: Genes, rules: RuleTable | None, count: int, seed: int) -> Scenario:
    """The scenario that the genes describe. `rules`: the hostile rule set in force, where the kind has rules."""
    rng = np.random.default_rng([seed, count])
    if kind == "hit":
        scenario = hits(arena, genes, count, rng)
    elif kind == "fragment":
        scenario = fragments(arena, genes, count, rng)
    else:
        assert rules is not None
        keys = headers_draw(rules, genes, count, arena.family, seed)
        scenario = {"allowed": allowed, "refused": refused, "setup": setups}[kind](arena, genes, keys, rng)
    if genes["due"]:
        return _with_due(arena, genes, scenario, rng)
    return scenario


def _with_due(arena: Arena, genes: Genes, scenario: Scenario, rng: np.random.Generator) -> Scenario:
    """Many unanswered connections that have run out in one tick, for the timed packets to clear away."""
    room = arena.capacity - arena.connections if scenario.before is None else (arena.capacity - arena.connections) // 2
    count = min(int(genes["due"] * arena.connections), room)
    who = 10_000_000 + np.arange(count)
    rows = udp(count, arena.client_port(who), 9, b"?")
    frames = ethernet(arena.family, ip_packets(arena.family, arena.client(who), arena.server(who), UDP, rows))
    frames = frames.at(clock=BEGUN, filter_number=STATEFUL)
    before = frames if scenario.before is None else frames_join([scenario.before, frames])
    later = np.maximum(scenario.timed.clock, EXPIRED)
    return Scenario(before, scenario.timed.at(clock=later), scenario.judged_again)
