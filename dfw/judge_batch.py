# SPDX-License-Identifier: Apache-2.0
"""Many packets at once through the rules of one filter, by the packet core's classifier: no connections, no frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dfw.compile import Compiled, CompiledRule
from dfw.core import Classifier
from dfw.layout import (
    ACTION_ALLOW,
    KEY_DTYPE,
    NO_MATCH,
    RULE_PERSIST,
    RULE_STATEFUL,
    RULE_TCP_STRICT,
    KeyArray,
)
from dfw.model import PROTO_TCP, PROTOCOLS_WITH_PORTS, Address, Direction
from dfw.witness import Witness

_SYN, _ACK = 0x02, 0x10
Places = npt.NDArray[np.int64]


class Packet(NamedTuple):
    """What the rules look at. ICMP: `sport` is 0, `dport` type · 256 + code, as the core has it."""

    source: Address
    destination: Address
    protocol: int
    sport: int
    dport: int
    tcp_flags: int
    direction: Direction


class BatchJudge:
    """The rules of a vNIC of a compiled policy (None: of a filter on a wire). Raises CoreError."""

    def __init__(self, compiled: Compiled, vnic: str | None) -> None:
        self.compiled = compiled
        self._classifier = Classifier()
        for item in compiled.sets:
            self._classifier.put_set(item.set_id, item.ranges)
        table = compiled.tap if vnic is None else compiled.tables[compiled.table_of[vnic]]
        self.entries = table.entries
        self._refs = np.ascontiguousarray(table.set_refs if len(table.set_refs) else np.zeros(1, np.uint32))
        self._built: dict[int, tuple[Any, Places]] = {}

    def _from(self, tier: int) -> tuple[Any, Places]:
        """The entries of this tier and later ones, and their places."""
        if tier not in self._built:
            places = np.flatnonzero(self.entries["tier"] >= tier)
            rules = np.ascontiguousarray(self.entries[places])
            self._built[tier] = (self._classifier.build(rules, self._refs) if len(places) else None), places
        return self._built[tier]

    def entry_of(self, keys: KeyArray) -> Places:
        """The place of the entry that decides about each key, -1 for none."""
        found = np.full(len(keys), -1, dtype=np.int64)
        left, tiers = np.arange(len(keys)), np.zeros(len(keys), dtype=np.int64)
        while len(left):
            again: list[Places] = []
            for tier in np.unique(tiers[left]).tolist():
                mine = left[tiers[left] == tier]
                ruleset, places = self._from(tier)
                if ruleset is None:
                    continue
                hits = ruleset.lookup(np.ascontiguousarray(keys[mine])).astype(np.int64)
                mine, hits = mine[hits != NO_MATCH], hits[hits != NO_MATCH]
                at = places[hits]
                resume = self.entries["resume"][at].astype(np.int64)
                found[mine[resume == 0]] = at[resume == 0]
                tiers[mine[resume > 0]] = resume[resume > 0]
                again.append(mine[resume > 0])
            left = np.concatenate(again) if again else left[:0]
        return found

    def rule_of(self, entry: int) -> CompiledRule | None:
        """The rule of an entry; None for no rule."""
        return None if entry < 0 else self.compiled.rules[int(self.entries["rule"][entry])]

    def outcomes(self, keys: KeyArray) -> Places:
        """What becomes of each key, as a number: equal numbers are the same action, state, TCP strict and ALG."""
        at = self.entry_of(keys)
        rows = self.entries[np.maximum(at, 0)]
        flags = rows["flags"].astype(np.int64)
        later = (keys["proto"] == PROTO_TCP) & ((keys["tcp_flags"] & (_SYN | _ACK)) != _SYN)
        kept = RULE_STATEFUL | RULE_PERSIST | np.where(later, RULE_TCP_STRICT, 0)
        state = np.where(flags & RULE_STATEFUL, (flags & kept) | rows["alg"].astype(np.int64) << 8, 0)
        found = rows["action"].astype(np.int64) * 65536 + np.where(rows["action"] == ACTION_ALLOW, state, 0)
        return np.where(at < 0, -1, found)


def packet_of(witness: Witness) -> Packet:
    """A witness as the core has it."""
    ports = (0, witness.sport << 8 | witness.dport) if witness.is_icmp else (witness.sport, witness.dport)
    ends = witness.source, witness.destination
    return Packet(*ends, witness.protocol, *ports, witness.tcp_flags, witness.direction)


def keys_of(packets: Iterable[Packet]) -> KeyArray:
    """Packets as keys of the core, in their order."""
    rows = list(packets)
    keys = np.zeros(len(rows), dtype=KEY_DTYPE)
    for at, item in enumerate(rows):
        ports = (item.sport, item.dport)
        if item.protocol not in PROTOCOLS_WITH_PORTS:
            ports = (0, item.dport)
        ends = (np.frombuffer(end.packed.ljust(16, b"\0"), np.uint8) for end in (item.source, item.destination))
        flags = item.tcp_flags if item.protocol == PROTO_TCP else 0
        keys[at] = (*ends, *ports, item.protocol, flags, int(item.source.family), int(item.direction))
    return keys
