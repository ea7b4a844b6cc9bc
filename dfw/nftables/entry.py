# SPDX-License-Identifier: Apache-2.0
"""Entries of a compiled table -> the matches of nftables rules. Pure.

A table has an entry for each combination of a rule's port ranges; here those that differ in ports only become one
again, with a named set of ports. The rules of one entry differ in family and address sets, and lead to one verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any, Final

from dfw.compile import RuleTable
from dfw.layout import PROTO_ANY, RULE_DST_NEGATED, RULE_SRC_NEGATED
from dfw.model import PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP, Family
from dfw.nftables.ruleset import Expression

Ports = tuple[tuple[int, int], ...]
ANY_PORT: Final = ((0, 65535),)
_TRANSPORTS: Final = {PROTO_TCP: "tcp", PROTO_UDP: "udp", PROTO_SCTP: "sctp"}
_ICMP: Final = {PROTO_ICMP: "icmp", PROTO_ICMPV6: "icmpv6"}
_IP: Final = {Family.IPV4: "ip", Family.IPV6: "ip6"}
_FAMILY: Final = {"meta": {"key": "nfproto"}}
_NFPROTO: Final = {Family.IPV4: "ipv4", Family.IPV6: "ipv6"}


@dataclass(frozen=True, slots=True)
class Entry:
    """Entries of a table that differ in ports only. `sources`, `destinations`: numbers of address sets, empty for any;
    one of them must hold the address, or none where negated."""

    rule: int
    sources: tuple[int, ...]
    destinations: tuple[int, ...]
    source_ports: Ports
    destination_ports: Ports
    protocol: int
    tcp_mask: int
    tcp_value: int
    action: int
    direction: int
    families: tuple[Family, ...]
    flags: int
    tier: int
    resume: int
    alg: int


def entries_joined(table: RuleTable) -> list[Entry]:
    """A table's entries in order, with the ports of each put together."""
    found: list[Entry] = []
    names = table.entries.dtype.names or ()
    at = {name: number for number, name in enumerate(names)}
    ports = [at[name] for name in ("sport_lo", "sport_hi", "dport_lo", "dport_hi")]
    others = [number for name, number in at.items() if number not in ports]
    rows: list[tuple[int, ...]] = table.entries.tolist()
    for key, some in groupby(rows, lambda row: tuple(row[number] for number in others)):
        row = dict(zip((names[number] for number in others), key, strict=True))
        ranges = [(item[ports[0]], item[ports[1]], item[ports[2]], item[ports[3]]) for item in some]
        # ICMP's type and code stand in the destination port: two matches, not a range.
        alone = row["proto"] in _ICMP
        pairs = [(((s, t),), ((d, e),)) for s, t, d, e in ranges] if alone else list(_ports_joined(ranges))
        found += [_entry(row, table, sources, destinations) for sources, destinations in pairs]
    return found


def _ports_joined(rows: Sequence[tuple[int, int, int, int]]) -> Iterator[tuple[Ports, Ports]]:
    """Pairs of port sets whose products are these pairs of ranges: few where the ranges are a product themselves."""
    of_source: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for first, last, low, high in rows:
        of_source.setdefault((first, last), []).append((low, high))
    of_destinations: dict[Ports, list[tuple[int, int]]] = {}
    for source, destinations in of_source.items():
        of_destinations.setdefault(ranges_merged(destinations), []).append(source)
    for ports, sources in of_destinations.items():
        yield ranges_merged(sources), ports


