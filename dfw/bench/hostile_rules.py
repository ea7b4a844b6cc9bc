# SPDX-License-Identifier: Apache-2.0
"""Rule sets made to be slow, and headers aimed at them: what the adversary's search draws its rules from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from dfw.bench.groupgen import datacenter_generate
from dfw.bench.rulegen import rules_generate, trace_generate
from dfw.classbench import RuleTable, rule_table
from dfw.layout import (
    DIR_ANY,
    KEY_DTYPE,
    RANGE_DTYPE,
    RULE_DST_NEGATED,
    RULE_SRC_NEGATED,
    KeyArray,
    RangeArray,
    rules_empty,
)

RULE_GENES: Final[Mapping[str, tuple[Any, ...]]] = {
    "shape": ("halves", "nested", "ports", "negated", "flags", "acl", "fw", "ipc", "groups"),
    "points": (8, 32, 64),  # addresses that the sets of `halves` are drawn from
    "share": (0.1, 0.5, 0.9),  # of them in each set
    "services": ("any", "one", "ranges", "many"),
    "headers": ("rules", "uniform", "aimed", "few"),
}
"""What a hostile rule set may look like, and how packets are aimed at it."""
_TCP, _UDP = 6, 17


def rules_hostile(genes: Mapping[str, Any], count: int, family: int, seed: int) -> RuleTable:
    """`count` rules with the structure that `genes` (of RULE_GENES) name."""
    rng = np.random.default_rng([seed, count, family])
    shape = genes["shape"]
    if shape in ("acl", "fw", "ipc"):
        table = rule_table(rules_generate(shape, count, seed, family))
    elif shape == "groups":
        table = datacenter_generate(count, seed, family)
    elif shape == "nested":
        table = _nested(count, family, rng)
    else:
        table = _halves(genes, count, family, rng)
    if shape not in ("acl", "fw", "ipc", "groups"):
        _services(table, genes["services"], rng)
    if shape == "negated":
        table.rules["flags"] |= RULE_SRC_NEGATED | RULE_DST_NEGATED
    if shape == "flags":
        table.rules["tcp_mask"] = rng.integers(0, 64, count)
        table.rules["tcp_value"] = table.rules["tcp_mask"] & rng.integers(0, 64, count)
        table.rules["proto"] = _TCP
    if shape == "ports":
        table.rules["src_n"] = table.rules["dst_n"] = 0
    return table


def rules_with(table: RuleTable, *, action: int, flags: int) -> RuleTable:
    """The same rules, all of one action and these flags beside their negations, and one more behind them that matches
    everything."""
    negations = table.rules["flags"] & (RULE_SRC_NEGATED | RULE_DST_NEGATED)
    last = rules_empty(1)
    last["rule"] = len(table.rules)
    rules = np.concatenate([table.rules, last])
    rules["action"], rules["dir"] = action, DIR_ANY
    rules["flags"] = np.concatenate([negations, np.zeros(1, negations.dtype)]) | flags
    return RuleTable(rules, table.refs, table.sets)


def headers_draw(table: RuleTable, genes: Mapping[str, Any], count: int, family: int, seed: int) -> KeyArray:
    """TCP and UDP headers of one family: aimed at the rules, uniform, or a few repeated ones from other ports."""
    rng = np.random.default_rng([seed, count])
    share = {"rules": 1.0, "uniform": 0.0, "aimed": 1.0, "few": 1.0}[genes["headers"]]
    keys: KeyArray = np.zeros(0, KEY_DTYPE)
    wanted = 64 if genes["headers"] == "few" else count
    for attempt in range(8):
        if len(keys) < wanted:
            more = trace_generate(table, 2 * wanted + 64, seed + attempt, share)
            fits = np.isin(more["proto"], (_TCP, _UDP)) & (more["family"] == family)
            keys = np.concatenate([keys, more[fits]])
    keys = keys[rng.integers(0, len(keys), count)] if len(keys) < count else keys[:count]
    if genes["headers"] == "aimed" and table.sets:
        # Both ends out of the sets that stand in the middle: where the most of them overlap.
        ranges = np.concatenate(table.sets)
        ranges = ranges[ranges["family"] == family]
        for name in ("src", "dst"):
            keys[name] = ranges["lo"][rng.integers(0, len(ranges), count)]
    if genes["headers"] == "few":
        keys["sport"] = rng.integers(1, 65536, count)
    return keys


# ---- shapes ---------------------------------------------------------------------------------------------------------


def _points(numbers: np.ndarray, family: int) -> RangeArray:
    from dfw.bench.frames import addresses

    out = np.zeros(len(numbers), RANGE_DTYPE)
    out["lo"] = out["hi"] = addresses(family, numbers.astype(np.uint64))
    out["family"] = family
    return out


def _halves(genes: Mapping[str, Any], count: int, family: int, rng: np.random.Generator) -> RuleTable:
    """Every rule has a set of its own at each end, a random part of the same few addresses: no two rows are alike, and
    rows of both ends have bits in every word."""
    points = int(genes["points"]) if count <= 4096 else 8
    numbers = 0x0A640000 + 257 * np.arange(points)
    sets = []
    for _ in range(2 * count):
        inside = rng.random(points) < genes["share"]
        inside[rng.integers(0, points)] = True
        sets.append(_points(numbers[inside], family))
    rules = rules_empty(count)
    rules["family"] = family
    rules["src_off"], rules["src_n"] = np.arange(count), 1
    rules["dst_off"], rules["dst_n"] = count + np.arange(count), 1
    return RuleTable(rules, np.arange(2 * count, dtype=np.uint32), tuple(sets))


def _nested(count: int, family: int, rng: np.random.Generator) -> RuleTable:
    """Ranges inside ranges inside ranges: the innermost address is in every set."""
    middle, sets = 0x0A800000, []
    for i in range(2 * count):
        one = np.zeros(1, RANGE_DTYPE)
        for name, number in (("lo", middle - i - 1), ("hi", middle + i + 1)):
            one[name] = _points(np.array([number]), family)["lo"]
        one["family"] = family
        sets.append(one)
    order = rng.permutation(count).astype(np.uint32)
    rules = rules_empty(count)
    rules["family"] = family
    rules["src_off"], rules["src_n"] = np.arange(count), 1
    rules["dst_off"], rules["dst_n"] = count + np.arange(count), 1
    return RuleTable(rules, np.concatenate([order, order + np.uint32(count)]), tuple(sets))


def _services(table: RuleTable, kind: str, rng: np.random.Generator) -> None:
    """Ports of all rules, in place."""
    rules, count = table.rules, len(table.rules)
    if kind == "one":
        rules["proto"], rules["dport_lo"], rules["dport_hi"] = _TCP, 443, 443
    elif kind == "ranges":
        rules["proto"] = rng.choice([_TCP, _UDP], count)
        for side in ("sport", "dport"):
            ends = np.sort(rng.integers(0, 65536, (count, 2)), axis=1)
            rules[f"{side}_lo"], rules[f"{side}_hi"] = ends.T
    elif kind == "many":
        rules["proto"] = rng.choice([_TCP, _UDP], count)
        rules["dport_lo"] = rules["dport_hi"] = rng.permutation(65536)[:count] if count <= 65536 else 1
        rules["sport_lo"], rules["sport_hi"] = 0, rng.integers(1, 65536, count)
