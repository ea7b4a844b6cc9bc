# SPDX-License-Identifier: Apache-2.0
"""The rule tables of vNICs as chains. Pure.

A table that says the same as before is not written again: its chains are those of before, the same objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from typing import Final

import numpy as np
import numpy.typing as npt

from dfw.compile import PAL_RULE_LOGGED, PAL_RULE_STATEFUL, PAL_RULE_TCP_STRICT, CompiledRule, RuleTable
from dfw.layout import ALG_FTP, ALG_TFTP
from dfw.model import Direction
from dfw.nftables.addresses import SIDES as ADDRESS_SIDES
from dfw.nftables.addresses import table_refs
from dfw.nftables.entry import Entry, EntryMatcher, Ports, entries_joined
from dfw.nftables.ruleset import Chain, ChainRule, Expression, Helper
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


@dataclass(frozen=True, slots=True)
class TablePart:
    """A table as it was written. `key`: of all that it was written from; `of_side`: where each side begins; `counters`:
    of its rules; `ports`: the sets of ports that it uses."""

    key: bytes
    chains: tuple[Chain, ...]
    of_side: Mapping[str, str]
    counters: tuple[str, ...]
    ports: tuple[Ports, ...]
    helpers: tuple[Helper, ...]


@dataclass(frozen=True, slots=True)
class Numbered:
    """What the numbers in compiled tables stand for. Of rules by index: the rule, and the number in its names (-1: of
    no table here); of address sets: a number that is another one where their names are."""

    rules: Sequence[CompiledRule]
    rule_numbers: _Numbers
    set_codes: _Numbers


def table_key(table: RuleTable, number: int, sides: Sequence[Side], known: Numbered) -> bytes:
    """Equal where a table is written as before: what it says, and the names of all that it refers to."""
    entries = table.entries.copy()
    rules = entries["rule"].astype(np.int64)
    digest = blake2b(f"{number} {[side.name for side in sides]}".encode(), digest_size=32)
    digest.update(known.rule_numbers[rules].tobytes())
    for at in np.unique(rules[entries["flags"] & PAL_RULE_LOGGED != 0]).tolist():
        # It stands in the log's text.
        digest.update(f"{known.rule_numbers[at]} {known.rules[at].rule_id}".encode())
    for side in ADDRESS_SIDES:
        digest.update(known.set_codes[table_refs(table, side)].tobytes())
    for column in ("rule", "src_off", "dst_off"):
        entries[column] = 0
    digest.update(entries.tobytes())
    return digest.digest()


def table_write(
    table: RuleTable, number: int, sides: Sequence[Side], known: Numbered, matcher: EntryMatcher, key: bytes
) -> TablePart:
    """A table's chains."""
    entries = [(entry, tuple(matcher.matches(entry))) for entry in entries_joined(table)]
    writer = _TableWriter(known)
    name = f"table{number}"
    chains: list[Chain] = []
    of_side: dict[str, str] = {}
    # One chain for both directions, where most rules are for both.
    is_one = 2 * sum(entry.direction == Direction.IN_OUT for entry, _ in entries) > len(entries)
    for side in (None,) if is_one else sides:
        chain = name if side is None else f"{name}-{side.name}"
        chains += writer.chains(chain, side, entries)
        of_side |= {own.name: chain for own in ((side,) if side else sides)}
    ports = dict.fromkeys(
        some for entry, _ in entries for some in (entry.source_ports, entry.destination_ports) if len(some) > 1
    )
    counters = tuple(dict.fromkeys(writer.counters))
    return TablePart(key, tuple(chains), of_side, counters, tuple(ports), tuple(writer.helpers.values()))


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
        if entry.flags & PAL_RULE_LOGGED:
            effects.append({"log": {"prefix": f"palisade {counter} {rule.rule_id}", "group": LOG_GROUP}})
        asked: tuple[Expression, ...] = ()
        if side is None and entry.direction != Direction.IN_OUT:
            side = OUT if entry.direction == Direction.OUT else IN
            asked = (judged_at(side),)
        helper = _HELPERS.get(entry.alg)
        if helper is not None and entry.flags & PAL_RULE_STATEFUL:
            self.helpers[helper.name] = helper
            effects.append({"ct helper": helper.name})
        effects.append(_verdict(entry, table, side))
        comment = rule.path.encode()[:_COMMENT_BYTES].decode(errors="ignore")
        for matches in alternatives:
            yield ChainRule((*asked, *matches, *effects), comment)


def _verdict(entry: Entry, table: str, side: Side | None) -> Expression:
    if entry.resume:
        return {"goto": {"target": f"{table}-tier{entry.resume}"}}
    if entry.action == _DROP:
        return {"drop": None}
    if entry.action == _REJECT:
        return {"goto": {"target": "reject"}}
    assert entry.action == _ALLOW
    if not entry.flags & PAL_RULE_STATEFUL:
        return ACCEPT
    keep = "keep" if side is None else f"keep-{side.name}"
    return {"goto": {"target": f"{keep}-strict" if entry.flags & PAL_RULE_TCP_STRICT else keep}}
