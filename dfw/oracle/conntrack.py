# SPDX-License-Identifier: Apache-2.0
"""The connection table: a dict with two entries a connection, expiry by a test of the deadline, eviction in order."""

from __future__ import annotations

from dataclasses import dataclass, field

from dfw.model import FloodLimits, Limits, Timers
from dfw.oracle import icmp
from dfw.oracle.flow import Connection
from dfw.oracle.limits import HalfOpen
from dfw.oracle.packet import ICMP, ICMPV6, IPV4, TCP, UDP, Packet
from dfw.oracle.sctp import SctpState, SctpTracker
from dfw.oracle.tcp import TcpState, TcpTracker, is_bare_syn

TICKS_PER_SECOND = 100
NS_PER_TICK = 10_000_000

Key = tuple[str, int, int, int, int, int, int, int]

_TCP_TIMERS = {
    TcpState.SYN_SENT: "tcp_first_packet",
    TcpState.SYN_SENT2: "tcp_opening",
    TcpState.SYN_RECEIVED: "tcp_opening",
    TcpState.ESTABLISHED: "tcp_established",
    TcpState.FIN_WAIT: "tcp_closing",
    TcpState.CLOSING: "tcp_finwait",
    TcpState.TIME_WAIT: "tcp_finwait",
    TcpState.CLOSED: "tcp_closed",
}
_SCTP_TIMERS = {
    SctpState.COOKIE_WAIT: "tcp_opening",
    SctpState.COOKIE_ECHOED: "tcp_opening",
    SctpState.ESTABLISHED: "tcp_established",
    SctpState.SHUTDOWN: "tcp_closing",
    SctpState.SHUTDOWN_ACK: "tcp_finwait",
    SctpState.CLOSED: "tcp_closed",
}


def key_of(filter_name: str, vrf: int, packet: Packet) -> Key | None:
    """The look-up key in the packet's own direction; None for a packet that never has a connection.

    ICMP: identifier and query type stand for the ports, and the asking end comes first, in answers too.
    """
    source, destination = packet.source, packet.destination
    ports = packet.source_port, packet.destination_port
    if packet.icmp_type >= 0:
        query = icmp.query_of(packet)
        if query is None:
            return None
        ports = packet.identifier, query[0] * 256
        if query[1]:
            source, destination = destination, source
    return (filter_name, vrf, packet.ip_version, packet.protocol, source, destination, *ports)


def timeout_ticks(connection: Connection, timers: Timers) -> int:
    """How long the connection lives after its last packet, in ticks (section 5, Timers)."""
    tracker = connection.tracker
    if isinstance(tracker, TcpTracker):
        name = _TCP_TIMERS[tracker.state]
        if not connection.replied and tracker.state is not TcpState.CLOSED:
            name = "tcp_first_packet"
    elif isinstance(tracker, SctpTracker):
        name = _SCTP_TIMERS[tracker.state]
        if not connection.replied and tracker.state is not SctpState.CLOSED:
            name = "tcp_first_packet"
    elif connection.protocol == (ICMP if connection.ip_version == IPV4 else ICMPV6):
        name = "icmp_error_reply" if connection.replied else "icmp_first_packet"
    elif connection.replied:
        name = "udp_multiple"
    else:
        name = "udp_single" if connection.accepted > 1 else "udp_first_packet"
    seconds: int = getattr(timers, name)
    return seconds * TICKS_PER_SECOND


