# SPDX-License-Identifier: Apache-2.0
"""From one ruleset to another in one transaction that touches only what differs. Pure.

No packet sees anything between the two: what a chain says is exchanged as a whole, elements of sets and maps one by
one. Counters, and whatever keeps its name, stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from dfw.model import Family
from dfw.nftables.frames import frames_update
from dfw.nftables.ruleset import (
    FAMILY,
    Chain,
    ElementSet,
    Ranges,
    Ruleset,
    VerdictMap,
    chain_json,
    elements_json,
    helper_json,
    meter_json,
    pairs_json,
    rule_json,
    set_json,
)

_STRIDE: Final = 1000
_Named = TypeVar("_Named", Chain, ElementSet, VerdictMap)


@dataclass(frozen=True, slots=True)
class SetChange:
    """What goes out of a set and what comes in, in this order."""

    name: str
    family: Family | None
    is_interval: bool
    removed: Ranges
    added: Ranges


@dataclass(frozen=True, slots=True)
class Update:
    """A transaction. `sets`: changes of sets that stay; `before`, `after`: commands around them, in order."""

    table: str
    before: tuple[dict[str, Any], ...] = ()
    sets: tuple[SetChange, ...] = ()
    after: tuple[dict[str, Any], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.before or self.sets or self.after)


def plan_update(old: Ruleset, new: Ruleset) -> Update:
    """What makes the one of the other. Raises ValueError where that cannot be: other tables, a set that becomes another
    kind of set, a base chain at another hook (render_ruleset never does any of these)."""
    if old.table != new.table:
        raise ValueError(f"tables {old.table} and {new.table}")
    table = new.table
    chains, sets, maps = _by_name(old.chains), _by_name(old.sets), _by_name(old.maps)
    new_chains, new_sets, new_maps = _by_name(new.chains), _by_name(new.sets), _by_name(new.maps)
    counters = set(old.counters)
    before = [_command("add", "counter", table, name) for name in new.counters if name not in counters]
    before += [{"add": {"set": meter_json(table, item)}} for item in new.meters if item not in old.meters]
    before += [{"add": {"ct helper": helper_json(table, item)}} for item in new.helpers if item not in old.helpers]
    before += [_map_new(table, name) for name in new_maps if name not in maps]
    after: list[dict[str, Any]] = []
    changes: list[SetChange] = []
    for name, chain in new_chains.items():
        if name not in chains:
            before.append({"add": {"chain": chain_json(table, chain)}})
        elif chains[name].hook != chain.hook:
            raise ValueError(f"the base chain {name} at another hook")
    for name, item in new_sets.items():
        if name not in sets:
            before.append({"add": {"set": set_json(table, item)}})
        elif sets[name] is not item and (item.same_as(sets[name]) or sets[name] != item):
            changes.append(_set_change(sets[name], item))
    for name, chain in new_chains.items():
        known = chains.get(name)
        if known is None or (known is not chain and known.rules != chain.rules):
            after += _chain_exchanged(table, chain, is_new=known is None)
    for name, verdicts in new_maps.items():
        after += _map_changed(table, maps.get(name), verdicts)
    gone = [name for name in chains if name not in new_chains]
    after += [{"flush": {"chain": _at(table, name)}} for name in gone]
    # Rules refer to maps, and these to chains.
    after += [_command("delete", "map", table, name) for name in maps if name not in new_maps]
    after += [_command("delete", "chain", table, name) for name in gone]
    after += [_command("delete", "set", table, name) for name in sets if name not in new_sets]
    after += [_command("delete", "set", table, item.name) for item in old.meters if item not in new.meters]
    after += [_command("delete", "ct helper", table, item.name) for item in old.helpers if item not in new.helpers]
    kept = set(new.counters)
    after += [_command("delete", "counter", table, name) for name in old.counters if name not in kept]
    after += frames_update(table, old.frames, new.frames)
    return Update(table, tuple(before), tuple(changes), tuple(after))


def update_text(update: Update) -> str:
    """The JSON of the whole transaction: one command a line."""
    encode = msgspec.json.Encoder().encode
    lines = b",\n".join(map(encode, _commands(update))).decode()
    return f'{{"nftables": [\n{lines}\n]}}\n'


def _commands(update: Update) -> Iterator[dict[str, Any]]:
    yield from update.before
    for change in update.sets:
        for verb, ranges in (("delete", change.removed), ("add", change.added)):
            if ranges:
                elements = elements_json(change.family, ranges)
                yield {verb: {"element": {**_at(update.table, change.name), "elem": elements}}}
    yield from update.after


def _chain_exchanged(table: str, chain: Chain, *, is_new: bool) -> Iterator[dict[str, Any]]:
    if not is_new:
        yield {"flush": {"chain": _at(table, chain.name)}}
    yield from ({"add": {"rule": rule_json(table, chain.name, rule)}} for rule in chain.rules)


def _map_new(table: str, name: str) -> dict[str, Any]:
    return {"add": {"map": {**_at(table, name), "type": "mark", "map": "verdict"}}}


def _map_changed(table: str, old: VerdictMap | None, new: VerdictMap) -> Iterator[dict[str, Any]]:
    before, wanted = dict(old.chains if old else ()), dict(new.chains)
    gone = [(mark, chain) for mark, chain in before.items() if wanted.get(mark) != chain]
    come = [(mark, chain) for mark, chain in wanted.items() if before.get(mark) != chain]
    for verb, pairs in (("delete", gone), ("add", come)):
        if pairs:
            yield {verb: {"element": {**_at(table, new.name), "elem": pairs_json(pairs)}}}


def _set_change(old: ElementSet, new: ElementSet) -> SetChange:
    if (old.family, old.is_interval) != (new.family, new.is_interval):
        raise ValueError(f"the set {new.name} as another kind of set")
    same, after = new.same_as(old) or _same(old.ranges, new.ranges)
    before, wanted = (set(item.ranges[same : len(item.ranges) - after]) for item in (old, new))
    removed, added = tuple(sorted(before - wanted)), tuple(sorted(wanted - before))
    return SetChange(new.name, new.family, new.is_interval, removed, added)


def _same(one: Ranges, other: Ranges) -> tuple[int, int]:
    """How many of the first and of the last ones are the same, at least."""
    same = _alike(one, other)
    return same, _alike(one[:same:-1], other[:same:-1])


def _alike(one: Ranges, other: Ranges) -> int:
    """How many of the first ones are the same, in whole thousands: tuples are compared faster than put into sets."""
    at = 0
    while at < min(len(one), len(other)) and one[at : at + _STRIDE] == other[at : at + _STRIDE]:
        at += _STRIDE
    return min(at, len(one), len(other))


def _by_name(items: Iterable[_Named]) -> Mapping[str, _Named]:
    return {item.name: item for item in items}


def _command(verb: str, kind: str, table: str, name: str) -> dict[str, Any]:
    return {verb: {kind: _at(table, name)}}


def _at(table: str, name: str) -> dict[str, Any]:
    return {"family": FAMILY, "table": table, "name": name}
