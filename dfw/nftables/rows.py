# SPDX-License-Identifier: Apache-2.0
"""The entries of many rule tables as one array: what is asked of all of them is asked once. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from dfw.compile import RuleTable
from dfw.layout import RULE_DTYPE, RuleArray

SIDES: Final = ("src", "dst")
_Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TableRows:
    """`entries` of all tables in a row; `bounds`: where each begins, and the end. `refs`, by side: the address sets of
    those entries, entry by entry; `ref_bounds`: likewise."""

    entries: RuleArray
    bounds: _Numbers
    refs: Mapping[str, npt.NDArray[np.uint32]]
    ref_bounds: Mapping[str, _Numbers]


def tables_flat(tables: Sequence[RuleTable]) -> TableRows:
    """These tables in this order."""
    # By their octets: to put arrays of many fields together compares the fields, each time.
    entries = np.frombuffer(b"".join(table.entries.tobytes() for table in tables), RULE_DTYPE)
    bounds = _bounds(np.array([len(table.entries) for table in tables], dtype=np.int64))
    # Tables of one policy share their list of references; those of a host's state have one each.
    lists = {id(table.set_refs): table.set_refs for table in tables}
    begins = dict(
        zip(lists, _bounds(np.array([len(some) for some in lists.values()], np.int64)).tolist(), strict=False)
    )
    every = np.concatenate([np.zeros(0, np.uint32), *lists.values()])
    base = np.repeat([begins[id(table.set_refs)] for table in tables], np.diff(bounds)).astype(np.int64)
    refs, ref_bounds = {}, {}
    for side in SIDES:
        counts = entries[f"{side}_n"].astype(np.int64)
        first = _bounds(counts)
        places = np.repeat(base + entries[f"{side}_off"] - first[:-1], counts)
        refs[side] = every[places + np.arange(len(places))]
        ref_bounds[side] = first[bounds]
    return TableRows(entries, bounds, refs, ref_bounds)


def _bounds(counts: _Numbers) -> _Numbers:
    found = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=found[1:])
    return found
