# SPDX-License-Identifier: Apache-2.0
"""Captures through the oracle: which filters judge a packet, in which order, and the lines that come of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from dfw.model import (
    PROTOCOLS_WITH_PORTS,
    Address,
    Direction,
    Family,
    Inventory,
    Limits,
    PolicySet,
    Port,
    mac_packed,
)
from dfw.oracle.conntrack import NS_PER_TICK, ConnectionTable
from dfw.oracle.filter import Filter
from dfw.oracle.flow import Connection, Flow
from dfw.oracle.fragment import FragmentStore, Piece
from dfw.oracle.icmp import query_of
from dfw.oracle.packet import IPV4, Packet
from dfw.oracle.parse import parse
from dfw.oracle.policy import MatchedRule, Rules
from dfw.oracle.reject import is_group_address
from dfw.oracle.worker import Decision, Worker

TAP = "tap"


class AmbiguousVnicError(ValueError):
    """An address that several vNICs have, in one routing domain, in a packet whose MAC addresses do not tell."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to replay. `tap`: one filter on a wire (else at the vNICs of the inventory); `capacity`: of the connection
    table, for each family; `keep`: remember all judgements until `finish`."""

    tap: bool = True
    clock_stopped: bool = False
    verify_checksums: bool = False
    decap: bool = False
    capacity: int | None = None
    limits: Limits = field(default_factory=Limits)
    keep: bool = True


class Ends(NamedTuple):
    """Who talks to whom, in the packet's direction. Ports as in a flow record, None in fragments. `wire`: bytes."""

    wire: int
    ip_version: int  # 0: not IP
    protocol: int
    source: int
    destination: int
    source_port: int | None
    destination_port: int | None


class Judgement(NamedTuple):
    """One line of `--verdicts` (CONTRACT section 3). `n`: from 1 in each file; `ts_ns`: the capture's time in
    nanoseconds; `length`: IP bytes. `order`: the packet's place in the input; `flow`: that of the packet that began its
    connection, where it passes, 0: none; `ends`: who talks to whom.
    """

    n: int
    ts_ns: int
    vnic: str | None
    dir: str | None
    verdict: str
    reason: str
    rule: int | None
    rule_path: str | None
    ct: str
    reply: bool
    file: str | None = None
    length: int = 0
    order: int = 0
    flow: int = 0
    ends: Ends | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """A packet that we would have sent because of packet `n`: from IP up, at a vNIC."""

    n: int
    ts_ns: int
    vnic: str
    data: bytes


@dataclass(slots=True)
class RuleStatistics:
    """hits: first matches; packets, bytes: of all judgements that name the rule."""

    rule: int
    rule_path: str
    hits: int = 0
    packets: int = 0
    bytes: int = 0


class _Arrival(NamedTuple):
    """An input packet: its place in the input, its number in its file, its time and file."""

    order: int
    n: int
    ts_ns: int
    file: str | None
    wire: int


class _Hop(NamedTuple):
    """A packet at a filter, and the filters where it goes on if it passes: one, or all receivers of a group's."""

    arrival: _Arrival
    at: Filter
    direction: Direction
    then: tuple[Filter, ...] = ()


class _Line(NamedTuple):
    order: int
    direction: int
    judgement: Judgement


