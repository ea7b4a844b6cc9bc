# SPDX-License-Identifier: Apache-2.0
"""An nftables ruleset as data: one table of family inet, with what libnftables' JSON says of it.

`ruleset_text` writes it, `ruleset_parse` reads what `nft -j -nn list table` answers; the one is the inverse of the
other, so that what a kernel has can be compared with what was meant. Format: libnftables-json(5).
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import msgspec

from dfw.model import Family
from dfw.nftables.frames import FrameRules, frames_replaced, frames_sorted
from dfw.nftables.statements import (
    FAMILY,
    Chain,
    ChainRule,
    Expression,
    Hook,
    VerdictMap,
    chain_json,
    chain_parse,
    expression_parse,
    map_parse,
    pairs_json,
    rule_json,
)

__all__ = [
    "ELEMENT_TYPES",
    "FAMILY",
    "METER_SECONDS",
    "Chain",
    "ChainRule",
    "ElementSet",
    "Expression",
    "Helper",
    "Hook",
    "Meter",
    "Ranges",
    "RangesKnown",
    "Ruleset",
    "VerdictMap",
    "chain_json",
    "elements_json",
    "helper_json",
    "meter_json",
    "pairs_json",
    "ranges_wide",
    "rule_json",
    "ruleset_commands",
    "ruleset_parse",
    "ruleset_sorted",
    "ruleset_text",
    "set_json",
    "set_parse",
]

METER_SECONDS: Final = 10
ELEMENT_TYPES: Final = {Family.IPV4: "ipv4_addr", Family.IPV6: "ipv6_addr", None: "inet_service"}
_FAMILIES: Final = {name: family for family, name in ELEMENT_TYPES.items()}


Ranges = tuple[tuple[int, int], ...]
"""First and last of each."""


class RangesKnown(NamedTuple):
    """What whoever made `ranges` knows of them, so that nobody has to read a hundred thousand: how many are more than
    one address (`wide`), and that all but those between the first `same` and the last `same_end` are those of
    `before`."""

    ranges: Ranges
    wide: int
    before: Ranges = ()
    same: int = 0
    same_end: int = 0


@dataclass(frozen=True, slots=True)
class ElementSet:
    """A named set of addresses of one family, or (None) of ports. `ranges`: first and last of them as numbers, sorted,
    disjoint. `known`: is believed as far as it is of these very `ranges`.

    One range of more than one address makes it an interval set; without, it is a hash.
    """

    name: str
    family: Family | None
    ranges: Ranges
    known: RangesKnown | None = field(default=None, compare=False, repr=False)

    @property
    def is_interval(self) -> bool:
        """Does it hold more than single addresses?"""
        if self.known is not None and self.known.ranges is self.ranges:
            return self.known.wide > 0
        return ranges_wide(self.ranges) > 0

    def same_as(self, other: ElementSet) -> tuple[int, int] | None:
        """How many of the first and of the last ranges are those of the other; None where that is not known."""
        known = self.known
        if known is None or known.ranges is not self.ranges or known.before is not other.ranges:
            return None
        return known.same, known.same_end


def ranges_wide(ranges: Iterable[tuple[int, int]]) -> int:
    """How many of these are more than one address."""
    return sum(first != last for first, last in ranges)


@dataclass(frozen=True, slots=True)
class Meter:
    """A named set that rules fill themselves, with a rate for each element. `kinds`: what a key consists of; `size`:
    keys at most. A key that nobody asks for is forgotten after METER_SECONDS."""

    name: str
    kinds: tuple[str, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Helper:
    """A named conntrack helper (`kind`: ftp, tftp) over TCP or UDP: it announces a protocol's further connections."""

    name: str
    kind: str
    protocol: str


