# SPDX-License-Identifier: Apache-2.0
"""The chains that all vNICs' tables share: where a packet comes in at each end, and what its verdict does. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from dfw.model import PROTO_SCTP, Direction
from dfw.nftables.ruleset import Chain, ChainRule, Expression, Hook, Meter

SENDER_MASK: Final = 0xFFFF0000
RECEIVER_MASK: Final = 0x00007FFF
REFUSED_MARK: Final = 0x00008000
"""Bit of a packet's mark: staged rules would have refused it (dfw/nftables/staged.py). Rules in force do not ask."""
KNOWN_MARK: Final = 0x80000000
"""Likewise of a frame that comes in at layer 2: what would have refused it was before. No number has this bit."""
_NO_SENDER: Final = RECEIVER_MASK | REFUSED_MARK
OWN_COUNTERS: Final = ("source-route", "invalid", "tcp-strict", "related", "reject-rate", "no-rule", "no-ruleset")
"""Counters of what is refused without a rule of the policy."""
ACCEPT: Final[Expression] = {"accept": None}
_SENDER_KEEPS, _RECEIVER_KEEPS = 1, 2
_SYN, _ACK = 0x02, 0x10
_BEGINS = 0x17  # FIN, SYN, RST, ACK: what says whether a segment begins a connection


@dataclass(frozen=True, slots=True)
class Side:
    """What differs between judging going out and coming in."""

    name: str
    direction: Direction
    priority: int
    mask: int
    shift: int
    original_bit: int
    reply_bit: int


OUT = Side("out", Direction.OUT, 0, SENDER_MASK, 16, _SENDER_KEEPS, _RECEIVER_KEEPS)
IN = Side("in", Direction.IN, 1, RECEIVER_MASK, 0, _RECEIVER_KEEPS, _SENDER_KEEPS)
SIDES = (OUT, IN)
# A filter on a wire is at both ends of every connection.
_BOTH_KEEP = _SENDER_KEEPS | _RECEIVER_KEEPS
WIRE_SIDES = (replace(OUT, original_bit=_BOTH_KEEP, reply_bit=_BOTH_KEEP), IN)


def base_chains(sides: Sequence[Side], zones: Mapping[str, int]) -> Iterator[Chain]:
    """Those by which packets come in; they refer to the verdict maps of both sides."""
    yield from map(side_chain, sides)
    for side in sides:
        yield Chain(f"forward-{side.name}", (goto(side.name),), Hook("forward", side.priority, "drop"))
    if sides is SIDES:
        # What a vNIC sends to a gateway's own address.
        sent = ChainRule((judged_at(OUT), {"goto": {"target": OUT.name}}))
        yield Chain("input-out", (sent,), Hook("input", OUT.priority, "accept"))
    yield from _zone_chain(zones)


def verdict_chains(sides: Sequence[Side]) -> Iterator[Chain]:
    """Those to which tables refer."""
    yield from _reject_chains(sides)
    yield from keep_chains(sides)
    yield _NOBODY


def side_chain(side: Side) -> Chain:
    """One end: state kept, or where the map leads for its vNIC. One without a rule set passes nothing."""
    begin = tuple(_source_routed()) if side.name == OUT.name else ()
    mark: Expression = {"meta": {"key": "mark"}}
    receiver_only: Expression = {"mangle": {"key": mark, "value": {"&": [mark, _NO_SENDER]}}}
    return Chain(
        side.name,
        (
            *begin,
            ChainRule((_bits_are("ct", _BOTH_KEEP, _BOTH_KEEP), ACCEPT)),
            *(
                ChainRule((_is("direction", word), _bits_are("ct", bit, bit), ACCEPT))
                for word, bit in (("original", side.original_bit), ("reply", side.reply_bit))
            ),
            *_expected(side),
            *(() if begin else (ChainRule((receiver_only,)),)),
            ChainRule(({"vmap": {"key": {"&": [mark, side.mask]}, "data": f"@{side.name}"}},)),
            counted_drop("no-ruleset"),
        ),
    )


