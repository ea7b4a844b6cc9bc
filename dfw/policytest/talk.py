# SPDX-License-Identifier: Apache-2.0
"""The packets of one connection, either way, as two honest hosts send them. Pure but for what each end remembers.

Only what arrived counts: a segment that a firewall refused is not acknowledged, and what is sent next is sent again in
its place.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from dfw.endpoint import Peer
from dfw.model import PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP, Address, Family
from dfw.packetbytes import (
    ABORT,
    ACK,
    COOKIE_ACK,
    COOKIE_ECHO,
    DATA,
    FIN,
    INIT,
    INIT_ACK,
    PSH,
    RST,
    SHUTDOWN,
    SHUTDOWN_ACK,
    SHUTDOWN_COMPLETE,
    SYN,
    ethernet_frame,
    icmp_message,
    ip_packet,
    ip_packets,
    sctp_chunk,
    sctp_init,
    sctp_packet,
    tcp_segment,
    udp_datagram,
)
from dfw.policytest.errors import PolicyTestError
from dfw.policytest.worlds import packet_text
from dfw.probe import Probe, transport_of

ASKS, ANSWERS = 0, 1
"""The two ends: the one that begins, and the other."""

# RFC 792 and RFC 1812 section 5.2.7.1; RFC 4443 section 3.
ERRORS: Final[dict[str, tuple[tuple[int, int], tuple[int, int]]]] = {
    "no-route": ((3, 0), (1, 0)),
    "host-unreachable": ((3, 1), (1, 3)),
    "port-unreachable": ((3, 3), (1, 4)),
    "too-big": ((3, 4), (2, 0)),
    "prohibited": ((3, 13), (1, 1)),
    "time-exceeded": ((11, 0), (3, 0)),
}
# Questions and what answers them: RFC 792, RFC 950, RFC 4443.
_QUESTIONS: Final = {Family.IPV4: {8: 0, 13: 14, 15: 16, 17: 18}, Family.IPV6: {128: 129}}
MAXIMUM_DATA: Final = 65_000  # with its headers it fits into an IP packet of 65,535 bytes
MAXIMUM_FRAGMENTS: Final = 64  # docs/packet-path.md section 3
_QUOTED: Final = {Family.IPV4: 576 - 28, Family.IPV6: 1280 - 48}  # RFC 1812 section 4.3.2.3, RFC 4443 section 2.4


class Made(NamedTuple):
    """What one end is about to send: frames of one datagram, what it is in words, and what follows if it arrives."""

    frames: tuple[bytes, ...]
    text: str
    arrived: Callable[[], None]


@dataclass(slots=True)
class _End:
    """`next`: number of the next byte (TCP), chunk (SCTP) or question (ICMP) it sends; `heard`: the other's next."""

    peer: Peer
    port: int
    next: int
    heard: int = 0


