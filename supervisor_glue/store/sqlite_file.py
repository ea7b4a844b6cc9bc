# SPDX-License-Identifier: Apache-2.0
"""A store's file: its schema, and what is asked of it, each in one SQLite transaction. Nothing here knows of tasks.

Every change of a key is a row, and stays until it is compacted. `superseded` is the revision of the key's next row, so
that what is there at any revision is one comparison, and what is there now has an index of its own.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from supervisor_glue.store.records import (
    CompactedError,
    Condition,
    Event,
    FutureError,
    LeaseError,
    Operation,
    Outcome,
    Put,
    Range,
    Record,
    StoreError,
    prefix_end,
)

VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE state (compacted INTEGER NOT NULL, revision INTEGER NOT NULL, next_lease INTEGER NOT NULL) STRICT;
INSERT INTO state VALUES (0, 0, 1);
CREATE TABLE record (
    revision INTEGER NOT NULL, key TEXT NOT NULL, value BLOB, created INTEGER NOT NULL, version INTEGER NOT NULL,
    lease INTEGER NOT NULL, superseded INTEGER
) STRICT;
CREATE UNIQUE INDEX record_by_revision ON record (revision, key);
CREATE UNIQUE INDEX record_by_key ON record (key, revision);
CREATE UNIQUE INDEX record_now ON record (key) WHERE superseded IS NULL;
CREATE INDEX record_by_lease ON record (lease) WHERE superseded IS NULL AND lease <> 0;
CREATE INDEX record_old ON record (superseded) WHERE superseded IS NOT NULL;
CREATE TABLE lease (id INTEGER PRIMARY KEY, seconds REAL NOT NULL) STRICT;
"""
_COLUMNS: Final = "key, value, created, revision, version, lease"
_HISTORY: Final = 1000  # events that are read at a time, and those of the last one's transaction

_COMPACTED: Final = 5000  # rows that are deleted at a time


class Transaction(NamedTuple):
    """See `commit` in protocol.py."""

    conditions: tuple[Condition, ...]
    operations: tuple[Operation, ...]


class LeaseEnd(NamedTuple):
    """The lease and its keys go."""

    lease: int


Request: TypeAlias = Transaction | LeaseEnd
Done: TypeAlias = "tuple[Outcome, tuple[Event, ...]] | StoreError"


class State(NamedTuple):
    """Where a store is."""

    compacted: int
    revision: int