class Replay:
    """Judges packets one by one. `policyset` None: nothing is committed yet, so that nothing passes.

    With `inventory` and `options.tap` False the vNICs judge (OUT at the sender's, then IN at the receiver's); else one
    filter on a wire does.
    """

    def __init__(
        self, policyset: PolicySet | None, inventory: Inventory | None = None, options: Options | None = None
    ) -> None:
        self.options = options or Options()
        self.generated: list[Generated] = []
        self.statistics: dict[str, RuleStatistics] = {}
        self._worker = Worker(ConnectionTable(self.options.capacity, self.options.limits))
        self._fragments: FragmentStore[_Hop] = FragmentStore(self.options.verify_checksums, self.options.limits)
        self._inventory = None if self.options.tap else inventory or Inventory()
        self._filters: dict[str, Filter] = {}
        self._tap = Filter(TAP, self._worker)
        self._rules: Rules | None = None
        self._clock_ns = 0
        self._order = 0
        self._lines: list[_Line] = []
        self._by_mac = self._index_macs()
        if policyset is not None:
            self.commit(policyset)

    def commit(self, policyset: PolicySet) -> None:
        """Put another policy in force, for all filters at once; connections are judged again on their next packet."""
        self._rules = Rules(policyset)
        if self._inventory is None:
            self._tap.commit(
                self._rules.for_port(None), self._rules.ether_for_port(None), policyset.timers, policyset.flood
            )
        for name, item in self._filters.items():
            self._commit_port(item, self._ports[name], self._rules)

    @staticmethod
    def _commit_port(item: Filter, port: Port, rules: Rules) -> None:
        timers, flood = rules.world.timers_for(port), rules.world.flood_for(port)
        item.commit(rules.for_port(port), rules.ether_for_port(port), timers, flood)

    def begin_file(self, name: str) -> None:
        """The packets that follow are another file's; connections and clock stay."""
        self._worker.file = name

    def feed(self, n: int, ts_ns: int, data: bytes, wire_length: int, link_type: int) -> list[Judgement]:
        """Judge one captured packet. Returns the judgements that are now decided, those of held fragments included.

        Raises ValueError for an unsupported link type, AmbiguousVnicError where two vNICs could be meant.
        """
        options = self.options
        packet = parse(data, link_type, wire_length, decap=options.decap, verify=options.verify_checksums)
        if not options.clock_stopped:
            self._clock_ns = max(self._clock_ns, ts_ns)
            self._worker.now = self._clock_ns // NS_PER_TICK
        self._order += 1
        self._worker.arrival = self._order
        arrival = _Arrival(self._order, n, ts_ns, self._worker.file, wire_length)
        lines: list[_Line] = []
        if self._inventory is None:
            self._judge(_Hop(arrival, self._tap, Direction.IN_OUT), packet, lines)
        else:
            self._judge_ends(self._inventory, packet, arrival, lines)
        if options.keep:
            self._lines += lines
        return [line.judgement for line in lines]

    @property
    def fed(self) -> int:
        """How many packets it was given: `order` of the last one's judgements."""
        return self._order

    def take_over(self) -> None:
        """Another process goes on with the table of connections (section 14). Fragments held are lost: incomplete."""
        lines: list[_Line] = []
        self._refuse_fragments(self._fragments.flush(self._worker.now), lines)
        self._lines += lines
        self._worker.take_over()
        for item in (self._tap, *self._filters.values()):
            item.take_over()

    def finish(self) -> list[Judgement]:
        """End of input: fragments still held are refused. Returns all judgements (`keep`) sorted by packet."""
        lines: list[_Line] = []
        self._refuse_fragments(self._fragments.flush(self._worker.now), lines)
        self._lines += lines
        return [line.judgement for line in sorted(self._lines, key=lambda line: (line.order, -line.direction))]

    def flows(self) -> list[Flow]:
        """Ends all connections. One record each, in order of creation."""
        return [_flow(connection) for connection in self._worker.table.flush(self._worker.now)]

    def rule_statistics(self) -> list[RuleStatistics]:
        """What each rule that was ever named decided, by path."""
        for item in (self._tap, *self._filters.values()):
            for rule, hits in item.hits.items():
                self._statistics_of(rule).hits += hits
            item.hits.clear()
        return sorted(self.statistics.values(), key=lambda item: item.rule_path)

    # Which filters

    @property
    def _ports(self) -> dict[str, Port]:
        return {} if self._inventory is None else dict(self._inventory.ports)

    def _index_macs(self) -> dict[bytes, list[Port]]:
        found: dict[bytes, list[Port]] = {}
        for port in self._ports.values():
            found.setdefault(mac_packed(port.mac), []).append(port)
        return found

    def _filter_of(self, port: Port) -> Filter:
        if port.name not in self._filters:
            fresh = self._filters[port.name] = Filter(port.name, self._worker)
            if self._rules is not None:
                self._commit_port(fresh, port, self._rules)
        return self._filters[port.name]

    def _judge_ends(self, inventory: Inventory, packet: Packet, arrival: _Arrival, lines: list[_Line]) -> None:
        sender = self._port_of(inventory, packet, packet.source_mac, packet.source)
        if _is_for_many(packet):
            receivers = _receivers(inventory, packet, sender)
        else:
            receiver = self._port_of(inventory, packet, packet.destination_mac, packet.destination)
            # To itself: it leaves, and does not come back through the filter.
            receivers = [] if receiver is None or receiver is sender else [receiver]
        then = tuple(map(self._filter_of, receivers))
        if sender is not None:
            self._judge(_Hop(arrival, self._filter_of(sender), Direction.OUT, then), packet, lines)
        elif then:
            for item in then:
                self._judge(_Hop(arrival, item, Direction.IN), packet, lines)
        else:
            nothing = None, None, "ALLOW", "no-filter", None, None, "untracked", False
            nobody = Judgement(arrival.n, arrival.ts_ns, *nothing, arrival.file, packet.ip_length, arrival.order)
            lines.append(_Line(arrival.order, 0, nobody))

    def _port_of(self, inventory: Inventory, packet: Packet, mac: bytes | None, address: int) -> Port | None:
        """By MAC (and VNI) where unique, else by address in its routing domain."""
        if mac is not None:
            named = [port for port in self._by_mac.get(mac, ()) if _is_in_segment(inventory, port, packet.vni)]
            if len(named) == 1:
                return named[0]
        if address < 0:
            return None
        family = Family.IPV4 if packet.ip_version == IPV4 else Family.IPV6
        bound = [
            port for port in inventory.ports_at(Address(family, address)) if _is_in_domain(inventory, port, packet.vni)
        ]
        if len(bound) > 1:
            names = ", ".join(port.name for port in bound)
            raise AmbiguousVnicError(f"{Address(family, address)} may be that of {names}")
        return bound[0] if bound else None

    # Judging

    def _judge(self, hop: _Hop, packet: Packet, lines: list[_Line]) -> None:
        """Judge what arrived; a fragment waits at the first filter until its datagram is whole."""
        refused = hop.at.refuse_frame(packet, hop.direction)
        if refused is not None:
            self._write(hop.arrival, hop, packet, refused, lines)
            return
        if not packet.is_fragment or packet.refusal is not None or hop.at.rules is None:
            self._judge_whole(hop, packet, packet, [(hop.arrival, packet)], lines)
            return
        outcome = self._fragments.add(hop.at.name, hop.direction, self._vrf(packet), packet, hop, self._worker.now)
        self._refuse_fragments(outcome.refused, lines)
        if outcome.whole is not None:
            parts = [(piece.ticket.arrival, piece.packet) for piece in outcome.pieces]
            outcome.whole.destination_mac = packet.destination_mac
            self._judge_whole(hop, outcome.whole, packet, parts, lines)

    def _judge_whole(
        self, hop: _Hop, packet: Packet, frame: Packet, parts: list[tuple[_Arrival, Packet]], lines: list[_Line]
    ) -> None:
        """Judge a packet or whole datagram: a line for each part that it came in; then on to the receiver's filter.

        `frame`: the one that completed a datagram stands for all of its frames.
        """
        decision = hop.at.judge(packet, hop.direction, self._vrf(packet), hop.arrival.ts_ns)
        self._finish(hop, packet, frame, parts, lines, decision)

    def _finish(
        self,
        hop: _Hop,
        packet: Packet,
        frame: Packet,
        parts: list[tuple[_Arrival, Packet]],
        lines: list[_Line],
        decision: Decision,
    ) -> None:
        for data in decision.answers:
            self.generated.append(Generated(hop.arrival.n, hop.arrival.ts_ns, hop.at.name, data))
        for arrival, part in parts:
            self._write(arrival, hop, part, decision, lines)
        for item in hop.then if decision.verdict == "ALLOW" else ():
            on = _Hop(hop.arrival, item, Direction.IN)
            refused = on.at.refuse_frame(frame, on.direction)
            if refused is not None:
                self._finish(on, packet, frame, parts, lines, refused)
            else:
                self._judge_whole(on, packet, frame, parts, lines)

    def _vrf(self, packet: Packet) -> int:
        """A vNIC is in one routing domain, so its filter tells them apart; on a tap the VNI does."""
        return packet.vni or 0 if self._inventory is None else 0

    def _refuse_fragments(self, refused: Iterable[tuple[Piece[_Hop], str]], lines: list[_Line]) -> None:
        for piece, reason in refused:
            decision = Decision("DROP", reason, None, "invalid")
            self._write(piece.ticket.arrival, piece.ticket, piece.packet, decision, lines)

    def _write(self, arrival: _Arrival, hop: _Hop, packet: Packet, decision: Decision, lines: list[_Line]) -> None:
        rule = decision.rule
        judgement = Judgement(
            arrival.n,
            arrival.ts_ns,
            hop.at.name,
            _DIRECTION_NAMES[hop.direction],
            decision.verdict,
            decision.reason,
            None if rule is None else rule.number,
            None if rule is None else rule.path,
            decision.ct,
            decision.reply,
            arrival.file,
            packet.ip_length,
            arrival.order,
            0 if decision.connection is None else decision.connection.begun,
            packet_ends(packet, arrival.wire),
        )
        lines.append(_Line(arrival.order, hop.direction, judgement))
        if rule is not None:
            statistics = self._statistics_of(rule)
            statistics.packets += 1
            statistics.bytes += packet.ip_length

    def _statistics_of(self, rule: MatchedRule) -> RuleStatistics:
        if rule.path not in self.statistics:
            self.statistics[rule.path] = RuleStatistics(rule.number, rule.path)
        return self.statistics[rule.path]


