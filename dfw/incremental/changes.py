# SPDX-License-Identifier: Apache-2.0
"""What can change (a thing is put there, or removed), and what a change made different in what hosts hold (`Delta`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from dfw.incremental.marks import Hole
from dfw.incremental.packed import packed_has, packed_ranges, range_unflat
from dfw.incremental.templates import PolicyTemplate
from dfw.model import (
    AddressRange,
    FloodBinding,
    FloodLimits,
    Group,
    Machine,
    Namespace,
    Peers,
    Policy,
    Port,
    Segment,
    TimerBinding,
    Timers,
    ranges_merge,
    ranges_subtract,
)


class Stamp(NamedTuple):
    """Policies given as a template, with the namespace, the name and the holes of this instance."""

    template: PolicyTemplate
    namespace: str
    name: str
    holes: tuple[Hole, ...] = ()

    @property
    def key(self) -> str:
        """What it is removed by: as its policies' paths begin."""
        kind, namespace = self.template.kind, self.namespace
        return f"{kind}/{namespace}/{self.name}" if namespace else f"{kind}/{self.name}"


@dataclass(frozen=True, slots=True)
class Staged:
    """A policy that is staged (decision 0010): never in force; it says what would be. One without rules says what
    would be if the enforced one with its key were gone. Removed by that key."""

    policy: Policy | Stamp


@dataclass(frozen=True, slots=True)
class Exclusion:
    """The exclusion list: vNICs at which no policy is in force."""

    peers: Peers


@dataclass(frozen=True, slots=True)
class Clock:
    """The time by which schedules are judged; None where nothing has one."""

    at: float | None


Binding: TypeAlias = TimerBinding | FloodBinding
"""What binds a profile to vNICs."""
Thing: TypeAlias = (
    Port
    | Namespace
    | Machine
    | Segment
    | Group
    | Policy
    | Stamp
    | Staged
    | Exclusion
    | Binding
    | Timers
    | FloodLimits
    | Clock
)
"""What there can be. The Policy with the path `default` is the default section."""


@dataclass(frozen=True, slots=True)
class Remove:
    """Take out by name or path (a Stamp: by its key). What is not there stays away."""

    kind: type[Any]
    key: str


Change: TypeAlias = Thing | Remove
"""A thing is put where nothing has its name or path, and else replaces that."""


class SetChange(NamedTuple):
    """An address set that is new, gone (`after` None) or different. `touched`: the addresses that may have changed, as
    numbers; None where it was computed from nothing."""

    number: int
    name: str
    before: bytes | None
    after: bytes | None
    touched: frozenset[int] | None = None

    @property
    def added(self) -> tuple[AddressRange, ...]:
        """Addresses that are members now and were not."""
        return self._only(self.after or b"", self.before or b"")

    @property
    def removed(self) -> tuple[AddressRange, ...]:
        """Addresses that were members and are not."""
        return self._only(self.before or b"", self.after or b"")

    def _only(self, these: bytes, those: bytes) -> tuple[AddressRange, ...]:
        if self.touched is None:
            return ranges_subtract(packed_ranges(these), packed_ranges(those))
        values = (value for value in self.touched if packed_has(these, value) and not packed_has(those, value))
        return ranges_merge(range_unflat(value, value) for value in values)


@dataclass(frozen=True, slots=True)
class Delta:
    """What an `apply` made different, and nothing else. `tables`: names of ports with another table or a first one;
    `gone`: of those that have none any more; `profiles`: of those with other session timers or flood limits; `layer2`:
    whether the layer-2 lists were made anew; `what_if`: the same of the world with the staged policies in force, which
    begins with everything where there was none (None: nothing is staged)."""

    revision: int
    sets: Mapping[int, SetChange] = field(default_factory=dict)
    tables: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    profiles: frozenset[str] = frozenset()
    layer2: bool = False
    what_if: Delta | None = None
