# SPDX-License-Identifier: Apache-2.0
"""Where benign and hostile packets are timed one beside the other: an engine whose table holds so many connections.

A `Scenario` is what is played before (untimed) and what is timed. Every scenario begins with the connections of the
arena and nothing else, so the same scenario meets the same state each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from dfw.bench.frames import ACK, SYN, TCP, Bytes, Frames, addresses, ethernet, frames_interleave, ip_packets, tcp
from dfw.bench.hostile_rules import rules_with
from dfw.classbench import RuleTable
from dfw.core import CTS, REASONS, VERDICTS, Engine, EngineOptions, Ruleset, SavedState, play_frames
from dfw.layout import ACTION_ALLOW, ACTION_DROP, ACTION_REJECT, ALG_FTP, ALG_TFTP, RULE_STATEFUL, rules_empty

STATEFUL, STATELESS, DROP, REJECT = range(4)
"""Filters of the benign rule set, by what all of its rules do; the hostile one's stand HOSTILE further."""
HOSTILE: Final = 4
ALG: Final = 8
"""The filter whose rules follow FTP's control connections (TCP 21) and TFTP (UDP 69)."""
FILTERS: Final = 9
SECOND: Final = 1_000_000_000
BEGUN: Final = 60 * SECOND
"""The clock when all connections that every scenario begins with are there; they began since 0."""
EXPIRED: Final = 120 * SECOND + SECOND // 50
"""The clock when a UDP connection that began at BEGUN and was not answered has run out."""
_TIMERS: Final = (120, 30, 240, 120, 45, 20, 60, 30, 60, 20, 10)
_KINDS: Final = (
    (ACTION_ALLOW, RULE_STATEFUL),
    (ACTION_ALLOW, 0),
    (ACTION_DROP, RULE_STATEFUL),
    (ACTION_REJECT, RULE_STATEFUL),
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`before`: played untimed; `timed`: whose time counts; `judged_again`: every filter gets a new epoch between."""

    before: Frames | None
    timed: Frames
    judged_again: bool = False


@dataclass(frozen=True, slots=True)
class Answers:
    """Judgements by frame, in the words' numbers of dfw.core; a fragment that is still held has verdict 255."""

    verdict: npt.NDArray[np.uint8]
    reason: npt.NDArray[np.uint8]
    ct: npt.NDArray[np.uint8]
    whole: npt.NDArray[np.uint64]

    def words(self) -> dict[str, int]:
        """How many of each verdict, reason and ct."""
        kinds, counts = np.unique(self.whole & np.uint64(0xFFFFFF), return_counts=True)
        found = {}
        for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True):
            verdict, reason, ct = kind & 255, kind >> 8 & 255, kind >> 16
            held = verdict >= len(VERDICTS)
            found["held" if held else f"{VERDICTS[verdict]} {REASONS[reason]} {CTS[ct]}"] = int(count)
        return found


