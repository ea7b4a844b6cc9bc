# SPDX-License-Identifier: Apache-2.0
"""First match by going through the rules one by one: what a benchmark's answers are checked against."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dfw.classbench import RuleTable
from dfw.layout import NO_MATCH, PROTO_ANY, KeyArray

Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]


def _words(rows: npt.NDArray[Any]) -> tuple[Words, Words]:
    """Addresses of 16 bytes as upper and lower 64 bits."""
    pairs = np.ascontiguousarray(rows).view(">u8").reshape(-1, 2).astype(np.uint64)
    return pairs[:, 0], pairs[:, 1]


def _inside(high: Words, low: Words, ranges: npt.NDArray[np.void], family: npt.NDArray[np.uint8]) -> Mask:
    """Which addresses lie in any of the ranges."""
    found = np.zeros(len(high), dtype=np.bool_)
    lo_high, lo_low = _words(ranges["lo"])
    hi_high, hi_low = _words(ranges["hi"])
    for at in range(len(ranges)):
        above = (high > lo_high[at]) | ((high == lo_high[at]) & (low >= lo_low[at]))
        below = (high < hi_high[at]) | ((high == hi_high[at]) & (low <= hi_low[at]))
        found |= above & below & (family == ranges["family"][at])
    return found


def first_match_linear(table: RuleTable, keys: KeyArray) -> npt.NDArray[np.uint32]:
    """Number of each header's first matching rule on the five fields; NO_MATCH for none. Negation is not looked at."""
    found = np.full(len(keys), NO_MATCH, dtype=np.uint32)
    left = np.arange(len(keys))
    ends = {side: _words(keys[side]) for side in ("src", "dst")}
    for number, rule in enumerate(table.rules):
        here = keys[left]
        match = np.ones(len(left), dtype=np.bool_)
        for side, port in (("src", "sport"), ("dst", "dport")):
            match &= (here[port] >= rule[f"{port}_lo"]) & (here[port] <= rule[f"{port}_hi"])
            refs = table.refs[int(rule[f"{side}_off"]) : int(rule[f"{side}_off"]) + int(rule[f"{side}_n"])]
            if len(refs):
                high, low = (words[left] for words in ends[side])
                member = np.zeros(len(left), dtype=np.bool_)
                for ref in refs:
                    member |= _inside(high, low, table.sets[int(ref)], here["family"])
                match &= member
        if rule["proto"] != PROTO_ANY:
            match &= here["proto"] == rule["proto"]
        match &= (here["family"] & rule["family"]) != 0
        found[left[match]] = number
        left = left[~match]
        if not len(left):
            break
    return found
