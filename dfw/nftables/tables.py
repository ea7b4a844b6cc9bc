# SPDX-License-Identifier: Apache-2.0
"""The rule tables of vNICs as chains. Pure.

A table that says the same as before is not written again: its chains are those of before, the same objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dfw.compile import CompiledRule, RuleTable
from dfw.layout import ALG_FTP, ALG_TFTP, RULE_LOGGED, RULE_STATEFUL, RULE_TCP_STRICT
from dfw.model import Direction
from dfw.nftables.entry import Entry, EntryMatcher, Ports, entries_joined
from dfw.nftables.names import Numbering
from dfw.nftables.rows import TableRows
from dfw.nftables.ruleset import Chain, ChainRule, ElementSet, Expression, Helper
from dfw.nftables.shared import ACCEPT, IN, OUT, Side, counted_drop, goto, judged_at

LOG_GROUP: Final = 6081
"""The netlink group (NFLOG) to which logged rules tell of packets."""
_ALLOW, _DROP, _REJECT = 0, 1, 2
_COMMENT_BYTES = 127  # of a rule's comment: NFTNL_UDATA_COMMENT_MAXLEN, less the end of the text
_HELPERS: Final = {ALG_FTP: Helper("ftp", "ftp", "tcp"), ALG_TFTP: Helper("tftp", "tftp", "udp")}
_CHUNK_RULES = 16  # in the mean, of one chain

Matched = tuple[Entry, tuple[tuple[Expression, ...], ...]]
"""An entry, and the matches of each rule that it becomes."""
_Numbers = npt.NDArray[np.int64]


class PortSet(NamedTuple):
    """A set of ports: what it is known by, and the set."""

    key: str
    item: ElementSet


class PortSets:
    """Those of one ruleset; `before`: of the one before, whose sets are taken over."""

    def __init__(self, numbers: Numbering, before: Mapping[str, PortSet]) -> None:
        self.kept: dict[str, PortSet] = {}
        self._numbers, self._before = numbers, before
        self._of_ports: dict[Ports, PortSet] = {}

    def keep(self, found: PortSet) -> PortSet:
        """This one is in use."""
        if found.key not in self.kept:
            self.kept[found.key] = found
            self._numbers.number(found.key)
        return found

    def of(self, ports: Ports) -> PortSet:
        """That of these ports."""
        if ports not in self._of_ports:
            key = ",".join(f"{first}-{last}" for first, last in ports)
            known = self.kept.get(key) or self._before.get(key)
            if known is None:
                known = PortSet(key, ElementSet(f"ports{self._numbers.number(key)}", None, ports))
            self._of_ports[ports] = self.keep(known)
        return self._of_ports[ports]

    def name(self, ports: Ports) -> str:
        """Its name."""
        return self.of(ports).item.name


@dataclass(frozen=True, slots=True)
class TablePart:
    """A table as it was written. `key`: of all that it was written from; `of_side`: where each side begins; `counters`:
    of its rules; `ports`: the sets of ports that it uses."""

    key: bytes
    chains: tuple[Chain, ...]
    of_side: Mapping[str, str]
    counters: tuple[str, ...]
    ports: tuple[PortSet, ...]
    helpers: tuple[Helper, ...]


@dataclass(frozen=True, slots=True)
class Numbered:
    """What the numbers in compiled tables stand for. Of rules by index: the rule, and the number in its names (-1: of
    no table here); of address sets: a number that is another one where their names are."""

    rules: Sequence[CompiledRule]
    rule_numbers: _Numbers
    set_codes: _Numbers


def table_keys(rows: TableRows, numbers: Sequence[int], sides: Sequence[Side], known: Numbered) -> Iterator[bytes]:
    """Of each table by its number: equal where it is written as before. Of what it says, and the names of all that it
    refers to."""
    rules, logged = rows.entries["rule"], rows.entries["flags"] & RULE_LOGGED != 0
    texts = np.zeros(len(known.rules), dtype=np.uint64)  # what stands in logs
    for at in np.unique(rules[logged]).tolist():
        texts[at] = (known.rules[at].rule_id + 1) % (1 << 64)
    entries = rows.entries.copy()
    for column in ("rule", "src_off", "dst_off"):
        entries[column] = 0
    of_entries = (entries, known.rule_numbers[rules], np.where(logged, texts[rules], np.uint64(0)))
    parts = [(rows.bounds, some) for some in of_entries]
    parts += [(rows.ref_bounds[side], known.set_codes[refs]) for side, refs in rows.refs.items()]
    whole = [(bounds * some.itemsize, some.tobytes()) for bounds, some in parts]
    for at, number in enumerate(numbers):
        digest = blake2b(f"{number} {[side.name for side in sides]}".encode(), digest_size=32)
        for bounds, octets in whole:
            digest.update(octets[bounds[at] : bounds[at + 1]])
        yield digest.digest()


def table_write(
    table: RuleTable,
    number: int,
    sides: Sequence[Side],
    known: Numbered,
    matcher: EntryMatcher,
    port_sets: PortSets,
    key: bytes,
    *,
    is_apart: bool = False,
) -> TablePart:
    """A table's chains; `is_apart`: in any case those of each side."""
    entries = [(entry, tuple(matcher.matches(entry))) for entry in entries_joined(table)]
    writer = _TableWriter(known)
    name = f"table{number}"
    chains: list[Chain] = []
    of_side: dict[str, str] = {}
    # One chain for both directions, where most rules are for both.
    is_one = not is_apart and 2 * sum(entry.direction == Direction.IN_OUT for entry, _ in entries) > len(entries)
    for side in (None,) if is_one else sides:
        chain = name if side is None else f"{name}-{side.name}"
        chains += writer.chains(chain, side, entries)
        of_side |= {own.name: chain for own in ((side,) if side else sides)}
    ports = dict.fromkeys(
        some for entry, _ in entries for some in (entry.source_ports, entry.destination_ports) if len(some) > 1
    )
    counters, port_items = tuple(dict.fromkeys(writer.counters)), tuple(map(port_sets.of, ports))
    return TablePart(key, tuple(chains), of_side, counters, port_items, tuple(writer.helpers.values()))


