# SPDX-License-Identifier: Apache-2.0
"""Numbers for what has a name in a ruleset: what stays keeps its own, so that a change touches little. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

MOST_VNICS: Final = 0x7FFF
"""vNICs of one ruleset: their numbers take half a packet mark each, less a bit of the receiver's."""


class Numbers(msgspec.Struct):
    """Numbers by what they stand for. `next`: the least that was never given: a counter that goes and another that
    comes in one transaction must not be one."""

    of: dict[str, int] = {}
    next: int = 0


class Names(msgspec.Struct):
    """All that a ruleset numbers. `vnics`: from 1, the smallest that is free; `tables`, `ether` (of layer-2 rules): by
    the vNIC that uses it."""

    vnics: dict[str, int] = {}
    tables: Numbers = msgspec.field(default_factory=Numbers)
    rules: Numbers = msgspec.field(default_factory=Numbers)
    sets: Numbers = msgspec.field(default_factory=Numbers)
    ports: Numbers = msgspec.field(default_factory=Numbers)
    staged_tables: Numbers = msgspec.field(default_factory=Numbers)
    staged_rules: Numbers = msgspec.field(default_factory=Numbers)
    ether: Numbers = msgspec.field(default_factory=Numbers)
    staged_ether: Numbers = msgspec.field(default_factory=Numbers)


class Numbering:
    """Gives numbers, those of before where there are any; `kept` has those that were asked for."""

    def __init__(self, before: Numbers) -> None:
        self._before = before
        self._found: dict[str, int] = {}
        self._next = before.next

    def number(self, key: str) -> int:
        """The number of what this key stands for."""
        known = self._found.get(key)
        if known is None:
            known = self._before.of.get(key)
            if known is None:
                known, self._next = self._next, self._next + 1
            self._found[key] = known
        return known

    def kept(self) -> Numbers:
        """What was asked for."""
        return Numbers(self._found, self._next)


def vnics_numbered(vnics: Sequence[str], before: Mapping[str, int]) -> dict[str, int]:
    """A number for each vNIC. Raises ValueError where there are too many."""
    if len(vnics) > MOST_VNICS:
        raise ValueError(f"{len(vnics)} vNICs (at most {MOST_VNICS})")
    kept = {name: before[name] for name in vnics if name in before}
    taken = set(kept.values())
    free = (number for number in range(1, MOST_VNICS + 1) if number not in taken)
    return {name: kept[name] if name in kept else next(free) for name in vnics}


def tables_numbered(users: Mapping[int, Iterable[str]], before: Numbers) -> tuple[dict[int, int], Numbers]:
    """A number for each table by index: the one that most of its vNICs had, if no other table has taken it."""
    found: dict[int, int] = {}
    taken: set[int] = set()
    following = before.next
    for table, names in users.items():
        votes = Counter(before.of[name] for name in names if name in before.of)
        known = next((number for number, _ in votes.most_common() if number not in taken), None)
        if known is None:
            known, following = following, following + 1
        taken.add(known)
        found[table] = known
    return found, Numbers({name: found[table] for table, names in users.items() for name in names}, following)


def occurrences(keys: Sequence[Hashable]) -> list[int]:
    """Of each key, how often it stood there before."""
    if len(set(keys)) == len(keys):
        return [0] * len(keys)
    seen: Counter[Hashable] = Counter()
    found = []
    for key in keys:
        found.append(seen[key])
        seen[key] += 1
    return found
