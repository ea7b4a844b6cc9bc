# SPDX-License-Identifier: Apache-2.0
"""Where the API's objects are kept: bytes by key, with etcd's meanings (records.py, protocol.py), in SQLite, or in etcd
(etcd.py, which needs a package of its own)."""

from supervisor_glue.store.protocol import Store
from supervisor_glue.store.records import (
    Batch,
    CompactedError,
    Condition,
    Delete,
    Event,
    FullError,
    FutureError,
    LeaseError,
    Operation,
    Outcome,
    Put,
    Range,
    Record,
    StoreError,
    TooLargeError,
    UnavailableError,
)
from supervisor_glue.store.sqlite import SqliteStore

__all__ = [
    "Batch",
    "CompactedError",
    "Condition",
    "Delete",
    "Event",
    "FullError",
    "FutureError",
    "LeaseError",
    "Operation",
    "Outcome",
    "Put",
    "Range",
    "Record",
    "SqliteStore",
    "Store",
    "StoreError",
    "TooLargeError",
    "UnavailableError",
]
