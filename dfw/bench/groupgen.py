# SPDX-License-Identifier: Apache-2.0
"""A seeded generator of group-based policies, as NSX users write them for a data centre: applications in tiers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from dfw.bench.rulegen import RULES_MAX, TCP, UDP, rules_join
from dfw.classbench import FiveTupleRules, RuleTable, address_rows
from dfw.layout import (
    ACTION_ALLOW,
    ACTION_DROP,
    ACTION_REJECT,
    FAMILY_V4,
    FAMILY_V6,
    RANGE_DTYPE,
    RULE_STATEFUL,
    RULE_TCP_STRICT,
    RangeArray,
    rules_empty,
)

_TIERS: Final = ("web", "app", "db")
_INFRASTRUCTURE: Final = (
    ("dns", ((UDP, 53, 53), (TCP, 53, 53))),
    ("ntp", ((UDP, 123, 123),)),
    ("directory", ((TCP, 88, 88), (UDP, 88, 88), (TCP, 389, 389), (TCP, 636, 636), (TCP, 445, 445))),
    ("syslog", ((UDP, 514, 514), (TCP, 6514, 6514))),
    ("backup", ((TCP, 10000, 10100),)),
)
_MANAGEMENT: Final = ((TCP, 22, 22), (TCP, 3389, 3389), (TCP, 5985, 5986))
_WEB: Final = ((TCP, 80, 80), (TCP, 443, 443))
_APP: Final = ((TCP, 8080, 8080), (TCP, 8443, 8443), (TCP, 8005, 8010), (TCP, 9092, 9092))
_DB: Final = ((TCP, 3306, 3306), (TCP, 5432, 5432), (TCP, 1433, 1433), (TCP, 1521, 1521))

Service = tuple[int, int, int]


class _Writer:
    """Collects sets, references and rules; an entry for each service of a rule, as the compiler makes them."""

    def __init__(self) -> None:
        self.sets: list[RangeArray] = []
        self.refs: list[int] = []
        self.rows: list[tuple[int, ...]] = []
        self.number = 0

    def group(self, ranges: RangeArray) -> int:
        self.sets.append(ranges)
        return len(self.sets) - 1

    def _refer(self, groups: Sequence[int]) -> tuple[int, int]:
        at = len(self.refs)
        self.refs.extend(groups)
        return (at, len(groups)) if groups else (0, 0)

    def rule(self, source: Sequence[int], destination: Sequence[int], services: Iterable[Service], action: int) -> None:
        ends = (*self._refer(source), *self._refer(destination))
        for protocol, low, high in services:
            self.rows.append((self.number, *ends, protocol, low, high, action))
        self.number += 1

    def table(self, count: int, family: int) -> RuleTable:
        rows = np.array(self.rows[:count], np.int64)
        rules = rules_empty(len(rows))
        for column, name in enumerate(("rule", "src_off", "src_n", "dst_off", "dst_n")):
            rules[name] = rows[:, column]
        rules["proto"], rules["dport_lo"], rules["dport_hi"], rules["action"] = rows[:, 5:9].T
        rules["flags"] = RULE_STATEFUL | RULE_TCP_STRICT
        rules["family"] = family
        return RuleTable(rules, np.array(self.refs, np.uint32), tuple(self.sets))


def _members(rng: np.random.Generator, family: int, subnet: int, count: int) -> RangeArray:
    """`count` single addresses of a subnet of 65,536, in pieces of adjacent ones, as address pools hand them out."""
    if count > 8192:
        begin = rng.permutation(65536)[:count]
    else:
        begin = rng.integers(1, 65000, max(1, count // 8))
    hosts = np.unique(np.concatenate([begin + i for i in range(-(-count // len(begin)))]) % 65536)[:count]
    words = np.zeros((len(hosts), 2), np.uint64)
    if family == FAMILY_V4:
        words[:, 1] = np.uint64(0x0A000000 | (subnet & 0xFF) << 16) | hosts.astype(np.uint64)
    else:
        words[:, 0] = np.uint64(0xFD00_0000_0000_0000 | subnet << 16)
        words[:, 1] = hosts.astype(np.uint64)
    ranges = np.zeros(len(hosts), RANGE_DTYPE)
    ranges["lo"] = ranges["hi"] = address_rows(np.full(len(hosts), family, np.uint8), words)
    ranges["family"] = family
    return ranges


def _whole(family: int, subnets: int) -> RangeArray:
    """All subnets of the data centre as one range."""
    ranges = np.zeros(1, RANGE_DTYPE)
    low, high = np.zeros((1, 2), np.uint64), np.zeros((1, 2), np.uint64)
    if family == FAMILY_V4:
        low[0, 1], high[0, 1] = 0x0A000000, 0x0AFFFFFF
    else:
        low[0, 0], high[0, 0] = 0xFD00_0000_0000_0000, 0xFD00_0000_0000_FFFF | subnets << 16
        high[0, 1] = 0xFFFF_FFFF_FFFF_FFFF
    of = np.full(1, family, np.uint8)
    ranges["lo"], ranges["hi"], ranges["family"] = address_rows(of, low), address_rows(of, high), family
    return ranges


def datacenter_generate(count: int, seed: int, family: int = FAMILY_V4, members: int = 12, large: int = 0) -> RuleTable:
    """A policy of exactly `count` classifier entries over groups of single addresses, in priority order.

    Infrastructure for everybody, management from jump hosts, then for each application: clients to web, web to app,
    app to db, replication inside a tier, and the rest of the application refused (by REJECT for every tenth). Groups
    have 1 to 4 * `members` members, mean `members`; `large`, where not 0, is the size of one group of all clients that
    every web rule uses. Raises ValueError for a count outside 1..RULES_MAX or a family that does not exist.
    """
    if not 1 <= count <= RULES_MAX or family not in (FAMILY_V4, FAMILY_V6):
        raise ValueError(f"{count} rules of family {family}: 1 to {RULES_MAX} of family 1 or 2 can be generated")
    rng = np.random.default_rng([seed, count, family, members, large])
    writer = _Writer()
    inside = writer.group(_whole(family, 1 << 16))
    for name, services in _INFRASTRUCTURE:
        servers = writer.group(_members(rng, family, 0, 2 if name != "backup" else 4))
        writer.rule([inside], [servers], services, ACTION_ALLOW)
    jump = writer.group(_members(rng, family, 1, 6))
    writer.rule([jump], [inside], _MANAGEMENT, ACTION_ALLOW)
    clients = [writer.group(np.concatenate([_members(rng, family, 2 + i, 40_000) for i in range(3)])[:large])] * (
        large > 0
    )
    application = 0
    while len(writer.rows) < count:
        subnet = 16 + application % 200 if family == FAMILY_V4 else 16 + application
        sizes = np.clip(rng.geometric(1 / members, len(_TIERS)), 1, 4 * members)
        web, app, db = (writer.group(_members(rng, family, subnet, int(size))) for size in sizes)
        depends = [web]
        if application and rng.random() < 0.3:
            depends.append(int(rng.integers(0, application)) * len(_TIERS) + web - application * len(_TIERS))
        writer.rule(clients, [web], _WEB, ACTION_ALLOW)
        writer.rule(depends, [app], _pick(rng, _APP, 3), ACTION_ALLOW)
        writer.rule([app], [db], _pick(rng, _DB, 2), ACTION_ALLOW)
        writer.rule([db], [db], ((TCP, 7000, 7001),), ACTION_ALLOW)
        refuse = ACTION_REJECT if application % 10 == 9 else ACTION_DROP
        writer.rule([], [web, app, db], ((256, 0, 65535),), refuse)
        application += 1
    return writer.table(count, family)


def _pick(rng: np.random.Generator, services: Sequence[Service], most: int) -> list[Service]:
    chosen = rng.permutation(len(services))[: rng.integers(1, most + 1)]
    return [services[i] for i in sorted(chosen.tolist())]


def table_expand(table: RuleTable, limit: int) -> FiveTupleRules:
    """The same rules without groups, one for each pair of members: what a classifier that knows only five fields needs.

    Only single addresses and ranges that are one prefix can be written so. Raises ValueError for others, for negated
    groups, and where more than `limit` rules would come out.
    """
    parts: list[FiveTupleRules] = []
    total = 0
    prefixes = [_prefix_columns(item) for item in table.sets]
    every = (np.zeros((1, 2), np.uint64), np.zeros(1, np.uint8))
    for row in table.rules:
        if row["flags"] & 24 or row["family"] not in (FAMILY_V4, FAMILY_V6):
            raise ValueError("negated groups and rules of both families cannot be written as five fields")
        ends = []
        for offset, number in (("src_off", "src_n"), ("dst_off", "dst_n")):
            ids = table.refs[row[offset] : row[offset] + row[number]].tolist()
            words, lengths = zip(*(prefixes[i] for i in ids), strict=True) if ids else ((every[0],), (every[1],))
            ends.append((np.concatenate(words), np.concatenate(lengths)))
        (source, source_length), (destination, destination_length) = ends
        many = len(source) * len(destination)
        total += many
        if total > limit:
            raise ValueError(f"more than {limit} rules without groups")
        a, b = np.repeat(np.arange(len(source)), len(destination)), np.tile(np.arange(len(destination)), len(source))
        parts.append(
            FiveTupleRules(
                family=np.full(many, row["family"], np.uint8),
                source=source[a],
                source_length=source_length[a],
                destination=destination[b],
                destination_length=destination_length[b],
                source_ports=np.tile(np.array([row["sport_lo"], row["sport_hi"]], np.uint16), (many, 1)),
                destination_ports=np.tile(np.array([row["dport_lo"], row["dport_hi"]], np.uint16), (many, 1)),
                protocol=np.full(many, row["proto"], np.uint16),
            )
        )
    return rules_join(parts)


def _prefix_columns(ranges: RangeArray) -> tuple[np.ndarray, np.ndarray]:
    """Bases (n, 2) and lengths (n,) of ranges that are prefixes."""
    words, lengths = np.zeros((len(ranges), 2), np.uint64), np.zeros(len(ranges), np.uint8)
    for i, item in enumerate(ranges):
        bits = 32 if item["family"] == FAMILY_V4 else 128
        low, high = (int.from_bytes(item[name].tobytes()[: bits // 8], "big") for name in ("lo", "hi"))
        size = (low ^ high).bit_length()
        if high - low + 1 != 1 << size or low & ((1 << size) - 1):
            raise ValueError("a range that is no prefix cannot be written as five fields")
        words[i] = low >> 64, low & (1 << 64) - 1
        lengths[i] = bits - size
    return words, lengths