_DIRECTION_NAMES = {Direction.IN: "IN", Direction.OUT: "OUT", Direction.IN_OUT: "IN_OUT"}


def _is_for_many(packet: Packet) -> bool:
    """Multicast or broadcast: by its MAC address where it has one, else by its address."""
    if packet.destination_mac is not None:
        return bool(packet.destination_mac[0] & 1)
    return packet.destination >= 0 and is_group_address(packet.ip_version, packet.destination)


def _receivers(inventory: Inventory, packet: Packet, sender: Port | None) -> list[Port]:
    """The other vNICs on the sender's segment, in the inventory's order; without a sender, on that of the VNI."""
    vni = packet.vni if sender is None else inventory.segment_of(sender).vni
    return [port for port in inventory if port is not sender and inventory.segment_of(port).vni == vni]


def _is_in_segment(inventory: Inventory, port: Port, vni: int | None) -> bool:
    return vni is None or inventory.segment_of(port).vni == vni


def _is_in_domain(inventory: Inventory, port: Port, vni: int | None) -> bool:
    """Is the port in the routing domain (one gateway's segments) of this VNI?"""
    if vni is None:
        return True
    own = inventory.segment_of(port)
    return any(
        other.vni == vni and (other.name == own.name or (own.gateway is not None and other.gateway == own.gateway))
        for other in inventory.segments.values()
    )


