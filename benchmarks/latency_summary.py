# SPDX-License-Identifier: Apache-2.0
"""What policy_latency.py asks for and what came of its changes: its command line, and packets against times. Pure."""

from __future__ import annotations

import argparse
import math
import statistics
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TICK = 0.001
RUN = 5  # datagrams in a row that do not arrive: denied, not lost
MOST_HOSTS = 200  # TEPs of one /24
MOST_PODS_A_HOST = 110  # as a Spherelet takes them


class Change(NamedTuple):
    """`at`: when the 2xx was read; `asked`: when it was asked for."""

    way: str
    at: float
    asked: float
    realized: float | None
    condition: float | None


def turn(times: array[float], arrived: bytes, way: str, begun: float, end: float) -> tuple[float | None, int]:
    """When the first datagram was sent that went this way, and how many of those after it did not."""
    first, last = bisect_left(times, begun - 2 * TICK), bisect_left(times, end)
    window = arrived[first : last - 20]  # the last ones may have been under way at the next change
    at = window.find(b"\0" * RUN) if way == "denied" else window.find(b"\1")
    if at < 0:
        return None, 0
    return max(times[first + at], begun), window[at:].count(1 if way == "denied" else 0)


def shares(values: Sequence[float]) -> dict[str, float] | None:
    """p50, p99 and the extremes, in milliseconds; None where there is nothing."""
    found = sorted(values)
    if not found:
        return None
    p99 = found[min(len(found) - 1, int(0.99 * len(found)))]
    return {
        "p50": round(statistics.median(found), 1),
        "p99": round(p99, 1),
        "min": round(found[0], 1),
        "max": round(found[-1], 1),
    }


def summary(changes: Sequence[Change], times: array[float], arrived: Sequence[bytes], end: float) -> dict[str, Any]:
    """From the first 2xx on; the change after each bounds it."""
    rows: dict[str, list[float]] = {"denied": [], "allowed": []}
    stray, unseen = 0, 0
    ends = [*(item.asked for item in changes[1:]), end]
    for item, until in zip(changes, ends, strict=True):
        found = [turn(times, flags, item.way, item.at, until) for flags in arrived]
        stray += sum(more for _, more in found)
        moments = [moment for moment, _ in found if moment is not None]
        unseen += len(found) - len(moments)
        if len(moments) == len(found):
            rows[item.way].append(1000 * (max(moments) - item.at))
    return {
        "last_host_ms": shares(rows["denied"] + rows["allowed"]),
        "denied_ms": shares(rows["denied"]),
        "allowed_ms": shares(rows["allowed"]),
        "realized_ms": shares([1000 * (item.realized - item.at) for item in changes if item.realized]),
        "condition_ms": shares([1000 * (item.condition - item.at) for item in changes if item.condition]),
        "stray": stray,
        "unseen": unseen,
    }


def number(least: int, most: int) -> Callable[[str], int]:
    """A whole number of an option."""

    def read(text: str) -> int:
        try:
            found = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if not least <= found <= most:
            raise argparse.ArgumentTypeError(f"{found} is not from {least} to {most}")
        return found

    return read


def seconds(text: str) -> float:
    """Of an option, not none and not for ever."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found <= 3600:  # nor is nan
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 to 3600")
    return found


def given_read(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. What makes no sense ends with 2 and a sentence."""
    parser = argparse.ArgumentParser(description="From a change at the API to the packets of all hosts.")
    parser.add_argument("--hosts", type=number(1, MOST_HOSTS), default=10)
    parser.add_argument("--pods", type=number(2, MOST_HOSTS * MOST_PODS_A_HOST), default=200, help="all together")
    parser.add_argument("--changes", type=number(1, 1_000_000), default=200, help="half of them deny")
    parser.add_argument("--gap", type=seconds, default=2.0, help="seconds between two changes, at least")
    parser.add_argument("--kubectl", type=number(0, 100_000), default=10, help="further changes, by kubectl")
    parser.add_argument("--new", type=number(0, 100_000), default=20, help="pods that are created one after the other")
    parser.add_argument("-o", dest="output", choices=["table", "json"], default="table")
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    least, most = given.hosts + 1, given.hosts * MOST_PODS_A_HOST
    if not least <= given.pods <= most:
        parser.error(
            f"argument --pods: on {given.hosts} hosts {least} to {most}: one that sends on each, one that hears"
        )
    return given