@dataclass(frozen=True, slots=True)
class Ruleset:
    """One table and all that is in it. The order of rules says something; that of sets, maps, counters, chains not.

    `frames`: the table of its name that is asked of frames, None for none.
    """

    table: str
    sets: tuple[ElementSet, ...] = ()
    maps: tuple[VerdictMap, ...] = ()
    counters: tuple[str, ...] = ()
    chains: tuple[Chain, ...] = ()
    helpers: tuple[Helper, ...] = ()
    meters: tuple[Meter, ...] = ()
    frames: FrameRules | None = None


def ruleset_text(ruleset: Ruleset, *, had_frames: bool = False) -> str:
    """The JSON that replaces the table by this one, in one transaction: one command a line. `had_frames`: there may be
    a table for frames that is to go."""
    encode = msgspec.json.Encoder().encode
    lines = b",\n".join(map(encode, ruleset_commands(ruleset, had_frames=had_frames))).decode()
    return f'{{"nftables": [\n{lines}\n]}}\n'


def ruleset_commands(ruleset: Ruleset, *, had_frames: bool = False) -> Iterator[dict[str, Any]]:
    """The commands of that transaction. Chains stand before whatever refers to them."""
    where = {"family": FAMILY, "table": ruleset.table}
    table = {"table": {"family": FAMILY, "name": ruleset.table}}
    # Deleting what is not there would fail, so it is made first.
    yield from ({"add": table}, {"delete": table}, {"add": table})
    for name in ruleset.counters:
        yield {"add": {"counter": {**where, "name": name}}}
    yield from ({"add": {"ct helper": helper_json(ruleset.table, item)}} for item in ruleset.helpers)
    for chain in ruleset.chains:
        yield {"add": {"chain": chain_json(ruleset.table, chain)}}
    yield from ({"add": {"set": set_json(ruleset.table, item)}} for item in ruleset.sets)
    yield from ({"add": {"set": meter_json(ruleset.table, item)}} for item in ruleset.meters)
    for verdicts in ruleset.maps:
        elements = {"elem": pairs_json(verdicts.chains)} if verdicts.chains else {}
        yield {"add": {"map": {**where, "name": verdicts.name, "type": "mark", "map": "verdict", **elements}}}
    for chain in ruleset.chains:
        for rule in chain.rules:
            yield {"add": {"rule": rule_json(ruleset.table, chain.name, rule)}}
    if ruleset.frames is not None or had_frames:
        yield from frames_replaced(ruleset.table, ruleset.frames)


def helper_json(table: str, item: Helper) -> dict[str, Any]:
    """A conntrack helper."""
    return {"family": FAMILY, "table": table, "name": item.name, "type": item.kind, "protocol": item.protocol}


def meter_json(table: str, item: Meter) -> dict[str, Any]:
    """A meter, empty."""
    kind = item.kinds[0] if len(item.kinds) == 1 else list(item.kinds)
    rest = {"flags": ["timeout"], "timeout": METER_SECONDS, "size": item.size}
    return {"family": FAMILY, "table": table, "name": item.name, "type": kind, **rest}


def set_json(table: str, item: ElementSet) -> dict[str, Any]:
    """A set with its elements."""
    flags = {"flags": ["interval"]} if item.is_interval else {}
    elements = {"elem": elements_json(item.family, item.ranges)} if item.ranges else {}
    kind = ELEMENT_TYPES[item.family]
    return {"family": FAMILY, "table": table, "name": item.name, "type": kind, **flags, **elements}


def elements_json(family: Family | None, ranges: Iterable[tuple[int, int]]) -> list[Any]:
    """Elements of a set."""
    return [_element(family, *ends) for ends in ranges]


def _element(family: Family | None, first: int, last: int) -> Any:
    """An address or a port, a prefix where the range is one of addresses, else a range."""
    if family is None:
        return first if first == last else {"range": [first, last]}
    kind = ipaddress.IPv4Address if family is Family.IPV4 else ipaddress.IPv6Address
    if first == last:
        return str(kind(first))
    size = last - first + 1
    if size & (size - 1) == 0 and first % size == 0:
        return {"prefix": {"addr": str(kind(first)), "len": family.bits - (size.bit_length() - 1)}}
    return {"range": [str(kind(first)), str(kind(last))]}