def packet_ends(packet: Packet, wire: int) -> Ends:
    """Who talks to whom in a packet of that many bytes on the wire."""
    if packet.refusal is not None or not packet.ip_version:
        return Ends(wire, 0, 0, 0, 0, None, None)
    ports: tuple[int | None, int | None] = packet.source_port, packet.destination_port
    query = query_of(packet)
    if packet.is_fragment:
        ports = None, None
    elif query is not None:
        ports = packet.identifier, query[0] * 256
    elif packet.protocol not in PROTOCOLS_WITH_PORTS:
        ports = 0, 0
    return Ends(wire, packet.ip_version, packet.protocol, packet.source, packet.destination, *ports)


def _flow(connection: Connection) -> Flow:
    family = Family.IPV4 if connection.ip_version == IPV4 else Family.IPV6
    return Flow(
        connection.file,
        connection.filter_name,
        _DIRECTION_NAMES[Direction(connection.direction)],
        connection.protocol,
        str(Address(family, connection.source)),
        connection.source_port,
        str(Address(family, connection.destination)),
        connection.destination_port,
        connection.packets[0],
        connection.bytes[0],
        connection.packets[1],
        connection.bytes[1],
        connection.dropped,
        connection.state_name,
        connection.history,
        connection.start_ns,
        connection.end_ns,
        connection.ended or "open",
        connection.rule.number,
        connection.rule.path,
        connection.begun,
    )
