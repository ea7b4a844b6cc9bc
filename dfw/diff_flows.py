# SPDX-License-Identifier: Apache-2.0
"""Recorded flows under two policies: which would be refused, and which refused ones would pass.

Flow records (`replay --flows`) are judged anew, each by its first packet. Captures are replayed through both policies,
and the connections that arise are compared.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from dfw.compile import compile_policy
from dfw.errors import EnvironmentLacksError, PolicyError
from dfw.judge_batch import BatchJudge, Packet, keys_of
from dfw.layout import ACTION_ALLOW
from dfw.model import PROTO_ICMP, PROTO_ICMPV6, Direction, Family, PolicySet, address_parse
from dfw.replay_run import RunOptions, run_native

RECORD_ENDINGS: Final = (".jsonl", ".json", ".csv", ".parquet")
_KEY: Final = ("vnic", "dir", "proto", "src", "sport", "dst", "dport")
_NUMBERS: Final = ("proto", "sport", "dport", "packets", "bytes")
_SYN: Final = 0x02


def flows_compare(old: PolicySet, new: PolicySet, tap: bool, paths: Sequence[str]) -> dict[str, Any]:
    """Flow records (by their endings) and captures (all else) under both policies. Raises PolicyError, CoreError,
    UnsupportedError, EnvironmentLacksError."""
    records = [record for path in paths if path.endswith(RECORD_ENDINGS) for record in flows_read(path)]
    captures = [path for path in paths if not path.endswith(RECORD_ENDINGS)]
    changed, unknown = flows_judged(old, new, tap, records)
    examined = len(records)
    if captures:
        more, count = _replayed(old, new, tap, captures)
        changed, examined = changed + more, examined + count
    return {"examined": examined, "unknown": unknown, "changed": changed}


def flows_read(path: str) -> list[dict[str, Any]]:
    """The flow records of a file, with numbers as numbers. Raises PolicyError, EnvironmentLacksError."""
    found: list[dict[str, Any]] = []
    try:
        for line, row in _rows(path):
            try:
                record = {name: row[name] for name in (*_KEY, "packets", "bytes")}
                record |= {name: int(record[name]) for name in _NUMBERS}
                for end in ("src", "dst"):
                    address_parse(record[end])
                if record["dir"] not in Direction.__members__:
                    raise ValueError(f"{record['dir']!r} is not IN, OUT or IN_OUT")
            except (KeyError, TypeError, ValueError) as error:
                what = f"the field {error} is missing" if isinstance(error, KeyError) else str(error)
                raise PolicyError.at(
                    path, line, 1, "", f"not a flow record as replay --flows writes it: {what}"
                ) from None
            found.append(record)
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError.at(path, 1, 1, "", f"cannot be read: {error}") from None
    return found


def _rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.endswith(".parquet"):
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise EnvironmentLacksError("pyarrow (for --flows F.parquet)", "pip install pyarrow") from error
        try:
            yield from enumerate(pyarrow.parquet.read_table(path).to_pylist(), 1)
        except pyarrow.ArrowInvalid as error:
            raise PolicyError.at(path, 1, 1, "", f"not a Parquet file: {error}") from None
        return
    with open(path, encoding="utf-8", newline="") as file:
        if path.endswith(".csv"):
            yield from enumerate(csv.DictReader(file), 2)
            return
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise PolicyError.at(path, number, 1, "", f"not a JSON line: {error}") from None
            yield number, row if isinstance(row, dict) else {}


def flows_judged(
    old: PolicySet, new: PolicySet, tap: bool, records: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], int]:
    """The records that one policy lets begin and the other does not, with `change` (passes, refused); how many are of
    vNICs not in both. Raises UnsupportedError."""
    if not records:
        return [], 0
    compiled = [compile_policy(world) for world in (old, new)]
    by_vnic: dict[str | None, list[int]] = {}
    unknown = 0
    for at, record in enumerate(records):
        vnic = None if tap else record["vnic"]
        if vnic is not None and any(vnic not in policy.table_of for policy in compiled):
            unknown += 1
        else:
            by_vnic.setdefault(vnic, []).append(at)
    changes: dict[int, str] = {}
    for vnic, places in by_vnic.items():
        keys = keys_of(_first_packet(records[at]) for at in places)
        verdicts = []
        for policy in compiled:
            judge = BatchJudge(policy, vnic)
            entries = judge.entry_of(keys)
            verdicts.append((entries >= 0) & (judge.entries["action"][np.maximum(entries, 0)] == ACTION_ALLOW))
        for at, was, now in zip(places, *(verdict.tolist() for verdict in verdicts), strict=True):
            if was is not now:
                changes[at] = "passes" if now else "refused"
    return [{"change": changes[at], **records[at]} for at in sorted(changes)], unknown


def _first_packet(record: dict[str, Any]) -> Packet:
    """Of a connection: a SYN; of ICMP the query (`dport` is its type · 256, `sport` the identifier)."""
    source, destination = address_parse(record["src"]), address_parse(record["dst"])
    is_icmp = record["proto"] == (PROTO_ICMP if source.family is Family.IPV4 else PROTO_ICMPV6)
    sport = 0 if is_icmp else record["sport"]
    direction = Direction[record["dir"]]
    return Packet(source, destination, record["proto"], sport, record["dport"], _SYN, direction)


def _replayed(old: PolicySet, new: PolicySet, tap: bool, captures: Sequence[str]) -> tuple[list[dict[str, Any]], int]:
    """The connections that arise under one policy only; how many there are in all."""
    sides: list[dict[tuple[Any, ...], list[dict[str, Any]]]] = []
    with tempfile.TemporaryDirectory(prefix="palisade-diff-") as folder:
        for number, world in enumerate((old, new)):
            path = os.path.join(folder, f"{number}.jsonl")
            result = run_native(world, captures, RunOptions(vnics=not tap, flows=path))
            for item in result.captures:
                if item.error:
                    raise PolicyError.at(item.file, 1, 1, "", item.error)
            found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
            with open(path, encoding="utf-8") as file:
                for line in file:
                    record = json.loads(line)
                    found.setdefault((record["file"], *(record[name] for name in _KEY)), []).append(record)
            sides.append(found)
    counts = [Counter({key: len(records) for key, records in side.items()}) for side in sides]
    changed = [
        {"change": change, **{name: record[name] for name in (*_KEY, "packets", "bytes")}}
        for change, side, missing in (
            ("refused", sides[0], counts[0] - counts[1]),
            ("passes", sides[1], counts[1] - counts[0]),
        )
        for key, count in missing.items()
        for record in side[key][:count]
    ]
    return changed, sum((counts[0] | counts[1]).values())


__all__ = ["flows_compare", "flows_judged", "flows_read"]
