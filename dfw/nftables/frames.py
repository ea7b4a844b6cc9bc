# SPDX-License-Identifier: Apache-2.0
"""The table of family bridge beside a ruleset's own: what is asked of frames (layer-2 rules). Pure.

It has the ruleset's name and is changed in the ruleset's transactions. Its counters are named as the other table's are,
and no name stands in both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from dfw.nftables.statements import (
    Chain,
    ChainRule,
    Expression,
    VerdictMap,
    chain_json,
    chain_parse,
    expression_parse,
    map_parse,
    pairs_json,
    rule_json,
)

FRAME_FAMILY: Final = "bridge"
_ETHER_TYPES: Final = {"ip": 0x0800, "arp": 0x0806, "ip6": 0x86DD, "vlan": 0x8100, "8021q": 0x8100, "8021ad": 0x88A8}
"""libnftables' words. As numbers it lists these with their octets exchanged, and no others, so that 0x0806 and 0x0608
would be one: whoever lists this table asks for words."""


@dataclass(frozen=True, slots=True)
class MacSet:
    """A named set of MAC addresses, as numbers of 48 bits, sorted."""

    name: str
    macs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FrameRules:
    """All that is in the table. The order of rules says something; that of sets, maps, counters, chains not."""

    sets: tuple[MacSet, ...] = ()
    maps: tuple[VerdictMap, ...] = ()
    counters: tuple[str, ...] = ()
    chains: tuple[Chain, ...] = ()


def frames_sorted(frames: FrameRules | None) -> FrameRules | None:
    """The same by name: equal where two mean the same."""
    if frames is None:
        return None
    return FrameRules(
        tuple(sorted(frames.sets, key=lambda item: item.name)),
        tuple(sorted(frames.maps, key=lambda item: item.name)),
        tuple(sorted(frames.counters)),
        tuple(sorted(frames.chains, key=lambda item: item.name)),
    )


# As libnftables' JSON


def frames_replaced(table: str, frames: FrameRules | None) -> Iterator[dict[str, Any]]:
    """The commands that put this table in the place of the one that may be there; None: that there is none."""
    whole = {"table": {"family": FRAME_FAMILY, "name": table}}
    # Deleting what is not there would fail, so it is made first.
    yield from ({"add": whole}, {"delete": whole})
    if frames is not None:
        yield from _frames_added(table, frames)


def _frames_added(table: str, frames: FrameRules) -> Iterator[dict[str, Any]]:
    yield {"add": {"table": {"family": FRAME_FAMILY, "name": table}}}
    yield from frames_changed(table, FrameRules(), frames)


def frames_update(table: str, old: FrameRules | None, new: FrameRules | None) -> Iterator[dict[str, Any]]:
    """The commands that make the one of the other, in order."""
    if new is None:
        if old is not None:
            yield {"delete": {"table": {"family": FRAME_FAMILY, "name": table}}}
    elif old is None:
        yield from _frames_added(table, new)
    else:
        yield from frames_changed(table, old, new)


def frames_changed(table: str, old: FrameRules, new: FrameRules) -> Iterator[dict[str, Any]]:
    """Likewise, where the table stays. What keeps its name stays, and counts on."""
    sets = {item.name: item for item in old.sets}
    chains = {item.name: item for item in old.chains}
    maps = {item.name: item for item in old.maps}
    counters, wanted_counters = set(old.counters), set(new.counters)
    wanted_sets, wanted_chains = {item.name for item in new.sets}, {item.name for item in new.chains}
    yield from (_command("add", "counter", table, name) for name in new.counters if name not in counters)
    for item in new.sets:
        if item.name not in sets:
            yield {"add": {"set": _set_json(table, item)}}
        elif sets[item.name] != item:
            yield from _set_changed(table, sets[item.name], item)
    yield from (
        {"add": {"chain": chain_json(table, chain, FRAME_FAMILY)}} for chain in new.chains if chain.name not in chains
    )
    for verdicts in new.maps:
        if verdicts.name not in maps:
            yield {"add": {"map": {**_at(table, verdicts.name), "type": "mark", "map": "verdict"}}}
    for chain in new.chains:
        known = chains.get(chain.name)
        if known is not None and known.rules == chain.rules:
            continue
        if known is not None:
            yield {"flush": {"chain": _at(table, chain.name)}}
        yield from ({"add": {"rule": rule_json(table, chain.name, rule, FRAME_FAMILY)}} for rule in chain.rules)
    for verdicts in new.maps:
        yield from _map_changed(table, maps.get(verdicts.name), verdicts)
    gone = [name for name in chains if name not in wanted_chains]
    yield from ({"flush": {"chain": _at(table, name)}} for name in gone)
    wanted_maps = {item.name for item in new.maps}
    yield from (_command("delete", "map", table, name) for name in maps if name not in wanted_maps)
    yield from (_command("delete", "chain", table, name) for name in gone)
    yield from (_command("delete", "set", table, name) for name in sets if name not in wanted_sets)
    yield from (_command("delete", "counter", table, name) for name in old.counters if name not in wanted_counters)


def _set_changed(table: str, old: MacSet, new: MacSet) -> Iterator[dict[str, Any]]:
    for verb, macs in (("delete", set(old.macs) - set(new.macs)), ("add", set(new.macs) - set(old.macs))):
        if macs:
            yield {verb: {"element": {**_at(table, new.name), "elem": _macs_json(sorted(macs))}}}


def _map_changed(table: str, old: VerdictMap | None, new: VerdictMap) -> Iterator[dict[str, Any]]:
    before, wanted = set(old.chains if old else ()), set(new.chains)
    for verb, pairs in (("delete", before - wanted), ("add", wanted - before)):
        if pairs:
            yield {verb: {"element": {**_at(table, new.name), "elem": pairs_json(sorted(pairs))}}}


def _set_json(table: str, item: MacSet) -> dict[str, Any]:
    elements = {"elem": _macs_json(item.macs)} if item.macs else {}
    return {**_at(table, item.name), "type": "ether_addr", **elements}


def _macs_json(macs: Sequence[int]) -> list[str]:
    return [mac.to_bytes(6, "big").hex(":") for mac in macs]


def _at(table: str, name: str) -> dict[str, Any]:
    return {"family": FRAME_FAMILY, "table": table, "name": name}


def _command(verb: str, kind: str, table: str, name: str) -> dict[str, Any]:
    return {verb: {kind: _at(table, name)}}


def frames_parse(text: str, table: str) -> FrameRules:
    """This table as libnftables lists it with words for EtherTypes (`nft -j list table bridge`). Raises ValueError
    where the text is no such list, or holds in this table what FrameRules cannot."""
    try:
        return _items_parse(json.loads(text)["nftables"], table)
    except (json.JSONDecodeError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"not a list of nftables objects: {error!r}") from error


def _items_parse(items: Sequence[Mapping[str, Any]], table: str) -> FrameRules:
    sets: list[MacSet] = []
    maps: list[VerdictMap] = []
    counters: list[str] = []
    chains: dict[str, Chain] = {}
    rules: dict[str, list[ChainRule]] = {}
    for item in items:
        ((kind, value),) = item.items()
        if value.get("table") != table or value["family"] != FRAME_FAMILY:
            continue
        match kind:
            case "set" if value["type"] == "ether_addr":
                macs = sorted(int(mac.replace(":", ""), 16) for mac in value.get("elem", ()))
                sets.append(MacSet(value["name"], tuple(macs)))
            case "map":
                maps.append(map_parse(value))
            case "counter":
                counters.append(value["name"])
            case "chain":
                chains[value["name"]] = chain_parse(value)
            case "rule":
                expressions = tuple(map(_expression_parse, value["expr"]))
                rules.setdefault(value["chain"], []).append(ChainRule(expressions, value.get("comment", "")))
            case _:
                raise ValueError(f"the table {table} for frames has a {kind}, which we never make")
    found = tuple(replace(chain, rules=tuple(rules.get(name, ()))) for name, chain in chains.items())
    return FrameRules(tuple(sets), tuple(maps), tuple(counters), found)


def _expression_parse(expression: Expression) -> Expression:
    """EtherTypes as numbers."""
    found = expression_parse(expression)
    match found:
        case {"match": {"left": {"payload": {"field": "type"}}, "right": str(word)}}:
            return {"match": {**found["match"], "right": _ETHER_TYPES[word]}}
    return found
