# SPDX-License-Identifier: Apache-2.0
"""Parts that hosts are told, in groups: of one host alone, or of all hosts in a routing domain. Each remembers what
changed last, so that a watcher that knows where it was finds what is new without looking at the rest."""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

import msgspec

from overlay.span_parts import SetChange, marks_split, part_hash, part_mark, sum_with

LOG_ENTRIES: Final = 4096  # at least, of a group that many hosts share
OWN_LOG_ENTRIES: Final = 128  # at least, of a host's own
_COMPRESSION: Final = 6  # made once for all hosts that ask for the whole
_COMPARED: Final = 4  # different things that hosts say they know, for which the answer is kept
_Key = TypeVar("_Key")
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
    """Parts' contents by key, compressed (zlib), as a string of JSON (base64 in quotes): it is many hosts' line."""
    raw = _encode({key: msgspec.Raw(part.data) for key, part in parts.items()})
    return b'"%b"' % b64encode(zlib.compress(raw, _COMPRESSION))


class GroupChange(NamedTuple):
    """A part of a group that is new or different (None: gone). `changes`: how a set that was there has become this, one
    after the other; none where the whole is as short, or there was something else before."""

    key: str
    part: Part | None
    changes: tuple[SetChange, ...] = ()


class Compared(NamedTuple):
    """What a host lacks of a group, by what it says that it knows: parts (or all of them, packed, where it lacks most),
    and the marks that nothing here has."""

    parts: Mapping[str, Part]
    packed: tuple[bytes, ...]
    unknown: frozenset[bytes]


class _Entry(NamedTuple):
    key: str
    change: SetChange | None


@dataclass(slots=True)
class Group:
    """Parts by key. `step` counts changes; `first` is the step before the oldest that is remembered
    (`log_entries` of them, or twice as many as there are parts); `sum` is that of
    the parts' marks (sum_with): a host that knows this group at a step that was told says so by it."""

    parts: dict[str, Part] = field(default_factory=dict)
    log_entries: int = LOG_ENTRIES
    step: int = 0
    first: int = 0
    sum: int = 0
    _log: deque[_Entry] = field(default_factory=deque)
    _packed: tuple[int, bytes] = (-1, b"")
    _told: dict[int, int] = field(default_factory=dict)  # steps by sum, in their order
    _compared: dict[bytes, Compared] = field(default_factory=dict)  # of the step as it is

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
        self.sum = sum_with(self.sum, None if old is None else old.mark, part.mark)
        self._changed(_Entry(key, change if old is not None else None))
        return True

    def remove(self, key: str) -> bool:
        """True where it was there."""
        old = self.parts.pop(key, None)
        if old is None:
            return False
        self.sum = sum_with(self.sum, old.mark, None)
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

    def told(self) -> int:
        """The step, which is told to a host now."""
        if next(reversed(self._told.values()), -1) != self.step:
            self._told.pop(self.sum, None)
            self._told[self.sum] = self.step
            while (oldest := next(iter(self._told.items())))[1] < self.first:
                del self._told[oldest[0]]
        return self.step

    def step_of(self, known: int) -> int | None:
        """The last step with this sum that was told, or is now; None: it is not remembered."""
        step = self.step if known == self.sum else self._told.get(known, -1)
        return step if step >= self.first else None

    def compared(self, marks: bytes) -> Compared:
        """With what a host says that it knows; made once for all that say the same before the next change."""
        found = self._compared.get(marks)
        if found is None:
            known = marks_split(marks)
            news = {key: part for key, part in self.parts.items() if part.mark not in known}
            unknown = known - {part.mark for part in self.parts.values()}
            is_most = 2 * len(news) > len(self.parts)
            found = Compared({} if is_most else news, (self.packed(),) if is_most else (), unknown)
            if len(self._compared) >= _COMPARED:
                del self._compared[next(iter(self._compared))]
            self._compared[marks] = found
        return found

    def _changed(self, entry: _Entry) -> None:
        self._log.append(entry)
        self._compared.clear()
        self.step += 1
        if len(self._log) > max(self.log_entries, 2 * len(self.parts)):
            self._log.popleft()
            self.first += 1


def counted_add(counter: Counter[str], more: Mapping[str, int]) -> None:
    """Add, and keep no zeros."""
    for key, count in more.items():
        counter[key] += count
        if not counter[key]:
            del counter[key]


def left_behind(holders: dict[_Key, set[str]], keys: Iterable[_Key], holder: str) -> None:
    """One does not hold these any more. What nobody holds is forgotten."""
    for key in keys:
        holders[key].discard(holder)
        if not holders[key]:
            del holders[key]


class HeldSets:
    """Which hosts have which address sets, by number."""

    def __init__(self) -> None:
        self.on: dict[int, set[str]] = {}
        self._of: dict[str, frozenset[int]] = {}

    def hold(self, host: str, sets: Iterable[int]) -> None:
        """A host has these, and no others."""
        now = frozenset(sets)
        left_behind(self.on, self._of.pop(host, frozenset()) - now, host)
        for number in now:
            self.on.setdefault(number, set()).add(host)
        if now:
            self._of[host] = now


def looking_count(
    looking: dict[int, Counter[str]], before: Mapping[str, frozenset[int]], now: Mapping[str, frozenset[int]]
) -> None:
    """Count at which sets a host's policies look now: of a set that changes, the policies of all its hosts are found
    without asking each host."""
    for policies, others, more in ((before, now, -1), (now, before, 1)):
        for path, looked_at in policies.items():
            for number in looked_at - others.get(path, frozenset()):
                counted_add(looking.setdefault(number, Counter()), {path: more})
                if not looking[number]:
                    del looking[number]
