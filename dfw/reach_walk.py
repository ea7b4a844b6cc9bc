# SPDX-License-Identifier: Apache-2.0
"""One rule table walked for many pairs of sender and receiver at once, as dfw/reach.py needs it."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from dfw.compile import RuleTable
from dfw.layout import PROTO_ANY, RULE_DST_NEGATED, RULE_SRC_NEGATED
from dfw.model import PROTO_TCP, PROTOCOLS_WITH_PORTS, Direction, Family

DENIED: Final = 0
ALLOWED: Final = 1
UNKNOWN: Final = 2
NO_RULE: Final = 0xFFFFFFFF
NO: Final = 0
MAYBE: Final = 1
YES: Final = 2
"""Membership; of several sets together it is the greatest, negated 2 minus it."""

EPHEMERAL_PORT: Final = 49152  # RFC 6335 section 6: the first of the dynamic ports
_SYN: Final = 2
_MAY_ALLOW, _MAY_DENY = 1, 2
_ALLOW, _RESUME = 0, 3

Codes: TypeAlias = npt.NDArray[np.uint8]
RuleNumbers: TypeAlias = npt.NDArray[np.uint32]


def candidates(
    table: RuleTable, family: Family, direction: Direction, protocol: int, port: int
) -> npt.NDArray[np.int64]:
    """Indexes of the entries that the first packet of a connection to this port can match, whoever talks to whom."""
    entries = table.entries
    flags = _SYN if protocol == PROTO_TCP else 0
    own_port, other_port = (port, EPHEMERAL_PORT) if protocol in PROTOCOLS_WITH_PORTS else (port, 0)
    found = (
        (entries["dir"] & int(direction) != 0)
        & (entries["family"] & int(family) != 0)
        & ((entries["proto"] == PROTO_ANY) | (entries["proto"] == protocol))
        & ((entries["dport_lo"] <= own_port) & (own_port <= entries["dport_hi"]))
        & ((entries["sport_lo"] <= other_port) & (other_port <= entries["sport_hi"]))
        & (entries["tcp_mask"] & flags == entries["tcp_value"])
    )
    return np.flatnonzero(found)


def _picked(side: Codes | None) -> Any:
    """An index of those who are or may be members: a slice where that is everybody."""
    return slice(None) if side is None or side.all() else np.flatnonzero(side)


class Walk:
    """The first match of each pair: `senders` and `receivers` are members of sets (rows) by workload (columns)."""

    def __init__(self, table: RuleTable, senders: Codes, receivers: Codes) -> None:
        self._table = table
        self._members = senders, receivers
        shape = (senders.shape[1], receivers.shape[1])
        self._open = np.ones(shape, np.bool_)
        self._outcome = np.zeros(shape, np.uint8)
        self._rule = np.full(shape, NO_RULE, np.uint32)
        self._tier: Codes | None = None

    def run(self, chosen: npt.NDArray[np.int64]) -> tuple[Codes, RuleNumbers]:
        """The verdicts and the deciding rules, of the chosen entries in order; DENIED where none matches."""
        for index in chosen.tolist():
            if self._step(self._table.entries[index]):
                break
        self._outcome[self._open] |= _MAY_DENY
        codes = np.array([UNKNOWN, ALLOWED, DENIED, UNKNOWN], np.uint8)[self._outcome]
        self._rule[codes == UNKNOWN] = NO_RULE
        return codes, self._rule

    def _side(self, entry: Any, number: int, name: str, negated: int) -> Codes | None:
        """Which workloads the entry matches on one side; None for all of them."""
        size, offset = int(entry[f"{name}_n"]), int(entry[f"{name}_off"])
        if not size:
            return None
        refs = self._table.set_refs[offset : offset + size]
        found: Codes = self._members[number][refs].max(axis=0)
        return (YES - found).astype(np.uint8) if int(entry["flags"]) & negated else found

    def _step(self, entry: Any) -> bool:
        """One entry for all pairs that are still open. True when nothing is left to decide."""
        sides = (
            self._side(entry, 0, "src", RULE_SRC_NEGATED),
            self._side(entry, 1, "dst", RULE_DST_NEGATED),
        )
        rows, columns = map(_picked, sides)
        whole = isinstance(rows, slice) and isinstance(columns, slice)
        either = isinstance(rows, slice) or isinstance(columns, slice)
        at: Any = (rows, columns) if either else np.ix_(rows, columns)
        matched = self._open[at]
        if not matched.size:
            return False
        if self._tier is not None:
            matched = matched & (self._tier[at] <= int(entry["tier"]))
        doubt = [side is not None and bool((side == MAYBE).any()) for side in sides]
        if any(doubt):
            sure = [
                np.ones(size, np.bool_) if side is None else side == YES
                for side, size in zip(sides, self._open.shape, strict=True)
            ]
            certain = matched & (sure[0][rows][:, None] & sure[1][columns][None, :])
            self._perhaps(entry, at, matched & ~certain)
            matched = certain
        self._decide(entry, at, matched)
        return whole and not self._open.any()

    def _decide(self, entry: Any, at: Any, matched: npt.NDArray[np.bool_]) -> None:
        if int(entry["action"]) == _RESUME:
            if self._tier is None:
                self._tier = np.zeros(self._open.shape, np.uint8)
            self._tier[at] = np.where(matched, entry["resume"], self._tier[at])
            return
        bit = _MAY_ALLOW if int(entry["action"]) == _ALLOW else _MAY_DENY
        outcome = self._outcome[at]
        self._rule[at] = np.where(matched & (outcome == 0), entry["rule"], self._rule[at])
        self._outcome[at] = outcome | (matched * np.uint8(bit))
        self._open[at] &= ~matched

    def _perhaps(self, entry: Any, at: Any, doubtful: npt.NDArray[np.bool_]) -> None:
        """Pairs that the entry may match, or not: its outcome is one of theirs, and the search goes on.

        Where it may leave its tier nothing is certain any more.
        """
        if int(entry["action"]) == _RESUME:
            self._outcome[at] |= doubtful * np.uint8(_MAY_ALLOW | _MAY_DENY)
            self._open[at] &= ~doubtful
            return
        self._outcome[at] |= doubtful * np.uint8(_MAY_ALLOW if int(entry["action"]) == _ALLOW else _MAY_DENY)