def ruleset_parse(text: str, table: str) -> Ruleset:
    """This table, without what is asked of frames, as `nft -j -nn list` (or `list ruleset`) shows it. Raises ValueError
    where the text is no such list, or holds in this table what a Ruleset cannot."""
    try:
        return _items_parse(json.loads(text)["nftables"], table)
    except (json.JSONDecodeError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"not a list of nftables objects: {error!r}") from error


def _items_parse(items: Sequence[Mapping[str, Any]], table: str) -> Ruleset:
    sets: list[ElementSet] = []
    maps: list[VerdictMap] = []
    counters: list[str] = []
    chains: dict[str, Chain] = {}
    rules: dict[str, list[ChainRule]] = {}
    helpers: list[Helper] = []
    meters: list[Meter] = []
    for item in items:
        ((kind, value),) = item.items()
        if value.get("table") != table or value["family"] != FAMILY:
            continue
        match kind:
            case "set" if "timeout" in value.get("flags", ()):
                kind = value["type"]
                meters.append(Meter(value["name"], (kind,) if isinstance(kind, str) else tuple(kind), value["size"]))
            case "set":
                sets.append(set_parse(value))
            case "map":
                maps.append(map_parse(value))
            case "ct helper":
                helpers.append(Helper(value["name"], value["type"], value["protocol"]))
            case "counter":
                counters.append(value["name"])
            case "chain":
                chains[value["name"]] = chain_parse(value)
            case "rule":
                expressions = tuple(map(expression_parse, value["expr"]))
                rules.setdefault(value["chain"], []).append(ChainRule(expressions, value.get("comment", "")))
            case _:
                raise ValueError(f"the table {table} has a {kind}, which we never make")
    found = tuple(replace(chain, rules=tuple(rules.get(name, ()))) for name, chain in chains.items())
    return Ruleset(table, tuple(sets), tuple(maps), tuple(counters), found, tuple(helpers), tuple(meters))


def ruleset_sorted(ruleset: Ruleset) -> Ruleset:
    """The same with sets, maps, counters and chains by name: equal where two rulesets mean the same."""
    return Ruleset(
        ruleset.table,
        tuple(sorted(ruleset.sets, key=lambda item: item.name)),
        tuple(sorted(ruleset.maps, key=lambda item: item.name)),
        tuple(sorted(ruleset.counters)),
        tuple(sorted(ruleset.chains, key=lambda item: item.name)),
        tuple(sorted(ruleset.helpers, key=lambda item: item.name)),
        tuple(sorted(ruleset.meters, key=lambda item: item.name)),
        frames_sorted(ruleset.frames),
    )


def set_parse(value: Mapping[str, Any]) -> ElementSet:
    """A set in libnftables' JSON. Raises ValueError for one that holds anything else than we put there."""
    if value["type"] not in _FAMILIES:
        raise ValueError(f"the set {value['name']} holds {value['type']}, which is neither addresses nor ports")
    ranges = sorted(map(_element_parse, value.get("elem", ())))
    return ElementSet(value["name"], _FAMILIES[value["type"]], tuple(ranges))


def _element_parse(element: Any) -> tuple[int, int]:
    if isinstance(element, int):
        return element, element
    if isinstance(element, str):
        address = int(ipaddress.ip_address(element))
        return address, address
    if "prefix" in element:
        network = ipaddress.ip_network(f"{element['prefix']['addr']}/{element['prefix']['len']}")
        return int(network.network_address), int(network.broadcast_address)
    first, last = element["range"]
    if isinstance(first, int):
        return first, last
    return int(ipaddress.ip_address(first)), int(ipaddress.ip_address(last))
