# SPDX-License-Identifier: Apache-2.0
"""Compiled vNIC tables -> one nftables ruleset. Pure.

A packet says who its ends are by its mark: the number of the sender's vNIC in the upper half, the receiver's in the
lower one, 0 for none; who sets it is the attachment's matter. Then, in chain `forward`:

    state kept at both ends -> accept; else chain `out` judges at the sender's vNIC, chain `in` at the receiver's.

The kernel has one connection where the core has two, so its mark remembers at which end a stateful rule allowed it:
bit 0 at the vNIC that its first packet left, bit 1 at the one where it arrived. An end without its bit asks the rules
for each packet: that is what a stateless rule means. A ruleset's own `return` is "allowed here, go on".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

import numpy as np

from dfw.compile import (
    PAL_RULE_LOGGED,
    PAL_RULE_STATEFUL,
    PAL_RULE_TCP_STRICT,
    Compiled,
    CompiledRule,
    RangeArray,
    RuleTable,
)
from dfw.model import PROTO_SCTP, Direction, Family
from dfw.nftables.entry import Entry, EntryMatcher, entries_joined
from dfw.nftables.ruleset import Chain, ChainRule, ElementSet, Expression, Hook, Ruleset, VerdictMap

TABLE: Final = "palisade"
LOG_GROUP: Final = 6081
"""The netlink group (NFLOG) to which logged rules tell of packets."""
SENDER_MASK: Final = 0xFFFF0000
RECEIVER_MASK: Final = 0x0000FFFF
REJECTS_A_SECOND: Final = 100
_ALLOW, _DROP, _REJECT = 0, 1, 2
_SENDER_KEEPS, _RECEIVER_KEEPS = 1, 2
_COMMENT_BYTES = 127  # of a rule's comment: NFTNL_UDATA_COMMENT_MAXLEN, less the end of the text
_SYN, _ACK = 0x02, 0x10
_BEGINS = 0x17  # FIN, SYN, RST, ACK: what says whether a segment begins a connection


@dataclass(frozen=True, slots=True)
class Rendered:
    """A ruleset, and the policy's rule behind each counter of it by the counter's name."""

    ruleset: Ruleset
    rule_of: Mapping[str, CompiledRule]


@dataclass(frozen=True, slots=True)
class _Side:
    """What differs between judging going out and coming in."""

    name: str
    direction: Direction
    mask: int
    shift: int
    original_bit: int
    reply_bit: int


_OUT = _Side("out", Direction.OUT, SENDER_MASK, 16, _SENDER_KEEPS, _RECEIVER_KEEPS)
_IN = _Side("in", Direction.IN, RECEIVER_MASK, 0, _RECEIVER_KEEPS, _SENDER_KEEPS)
_SIDES = (_OUT, _IN)
# A filter on a wire is at both ends of every connection.
_BOTH_KEEP = _SENDER_KEEPS | _RECEIVER_KEEPS
_WIRE = (replace(_OUT, original_bit=_BOTH_KEEP, reply_bit=_BOTH_KEEP), _IN)


def render_ruleset(
    compiled: Compiled, vnics: Sequence[str], *, tap: bool = False, zones: Mapping[str, int] | None = None
) -> Rendered:
    """The ruleset of these vNICs, which are numbered from 1 in this order.

    `tap`: one filter on a wire instead, number 1, that judges each packet once, going out. `zones`: conntrack zone of
    what comes in by an interface (a bridge), for routing domains whose addresses may be the same; others are in zone 0.
    """
    tables = (compiled.tap,) if tap else compiled.tables
    table_of = {"tap": 0} if tap else compiled.table_of
    names = ("tap",) if tap else tuple(vnics)
    sides = _WIRE if tap else _SIDES
    used = sorted({table_of[name] for name in names})
    element_sets = dict(_sets(compiled, (tables[at] for at in used)))
    matcher = EntryMatcher({key: item.name for key, item in element_sets.items()})
    counters: dict[str, CompiledRule] = {}
    chains: list[Chain] = []
    for at in used:
        entries = [(entry, tuple(matcher.matches(entry))) for entry in entries_joined(tables[at])]
        for side in sides:
            chains += _table_chains(f"table{at}-{side.name}", side, entries, compiled.rules, counters)
    maps = []
    for side in _SIDES:
        targets = [f"table{table_of[name]}-{side.name}" for name in names]
        marks = ((number << side.shift, chain) for number, chain in enumerate([f"nobody-{side.name}", *targets]))
        maps.append(VerdictMap(side.name, tuple(marks)))
    shared = (*_reject_chain(), *_keep_chains(sides), *map(_nobody_chain, sides))
    base = (*shared, *chains, *map(_side_chain, sides), *_zone_chain(zones or {}), _forward())
    own = ("source-route", "invalid", "tcp-strict", "related", "reject-rate", "no-rule", "no-ruleset")
    rule_of = dict(sorted(counters.items(), key=lambda item: item[1].number))
    return Rendered(Ruleset(TABLE, tuple(element_sets.values()), tuple(maps), (*own, *rule_of), base), rule_of)


def vnic_mark(sender: int, receiver: int) -> int:
    """The mark of a packet between two vNICs by number; 0 for an end that is none."""
    return sender << _OUT.shift | receiver << _IN.shift


def _sets(compiled: Compiled, tables: Iterable[RuleTable]) -> Iterator[tuple[tuple[int, Family], ElementSet]]:
    """Those that rules refer to, by number and family; where a set has no address of a family there is none."""
    used: set[int] = set()
    for table in tables:
        for offset, count in (("src_off", "src_n"), ("dst_off", "dst_n")):
            for first, number in np.unique(table.entries[[offset, count]]).tolist():
                used.update(table.set_refs[first : first + number].tolist())
    for number in sorted(used):
        for family in Family:
            ranges = _ranges(compiled.sets[number].ranges, family)
            if ranges:
                yield (number, family), ElementSet(f"set{number}-v{4 if family is Family.IPV4 else 6}", family, ranges)


def _ranges(ranges: RangeArray, family: Family) -> tuple[tuple[int, int], ...]:
    size = family.bits // 8
    own = ranges[ranges["family"] == int(family)]
    return tuple(
        (int.from_bytes(low[:size], "big"), int.from_bytes(high[:size], "big"))
        for low, high in zip(map(bytes, own["lo"]), map(bytes, own["hi"]), strict=True)
    )


# A table's rules

_Matched = tuple[Entry, tuple[tuple[Expression, ...], ...]]
"""An entry, and the matches of each rule that it becomes."""


def _table_chains(
    name: str,
    side: _Side,
    entries: Sequence[_Matched],
    rules: Sequence[CompiledRule],
    counters: dict[str, CompiledRule],
) -> list[Chain]:
    """One chain; more where a rule leaves its tier: one from each tier on that such rules go to."""
    own = [item for item in entries if item[0].direction & side.direction]
    cuts = sorted({entry.resume for entry, _ in own if entry.resume})
    names = [name, *(f"{name}-tier{tier}" for tier in cuts)]
    parts: list[list[ChainRule]] = [[] for _ in names]
    for part, some in groupby(own, lambda item: sum(item[0].tier >= cut for cut in cuts)):
        for entry, matches in some:
            parts[part] += _entry_rules(entry, matches, name, side, rules[entry.rule], counters)
    ends = [_goto(chain) for chain in names[1:]] + [_counted_drop("no-rule")]
    # Chains stand in the order in which they may refer to each other: the last one first.
    return [
        Chain(chain, (*part, end))
        for chain, part, end in zip(reversed(names), reversed(parts), reversed(ends), strict=True)
    ]


def _entry_rules(
    entry: Entry,
    alternatives: Iterable[tuple[Expression, ...]],
    chain: str,
    side: _Side,
    rule: CompiledRule,
    counters: dict[str, CompiledRule],
) -> Iterator[ChainRule]:
    """The rules of one entry: matches, counter, log, verdict."""
    counter = f"rule{rule.number}"
    counters[counter] = rule
    effects: list[Expression] = [{"counter": counter}]
    if entry.flags & PAL_RULE_LOGGED:
        prefix = f"palisade {rule.rule_id} {side.name.upper()} {rule.action.value} "
        effects.append({"log": {"prefix": prefix, "group": LOG_GROUP}})
    effects.append(_verdict(entry, chain, side))
    comment = rule.path.encode()[:_COMMENT_BYTES].decode(errors="ignore")
    for matches in alternatives:
        yield ChainRule((*matches, *effects), comment)


def _verdict(entry: Entry, chain: str, side: _Side) -> Expression:
    if entry.resume:
        return {"goto": {"target": f"{chain}-tier{entry.resume}"}}
    if entry.action == _DROP:
        return {"drop": None}
    if entry.action == _REJECT:
        return {"goto": {"target": "reject"}}
    assert entry.action == _ALLOW
    if not entry.flags & PAL_RULE_STATEFUL:
        return {"return": None}
    strict = "-strict" if entry.flags & PAL_RULE_TCP_STRICT else ""
    return {"goto": {"target": f"keep-{side.name}{strict}"}}


# What all tables share


def _forward() -> Chain:
    """Where a packet begins. Nothing passes that is not accepted at the end."""
    rules = (
        *(
            ChainRule((_equal({"ip option": {"name": name}}, True), *_counted_drop("source-route").expressions))
            for name in ("lsrr", "ssrr")
        ),
        ChainRule((_equal({"exthdr": {"name": "rt", "field": "type"}}, 0), *_counted_drop("source-route").expressions)),
        ChainRule((_bits_are("ct", _BOTH_KEEP, _BOTH_KEEP), {"accept": None})),
        *(ChainRule(({"jump": {"target": side.name}},)) for side in _SIDES),
        ChainRule(({"accept": None},)),
    )
    return Chain("forward", rules, Hook("forward", 0, "drop"))


def _side_chain(side: _Side) -> Chain:
    """One end: state kept, or where the map leads for its vNIC. One without a rule set passes nothing."""
    return Chain(
        side.name,
        (
            *(
                ChainRule((_is("direction", word), _bits_are("ct", bit, bit), {"return": None}))
                for word, bit in (("original", side.original_bit), ("reply", side.reply_bit))
            ),
            ChainRule(({"vmap": {"key": {"&": [{"meta": {"key": "mark"}}, side.mask]}, "data": f"@{side.name}"}},)),
            _counted_drop("no-ruleset"),
        ),
    )


def _nobody_chain(side: _Side) -> Chain:
    """An end that is no vNIC refuses nothing. It keeps no state either: who comes to be there later must judge."""
    return Chain(f"nobody-{side.name}", ())


def _keep_chains(sides: Sequence[_Side]) -> Iterator[Chain]:
    """What a stateful ALLOW does: refuse what begins nothing, and remember that this end allowed the connection.

    To this end the packet is the connection's first, whatever the other end's stateless rule has let through: a
    SYN+ACK, an answer to a ping, or SCTP's second packet begin nothing here.
    IGMP is judged packet by packet, as are the ICMPv6 messages that the kernel does not track.
    """
    for side in sides:
        yield Chain(
            f"keep-{side.name}",
            (
                ChainRule((_is("state", "invalid"), *_counted_drop("invalid").expressions)),
                # An ICMP error of a connection that this end does not have.
                ChainRule((_is("state", "related"), *_counted_drop("related").expressions)),
                ChainRule((_equal({"meta": {"key": "l4proto"}}, 2), {"return": None})),
                ChainRule((_no(_BEGINNINGS), *_counted_drop("invalid").expressions)),
                *(
                    ChainRule((_is("state", "established"), match, *_counted_drop("invalid").expressions))
                    for match in _ANSWERS
                ),
                ChainRule((_is("direction", "original"), _keep(side.original_bit))),
                ChainRule((_is("direction", "reply"), _keep(side.reply_bit))),
            ),
        )
        strict = ChainRule((_no(_SYN), *_counted_drop("tcp-strict").expressions))
        yield Chain(f"keep-{side.name}-strict", (strict, _goto(f"keep-{side.name}")))


def _reject_chain() -> Iterator[Chain]:
    """REJECT: an RST for TCP, else ICMP 3/13 or ICMPv6 1/1; DROP beyond the rate.

    What conntrack calls invalid may belong to a connection that is allowed: an RST in its name would end that.
    """
    limit = {"rate": REJECTS_A_SECOND, "burst": REJECTS_A_SECOND, "per": "second", "inv": True}
    yield Chain(
        "reject",
        (
            ChainRule((_is("state", "invalid"), *_counted_drop("invalid").expressions)),
            ChainRule(({"limit": limit}, *_counted_drop("reject-rate").expressions)),
            ChainRule((_equal({"meta": {"key": "l4proto"}}, 6), {"reject": {"type": "tcp reset"}})),
            ChainRule(({"reject": {"type": "icmpx", "expr": "admin-prohibited"}},)),
        ),
    )


def _zone_chain(zones: Mapping[str, int]) -> Iterator[Chain]:
    """The conntrack zone of each interface's packets, before they are tracked."""
    if zones:
        pairs = [[name, zone] for name, zone in sorted(zones.items())]
        value = {"map": {"key": {"meta": {"key": "iifname"}}, "data": {"set": pairs}}}
        rule = ChainRule(({"mangle": {"key": {"ct": {"key": "zone"}}, "value": value}},))
        yield Chain("zone", (rule,), Hook("prerouting", -300, "accept"))