def ranges_merged(ranges: Iterable[tuple[int, int]]) -> Ports:
    """The same numbers in as few ranges as can be, in order."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return tuple(found)


def _entry(row: Mapping[str, int], table: RuleTable, sources: Ports, destinations: Ports) -> Entry:
    refs = table.set_refs
    return Entry(
        row["rule"],
        tuple(refs[row["src_off"] : row["src_off"] + row["src_n"]].tolist()),
        tuple(refs[row["dst_off"] : row["dst_off"] + row["dst_n"]].tolist()),
        sources,
        destinations,
        row["proto"],
        row["tcp_mask"],
        row["tcp_value"],
        row["action"],
        row["dir"],
        tuple(family for family in Family if row["family"] & family),
        row["flags"],
        row["tier"],
        row["resume"],
        row["alg"],
    )


class EntryMatcher:
    """Writes matches. `sets`: the name of each address set that has elements, by number and family. `ports`: gives the
    name of a set of ports; a set for each rule would cost the kernel a search through all of them, for each."""

    def __init__(self, sets: Mapping[tuple[int, Family], str], ports: Callable[[Ports], str]) -> None:
        self._sets = sets
        self._ports = ports
        self._sides: dict[tuple[Family, str, tuple[int, ...], bool], list[tuple[Expression, ...]]] = {}

    def matches(self, entry: Entry) -> Iterator[tuple[Expression, ...]]:
        """The matches of each rule that this entry becomes; a packet that it means is matched by at least one."""
        transport = tuple(_transport(entry, self._ports))
        own = _typed_family(entry)
        families = entry.families if own is None else [family for family in entry.families if family is own]
        if not entry.sources and not entry.destinations and (own or len(families) == len(Family)):
            yield from (transport for _ in families[:1])
            return
        for family in families:
            sides = [
                self._side(family, "saddr", entry.sources, bool(entry.flags & RULE_SRC_NEGATED)),
                self._side(family, "daddr", entry.destinations, bool(entry.flags & RULE_DST_NEGATED)),
            ]
            for source, destination in product(*sides):
                addresses = (*source, *destination)
                # A match on an address says which family is meant. Else the family comes last: nft does not list it
                # before a protocol at home in it.
                yield (*addresses, *transport, *(() if addresses else (_equal(_FAMILY, _NFPROTO[family]),)))

    def _side(self, family: Family, field: str, sets: tuple[int, ...], negated: bool) -> list[tuple[Expression, ...]]:
        key = family, field, sets, negated
        if key not in self._sides:
            self._sides[key] = self._side_new(*key)
        return self._sides[key]

    def _side_new(self, family: Family, field: str, sets: Sequence[int], negated: bool) -> list[tuple[Expression, ...]]:
        """The alternatives for one side: nothing to match, one match for each set, or (negated) all in one."""
        if not sets:
            return [()]
        left = {"payload": {"protocol": _IP[family], "field": field}}
        names = [f"@{self._sets[number, family]}" for number in sets if (number, family) in self._sets]
        if negated:
            return [tuple(_match("!=", left, name) for name in names)]
        return [(_equal(left, name),) for name in names]


def _typed_family(entry: Entry) -> Family | None:
    """The one family in which an ICMP type can be; a match on it says so itself."""
    if entry.destination_ports == ANY_PORT or entry.protocol not in _ICMP:
        return None
    return Family.IPV4 if entry.protocol == PROTO_ICMP else Family.IPV6


def _transport(entry: Entry, named: Callable[[Ports], str]) -> Iterator[Expression]:
    """Protocol, ports, TCP flags, ICMP type and code."""
    if entry.protocol == PROTO_ANY:
        return
    if entry.protocol in _ICMP and entry.destination_ports != ANY_PORT:
        # The compiled range is one type with one code, or with all of them.
        ((first, last),) = entry.destination_ports
        yield _equal({"payload": {"protocol": _ICMP[entry.protocol], "field": "type"}}, first >> 8)
        if first == last:
            yield _equal({"payload": {"protocol": _ICMP[entry.protocol], "field": "code"}}, first & 255)
        return
    name = _TRANSPORTS.get(entry.protocol, "")
    found = [
        _equal({"payload": {"protocol": name, "field": field}}, _ports_json(ports, named))
        for field, ports in (("sport", entry.source_ports), ("dport", entry.destination_ports))
        if ports != ANY_PORT
    ]
    if entry.tcp_mask:
        flags = {"payload": {"protocol": "tcp", "field": "flags"}}
        found.append(_equal({"&": [flags, entry.tcp_mask]}, entry.tcp_value))
    # A match inside the header says which protocol is meant.
    yield from found or [_equal({"meta": {"key": "l4proto"}}, entry.protocol)]


def _ports_json(ports: Ports, named: Callable[[Ports], str]) -> Any:
    if len(ports) > 1:
        return f"@{named(ports)}"
    ((first, last),) = ports
    return first if first == last else {"range": [first, last]}


def _equal(left: Any, right: Any) -> Expression:
    return _match("==", left, right)


def _match(operator: str, left: Any, right: Any) -> Expression:
    return {"match": {"op": operator, "left": left, "right": right}}
