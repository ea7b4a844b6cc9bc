# SPDX-License-Identifier: Apache-2.0
"""Flow records as JSON lines, CSV or Parquet: one a connection (CONTRACT §3, `--flows`)."""

from __future__ import annotations

import csv
import ipaddress
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from dfw.core import Replay, flow_words
from dfw.enforcer import NativeEnforcer

COLUMNS = (
    *(
        "file",
        "vnic",
        "dir",
        "proto",
        "src",
        "sport",
        "dst",
        "dport",
        "packets",
        "bytes",
        "reply_packets",
        "reply_bytes",
    ),
    *("dropped", "state", "history", "start", "end", "end_reason", "rule", "rule_path"),
)


def write_flows(replay: Replay, enforcer: NativeEnforcer, path: str, files: Sequence[str]) -> None:
    """Write all flow records: .csv, .parquet, or for any other ending JSON lines. Raises OSError."""
    if path.endswith(".csv"):
        _write_csv(flow_columns(replay, enforcer, files), path)
    elif path.endswith(".parquet"):
        _write_parquet(flow_columns(replay, enforcer, files), path)
    elif path == "-":
        replay.write_flows(1)
    else:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            replay.write_flows(descriptor)
        finally:
            os.close(descriptor)


def flow_columns(replay: Replay, enforcer: NativeEnforcer, files: Sequence[str]) -> dict[str, list[Any]]:
    """The records by column, in the order of COLUMNS."""
    flows = replay.flows()
    states, ends = flow_words(flows)
    directions = {1: "IN", 2: "OUT"} if enforcer.inventory is not None else {1: "IN_OUT", 2: "IN_OUT"}
    rules = [enforcer.rules[number] for number in flows["rule"]]
    columns: dict[str, list[Any]] = {
        "file": [files[number] for number in flows["file"]],
        "vnic": [enforcer.filters[number] for number in flows["filter"]],
        "dir": [directions[int(number)] for number in flows["dir"]],
        "src": _addresses(flows["src"], flows["family"]),
        "dst": _addresses(flows["dst"], flows["family"]),
        "state": states,
        "history": [text.decode() for text in flows["history"]],
        "start": [int(value) / 1e9 for value in flows["start_ns"]],
        "end": [int(value) / 1e9 for value in flows["end_ns"]],
        "end_reason": ends,
        "rule": [rule.rule_id for rule in rules],
        "rule_path": [rule.path for rule in rules],
    }
    return {name: columns[name] if name in columns else flows[name].tolist() for name in COLUMNS}


def _addresses(rows: np.ndarray[tuple[int, int], np.dtype[np.uint8]], families: Any) -> list[str]:
    return [
        str(ipaddress.ip_address(bytes(row[:4] if family == 1 else row)))
        for row, family in zip(rows, families, strict=True)
    ]


def _write_csv(columns: dict[str, list[Any]], path: str) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _write_parquet(columns: dict[str, list[Any]], path: str) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
