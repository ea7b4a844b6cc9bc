# SPDX-License-Identifier: Apache-2.0
"""The engine: filters with their configuration, and workers with their connection tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dfw.core.binding import ERROR_BYTES, REASONS, VERDICTS, CoreError, array, ffi, lib, text
from dfw.core.classifier import Classifier, Ruleset
from dfw.layout import RULE_COUNT_DTYPE
from dfw.model import Limits


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Sizes and switches of an engine. `capacity4`, `capacity6`: connections of each family, a worker; `filters`,
    `rules`: numbers below these may be used; `checksums`: off, count, verify; `sanity`: off, count, drop;
    `seed`: six 64-bit numbers for tests, else drawn from the kernel;
    `limits`: budgets at each filter; `name_flows`: without `flows`, connections still know their first packets."""

    capacity4: int = 1 << 20
    capacity6: int = 1 << 18
    filters: int = 1
    rules: int = 65536
    workers: int = 1
    checksums: str = "count"
    decap: bool = False
    sanity: str = "count"
    flows: bool = False
    name_flows: bool = False
    name_rules: bool = True
    huge_pages: bool = False
    seed: tuple[int, ...] = (0, 0, 0, 0, 0, 0)
    path: str | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since the engine was made or cleared. `counts`: (verdict, reason) -> judgements."""

    counts: dict[tuple[str, str], int]
    received: int
    released: int
    bad_ip_sums: int
    bad_l4_sums: int
    odd: int
    created: int
    connections4: int
    connections6: int
    table_bytes: int
    table_capacity: int


class Engine:
    """Filters with their configuration, and workers with their connection tables."""

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        given = ffi.new("pal_engine_options *")
        for name in ("capacity4", "capacity6", "filters", "rules", "workers"):
            setattr(given, name, getattr(options, name))
        given.sums = ("off", "count", "verify").index(options.checksums)
        given.sanity = ("off", "count", "drop").index(options.sanity)
        given.decap, given.name_rules = options.decap, options.name_rules
        given.flows = lib.PAL_FLOWS_KEPT if options.flows else lib.PAL_FLOWS_NAMED * options.name_flows
        given.huge_pages = options.huge_pages
        given.seed = list(options.seed)
        for name in ("half_open", "misses", "rejects", "fragments"):
            sides = (getattr(options.limits, f"{name}_{side}") for side in ("own", "others"))
            setattr(given.limits, name, list(sides))
        for name in ("half_open_prefix", "half_open_prefixes", "rejects_prefix", "rejects_peer"):
            setattr(given.limits, name, getattr(options.limits, name))
        for name in ("fragments_prefix", "fragments_source"):
            setattr(given.limits, name, getattr(options.limits, name))
        error = ffi.new("char[]", ERROR_BYTES)
        path = ffi.NULL if options.path is None else options.path.encode()
        handle = lib.pal_engine_new(given, path, error, ERROR_BYTES)
        if handle == ffi.NULL:
            raise CoreError(text(error))
        self.handle = ffi.gc(handle, lib.pal_engine_free)
        self.classifier = Classifier(self.handle)

    def stage(self, number: int, ruleset: Ruleset | None, timers: Sequence[int], *, tap: bool = False) -> None:
        """Stage filter `number`: its rule set (None: nothing passes) and session timers in seconds, in the order of
        PAL_TIMERS. The engine takes the rule set over. In force after `commit`."""
        handle = ffi.NULL if ruleset is None else ruleset.handle
        if lib.pal_engine_stage(self.handle, number, handle, ffi.new("uint32_t[]", list(timers)), tap) != 0:
            raise CoreError(f"filter {number}: out of bounds, or no memory")

    def stage_flood(self, number: int, limits: Sequence[int]) -> None:
        """Stage how many connections of each kind filter `number` may have at a time: TCP before its handshake is done,
        UDP, ICMP queries, others; 0 is no limit."""
        if lib.pal_engine_stage_flood(self.handle, number, ffi.new("uint32_t[]", list(limits))) != 0:
            raise CoreError(f"filter {number}: out of bounds, or no memory")

    def stage_ether(self, number: int, rules: npt.NDArray[np.void], macs: npt.NDArray[np.uint64]) -> None:
        """Stage a filter's layer-2 rules (ETHER_DTYPE) over these MAC addresses; no rules: every frame passes."""
        rows, numbers = array(rules, "pal_ether_rule *"), array(macs, "uint64_t *")
        if lib.pal_engine_stage_ether(self.handle, number, rows, len(rules), numbers, len(macs)) != 0:
            raise CoreError(f"filter {number}: more layer-2 rules than one filter may have, or no memory")

    def stage_logged(self, rules: Sequence[int]) -> None:
        """Stage which rules are logged, by number: a live host tells what they decide (`dfw.core.watch.read_log`)."""
        if lib.pal_engine_stage_logged(self.handle, ffi.new("uint32_t[]", list(rules)), len(rules)) != 0:
            raise MemoryError("no memory for a configuration")

    def adopt(self, number: int, incarnation: int) -> None:
        """Filter `number` goes on with the connections of this incarnation, of a table that another process left.

        Before anything is staged. Raises CoreError where another filter has it.
        """
        if lib.pal_engine_adopt(self.handle, number, incarnation) != 0:
            raise CoreError(f"filter {number}: no incarnation {incarnation}, or another filter has it")

    def incarnation(self, number: int) -> int:
        """What names the connections of filter `number` in the table's file; 0 before it is staged."""
        return int(lib.pal_engine_incarnation(self.handle, number))

    def remove(self, number: int) -> None:
        """Stage the end of filter `number` and of all its connections."""
        if lib.pal_engine_remove(self.handle, number) != 0:
            raise CoreError(f"filter {number}: out of bounds, or no memory")

    def commit(self, *, every_filter: bool = False) -> int:
        """Put what is staged in force, in one step. Returns the epoch."""
        epoch = int(lib.pal_engine_commit(self.handle, every_filter))
        if epoch == 0:
            raise MemoryError("no memory for a configuration")
        return epoch

    def set_epoch(self, epoch: int) -> None:
        """Wind the epoch on: for tests of its wrap."""
        lib.pal_engine_epoch_set(self.handle, epoch)

    def clear(self) -> None:
        """End every connection; forget counters and clock. Configuration stays."""
        lib.pal_engine_clear(self.handle)

    def stats(self) -> EngineStats:
        """All counters, summed over the workers."""
        raw = ffi.new("pal_engine_stats *")
        lib.pal_engine_stats_read(self.handle, raw)
        counts = {
            (verdict, reason): int(raw.count[v * 128 + r])
            for v, verdict in enumerate(VERDICTS)
            for r, reason in enumerate(REASONS)
            if raw.count[v * 128 + r]
        }
        names = [name for name in EngineStats.__dataclass_fields__ if name not in ("counts",)]
        fields = {"bad_l4_sums": "bad_l4_sums"}
        return EngineStats(counts, **{name: int(getattr(raw, fields.get(name, name))) for name in names})

    def rule_counts(self, rules: int) -> npt.NDArray[np.void]:
        """Hits, packets and bytes of the first `rules` rules, connections still open included."""
        found = np.zeros(rules, dtype=RULE_COUNT_DTYPE)
        lib.pal_engine_rules_read(self.handle, array(found, "pal_rule_count *"), rules)
        return found
