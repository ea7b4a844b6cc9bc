# SPDX-License-Identifier: Apache-2.0
"""Seeded generators of rule sets and headers for the classifier's tests and benchmarks.

`acl`, `fw` and `ipc` have the structure of ClassBench's three kinds of seeds (Taylor and Turner, INFOCOM 2005): access
lists with long prefixes and exact destination ports; firewalls with many wildcards and port ranges on both sides, which
is what makes decision trees explode; IP chains between the two. The numbers below are rounded from what those kinds are
published to look like; nothing is copied from a seed file. Group-based policies are in groupgen.py.
The same arguments give the same bytes with the same numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dfw.classbench import FiveTupleRules, RuleTable, keys_build, prefix_masks
from dfw.layout import DIR_OUT, FAMILY_V4, FAMILY_V6, KEY_DTYPE, PROTO_ANY, KeyArray, U64Array

RULES_MAX: Final = 1_000_000

TCP, UDP, ICMP, ICMP6, GRE = 6, 17, 1, 58, 47
Pairs = Sequence[tuple[Any, float]]


@dataclass(frozen=True, slots=True)
class RuleFamily:
    """What a kind of rule set looks like. Shares are weights; prefix lengths are IPv4's.

    `ports`: classes of source and destination ports: any, low (0-1023), high (1024-65535), range, exact. `sites` are
    top-level networks for each 1,000 rules and `hosts` the addresses in use in each; both are drawn with Zipf weights,
    so that prefixes share their upper bits and nest.
    """

    source: Pairs
    destination: Pairs
    ports: Pairs
    protocols: Pairs
    sites: int
    hosts: int
    zipf: float


FAMILIES: Final[Mapping[str, RuleFamily]] = {
    "acl": RuleFamily(
        source=((32, 48), (31, 14), (30, 6), (28, 5), (24, 9), (23, 6), (22, 4), (16, 4), (8, 1), (0, 3)),
        destination=((32, 50), (31, 16), (30, 5), (27, 4), (24, 8), (22, 6), (21, 3), (16, 4), (0, 4)),
        ports=((("any", "exact"), 66), (("any", "any"), 18), (("any", "range"), 11), (("any", "high"), 5)),
        protocols=((TCP, 76), (UDP, 14), (PROTO_ANY, 6), (ICMP, 4)),
        sites=12,
        hosts=120,
        zipf=0.9,
    ),
    "fw": RuleFamily(
        source=((0, 30), (32, 20), (31, 8), (24, 14), (23, 9), (22, 5), (25, 4), (16, 5), (8, 2), (1, 3)),
        destination=((0, 34), (32, 22), (31, 8), (24, 12), (23, 9), (22, 4), (25, 3), (16, 4), (2, 1), (1, 3)),
        ports=(
            (("any", "exact"), 24),
            (("exact", "any"), 14),
            (("any", "any"), 22),
            (("high", "exact"), 14),
            (("exact", "high"), 7),
            (("high", "any"), 6),
            (("any", "high"), 5),
            (("range", "any"), 3),
            (("any", "range"), 3),
            (("low", "exact"), 2),
        ),
        protocols=((TCP, 58), (UDP, 20), (PROTO_ANY, 16), (ICMP, 5), (GRE, 1)),
        sites=25,
        hosts=90,
        zipf=0.6,
    ),
    "ipc": RuleFamily(
        source=((32, 20), (31, 8), (24, 16), (23, 12), (25, 9), (22, 6), (26, 5), (27, 4), (16, 8), (8, 3), (0, 9)),
        destination=((32, 27), (31, 10), (24, 13), (25, 9), (23, 7), (26, 6), (27, 5), (16, 9), (8, 4), (0, 10)),
        ports=(
            (("any", "any"), 35),
            (("any", "exact"), 36),
            (("exact", "any"), 16),
            (("any", "high"), 6),
            (("any", "range"), 3),
            (("range", "any"), 2),
            (("exact", "exact"), 2),
        ),
        protocols=((UDP, 37), (TCP, 32), (PROTO_ANY, 27), (ICMP, 3), (GRE, 1)),
        sites=18,
        hosts=100,
        zipf=0.8,
    ),
}
_SERVICES: Final = (20, 21, 22, 23, 25, 53, 67, 69, 80, 88, 110, 111, 123, 135, 137, 139, 143, 161, 179, 389, 443, 445)
_SERVICES_HIGH: Final = (1433, 1521, 1645, 1812, 2049, 3128, 3306, 3389, 5060, 5432, 5900, 6379, 8080, 8443, 9092, 9200)
# What an IPv4 length stands for in IPv6: sites are /48, subnets /64, hosts /128 (RFC 6177).
_LENGTH_V6: Final = np.array(
    [0, 16, 20, 20, 24, 24, 28, 28, 32, 32, 34, 36, 38, 40, 42, 44, 48, 48, 50, 52, 54, 56, 58, 60, 64]
    + [80, 96, 104, 112, 120, 124, 127, 128],
    np.uint8,
)


def _choose(rng: np.random.Generator, pairs: Pairs, count: int) -> npt.NDArray[np.intp]:
    """Indices into `pairs` by weight."""
    weights = np.array([weight for _, weight in pairs], float)
    return rng.choice(len(pairs), count, p=weights / weights.sum())


def _mix(*words: Any) -> U64Array:
    """A 64-bit hash of the words (splitmix64's finaliser, chained): names of things become their addresses."""
    out: U64Array = np.full(1, 0x9E3779B97F4A7C15, np.uint64)  # an array: numpy warns of scalars that wrap round
    for word in words:
        out = (out ^ np.asarray(word, np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        out = (out ^ (out >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out = out ^ (out >> np.uint64(31))
    return out


def _zipf(rng: np.random.Generator, pool: int, exponent: float, count: int) -> npt.NDArray[np.intp]:
    weights = 1.0 / np.arange(1, pool + 1) ** exponent
    return rng.choice(pool, count, p=weights / weights.sum())


def _prefixes(
    rng: np.random.Generator, family: int, spec: RuleFamily, lengths: Pairs, count: int, sites: int, seed: int
) -> tuple[U64Array, npt.NDArray[np.uint8]]:
    """(n, 2) bases and (n,) lengths of nesting prefixes over a common population of sites and hosts."""
    length = np.array([value for value, _ in lengths], np.uint8)[_choose(rng, lengths, count)]
    site, host = _zipf(rng, sites, spec.zipf, count), _zipf(rng, spec.hosts, spec.zipf, count)
    # A site's hosts crowd into few subnets, as addresses plans do: the third byte has 16 values for each site.
    site_bits, subnet, low = _mix(seed, site), _mix(seed, site, host % 16), _mix(seed, site, host, 7)
    words = np.zeros((count, 2), np.uint64)
    if family == FAMILY_V4:
        upper, byte = np.uint64(0xFFFF), np.uint64(0xFF)
        words[:, 1] = (site_bits & upper) << np.uint64(16) | (subnet & byte) << np.uint64(8) | (low & byte)
    else:
        length = _LENGTH_V6[length]
        site48 = (site_bits & np.uint64(0x0FFFFFFF)) << np.uint64(16)
        words[:, 0] = np.uint64(0x2) << np.uint64(60) | site48 << np.uint64(16) | (subnet & np.uint64(0xFFFF))
        words[:, 1] = low
    return words & prefix_masks(np.full(count, family, np.uint8), length), length


def _ports(rng: np.random.Generator, kind: npt.NDArray[np.str_]) -> npt.NDArray[np.uint16]:
    """(n, 2) port ranges of the classes given."""
    count = len(kind)
    known = np.array(_SERVICES + _SERVICES_HIGH)
    exact = np.where(rng.random(count) < 0.8, known[_zipf(rng, len(known), 0.8, count)], rng.integers(0, 65536, count))
    begin = rng.choice([1024, 2000, 5000, 6000, 8000, 10000, 20000, 30000, 49152], count) + rng.integers(0, 64, count)
    size = rng.choice([1, 2, 4, 10, 16, 63, 100, 999, 5000], count)
    low = np.select([kind == "high", kind == "range", kind == "exact"], [1024, begin, exact], 0)
    high = np.select([kind == "low", kind == "range", kind == "exact"], [1023, begin + size, exact], 65535)
    return np.stack([low, high], axis=1).astype(np.uint16)


def _draw(rng: np.random.Generator, family: int, spec: RuleFamily, count: int, sites: int, seed: int) -> FiveTupleRules:
    source, source_length = _prefixes(rng, family, spec, spec.source, count, sites, seed)
    destination, destination_length = _prefixes(rng, family, spec, spec.destination, count, sites, seed + 1)
    protocol = np.array([value for value, _ in spec.protocols], np.uint16)[_choose(rng, spec.protocols, count)]
    if family == FAMILY_V6:
        protocol[protocol == ICMP] = ICMP6
    classes = np.array([value for value, _ in spec.ports])[_choose(rng, spec.ports, count)]
    ported = (protocol == TCP) | (protocol == UDP)
    classes[~ported] = "any"
    return FiveTupleRules(
        family=np.full(count, family, np.uint8),
        source=source,
        source_length=source_length,
        destination=destination,
        destination_length=destination_length,
        source_ports=_ports(rng, classes[:, 0]),
        destination_ports=_ports(rng, classes[:, 1]),
        protocol=protocol,
    )


def _rows(rules: FiveTupleRules) -> U64Array:
    """One row of words a rule, for telling equal ones."""
    single = (rules.family, rules.source_length, rules.destination_length, rules.protocol)
    pairs = (rules.source, rules.destination, rules.source_ports, rules.destination_ports)
    return np.column_stack([*(x.astype(np.uint64) for x in single), *(x.astype(np.uint64) for x in pairs)])


def rules_take(rules: FiveTupleRules, index: npt.NDArray[np.integer]) -> FiveTupleRules:
    """The rules at these places, in this order."""
    return FiveTupleRules(*(getattr(rules, name)[index] for name in FiveTupleRules.__slots__))


def rules_join(parts: Sequence[FiveTupleRules]) -> FiveTupleRules:
    """The rules of all parts, one after the other."""
    return FiveTupleRules(*(np.concatenate([getattr(p, name) for p in parts]) for name in FiveTupleRules.__slots__))


def rules_generate(kind: str, count: int, seed: int, family: int = FAMILY_V4) -> FiveTupleRules:
    """`count` distinct rules like ClassBench's `acl`, `fw` or `ipc`, of one address family, in priority order.

    Narrow rules tend to stand before wide ones, as in real lists; the last is no catch-all. Raises ValueError for a
    kind that does not exist or a count outside 1..RULES_MAX.
    """
    if kind not in FAMILIES or family not in (FAMILY_V4, FAMILY_V6):
        raise ValueError(f"{kind!r} (family {family}) is not one of {', '.join(FAMILIES)}")
    if not 1 <= count <= RULES_MAX:
        raise ValueError(f"{count} rules: 1 to {RULES_MAX} can be generated")
    spec = FAMILIES[kind]
    rng = np.random.default_rng([seed, sorted(FAMILIES).index(kind), family, count])
    sites = max(4, spec.sites * count // 1000)
    rules = _draw(rng, family, spec, count + count // 4 + 16, sites, seed)
    for _ in range(64):
        _, first = np.unique(_rows(rules), axis=0, return_index=True)
        rules = rules_take(rules, np.sort(first))
        if len(rules) >= count:
            break
        rules = rules_join([rules, _draw(rng, family, spec, count, sites, seed)])
    rules = rules_take(rules, np.arange(min(count, len(rules))))
    bits = 32 if family == FAMILY_V4 else 128
    spread = rules.source_ports[:, 1] - rules.source_ports[:, 0] + 1.0, np.ptp(rules.destination_ports, axis=1) + 1.0
    width = (2 * bits - rules.source_length.astype(float) - rules.destination_length) * (32 / bits)
    width += (np.log2(spread[0]) + np.log2(spread[1])) / 4 + 4 * (rules.protocol == PROTO_ANY)
    return rules_take(rules, np.argsort(width + rng.normal(0, 6, len(rules)), kind="stable"))


# ---- headers --------------------------------------------------------------------------------------------------------


def _within(rng: np.random.Generator, low: U64Array, high: U64Array) -> U64Array:
    """An address (n, 2) in each inclusive range: a corner for every fourth, else anywhere."""
    inside = low | (rng.integers(0, 2**64, low.shape, np.uint64) & (low ^ high))
    over = (inside[:, 0] > high[:, 0]) | ((inside[:, 0] == high[:, 0]) & (inside[:, 1] > high[:, 1]))
    under = (inside[:, 0] < low[:, 0]) | ((inside[:, 0] == low[:, 0]) & (inside[:, 1] < low[:, 1]))
    corner = rng.integers(0, 8, len(low))
    return np.where(((corner == 0) | under)[:, None], low, np.where(((corner == 1) | over)[:, None], high, inside))


def _uniform(rng: np.random.Generator, family: npt.NDArray[np.uint8]) -> U64Array:
    words = rng.integers(0, 2**64, (len(family), 2), np.uint64)
    v4 = family == FAMILY_V4
    words[v4, 0] = 0
    words[v4, 1] &= np.uint64(0xFFFFFFFF)
    return words


def _from_rules(rng: np.random.Generator, table: RuleTable, count: int) -> KeyArray:
    """Headers that match a rule drawn uniformly (an earlier rule may match them too)."""
    sizes = np.array([len(item) for item in table.sets], np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    ranges = np.concatenate(table.sets) if table.sets else None
    rules = table.rules[rng.integers(0, len(table.rules), count)]
    either = rng.choice([FAMILY_V4, FAMILY_V6], count)
    family = np.where(rules["family"] == 3, either, rules["family"]).astype(np.uint8)
    ends: list[U64Array] = []
    for offset, number, negated in (("src_off", "src_n", 8), ("dst_off", "dst_n", 16)):
        some = (rules[number] > 0) & ((rules["flags"] & negated) == 0)
        words = _uniform(rng, family)
        if ranges is not None and some.any():
            pick = rng.integers(0, 2**31, int(some.sum()))
            which = table.refs[rules[offset][some] + pick % rules[number][some]]
            row = ranges[starts[which] + rng.integers(0, 2**31, len(which)) % np.maximum(sizes[which], 1)]
            low, high = (np.ascontiguousarray(row[name]).view(">u8").astype(np.uint64) for name in ("lo", "hi"))
            v4 = row["family"] == FAMILY_V4
            low[v4], high[v4] = _v4_words(low[v4]), _v4_words(high[v4])
            words[some] = np.where((row["family"] == family[some])[:, None], _within(rng, low, high), words[some])
        ends.append(words)
    spans = [
        (rules[f"{side}_lo"].astype(np.int64), rules[f"{side}_hi"].astype(np.int64)) for side in ("sport", "dport")
    ]
    ports = [low + rng.integers(0, 2**31, count) % (high + 1 - low) for low, high in spans]
    free = rng.choice([TCP, UDP, ICMP], count, p=[0.6, 0.3, 0.1])
    protocol = np.where(rules["proto"] == PROTO_ANY, free, rules["proto"])
    keys = keys_build(family, ends[0], ends[1], ports[0], ports[1], protocol)
    keys["tcp_flags"] = np.where(protocol == TCP, rules["tcp_value"], 0)
    keys["dir"] = np.where(rules["dir"] == 3, DIR_OUT, rules["dir"])
    return keys


def _v4_words(words: U64Array) -> U64Array:
    out = np.zeros_like(words)
    out[:, 1] = words[:, 0] >> np.uint64(32)
    return out


def trace_generate(table: RuleTable, count: int, seed: int, share: float = 0.5) -> KeyArray:
    """`count` distinct headers in random order: `share` of them drawn from the rules, the rest uniform over all fields.

    Uniform headers are TCP, UDP and ICMP, and any protocol for one in sixteen, of the families the rules are for. Where
    the rules admit too few distinct headers, uniform ones take their place.
    """
    rng = np.random.default_rng([seed, count, len(table.rules)])
    wanted = int(count * share) if len(table.rules) else 0
    drawn = np.empty(0, KEY_DTYPE)
    for _ in range(4):
        if len(drawn) < wanted:
            drawn = _distinct(np.concatenate([drawn, _from_rules(rng, table, wanted + wanted // 8 + 16)]))
    parts = [drawn[rng.permutation(len(drawn))[:wanted]]]
    families = np.unique(table.rules["family"]) if len(table.rules) else np.array([FAMILY_V4])
    choices = [f for f in (FAMILY_V4, FAMILY_V6) if np.any(families & f)]
    while (missing := count - sum(len(part) for part in parts)) > 0:
        family = rng.choice(np.array(choices, np.uint8), missing)
        protocol = np.where(rng.integers(0, 16, missing) == 0, rng.integers(0, 256, missing), 0)
        protocol = np.where(protocol == 0, rng.choice([TCP, UDP, ICMP], missing, p=[0.6, 0.35, 0.05]), protocol)
        ports = rng.integers(0, 65536, (2, missing))
        keys = keys_build(family, _uniform(rng, family), _uniform(rng, family), ports[0], ports[1], protocol)
        parts.append(_distinct(keys))
    keys = np.concatenate(parts)
    shuffled: KeyArray = keys[rng.permutation(len(keys))[:count]]
    return shuffled


def _distinct(keys: KeyArray) -> KeyArray:
    words = np.ascontiguousarray(keys).view(np.uint64).reshape(-1, 5)
    order = np.lexsort(words.T)
    same = np.concatenate([[False], (words[order][1:] == words[order][:-1]).all(axis=1)])
    once: KeyArray = keys[np.sort(order[~same])]
    return once
