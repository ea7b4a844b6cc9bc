# SPDX-License-Identifier: Apache-2.0
"""Rules' counters that can begin at 0 again, although what counts goes on: only what is shown is less."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Counts = Mapping[str, tuple[int, int, int]]
"""Hits, packets and bytes, by the rule's path; of a staged rule by `staged_key`."""


def staged_key(path: str) -> str:
    """What a staged rule's counts are known by: the rule in force of the same path has its own."""
    return f"staged {path}"


@dataclass(slots=True)
class RuleCounts:
    """What counters said when they were reset. `since`: when that was last; None: never."""

    since: datetime | None = None
    _zero: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def shown(self, counted: Counts) -> dict[str, tuple[int, int, int]]:
        """What has come since."""
        return {
            path: (hits - zero[0], packets - zero[1], octets - zero[2])
            for path, (hits, packets, octets) in counted.items()
            for zero in (self._zero.get(path, (0, 0, 0)),)
        }

    def reset(self, rows: Iterable[Mapping[str, Any]], rules: Collection[str]) -> None:
        """From what these rows (of `show rules --counters`) say, begin at 0 again. `rules`: those that there are."""
        for row in rows:
            key = staged_key(row["rule_path"]) if row.get("staged") else row["rule_path"]
            hits, packets, octets = self._zero.get(key, (0, 0, 0))
            self._zero[key] = (hits + row["hits"], packets + row["packets"], octets + row["bytes"])
        self.keep(rules)
        self.since = datetime.now(UTC)

    def keep(self, rules: Collection[str]) -> None:
        """Of rules that are gone, so are the counters: under the same path comes another one."""
        self._zero = {path: counts for path, counts in self._zero.items() if path in rules}