@dataclass(slots=True)
class ConnectionTable:
    """All connections of one worker. `capacity`: connections of each family; None is no limit."""

    capacity: int | None = None
    limits: Limits = field(default_factory=Limits)
    half_open: HalfOpen | None = None  # where unanswered connections have budgets
    ended: list[Connection] = field(default_factory=list)
    _by_key: dict[Key, tuple[Connection, int]] = field(default_factory=dict)
    _living: dict[int, Connection] = field(default_factory=dict)  # by number, hence in order of creation
    _created: int = 0
    _count: dict[int, int] = field(default_factory=lambda: {4: 0, 6: 0})

    def __post_init__(self) -> None:
        limits = self.limits
        if limits.half_open_own or limits.half_open_others or limits.half_open_prefix:
            self.half_open = HalfOpen(limits, self.end, timeout_reason)

    def find(self, key: Key, packet: Packet, now: int) -> tuple[Connection, int] | None:
        """The living connection of a key, and the packet's direction in it."""
        found = self._by_key.get(key)
        if found is None:
            return None
        connection, direction = found
        if now > connection.deadline:
            self.end(connection, timeout_reason(connection))
            return None
        if packet.icmp_type >= 0:  # the key has the asking end first
            query = icmp.query_of(packet)
            direction = query[1] if query else 0
        return connection, direction

    def next_number(self) -> int:
        """Number for a new connection."""
        self._created += 1
        return self._created

    def insert(self, connection: Connection) -> None:
        """Index a connection in both directions; the caller made room."""
        forward, reply = _keys(connection)
        self._by_key[reply] = (connection, 1)
        self._by_key[forward] = (connection, 0)
        self._living[connection.number] = connection
        self._count[connection.ip_version] += 1
        if self.half_open is not None:
            self.half_open.enter(connection)

    def end(self, connection: Connection, reason: str) -> None:
        """Take a connection out of the table; its record keeps the reason."""
        connection.ended = reason
        if self.half_open is not None:
            self.half_open.leave(connection)
        for key in _keys(connection):
            self._by_key.pop(key, None)
        del self._living[connection.number]
        self._count[connection.ip_version] -= 1
        self.ended.append(connection)

    def take_over(self) -> list[Connection]:
        """Another process goes on with the table; nobody is on an account. All connections, oldest first."""
        if self.half_open is not None:
            self.half_open = HalfOpen(self.limits, self.end, timeout_reason)
        for connection in self._living.values():
            connection.account = None
        return list(self._living.values())

    def is_flooded(self, filter_name: str, flood: FloodLimits, packet: Packet, now: int) -> bool:
        """Has a filter as many connections of the kind that begins with this packet as it may have?"""
        kind = flood_kind_of_packet(packet)
        limit = 0 if kind is None else getattr(flood, kind)
        if not limit:
            return False
        own = [item for item in self._living.values() if item.filter_name == filter_name and flood_kind(item) == kind]
        return bool(limit <= sum(self.is_alive(item, now) for item in own))

    def make_room(self, ip_version: int, now: int) -> bool:
        """Is there room for one more of this family? Expired ones go first, then the oldest unanswered (section 11)."""
        if self.capacity is None or self._count[ip_version] < self.capacity:
            return True
        same_family = [item for item in self._living.values() if item.ip_version == ip_version]
        for item in same_family:
            if now > item.deadline:
                self.end(item, timeout_reason(item))
        if self._count[ip_version] < self.capacity:
            return True
        for item in same_family:
            if not item.replied and item.ended is None and item.parent is None:  # an ALG's children are let be
                self.end(item, "evicted")
                return True
        return False

    def is_alive(self, connection: Connection, now: int) -> bool:
        """Does this connection still exist? One past its deadline is ended here."""
        if connection.ended is None and now > connection.deadline:
            self.end(connection, timeout_reason(connection))
        return connection.ended is None

    def flush(self, now: int) -> list[Connection]:
        """End of input: every connection, in order of creation."""
        for connection in list(self._living.values()):
            if now > connection.deadline:
                self.end(connection, timeout_reason(connection))
        for connection in list(self._living.values()):
            parent = connection.parent
            self.end(connection, "parent" if parent is not None and parent.ended not in (None, "open") else "open")
        return sorted(self.ended, key=lambda connection: connection.number)


def flood_kind(connection: Connection) -> str | None:
    """The limit of FloodLimits that a connection counts under; None: TCP whose handshake is done."""
    tracker = connection.tracker
    if isinstance(tracker, TcpTracker):
        before = (TcpState.SYN_SENT, TcpState.SYN_SENT2, TcpState.SYN_RECEIVED)
        return "tcp_half_open" if tracker.state in before else None
    return _flood_kind(connection.ip_version, connection.protocol)


def flood_kind_of_packet(packet: Packet) -> str | None:
    """The limit that a connection which begins with this packet counts under; None: TCP picked up in mid-stream."""
    if packet.protocol == TCP:
        return "tcp_half_open" if is_bare_syn(packet) else None
    return _flood_kind(packet.ip_version, packet.protocol)


def _flood_kind(ip_version: int, protocol: int) -> str:
    if protocol == UDP:
        return "udp_active"
    return "icmp_active" if protocol == (ICMP if ip_version == IPV4 else ICMPV6) else "other_active"


def timeout_reason(connection: Connection) -> str:
    """Why a connection past its deadline ended: a closed one ended before, by FIN or RST."""
    match connection.tracker:
        case TcpTracker(state=TcpState.TIME_WAIT):
            return "fin"
        case TcpTracker(state=TcpState.CLOSED) | SctpTracker(state=SctpState.CLOSED):
            return "rst"
        case _:
            return "timeout"


def _keys(connection: Connection) -> tuple[Key, Key]:
    """Both directions' keys; ICMP has one, with the asking end first."""
    start = (connection.filter_name, connection.vrf, connection.ip_version, connection.protocol)
    ends = connection.source, connection.destination
    ports = connection.source_port, connection.destination_port
    forward = (*start, *ends, *ports)
    if connection.protocol == (ICMP if connection.ip_version == IPV4 else ICMPV6):
        return forward, forward
    return forward, (*start, *ends[::-1], *ports[::-1])
