# SPDX-License-Identifier: Apache-2.0
"""Brute-force first match: every rule in order, every member of every group. Slow and obvious; nobody optimises it."""

from __future__ import annotations

import numpy as np
from numba import njit

from dfw.classbench import RuleTable


@njit(cache=False)
def _at_most(a, b):
    for i in range(16):
        if a[i] != b[i]:
            return a[i] < b[i]
    return True


@njit(cache=False)
def _member(address, family, refs, first, number, starts, lo, hi, families):
    for r in range(first, first + number):
        for m in range(starts[refs[r]], starts[refs[r] + 1]):
            if families[m] == family and _at_most(lo[m], address) and _at_most(address, hi[m]):
                return True
    return False


@njit(cache=False)
def _first_matches(keys, rules, refs, starts, lo, hi, families):
    out = np.full(len(keys), -1, np.int64)
    for k in range(len(keys)):
        key = keys[k]
        for i in range(len(rules)):
            rule = rules[i]
            if not rule.family & key.family or not rule.dir & key.dir:
                continue
            if rule.proto != 256 and rule.proto != key.proto:
                continue
            if not (rule.sport_lo <= key.sport <= rule.sport_hi and rule.dport_lo <= key.dport <= rule.dport_hi):
                continue
            if (key.tcp_flags & rule.tcp_mask) != rule.tcp_value:
                continue
            if rule.src_n:
                inside = _member(key.src, key.family, refs, rule.src_off, rule.src_n, starts, lo, hi, families)
                if inside == ((rule.flags & 8) != 0):
                    continue
            if rule.dst_n:
                inside = _member(key.dst, key.family, refs, rule.dst_off, rule.dst_n, starts, lo, hi, families)
                if inside == ((rule.flags & 16) != 0):
                    continue
            out[k] = i
            break
    return out


def first_matches(table: RuleTable, keys: np.ndarray) -> np.ndarray:
    """The place of each key's first matching rule, -1 for none."""
    starts = np.concatenate([[0], np.cumsum([len(ranges) for ranges in table.sets])]).astype(np.int64)
    ranges = np.concatenate([*table.sets, np.zeros(1, table.sets[0].dtype if table.sets else _NO_RANGE)])
    return _first_matches(
        keys, table.rules, table.refs, starts, ranges["lo"].copy(), ranges["hi"].copy(), ranges["family"].copy()
    )


_NO_RANGE = np.dtype([("lo", "u1", (16,)), ("hi", "u1", (16,)), ("family", "=u4")])