_TCP_FLAGS: Final = {"payload": {"protocol": "tcp", "field": "flags"}}


_BEGINNINGS: Final = {"set": [_SYN, _ACK]}  # an ACK where a connection may be picked up in mid-stream
_ANSWERS: Final[tuple[Expression, ...]] = (
    {
        "match": {
            "op": "==",
            "left": {"payload": {"protocol": "icmp", "field": "type"}},
            "right": {"set": [0, 14, 16, 18]},
        }
    },
    {"match": {"op": "==", "left": {"payload": {"protocol": "icmpv6", "field": "type"}}, "right": {"set": [129, 140]}}},
    {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": PROTO_SCTP}},
)


def _no(flags: Any) -> Expression:
    """Matches TCP whose flags, of those that decide what a segment is, are not these."""
    return {"match": {"op": "!=", "left": {"&": [_TCP_FLAGS, _BEGINS]}, "right": flags}}


def _equal(left: Any, right: Any) -> Expression:
    return {"match": {"op": "==", "left": left, "right": right}}


def _is(key: str, word: str) -> Expression:
    """A match on one word of conntrack's."""
    return {"match": {"op": "in" if key == "state" else "==", "left": {"ct": {"key": key}}, "right": word}}


def _bits_are(kind: str, mask: int, value: int) -> Expression:
    """A match on some bits of the packet's mark (`meta`) or its connection's (`ct`)."""
    return _equal({"&": [{kind: {"key": "mark"}}, mask]}, value)


def _keep(bit: int) -> Expression:
    return {"mangle": {"key": {"ct": {"key": "mark"}}, "value": {"|": [{"ct": {"key": "mark"}}, bit]}}}


def _goto(chain: str) -> ChainRule:
    return ChainRule(({"goto": {"target": chain}},))


def _counted_drop(counter: str) -> ChainRule:
    return ChainRule(({"counter": counter}, {"drop": None}))