class Talk:
    """Both ends of a connection that begins with this packet."""

    def __init__(self, probe: Probe, mtu: int, identifier: int) -> None:
        self.probe = probe
        self._identifier = identifier & 0xFFFF  # of ICMP questions
        self.mtu = mtu
        self._ends = (_End(probe.source, probe.sport, 1), _End(probe.destination, probe.dport, 5001))
        self._asked = b""  # the last packet of the end that began, for errors to quote
        self._datagrams = 0

    @property
    def opening(self) -> Iterator[Made]:
        """What is sent until the connection stands: TCP's and SCTP's handshake, else the first packet."""
        if self.probe.protocol == PROTO_TCP:
            yield self._segment(ASKS, SYN, 1)
            yield self._segment(ANSWERS, SYN | ACK, 1)
            yield self._segment(ASKS, ACK)
        elif self.probe.protocol == PROTO_SCTP:
            yield self._chunk(ASKS, sctp_init(INIT, 1), "INIT", 0)
            yield self._chunk(ANSWERS, sctp_init(INIT_ACK, 2), "INIT ACK")
            yield self._chunk(ASKS, sctp_chunk(COOKIE_ECHO, b"cookie"), "COOKIE ECHO")
            yield self._chunk(ANSWERS, sctp_chunk(COOKIE_ACK), "COOKIE ACK")
        else:
            yield self.data(ASKS, b"")

    @property
    def closing(self) -> Iterator[Made]:
        """What ends it in order: TCP's FINs, SCTP's SHUTDOWN. Nothing of the others, which run out."""
        if self.probe.protocol == PROTO_TCP:
            yield self._segment(ASKS, FIN | ACK, 1)
            yield self._segment(ANSWERS, FIN | ACK, 1)
            yield self._segment(ASKS, ACK)
        elif self.probe.protocol == PROTO_SCTP:
            yield self._chunk(ASKS, sctp_chunk(SHUTDOWN, bytes(4)), "SHUTDOWN")
            yield self._chunk(ANSWERS, sctp_chunk(SHUTDOWN_ACK), "SHUTDOWN ACK")
            yield self._chunk(ASKS, sctp_chunk(SHUTDOWN_COMPLETE), "SHUTDOWN COMPLETE")

    def data(self, side: int, payload: bytes) -> Made:
        """Data from one end to the other: an ICMP question or its answer, a DATA chunk, a segment, a datagram."""
        protocol = self.probe.protocol
        if not isinstance(payload, bytes) or len(payload) > MAXIMUM_DATA:
            raise PolicyTestError(f"what is sent is at most {MAXIMUM_DATA:,} bytes, such as b'GET /'")
        size = f" of {_bytes(payload)}" if payload else ""
        if protocol == PROTO_TCP:
            return self._segment(side, ACK | (PSH if payload else 0), 0, payload)
        if protocol == PROTO_SCTP:
            head = struct.pack("!IHHI", self._ends[side].next, 0, 0, 0)
            return self._chunk(side, sctp_chunk(DATA, head + (payload or b"\0"), 3), f"DATA{size}", counts=1)
        if protocol == PROTO_UDP:
            body = udp_datagram(self._addresses(side), self._ports(side), payload)
            return self._made(side, body, f"a datagram{size}")
        if self.probe.is_icmp:
            return self._echo(side, payload, size)
        return self._made(side, payload or bytes(8), f"a packet{size}")

    def reset(self, side: int) -> Made | None:
        """What ends it at once: RST, ABORT; None where the protocol has no such thing."""
        if self.probe.protocol == PROTO_TCP:
            return self._segment(side, RST | ACK)
        if self.probe.protocol == PROTO_SCTP:
            return self._chunk(side, sctp_chunk(ABORT), "ABORT")
        return None

    def error(self, kind: str, teller: Peer, mtu: int) -> Made:
        """An ICMP error (a word of ERRORS) from `teller` about the last packet of the end that began."""
        end = self._ends[ASKS].peer
        is_v6 = self.probe.family is Family.IPV6
        number, code = ERRORS[kind][is_v6]
        told = mtu if kind == "too-big" else 0  # RFC 1191 section 4, RFC 4443 section 3.2: in the word's low bits
        ends = teller.address, end.address
        body = icmp_message(ends, number, code, told.to_bytes(4, "big") + self._asked[: _QUOTED[self.probe.family]])
        packet = ip_packet(ends, PROTO_ICMPV6 if is_v6 else PROTO_ICMP, body)
        frame = ethernet_frame(Probe(teller, end, 0).macs, packet)
        return Made((frame,), f"{packet_text(self.probe)}: ICMP {kind} from {teller}", lambda: None)

    def _segment(self, side: int, flags: int, counts: int = 0, payload: bytes = b"") -> Made:
        own, other = self._ends[side], self._ends[1 - side]
        ack = own.heard if flags & ACK else 0
        body = tcp_segment(self._addresses(side), self._ports(side), flags, own.next, ack, payload)
        words = [name for bit, name in ((SYN, "SYN"), (FIN, "FIN"), (RST, "RST"), (ACK, "ACK")) if flags & bit]
        size = f" with {_bytes(payload)}" if payload else ""

        def arrived() -> None:
            own.next += counts + len(payload)
            other.heard = own.next

        return self._made(side, body, "-".join(words) + size, arrived)

    def _chunk(self, side: int, chunk: bytes, text: str, tag: int | None = None, counts: int = 0) -> Made:
        own = self._ends[side]
        body = sctp_packet(self._ports(side), (2, 1)[side] if tag is None else tag, chunk)  # as `opening` gives them

        def arrived() -> None:
            own.next += counts

        return self._made(side, body, text, arrived)

    def _echo(self, side: int, payload: bytes, size: str) -> Made:
        own = self._ends[ASKS]
        kind, code = self.probe.sport, self.probe.dport
        if kind not in _QUESTIONS[self.probe.family]:  # errors, neighbour discovery and the like stand by themselves
            return self._made(side, transport_of(self.probe), f"ICMP {kind}/{code}")
        if side == ANSWERS:
            kind = _QUESTIONS[self.probe.family][kind]
        sequence = own.next if side == ASKS else max(1, own.next - 1)
        rest = struct.pack("!HH", self._identifier, sequence) + (payload or bytes(16))

        def arrived() -> None:
            own.next += side == ASKS

        body = icmp_message(self._addresses(side), kind, code, rest)
        word = {8: "echo request", 128: "echo request", 0: "echo reply", 129: "echo reply"}.get(
            kind, f"ICMP {kind}/{code}"
        )
        return self._made(side, body, f"{word}{size}", arrived)

    def _made(self, side: int, body: bytes, text: str, arrived: Callable[[], None] = lambda: None) -> Made:
        own, other = self._ends[side], self._ends[1 - side]
        self._datagrams += 1
        packets = tuple(
            ip_packets(
                self._addresses(side),
                self.probe.protocol,
                body,
                mtu=self.mtu,
                identification=self._datagrams,
            )
        )
        if len(packets) > MAXIMUM_FRAGMENTS:
            raise PolicyTestError(
                f"{len(packets)} fragments, and the firewall holds {MAXIMUM_FRAGMENTS} of a datagram; a larger mtu="
            )
        if side == ASKS:
            self._asked = packets[0]
        macs = Probe(own.peer, other.peer, 0).macs
        what = "answer, " if side == ANSWERS else ""
        pieces = f" in {len(packets)} fragments" if len(packets) > 1 else ""
        text = f"{packet_text(self.probe)}: {what}{text}{pieces}"
        return Made(tuple(ethernet_frame(macs, packet) for packet in packets), text, arrived)

    def _addresses(self, side: int) -> tuple[Address, Address]:
        return self._ends[side].peer.address, self._ends[1 - side].peer.address

    def _ports(self, side: int) -> tuple[int, int]:
        return self._ends[side].port, self._ends[1 - side].port


def _bytes(payload: bytes) -> str:
    return f"{len(payload):,} byte{'s' if len(payload) != 1 else ''}"
