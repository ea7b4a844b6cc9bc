# SPDX-License-Identifier: Apache-2.0
"""Staged policies on a host whose kernel enforces: which connections their rules would have allowed, and what they have
counted. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import numpy as np

from dfw.compile import Compiled
from dfw.layout import ETHER_DTYPE, RULE_DTYPE
from dfw.nftables import Rendered
from dfw.nftables.conntrack import EXPECTED, Connection
from dfw.nftables.frame_staged import FRAMES_CUT, FRAMES_PASS_TOO, FRAMES_WOULD_PASS
from dfw.nftables.staged import CUT, KEPT_SHIFT, PASSES_TOO, WOULD_PASS
from overlay.hoststate import HostState
from overlay.kernel_connections import Owners, ends_judged
from overlay.rule_counts import staged_key


def connections_would(
    connections: Iterable[Connection], owners: Owners, staged: Compiled
) -> list[tuple[Connection, int, int]]:
    """Connections in force whose mark says something else of the staged rules than they do now, by the connection's
    first packet; the mark, and which of its bits are meant. Where a stateless rule let it pass, only packets say what
    staged rules think of it. What an ALG announced goes with its parent."""
    known = [item for item in connections if not item.status & EXPECTED]
    wanted, meant = (dict.fromkeys((item.key for item in known), 0) for _ in range(2))
    for item, bit, allows in ends_judged(known, owners, staged):
        meant[item.key] |= bit << KEPT_SHIFT
        wanted[item.key] |= (bit << KEPT_SHIFT) * allows
    return [
        (item, wanted[item.key], meant[item.key]) for item in known if (item.mark ^ wanted[item.key]) & meant[item.key]
    ]


def staged_sums(counts: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Packets that would be cut, and that would newly pass, by layer 3, and by layer 2 at each end. Counters are read
    while packets come."""
    sums = ((WOULD_PASS, PASSES_TOO, CUT), (FRAMES_WOULD_PASS, FRAMES_PASS_TOO, FRAMES_CUT))
    found = [[counts.get(name, (0, 0))[0] for name in names] for names in sums]
    return {
        "cut": sum(cut for _, _, cut in found),
        "pass": sum(max(0, passes - both) for passes, both, _ in found),
    }


def staged_counts(rendered: Rendered, counts: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int, int]]:
    """Hits, packets and bytes of each staged rule: packets that it was asked about."""
    rules = ((rule.path, counts.get(name, (0, 0))) for name, rule in rendered.staged_of.items())
    return {staged_key(path): (packets, packets, octets) for path, (packets, octets) in rules}


def show_staged(
    state: HostState, counts: Mapping[str, tuple[int, int, int]], since: datetime | None
) -> list[dict[str, Any]]:
    """Rows of `show rules --counters`, as overlay/realized.py has them: the staged rules of this host."""
    if state.staged is None:
        return []
    vnics: Counter[int] = Counter()
    for table in state.staged.table_of:
        entries = np.frombuffer(state.staged.tables[table].entries, RULE_DTYPE)
        vnics.update(np.unique(entries["rule"]).tolist())
    for number in state.staged.ether_of:
        if number is not None:
            frames = np.frombuffer(state.staged.ether[number].entries, ETHER_DTYPE)
            vnics.update(np.unique(frames["rule"]).tolist())
    return [
        {
            "rule": rule.rule_id,
            "rule_path": rule.path,
            "tier": rule.tier,
            "action": rule.action,
            "logged": rule.logged,
            "vnics": vnics[number],
            **dict(zip(("hits", "packets", "bytes"), counts.get(staged_key(rule.path), (0, 0, 0)), strict=True)),
            "since": None if since is None else since.isoformat(timespec="milliseconds"),
            "staged": True,
        }
        for number, rule in enumerate(state.staged.rules)
        if vnics[number]
    ]
