# SPDX-License-Identifier: Apache-2.0
"""Flow records as JSON lines, CSV or Parquet: one a connection (CONTRACT §3, `--flows`).

`start` and `end` are exact decimals in JSON lines and CSV; Parquet has them as doubles, which tell times of today apart
when they are a quarter of a microsecond apart.
"""

from __future__ import annotations

import csv
import io
import ipaddress
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO, Final

from dfw.core import Replay, flow_words
from dfw.enforcer import NativeEnforcer
from dfw.errors import EnvironmentLacksError
from dfw.records import json_line
from dfw.staged_native import StagedBeside

COLUMNS: Final = (
    *("file", "vnic", "dir", "proto", "src", "sport", "dst", "dport"),
    *("packets", "bytes", "reply_packets", "reply_bytes", "dropped"),
    *("state", "history", "start", "end", "end_reason", "rule", "rule_path"),
)
STAGED_COLUMNS: Final = (
    *("staged_verdict", "staged_reason", "staged_rule", "staged_rule_path"),
    *("staged_cut_packets", "staged_pass_packets"),
)
"""Added where policies are staged: what the flow's first packet would have met at this vNIC (nothing: it would not have
come so far), what it let pass there that would have been refused, and what was refused there that would have passed."""
_NUMBERS: Final = frozenset(
    ("proto", "sport", "dport", "packets", "bytes", "reply_packets", "reply_bytes", "dropped", "rule")
    + ("staged_rule", "staged_cut_packets", "staged_pass_packets")
)
_SECONDS: Final = frozenset(("start", "end"))


def check_format(path: str | None) -> None:
    """Raises EnvironmentLacksError where a file of this ending cannot be written here; before the work, not after."""
    if path is not None and path.endswith(".parquet"):
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise EnvironmentLacksError("pyarrow (for --flows F.parquet)", "pip install pyarrow") from error


def write_flows(
    replay: Replay, enforcer: NativeEnforcer, path: str, files: Sequence[str], beside: StagedBeside | None = None
) -> None:
    """Write all flow records of the core: .csv, .parquet, or for any other ending JSON lines. Raises OSError.

    `beside`: what staged policies would do to them, in columns of its own, and after them what would newly pass where
    no connection is: a record of no packets, with how many were `dropped`.
    """
    staged = None
    columns: Sequence[str] = COLUMNS
    new: list[tuple[Any, ...]] = []
    if beside is not None:
        columns = (*COLUMNS, *STAGED_COLUMNS)
        flows = replay.flows()
        staged = beside.changes.of_flows(flows)
        found = beside.changes.new_flows(flows, beside.names(enforcer, files))
        new = [tuple(map(row.__getitem__, columns)) for row in found]
    if path.endswith((".csv", ".parquet")):
        names = [_csv_text(name) for name in files]
        rules = [f"{rule.rule_id},{_csv_text(rule.path)}" for rule in enforcer.rules]
        filters = [_csv_text(name) for name in enforcer.filters]
        staged_rules = [f"{rule.rule_id},{_csv_text(rule.path)}" for rule in beside.enforcer.rules] if beside else []
        staged_rules.append(",")
        if path.endswith(".csv"):
            with open(path, "wb", buffering=0) as file:
                file.write(_csv_header(columns))
                replay.write_flows(
                    file.fileno(), names, filters, rules, csv=True, staged=staged, staged_rules=staged_rules
                )
                _append_new(file.fileno(), new, csv_form=True)
        else:
            with tempfile.TemporaryFile(prefix="palisade-") as spool:
                spool.write(_csv_header(columns))
                spool.flush()
                replay.write_flows(
                    spool.fileno(), names, filters, rules, csv=True, staged=staged, staged_rules=staged_rules
                )
                _append_new(spool.fileno(), new, csv_form=True)
                _write_parquet(spool, path, columns)
        return
    names = [json.dumps(name) for name in files]
    staged_rules = [*(_staged_json(rule.rule_id, rule.path) for rule in beside.enforcer.rules)] if beside else []
    staged_rules.append(_staged_json(None, None))

    def write(descriptor: int) -> None:
        texts = names, enforcer.filter_json(), enforcer.rule_json()
        replay.write_flows(descriptor, *texts, csv=False, staged=staged, staged_rules=staged_rules)
        _append_new(descriptor, new, csv_form=False)

    if path == "-":
        sys.stdout.flush()
        write(1)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        write(descriptor)
    finally:
        os.close(descriptor)


def _append_new(descriptor: int, rows: Iterable[Sequence[Any]], *, csv_form: bool) -> None:
    with open(descriptor, "w", newline="", encoding="utf-8", errors="surrogateescape", closefd=False) as file:
        if csv_form:
            csv.writer(file).writerows(rows)
        else:
            columns = (*COLUMNS, *STAGED_COLUMNS)
            file.writelines(json_line(zip(columns, row, strict=True)) for row in rows)


def _staged_json(rule_id: int | None, path: str | None) -> str:
    return f'"staged_rule": {json.dumps(rule_id)}, "staged_rule_path": {json.dumps(path)}'


def write_rows(rows: Iterable[Sequence[Any]], path: str, columns: Sequence[str] = COLUMNS) -> None:
    """The same from rows of values in the order of `columns`, `start` and `end` being Seconds. Raises OSError."""
    if path.endswith(".csv"):
        with open(path, "w", newline="", encoding="utf-8") as file:
            _write_csv(rows, file, columns)
    elif path.endswith(".parquet"):
        with tempfile.TemporaryFile(prefix="palisade-") as spool:
            text = io.TextIOWrapper(spool, newline="", encoding="utf-8")
            _write_csv(rows, text, columns)
            text.flush()
            _write_parquet(text.detach(), path, columns)
    else:
        lines = (json_line(zip(columns, row, strict=True)) for row in rows)
        if path == "-":
            sys.stdout.writelines(lines)
        else:
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(lines)


def flow_columns(replay: Replay, enforcer: NativeEnforcer, files: Sequence[str]) -> dict[str, list[Any]]:
    """The core's records by column, for those who do not want a file. `start_ns` and `end_ns` instead of seconds."""
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
        "end_reason": ends,
        "rule": [rule.rule_id for rule in rules],
        "rule_path": [rule.path for rule in rules],
    }
    names = [f"{name}_ns" if name in _SECONDS else name for name in COLUMNS]
    return {name: columns[name] if name in columns else flows[name].tolist() for name in names}


def _addresses(rows: Any, families: Any) -> list[str]:
    return [
        str(ipaddress.ip_address(bytes(row[:4] if family == 1 else row)))
        for row, family in zip(rows, families, strict=True)
    ]


def _csv_text(value: str) -> str:
    """A string as Python's csv module would write it."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([value, ""])
    return line.getvalue().removesuffix(",")


def _csv_header(columns: Sequence[str]) -> bytes:
    return f"{','.join(columns)}\r\n".encode()


def _write_csv(rows: Iterable[Sequence[Any]], file: Any, columns: Sequence[str]) -> None:
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows(rows)


def _write_parquet(source: BinaryIO, path: str, columns: Sequence[str]) -> None:
    """A CSV file of ours as Parquet, a piece at a time."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    types = {
        name: pyarrow.int64() if name in _NUMBERS else pyarrow.float64() if name in _SECONDS else pyarrow.string()
        for name in columns
    }
    source.seek(0)
    reader = pyarrow.csv.open_csv(
        source,
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=False),
    )
    with pyarrow.parquet.ParquetWriter(path, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
