# SPDX-License-Identifier: Apache-2.0
"""What a policy becomes: rules written, rules on vNICs, entries, addresses, bytes; and which rules make most of it.

Pure. A rule grows in three ways: by the vNICs that its Applied-To selects, by its services (an entry for each
combination of service entry and port range), and by the addresses of its groups. Each is told apart, so that a user
sees what to change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dfw.compile import Compiled, compile_policy
from dfw.layout import RANGE_DTYPE, RULE_DTYPE
from dfw.model import Place, PolicySet


@dataclass(frozen=True, slots=True)
class RuleGrowth:
    """One rule. `vnics`: where it is programmed; `entries`: in each of their tables; `programmed_bytes`: of them all;
    `ranges`: in its address sets."""

    path: str
    place: Place | None
    vnics: int
    entries: int
    ranges: int
    programmed_bytes: int


@dataclass(frozen=True, slots=True)
class Explosion:
    """`rules_written`: enabled ones, without the default section; `rules_on_vnics`, `entries_on_vnics`: summed over
    vNICs. Bytes: `table_bytes` of the distinct tables, `programmed_bytes` of each vNIC's for itself, `set_bytes` of the
    address sets, which all share. `rules`: those that are programmed in most bytes first.
    """

    rules_written: int
    vnics: int
    rules_on_vnics: int
    entries_on_vnics: int
    tables: int
    table_bytes: int
    programmed_bytes: int
    sets: int
    set_ranges: int
    set_bytes: int
    rules: tuple[RuleGrowth, ...]


def explosion_of(world: PolicySet) -> Explosion:
    """What the packet core would hold for a world; policies with a schedule count as in force.

    Raises UnsupportedError.
    """
    always = tuple(replace(policy, schedule=None) for policy in world.policies)
    world = replace(world, policies=always)
    compiled = compile_policy(world)
    ports = np.bincount(list(compiled.table_of.values()), minlength=len(compiled.tables))
    count = len(compiled.rules)
    vnics = np.zeros(count, dtype=np.int64)
    on_vnics = np.zeros(count, dtype=np.int64)
    for table, users in zip(compiled.tables, ports.tolist(), strict=True):
        entries = np.bincount(table.entries["rule"], minlength=count)
        vnics += (entries > 0) * users
        on_vnics += entries * users
    written = np.bincount(compiled.tap.entries["rule"], minlength=count)
    places = {rule.path: rule.place for policy in world.policies for rule in policy.rules}
    ranges = _ranges(compiled)
    rules = [
        RuleGrowth(
            rule.path,
            places.get(rule.path),
            int(vnics[rule.number]),
            int(written[rule.number]),
            ranges.get(rule.number, 0),
            int(on_vnics[rule.number]) * RULE_DTYPE.itemsize,
        )
        for rule in compiled.rules[:count]
        if rule.path in places
    ]
    set_ranges = sum(len(item.ranges) for item in compiled.sets)
    return Explosion(
        rules_written=sum(not rule.disabled for policy in always for rule in policy.rules),
        vnics=len(compiled.table_of),
        rules_on_vnics=int(vnics.sum()),
        entries_on_vnics=int(on_vnics.sum()),
        tables=len(compiled.tables),
        table_bytes=sum(table.entries.nbytes for table in compiled.tables),
        programmed_bytes=int(on_vnics.sum()) * RULE_DTYPE.itemsize,
        sets=len(compiled.sets),
        set_ranges=set_ranges,
        set_bytes=set_ranges * RANGE_DTYPE.itemsize,
        rules=tuple(sorted(rules, key=lambda item: (-item.programmed_bytes, -item.ranges, item.path))),
    )


def _ranges(compiled: Compiled) -> dict[int, int]:
    """By rule: the ranges of the distinct sets that its entries refer to."""
    used: dict[int, set[int]] = {}
    fields = ("rule", "src_off", "src_n", "dst_off", "dst_n")
    for rule, source, sources, destination, destinations in np.unique(compiled.tap.entries[list(fields)]).tolist():
        references = compiled.tap.set_refs
        found = used.setdefault(rule, set())
        found.update(references[source : source + sources].tolist())
        found.update(references[destination : destination + destinations].tolist())
    return {rule: sum(len(compiled.sets[number].ranges) for number in numbers) for rule, numbers in used.items()}