class _TableWriter:
    """Writes one table. `counters`: of the rules so far."""

    def __init__(self, known: Numbered) -> None:
        self._rules = known.rules
        self._numbers = known.rule_numbers
        self.counters: list[str] = []
        self.helpers: dict[str, Helper] = {}

    def chains(self, name: str, side: Side | None, entries: Sequence[Matched]) -> list[Chain]:
        """A chain for each tier that rules go on to when they leave theirs, the first one without such a name.
        `side` None: for both. Chains stand in the order in which they may refer to each other: the last one first."""
        own = entries if side is None else [item for item in entries if item[0].direction & side.direction]
        cuts = sorted({entry.resume for entry, _ in own if entry.resume})
        names = [name, *(f"{name}-tier{tier}" for tier in cuts)]
        parts: list[list[Matched]] = [[] for _ in names]
        for part, some in groupby(own, lambda item: sum(item[0].tier >= cut for cut in cuts)):
            parts[part] += some
        ends = [goto(chain) for chain in names[1:]] + [counted_drop("no-rule")]
        found: list[Chain] = []
        for chain, inside, end in zip(reversed(names), reversed(parts), reversed(ends), strict=True):
            found += self._chunks(chain, name, side, inside, end)
        return found

    def _chunks(
        self, chain: str, table: str, side: Side | None, entries: Sequence[Matched], end: ChainRule
    ) -> Iterator[Chain]:
        """The chain, and those to which it jumps: a changed rule is as much work as the chain in which it stands.
        Where another one begins depends on its first rule only, so that a change concerns no other."""
        first: list[ChainRule] = []
        chunks: dict[str, list[ChainRule]] = {}
        here = first
        for at, some in groupby(entries, lambda item: item[0].rule):
            number = int(self._numbers[at])
            name = f"{chain}-rule{number}"
            if number % _CHUNK_RULES == 0 and name not in chunks:
                here = chunks[name] = []
                first.append(ChainRule(({"jump": {"target": name}},)))
            for entry, matches in some:
                here += self._entry(entry, matches, table, side, f"rule{number}", self._rules[at])
        yield from (Chain(name, tuple(rules)) for name, rules in chunks.items())
        yield Chain(chain, (*first, end))

    def _entry(
        self,
        entry: Entry,
        alternatives: Sequence[tuple[Expression, ...]],
        table: str,
        side: Side | None,
        counter: str,
        rule: CompiledRule,
    ) -> Iterator[ChainRule]:
        """The rules of one entry: matches, counter, log, verdict."""
        self.counters.append(counter)
        effects: list[Expression] = [{"counter": counter}]
        if entry.flags & RULE_LOGGED:
            effects.append(log_of(counter, rule.rule_id))
        asked: tuple[Expression, ...] = ()
        if side is None and entry.direction != Direction.IN_OUT:
            side = OUT if entry.direction == Direction.OUT else IN
            asked = (judged_at(side),)
        helper = _HELPERS.get(entry.alg)
        if helper is not None and entry.flags & RULE_STATEFUL:
            self.helpers[helper.name] = helper
            effects.append({"ct helper": helper.name})
        effects.append(_verdict(entry, table, side))
        comment = comment_of(rule)
        for matches in alternatives:
            yield ChainRule((*asked, *matches, *effects), comment)


def log_of(counter: str, rule_id: int) -> Expression:
    """What a logged rule tells of a packet."""
    return {"log": {"prefix": f"palisade {counter} {rule_id}", "group": LOG_GROUP}}


def comment_of(rule: CompiledRule) -> str:
    """What names the policy's rule in the kernel's."""
    return rule.path.encode()[:_COMMENT_BYTES].decode(errors="ignore")


def _verdict(entry: Entry, table: str, side: Side | None) -> Expression:
    if entry.resume:
        return {"goto": {"target": f"{table}-tier{entry.resume}"}}
    if entry.action == _DROP:
        return {"drop": None}
    if entry.action == _REJECT:
        return {"goto": {"target": "reject"}}
    assert entry.action == _ALLOW
    if not entry.flags & RULE_STATEFUL:
        return ACCEPT
    keep = "keep" if side is None else f"keep-{side.name}"
    return {"goto": {"target": f"{keep}-strict" if entry.flags & RULE_TCP_STRICT else keep}}
