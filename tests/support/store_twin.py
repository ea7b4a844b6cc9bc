# SPDX-License-Identifier: Apache-2.0
"""A store written as plainly as its meanings: every state that ever was, each as a dict of its own."""

from __future__ import annotations

from collections.abc import Sequence

from supervisor_glue.store import Condition, Delete, Event, Operation, Outcome, Put, Range, Record


class StoreTwin:
    """See supervisor_glue/store/protocol.py; nothing waits for anything here, and nothing is forgotten."""

    def __init__(self, first: int = 0) -> None:
        """`first`: the revision at which it is empty."""
        self.first = first
        self.states: list[dict[str, Record]] = [{}]
        self.events: list[Event] = []

    @property
    def revision(self) -> int:
        return self.first + len(self.states) - 1

    def state(self, revision: int) -> dict[str, Record]:
        """As of a revision; 0: now."""
        return self.states[revision - self.first if revision else -1]

    def range(self, prefix: str, after: str = "", limit: int = 0, revision: int = 0) -> Range:
        at = revision or self.revision
        state = self.state(at)
        found = [state[key] for key in sorted(state) if key.startswith(prefix) and key > after]
        shown = found[:limit] if limit else found
        return Range(tuple(shown), at, len(found) - len(shown))

    def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> Outcome:
        now = self.states[-1]
        there = tuple(now.get(condition.key) for condition in conditions)
        if any(
            condition.revision != (0 if record is None else record.revision)
            for condition, record in zip(conditions, there, strict=True)
        ):
            return Outcome(False, self.revision, there)
        state, at = dict(now), self.revision + 1
        records: list[Record | None] = []
        for operation in operations:
            before = state.pop(operation.key, None)
            if isinstance(operation, Put):
                created, version = (at, 1) if before is None else (before.created, before.version + 1)
                state[operation.key] = Record(operation.key, operation.value, created, at, version, operation.lease)
            record = state.get(operation.key)
            records.append(record)
            if record is not None or before is not None:
                self.events.append(Event(at, operation.key, record, before))
        if self.events and self.events[-1].revision == at:
            self.states.append(state)
        return Outcome(True, self.revision, tuple(records))

    def lease_end(self, lease: int) -> None:
        self.commit((), [Delete(key) for key, record in self.states[-1].items() if record.lease == lease])

    def seen(self, prefix: str, after: int) -> list[Event]:
        """What a watch sees until now."""
        found = [event for event in self.events if event.revision > after and event.key.startswith(prefix)]
        return sorted(found, key=lambda event: (event.revision, event.key))
