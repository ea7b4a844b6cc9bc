# SPDX-License-Identifier: Apache-2.0
"""The rule table of each vNIC: the parts of policies that select it, joined in their order, as bytes.

vNICs that the same Applied-Tos select share one table.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

from dfw.incremental.ports import Ports
from dfw.incremental.selections import Part, Selection

Key = tuple[int, ...] | None
"""Numbers of the Selections whose parts a table holds; None at the ports of the exclusion list."""
_ORDER = attrgetter("order")


class Table:
    """Entries (`pal_rule`) in order of judgement, and how many ports have them."""

    __slots__ = ("data", "key", "users")

    def __init__(self, key: Key, data: bytes) -> None:
        self.key = key
        self.data = data
        self.users = 0


class Tables:
    """The tables of all ports. `everywhere`: parts that every port has, in order; `member_of`: by port."""

    def __init__(self, ports: Ports) -> None:
        self.ports = ports
        self.of: list[Table | None] = []
        self.everywhere: list[Part] = []
        self.member_of: list[list[Selection]] = []
        self.excluded: tuple[Selection, ...] = ()
        self.excluded_data = b""
        self._by_key: dict[Key, Table] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def grow(self) -> None:
        """Room for all ports that there are."""
        missing = len(self.ports.ports) - len(self.of)
        self.of += [None] * missing
        self.member_of += [[] for _ in range(missing)]

    def drop(self, slot: int) -> None:
        """A port is gone."""
        table, self.of[slot] = self.of[slot], None
        if table is not None:
            self._unused(table)

    def _unused(self, table: Table) -> None:
        table.users -= 1
        if not table.users and self._by_key.get(table.key) is table:
            del self._by_key[table.key]

    def update(self, slots: Iterable[int]) -> frozenset[str]:
        """Make the tables of these ports anew; the names of those that have another one now."""
        changed: list[str] = []
        made: dict[Key, Table] = {}
        seen: dict[tuple[Selection, ...], Table] = {}  # by members of what they are: most ports are like others
        of, member_of, by_key, excluded = self.of, self.member_of, self._by_key, frozenset(self.excluded)
        for slot in slots:
            member = tuple(member_of[slot])
            table = seen.get(member)
            if table is None:
                selections = [item for item in member if item.parts]
                key: Key = None
                if not excluded or excluded.isdisjoint(member):
                    key = tuple(sorted([item.number for item in selections]))
                table = made.get(key)
                if table is None:
                    data = self.excluded_data if key is None else self._joined(selections)
                    table = by_key.get(key)
                    if table is None or table.data != data:
                        table = by_key[key] = Table(key, data)
                    made[key] = table
                seen[member] = table
            before = of[slot]
            if before is table:
                continue
            of[slot] = table
            table.users += 1
            if before is not None:
                self._unused(before)
            if before is None or before.data != table.data:
                port = self.ports.ports[slot]
                assert port is not None
                changed.append(port.name)
        return frozenset(changed)

    def _joined(self, selections: list[Selection]) -> bytes:
        parts = list(self.everywhere)
        for selection in selections:
            parts += selection.parts
        parts.sort(key=_ORDER)
        return b"".join([part.data for part in dict.fromkeys(parts)])
