# SPDX-License-Identifier: Apache-2.0
"""Replay's records as text, for what does not come from the core: the same bytes as native/io/jsonl.c and decimal.h."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

_NS: Final = 10**9


class Seconds(str):
    """A time in seconds as decimal text: exact, where a float would round a time of today to 240 ns."""


def seconds(ns: int) -> Seconds:
    """Nanoseconds as seconds, up to nine decimals, zeros at the end left out but for the first: 1.25, 1.0."""
    whole, fraction = divmod(ns, _NS)
    return Seconds(f"{whole}.{f'{fraction:09d}'.rstrip('0') or '0'}")


def json_line(pairs: Iterable[tuple[str, Any]]) -> str:
    """One JSON object on a line of its own, in the order given."""
    members = (
        f"{json.dumps(name)}: {value if isinstance(value, Seconds) else json.dumps(value)}" for name, value in pairs
    )
    return f"{{{', '.join(members)}}}\n"
