# SPDX-License-Identifier: Apache-2.0
"""What the filters of one worker share, and what each says of a packet."""

from __future__ import annotations

from dataclasses import dataclass, field

from dfw.oracle import alg, tcp
from dfw.oracle.conntrack import ConnectionTable
from dfw.oracle.flow import Connection
from dfw.oracle.policy import MatchedRule

_RESYNC_TICKS = 1_000


@dataclass(slots=True)
class Decision:
    """What becomes of a packet at one filter. `ct` has Linux's meaning; `answers`: IP packets that we generate."""

    verdict: str
    reason: str
    rule: MatchedRule | None
    ct: str
    reply: bool = False
    answers: list[bytes] = field(default_factory=list)
    connection: Connection | None = None  # to which a packet that passes belongs


@dataclass(slots=True)
class Worker:
    """What all filters share: connections, expectations, and the clock in ticks."""

    table: ConnectionTable
    expectations: alg.Expectations = field(default_factory=alg.Expectations)
    now: int = 0
    file: str | None = None
    arrival: int = 0  # of the packet that is judged: its place in the input
    resync_until: int | None = None

    def is_alive(self, connection: Connection) -> bool:
        """Does the connection still exist at this moment?"""
        return self.table.is_alive(connection, self.now)

    def resync_time(self, tracker: tcp.TcpTracker) -> None:
        """Ten seconds after the first packet that met a connection taken over, none is relearned any more."""
        if tracker.resync is None:
            return
        if self.resync_until is None:
            self.resync_until = self.now + _RESYNC_TICKS
        if self.now > self.resync_until:
            tracker.resync = None

    def take_over(self) -> None:
        """Another process goes on: connections stay, and are judged again; what was expected is forgotten."""
        self.expectations = alg.Expectations()
        self.resync_until = None
        for connection in self.table.take_over():
            connection.expectations.clear()
            connection.epoch = 0
            if isinstance(connection.tracker, tcp.TcpTracker):
                tcp.take_over(connection.tracker)