class Arena:
    """An engine of one family whose table is 80 % full of established TCP connections at the filter STATEFUL.

    `connections` of them; `benign` is the rule set of every benign packet. Connection c runs between
    `client(c)` and `server(c)`; both have sent nothing but their SYNs.
    """

    def __init__(self, family: int, connections: int, benign: RuleTable, seed: int) -> None:
        self.family, self.connections, self.benign = family, connections, benign
        self.capacity = connections * 5 // 4
        self.engine = Engine(
            EngineOptions(
                capacity4=self.capacity if family == 1 else 16,
                capacity6=self.capacity if family == 2 else 16,
                filters=FILTERS,
                rules=len(benign.rules) + 1,
                checksums="off",
                sanity="off",
                name_rules=False,
                seed=tuple(int(word) for word in np.random.default_rng(seed).integers(1, 2**63, 6)),
            )
        )
        self._rules_stage(0, benign)
        self._rules_stage(HOSTILE, benign)
        self.engine.stage(ALG, self._alg_rules(), _TIMERS, tap=True)
        self._epoch, self._moved_on = self.engine.commit(), False
        base = self._base()
        play_frames(self.engine, base.data, base.table(), 256)
        self._begin = SavedState(self.engine)

    # ---- rules ------------------------------------------------------------------------------------------------------

    def set_hostile(self, table: RuleTable) -> None:
        """Put another rule set in force at the hostile filters."""
        self._rules_stage(HOSTILE, table)
        self.engine.commit()

    def _rules_stage(self, first: int, table: RuleTable) -> None:
        sets = 1 << 20 if first else 0
        for number, ranges in enumerate(table.sets):
            self.engine.classifier.put_set(sets + number, ranges)
        for kind, (action, flags) in enumerate(_KINDS):
            one = rules_with(table, action=action, flags=flags)
            ruleset = self.engine.classifier.build_staged(one.rules, one.refs + np.uint32(sets))
            self.engine.stage(first + kind, ruleset, _TIMERS, tap=True)

    def _alg_rules(self) -> Ruleset:
        rules = rules_empty(3)
        rules["rule"] = 0
        rules["proto"][:2] = 6, 17
        rules["dport_lo"][:2] = rules["dport_hi"][:2] = 21, 69
        rules["alg"][:2] = ALG_FTP, ALG_TFTP
        return self.engine.classifier.build_staged(rules, np.zeros(0, np.uint32))

    # ---- connections ------------------------------------------------------------------------------------------------

    def client(self, number: npt.NDArray[np.int64]) -> Bytes:
        return addresses(self.family, np.uint64(0x0A000000) | (_mix(number) & np.uint64(0xFFFFFF)))

    def server(self, number: npt.NDArray[np.int64]) -> Bytes:
        return addresses(self.family, np.uint64(0x0B000000) | (_mix(number) >> np.uint64(24) & np.uint64(0xFFFFFF)))

    def client_port(self, number: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return 1024 + number % 60000

    def numbers(self, number: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """What the client and the server send next."""
        mix = _mix(number + 77)
        first, second = mix & np.uint64(0xFFFFFFFF), mix >> np.uint64(32)
        return first.astype(np.int64) + 1, second.astype(np.int64) + 1

    def segments(
        self,
        number: npt.NDArray[np.int64],
        reply: npt.NDArray[np.bool_] | bool,
        flags: int,
        *,
        port: int = 443,
        seq: npt.NDArray[np.int64] | int = 0,
        ack: npt.NDArray[np.int64] | int = 0,
        tcp_options: bytes = b"",
        payload: bytes = b"",
        window: int = 0xFFFF,
        ip_options: bytes = b"",
        tags: int = 0,
        size: int = 60,
    ) -> Frames:
        """Segments of connections; `seq` and `ack` count from what each end sends next after the handshake."""
        count = len(number)
        back = np.broadcast_to(np.asarray(reply), (count,))
        client, server = self.client(number), self.server(number)
        mine, theirs = self.numbers(number)
        column = back[:, None]
        rows = tcp(
            count,
            np.where(back, port, self.client_port(number)),
            np.where(back, self.client_port(number), port),
            np.where(back, theirs, mine) + seq,
            (np.where(back, mine, theirs) + ack) if flags & ACK else 0,
            flags,
            window=window,
            options=tcp_options,
            payload=payload,
        )
        source, destination = np.where(column, server, client), np.where(column, client, server)
        packets = ip_packets(self.family, source, destination, TCP, rows, options=ip_options)
        return ethernet(self.family, packets, tags=tags, size=size)

    def handshakes(self, number: npt.NDArray[np.int64], clock: npt.NDArray[np.int64] | int, port: int = 443) -> Frames:
        """Three segments for each connection, window scale 7."""
        scale, back = b"\x01\x03\x03\x07", False
        steps = [
            self.segments(number, back, SYN, port=port, seq=-1, tcp_options=scale),
            self.segments(number, True, SYN | ACK, port=port, seq=-1, tcp_options=scale),
            self.segments(number, back, ACK, port=port),
        ]
        return frames_interleave([step.at(clock=clock) for step in steps])

    def _base(self) -> Frames:
        order = np.random.default_rng(5).permutation(self.connections)
        clock = np.arange(self.connections) * (BEGUN // self.connections)
        return self.handshakes(order, clock).at(filter_number=STATEFUL)

    # ---- playing ----------------------------------------------------------------------------------------------------

    def play(self, scenario: Scenario, *, batch: int = 32, answers: bool = False) -> tuple[float, Answers | None]:
        """Nanoseconds a timed frame, and what became of each."""
        self._begin.load()
        if self._moved_on:  # back to the epoch of the connections that were kept
            self.engine.set_epoch(self._epoch - 1)
            self.engine.commit(every_filter=True)
            self._moved_on = False
        if scenario.before is not None:
            play_frames(self.engine, scenario.before.data, scenario.before.table(), 256)
        if scenario.judged_again:
            self.engine.commit(every_filter=True)
            self._moved_on = True
        timed = scenario.timed
        kept = np.full(len(timed), 255, np.uint64) if answers else None
        spent = play_frames(self.engine, timed.data, timed.table(), batch, kept)
        if kept is None:
            return spent / len(timed), None
        parts = (kept, kept >> np.uint64(8), kept >> np.uint64(16))
        verdict, reason, ct = ((part & np.uint64(255)).astype(np.uint8) for part in parts)
        return spent / len(timed), Answers(verdict, reason, ct, kept)

    def established(self, clock: int) -> int:
        """How many of the arena's connections a segment of each still belongs to, after what was played last."""
        everyone = np.arange(self.connections)
        asked = self.segments(everyone, everyone % 2 == 1, ACK).at(clock=clock, filter_number=STATEFUL)
        kept = np.zeros(len(asked), np.uint64)
        play_frames(self.engine, asked.data, asked.table(), 32, kept)
        wanted = VERDICTS.index("ALLOW") | REASONS.index("state") << 8 | CTS.index("established") << 16
        return int((kept & np.uint64(0xFFFFFF) == wanted).sum())


def _mix(number: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    out = number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    out = (out ^ (out >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    out = (out ^ (out >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = out ^ (out >> np.uint64(31))
    return mixed
