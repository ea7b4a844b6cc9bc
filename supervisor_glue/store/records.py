# SPDX-License-Identifier: Apache-2.0
"""What a store holds and says. The meanings are etcd's (https://etcd.io/docs/v3.5/learning/data_model/): one revision
for the whole store, which each transaction that changes something raises by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

MOST_OPERATIONS = 128
"""In one transaction, as etcd has it."""
MOST_BYTES = 1_500_000
"""Of a transaction's keys and values, as etcd has it."""


class StoreError(Exception):
    """The store cannot do it: a sentence."""


class CompactedError(StoreError):
    """What was asked for is from before `compacted`, and forgotten."""

    def __init__(self, compacted: int) -> None:
        super().__init__(f"revisions before {compacted} are forgotten")
        self.compacted = compacted


class FutureError(StoreError):
    """A revision that the store has not reached; `revision` is where it is."""

    def __init__(self, asked: int, revision: int) -> None:
        super().__init__(f"revision {asked} is not there yet; the store is at {revision}")
        self.revision = revision


class UnavailableError(StoreError):
    """The store cannot be reached now, or did not answer: what was being written is there, or is not."""


class FullError(StoreError):
    """The store has no room for what was to be written; nothing of it is there."""


class TooLargeError(ValueError):
    """A transaction has more bytes than a store takes."""


class LeaseError(StoreError):
    """There is no such lease."""

    def __init__(self, lease: int) -> None:
        super().__init__(f"there is no lease {lease}; it may have ended")


class Record(NamedTuple):
    """A key's value. `created`, `revision`: when it was put first since it was last not there, and last; `version`: how
    often since then; `lease`: it goes when that ends (0: it stays)."""

    key: str
    value: bytes
    created: int
    revision: int
    version: int
    lease: int


class Event(NamedTuple):
    """A key's change at `revision`: what it is now (None: it was deleted), and was before (None: it was not there)."""

    revision: int
    key: str
    record: Record | None
    before: Record | None


class Range(NamedTuple):
    """Records in the order of their keys, all as of `revision`; how many more there are."""

    records: tuple[Record, ...]
    revision: int
    remaining: int


class Batch(NamedTuple):
    """What a watch saw: everything up to `revision`, whole transactions, in order."""

    events: tuple[Event, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Condition:
    """The key was last changed at this revision; 0: it is not there."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Set a key's value."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Take a key out; nothing where it is not there."""

    key: str


Operation: TypeAlias = Put | Delete


class Outcome(NamedTuple):
    """Of a transaction. `succeeded`: the conditions held, and all operations were done at `revision`; `records` has
    what each put. Else nothing was done, and `records` has what there is at each condition's key."""

    succeeded: bool
    revision: int
    records: tuple[Record | None, ...]


def transaction_check(conditions: Sequence[Condition], operations: Sequence[Operation]) -> None:
    """Raises ValueError for what is the caller's mistake."""
    keys = [operation.key for operation in operations]
    if len(set(keys)) < len(keys):
        raise ValueError("a transaction changes a key once")
    if len(operations) > MOST_OPERATIONS or len(conditions) > MOST_OPERATIONS:
        raise ValueError(f"a transaction has at most {MOST_OPERATIONS} operations and conditions")
    for key in (*keys, *(condition.key for condition in conditions)):
        key_check(key)
    size = sum(map(len, keys)) + 2 * sum(len(condition.key) for condition in conditions)
    size += sum(len(operation.value) for operation in operations if isinstance(operation, Put))
    if size > MOST_BYTES:
        raise TooLargeError(f"a transaction has at most {MOST_BYTES} bytes, and this one {size}")


def key_check(key: str) -> None:
    """Keys are of ASCII, so that their order is the same in every store. Raises ValueError."""
    if not key or not key.isascii() or "\0" in key:
        raise ValueError(f"{key!r} is no key: ASCII characters, one or more")


def prefix_end(prefix: str) -> str:
    """The first key after all that begin with the prefix. Raises ValueError."""
    key_check(prefix)
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
