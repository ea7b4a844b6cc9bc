# SPDX-License-Identifier: Apache-2.0
"""Parts that hosts are told, in groups: of one host alone, or of all hosts in a routing domain. Each remembers what
changed last, so that a watcher that knows where it was finds what is new without looking at the rest."""

from __future__ import annotations

import zlib
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from overlay.span_parts import SetChange, part_hash, part_mark

LOG_ENTRIES: Final = 4096  # at least
_COMPRESSION: Final = 6  # made once for all hosts that ask for the whole
_encode: Final = msgspec.json.Encoder().encode


class Part(NamedTuple):
    """A part's content as it is sent, its hash, and by what a host says that it knows it."""

    hash: str
    data: bytes
    mark: bytes


def part_made(key: str, data: bytes) -> Part:
    """A part of this content."""
    content_hash = part_hash(data)
    return Part(content_hash, data, part_mark(key, content_hash))


def parts_pack(parts: Mapping[str, Part]) -> bytes:
    """Parts' contents by key, compressed (zlib)."""
    return zlib.compress(_encode({key: msgspec.Raw(part.data) for key, part in parts.items()}), _COMPRESSION)


class GroupChange(NamedTuple):
    """A part of a group that is new or different (None: gone). `changes`: how a set that was there has become this, one
    after the other; none where the whole is as short, or there was something else before."""

    key: str
    part: Part | None
    changes: tuple[SetChange, ...] = ()


class _Entry(NamedTuple):
    key: str
    change: SetChange | None


@dataclass(slots=True)
class Group:
    """Parts by key. `step` counts changes; `first` is the step before the oldest that is remembered."""

    parts: dict[str, Part] = field(default_factory=dict)
    step: int = 0
    first: int = 0
    _log: deque[_Entry] = field(default_factory=deque)
    _packed: tuple[int, bytes] = (-1, b"")

    def put(self, key: str, data: bytes) -> bool:
        """True where it is another now."""
        old = self.parts.get(key)
        return (old is None or old.data != data) and self.put_part(key, part_made(key, data))

    def put_part(self, key: str, part: Part, change: SetChange | None = None) -> bool:
        """The same for a part that is made. `change`: from what is there now."""
        old = self.parts.get(key)
        if old is not None and old.hash == part.hash:
            return False
        self.parts[key] = part
        self._changed(_Entry(key, change if old is not None else None))
        return True

    def remove(self, key: str) -> bool:
        """True where it was there."""
        if self.parts.pop(key, None) is None:
            return False
        self._changed(_Entry(key, None))
        return True

    def replace(self, parts: Mapping[str, Part]) -> bool:
        """Exactly these from now on. True where that changes something."""
        changed = False
        for key in [key for key in self.parts if key not in parts]:
            changed |= self.remove(key)
        for key, part in parts.items():
            changed |= self.put_part(key, part)
        return changed

    def after(self, step: int) -> Iterable[GroupChange]:
        """What changed since: each part once, as it is now. Everything, where that is forgotten."""
        if step == self.step:
            return
        if step < self.first:
            for key, part in self.parts.items():
                yield GroupChange(key, part)
            return
        found: dict[str, list[SetChange | None]] = {}
        for at in range(step, self.step):
            key, change = self._log[at - self.first]
            found.setdefault(key, []).append(change)
        for key, changes in found.items():
            now = self.parts.get(key)
            told = tuple(change for change in changes if change is not None)
            size = sum(len(change.added) + len(change.removed) + len(change.hash) for change in told)
            if now is None or len(told) != len(changes) or 2 * size >= len(now.data):
                told = ()
            yield GroupChange(key, now, told)

    def packed(self) -> bytes:
        """All parts as parts_pack has them; made once for all who ask before the next change."""
        if self._packed[0] != self.step:
            self._packed = (self.step, parts_pack(self.parts))
        return self._packed[1]

    def _changed(self, entry: _Entry) -> None:
        self._log.append(entry)
        self.step += 1
        if len(self._log) > max(LOG_ENTRIES, 2 * len(self.parts)):
            self._log.popleft()
            self.first += 1


def counted_add(counter: Counter[str], more: Mapping[str, int]) -> None:
    """Add, and keep no zeros."""
    for key, count in more.items():
        counter[key] += count
        if not counter[key]:
            del counter[key]
