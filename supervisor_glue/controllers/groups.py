# SPDX-License-Identifier: Apache-2.0
"""Parts that hosts are told, in groups: of one host alone, or of all hosts in a routing domain. Each remembers what
changed last, so that a watcher that knows where it was finds what is new without looking at the rest."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from overlay.span_parts import part_hash

LOG_ENTRIES: Final = 4096


class Part(NamedTuple):
    """A part's content as it is sent, and its hash."""

    hash: str
    data: bytes


class GroupChange(NamedTuple):
    """The parts of a group that are new or different (None: gone)."""

    key: str
    part: Part | None


@dataclass(slots=True)
class Group:
    """Parts by key. `step` counts changes; `first` is the step before the oldest that is remembered."""

    parts: dict[str, Part] = field(default_factory=dict)
    step: int = 0
    first: int = 0
    _log: deque[str] = field(default_factory=deque)

    def put(self, key: str, data: bytes) -> bool:
        """True where it is another now."""
        old = self.parts.get(key)
        if old is not None and old.data == data:
            return False
        self.parts[key] = Part(part_hash(data), data)
        self._changed(key)
        return True

    def remove(self, key: str) -> bool:
        """True where it was there."""
        if self.parts.pop(key, None) is None:
            return False
        self._changed(key)
        return True

    def replace(self, parts: Mapping[str, bytes]) -> bool:
        """Exactly these from now on. True where that changes something."""
        changed = False
        for key in [key for key in self.parts if key not in parts]:
            changed |= self.remove(key)
        for key, data in parts.items():
            changed |= self.put(key, data)
        return changed

    def after(self, step: int) -> Iterable[GroupChange]:
        """What changed since: each part once, as it is now. Everything, where that is forgotten."""
        if step == self.step:
            return
        if step < self.first:
            for key, part in self.parts.items():
                yield GroupChange(key, part)
            return
        for key in {self._log[at - self.first]: None for at in range(step, self.step)}:
            yield GroupChange(key, self.parts.get(key))

    def _changed(self, key: str) -> None:
        self._log.append(key)
        self.step += 1
        if len(self._log) > LOG_ENTRIES:
            self._log.popleft()
            self.first += 1