class StoreFile:
    """The file, open: one connection that writes, and one that reads beside it. Each is for one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Raises StoreError: it is in use, of a newer version, or no store."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.writer = _connection(path)
            self._migrate(path)
            self.reader = _connection(path)
            self.revision = self.state(self.writer).revision
        except BlockingIOError:
            os.close(self._lock)
            raise StoreError(f"{path} is in use by another process") from None
        except (sqlite3.Error, StoreError) as error:
            os.close(self._lock)
            raise StoreError(f"{path}: {error}") from error

    def close(self) -> None:
        """Nobody uses it any more."""
        self.reader.close()
        self.writer.close()
        os.close(self._lock)

    def _migrate(self, path: Path) -> None:
        (version,) = self.writer.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise StoreError(f"made by a newer version: its schema is {version}, this one knows {VERSION}")
        if version == 0:
            os.chmod(path, 0o600)
            self.writer.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {VERSION};COMMIT;")

    @staticmethod
    def state(connection: sqlite3.Connection) -> State:
        """Where the store is, as this connection sees it."""
        return State(*connection.execute("SELECT compacted, revision FROM state").fetchone())

    # The reader's.

    def get(self, key: str, revision: int) -> Record | None:
        """See protocol.py."""
        with _Transaction(self.reader, "BEGIN"):
            state = self.state(self.reader)
            at = revision or state.revision
            _bounds_check(at, state)
            row = self.reader.execute(
                f"SELECT {_COLUMNS} FROM record WHERE key = ? AND revision <= ? ORDER BY revision DESC LIMIT 1",
                (key, at),
            ).fetchone()
        return None if row is None or row[1] is None else Record._make(row)

    def range(self, prefix: str, after: str, limit: int, revision: int) -> Range:
        """See protocol.py."""
        with _Transaction(self.reader, "BEGIN"):
            state = self.state(self.reader)
            at = revision or state.revision
            _bounds_check(at, state)
            where = "key >= ? AND key > ? AND key < ? AND value IS NOT NULL AND "
            given: list[str | int] = [prefix, after, prefix_end(prefix)]
            if at == state.revision:
                where += "superseded IS NULL"
            else:
                where += "revision <= ? AND (superseded IS NULL OR superseded > ?)"
                given += [at, at]
            rows = self.reader.execute(
                f"SELECT {_COLUMNS} FROM record WHERE {where} ORDER BY key LIMIT ?", [*given, limit or -1]
            ).fetchall()
            remaining = 0
            if limit and len(rows) == limit:
                given[1] = rows[-1][0]
                (remaining,) = self.reader.execute(f"SELECT count(*) FROM record WHERE {where}", given).fetchone()
        return Range(tuple(map(Record._make, rows)), at, remaining)

    def history(self, prefix: str, after: int, until: int) -> tuple[tuple[Event, ...], int]:
        """The events at revisions after `after`, and up to which revision these are all: `until`, or before it where
        there are many. Raises CompactedError."""
        with _Transaction(self.reader, "BEGIN"):
            state = self.state(self.reader)
            if after < state.compacted:
                raise CompactedError(state.compacted)
            given = (after, until, prefix, prefix_end(prefix))
            bound = "revision > ? AND revision <= ? AND key >= ? AND key < ?"
            last = self.reader.execute(
                f"SELECT revision FROM record WHERE {bound} ORDER BY revision LIMIT 1 OFFSET {_HISTORY - 1}", given
            ).fetchone()
            end = until if last is None else last[0]
            rows = self.reader.execute(
                "SELECT now.key, now.value, now.created, now.revision, now.version, now.lease,"
                " old.value, old.created, old.revision, old.version, old.lease"
                " FROM record now LEFT JOIN record old ON old.key = now.key AND old.superseded = now.revision"
                " WHERE now.revision > ? AND now.revision <= ? AND now.key >= ? AND now.key < ?"
                " ORDER BY now.revision, now.key",
                (after, end, prefix, prefix_end(prefix)),
            ).fetchall()
        return tuple(map(_event, rows)), end

    # The writer's.

    def apply(self, requests: Sequence[Request]) -> list[Done]:
        """All of them, one after the other, and on disk together; raises sqlite3.Error, and then none of them."""
        done: list[Done] = []
        revision = self.revision
        with _Transaction(self.writer, "BEGIN IMMEDIATE"):
            for request in requests:
                if isinstance(request, LeaseEnd):
                    found: Done = self._end(request.lease, revision)
                else:
                    found = self._apply_one(request.conditions, request.operations, revision)
                done.append(found)
                if not isinstance(found, StoreError):
                    revision = found[0].revision
            if revision > self.revision:
                self.writer.execute("UPDATE state SET revision = ?", (revision,))
        self.revision = revision
        return done

    def _apply_one(self, conditions: Sequence[Condition], operations: Sequence[Operation], revision: int) -> Done:
        there = [self._now(condition.key) for condition in conditions]
        for condition, record in zip(conditions, there, strict=True):
            if condition.revision != (0 if record is None else record.revision):
                return Outcome(False, revision, tuple(there)), ()
        for operation in operations:
            if isinstance(operation, Put) and operation.lease and not self._has_lease(operation.lease):
                return LeaseError(operation.lease)
        records: list[Record | None] = []
        events: list[Event] = []
        at = revision + 1
        for operation in operations:
            before = self._now(operation.key)
            record = None
            if isinstance(operation, Put):
                created, version = (at, 1) if before is None else (before.created, before.version + 1)
                record = Record(operation.key, operation.value, created, at, version, operation.lease)
            records.append(record)
            if record is not None or before is not None:
                self._put(operation.key, record, at)
                events.append(Event(at, operation.key, record, before))
        events.sort(key=lambda event: event.key)
        return Outcome(True, at if events else revision, tuple(records)), tuple(events)

    def _now(self, key: str) -> Record | None:
        row = self.writer.execute(
            f"SELECT {_COLUMNS} FROM record WHERE key = ? AND superseded IS NULL AND value IS NOT NULL", (key,)
        ).fetchone()
        return None if row is None else Record._make(row)

    def _put(self, key: str, record: Record | None, at: int) -> None:
        self.writer.execute("UPDATE record SET superseded = ? WHERE key = ? AND superseded IS NULL", (at, key))
        row = (at, key, None, 0, 0, 0)
        if record is not None:
            row = (at, key, record.value, record.created, record.version, record.lease)  # type: ignore[assignment]
        self.writer.execute(
            "INSERT INTO record (revision, key, value, created, version, lease) VALUES (?, ?, ?, ?, ?, ?)", row
        )

    def compact(self, revision: int) -> None:
        """From now on nobody asks for what was before this revision. Raises FutureError."""
        with _Transaction(self.writer, "BEGIN IMMEDIATE"):
            if revision > self.revision:
                raise FutureError(revision, self.revision)
            self.writer.execute("UPDATE state SET compacted = max(compacted, ?)", (revision,))

    def forget(self) -> bool:
        """Deletes some rows that nobody asks for any more. Were these all?"""
        with _Transaction(self.writer, "BEGIN IMMEDIATE"):
            compacted = self.state(self.writer).compacted
            count = 0
            for which in ("superseded <= ?", "superseded IS NULL AND value IS NULL AND revision <= ?"):
                chosen = f"SELECT rowid FROM record WHERE {which} LIMIT {_COMPACTED}"
                count += self.writer.execute(f"DELETE FROM record WHERE rowid IN ({chosen})", (compacted,)).rowcount
        return count == 0

    def _has_lease(self, lease: int) -> bool:
        return self.writer.execute("SELECT 1 FROM lease WHERE id = ?", (lease,)).fetchone() is not None

    def leases(self) -> dict[int, float]:
        """The leases there are, and their seconds."""
        return dict(self.writer.execute("SELECT id, seconds FROM lease").fetchall())

    def lease_new(self, seconds: float) -> int:
        """A number that no lease had before."""
        with _Transaction(self.writer, "BEGIN IMMEDIATE"):
            (lease,) = self.writer.execute("SELECT next_lease FROM state").fetchone()
            self.writer.execute("UPDATE state SET next_lease = next_lease + 1")
            self.writer.execute("INSERT INTO lease VALUES (?, ?)", (lease, seconds))
        return int(lease)

    def _end(self, lease: int, revision: int) -> Done:
        if not self._has_lease(lease):
            return LeaseError(lease)
        self.writer.execute("DELETE FROM lease WHERE id = ?", (lease,))
        rows = self.writer.execute(
            f"SELECT {_COLUMNS} FROM record WHERE lease = ? AND lease <> 0 AND superseded IS NULL ORDER BY key",
            (lease,),
        ).fetchall()
        at = revision + 1 if rows else revision
        for row in rows:
            self._put(row[0], None, at)
        return Outcome(True, at, ()), tuple(Event(at, row[0], None, Record._make(row)) for row in rows)


class _Transaction:
    """Commits, or rolls back where something is raised, the commit itself included."""

    def __init__(self, connection: sqlite3.Connection, begin: str) -> None:
        self._connection = connection
        self._begin = begin

    def __enter__(self) -> None:
        self._connection.execute(self._begin)

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")


def _connection(path: Path) -> sqlite3.Connection:
    """What a commit has returned from outlives a power cut (https://sqlite.org/pragma.html#pragma_synchronous)."""
    made = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    made.execute("PRAGMA journal_mode = WAL")
    made.execute("PRAGMA synchronous = FULL")
    made.execute("PRAGMA cache_size = -65536")
    made.execute("PRAGMA busy_timeout = 10000")
    return made


def _bounds_check(at: int, state: State) -> None:
    if at > state.revision:
        raise FutureError(at, state.revision)
    if at < state.compacted:
        raise CompactedError(state.compacted)


def _event(row: Sequence[object]) -> Event:
    key, value, created, revision, version, lease, *old = row
    record = None if value is None else Record(key, value, created, revision, version, lease)  # type: ignore[arg-type]
    before = None if old[0] is None else Record(key, *old)  # type: ignore[arg-type]
    return Event(revision, key, record, before)  # type: ignore[arg-type]