def _expected(side: Side) -> Iterator[ChainRule]:
    """A connection that an ALG has announced has its parent's mark: the ends where the rules allowed that. Where both
    ends are here, that is the answer. Where one is, the mark speaks of that one, whichever way the connection goes."""
    both_ways = {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": {"set": [6, 17]}}}
    alone = _bits_are("meta", RECEIVER_MASK, 0) if side.name == OUT.name else judged_at(IN)
    kept = {"match": {"op": "!=", "left": {"&": [{"ct": {"key": "mark"}}, _BOTH_KEEP]}, "right": 0}}
    yield ChainRule((_is("state", "related"), both_ways, alone, kept, _keep(side.original_bit), ACCEPT))


def _source_routed() -> Iterator[ChainRule]:
    """What chooses its own way is refused, whatever the rules say (RFC 5095, RFC 7126 section 4.3)."""
    for name in ("lsrr", "ssrr"):
        yield ChainRule((_equal({"ip option": {"name": name}}, True), *counted_drop("source-route").expressions))
    routing = _equal({"exthdr": {"name": "rt", "field": "type"}}, 0)
    yield ChainRule((routing, *counted_drop("source-route").expressions))


def keep_chains(sides: Sequence[Side]) -> Iterator[Chain]:
    """What a stateful ALLOW does: refuse what begins nothing, and remember that this end allowed the connection.

    To this end the packet is the connection's first, whatever the other end's stateless rule has let through: a
    SYN+ACK, an answer to a ping, or SCTP's second packet begin nothing here.
    IGMP is judged packet by packet, as are the ICMPv6 messages that the kernel does not track.
    """
    by_side = (ChainRule((judged_at(OUT), {"goto": {"target": "keep-out"}})), goto("keep-in"))
    for side in sides:
        yield Chain(
            f"keep-{side.name}",
            (
                ChainRule((_is("state", "invalid"), *counted_drop("invalid").expressions)),
                # An ICMP error of a connection that this end does not have.
                ChainRule((_is("state", "related"), *counted_drop("related").expressions)),
                ChainRule((_equal({"meta": {"key": "l4proto"}}, 2), ACCEPT)),
                ChainRule((_no(_BEGINNINGS), *counted_drop("invalid").expressions)),
                *(
                    ChainRule((_is("state", "established"), match, *counted_drop("invalid").expressions))
                    for match in _ANSWERS
                ),
                ChainRule((_is("direction", "original"), _keep(side.original_bit))),
                ChainRule((_is("direction", "reply"), _keep(side.reply_bit))),
                ChainRule((ACCEPT,)),
            ),
        )
    yield Chain("keep", by_side)
    for name in ("keep", *(f"keep-{side.name}" for side in sides)):
        strict = ChainRule((_no(_SYN), *counted_drop("tcp-strict").expressions))
        yield Chain(f"{name}-strict", (strict, goto(name)))


# REJECT's answers a second: to one side of a vNIC (its own workload, or others), of these to others' /24 or /56, and to
# one source address of a side (docs/packet-path.md section 11).
_ANSWERS_OF_SIDE, _ANSWERS_OF_PREFIX, _ANSWERS_OF_SOURCE = 50, 25, 10
_METER_SIZE: Final = 0xFFFF
METERS: Final = (
    Meter("rejects", ("mark",), _METER_SIZE),
    *(
        Meter(f"rejects-{part}-v{version}", ("mark", kind), _METER_SIZE)
        for part in ("source", "prefix")
        for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr"))
    ),
)
"""What REJECT has answered, by the vNIC that judges and by the answered packet's source."""
_PREFIX_MASKS: Final = {4: "255.255.255.0", 6: "ffff:ffff:ffff:ff00::"}


def _reject_chains(sides: Sequence[Side]) -> Iterator[Chain]:
    """REJECT: an RST for TCP, else ICMP 3/13 or ICMPv6 1/1; DROP beyond the budgets, also where they have no more room.

    What conntrack calls invalid may belong to a connection that is allowed: an RST in its name would end that.
    """
    yield Chain(
        "reject-send",
        (
            ChainRule((_equal({"meta": {"key": "l4proto"}}, 6), {"reject": {"type": "tcp reset"}})),
            ChainRule(({"reject": {"type": "icmpx", "expr": "admin-prohibited"}},)),
        ),
    )
    for side in sides:
        vnic: Expression = {"&": [{"meta": {"key": "mark"}}, side.mask]}
        both = sides is WIRE_SIDES
        answered = _metered("rejects", vnic, _ANSWERS_OF_SIDE * (2 if both else 1), "reject-send")
        yield Chain(f"reject-{side.name}-side", (answered, counted_drop("reject-rate")))
        following = f"reject-{side.name}-side"
        for part, rate in (("prefix", _ANSWERS_OF_PREFIX), ("source", _ANSWERS_OF_SOURCE)):
            if part == "prefix" and side.name == OUT.name:
                continue
            name = f"reject-{side.name}-{part}"
            rules = []
            for version, protocol in ((4, "ip"), (6, "ip6")):
                source: Expression = {"payload": {"protocol": protocol, "field": "saddr"}}
                if part == "prefix":
                    source = {"&": [source, _PREFIX_MASKS[version]]}
                key = {"concat": [vnic, source]}
                rules.append(_metered(f"rejects-{part}-v{version}", key, rate, following))
            yield Chain(name, (*rules, counted_drop("reject-rate")))
            following = name
    yield Chain(
        "reject",
        (
            ChainRule((_is("state", "invalid"), *counted_drop("invalid").expressions)),
            ChainRule((judged_at(OUT), {"goto": {"target": "reject-out-source"}})),
            goto("reject-in-source"),
        ),
    )


def _metered(meter: str, key: Expression, rate: int, chain: str) -> ChainRule:
    """Goes to a chain as long as this key has had fewer packets a second; else on with the next rule."""
    limit = {"limit": {"rate": rate, "burst": rate, "per": "second"}}
    return ChainRule(
        ({"set": {"op": "update", "elem": key, "set": f"@{meter}", "stmt": [limit]}}, *goto(chain).expressions)
    )


def _zone_chain(zones: Mapping[str, int]) -> Iterator[Chain]:
    """The conntrack zone of each interface's packets, before they are tracked."""
    if zones:
        pairs = [[name, zone] for name, zone in sorted(zones.items())]
        value = {"map": {"key": {"meta": {"key": "iifname"}}, "data": {"set": pairs}}}
        rule = ChainRule(({"mangle": {"key": {"ct": {"key": "zone"}}, "value": value}},))
        yield Chain("zone", (rule,), Hook("prerouting", -300, "accept"))


# An end that is no vNIC refuses nothing. It keeps no state either: who comes to be there later must judge.
_NOBODY: Final = Chain("nobody", (ChainRule((ACCEPT,)),))
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


def judged_at(side: Side) -> Expression:
    """Matches where this side is being judged: the sender is in the mark as long as it is the sender's turn."""
    operator = ">" if side.name == OUT.name else "<="
    return {"match": {"op": operator, "left": {"meta": {"key": "mark"}}, "right": _NO_SENDER}}


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


def goto(chain: str) -> ChainRule:
    return ChainRule(({"goto": {"target": chain}},))


def counted_drop(counter: str) -> ChainRule:
    return ChainRule(({"counter": counter}, {"drop": None}))
