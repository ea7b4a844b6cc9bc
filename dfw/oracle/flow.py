# SPDX-License-Identifier: Apache-2.0
"""Connections, and the flow records that they leave (CONTRACT section 3, --flows)."""

from __future__ import annotations

from dataclasses import dataclass, field

from dfw.oracle.alg import Expectation
from dfw.oracle.limits import AccountKey
from dfw.oracle.packet import ACK, FIN, ICMP, ICMPV6, IPV4, RST, SYN, TCP, Packet
from dfw.oracle.policy import MatchedRule
from dfw.oracle.sctp import SctpTracker
from dfw.oracle.tcp import TcpTracker


@dataclass(frozen=True, slots=True)
class Flow:
    """One connection's record; field names are CONTRACT's, but for `start_ns` and `end_ns`: the times of its first and
    last packet in nanoseconds, which CONTRACT has as seconds."""

    file: str | None
    vnic: str | None
    dir: str
    proto: int
    src: str
    sport: int
    dst: str
    dport: int
    packets: int
    bytes: int
    reply_packets: int
    reply_bytes: int
    dropped: int
    state: str
    history: str
    start_ns: int
    end_ns: int
    end_reason: str
    rule: int
    rule_path: str
    begun: int = 0  # place in the input of the packet that began it


@dataclass(slots=True, eq=False)
class Connection:
    """One connection of one filter. Index 0 is the original direction, 1 the reply direction.

    ICMP: `source_port` is the identifier, `destination_port` the query's type * 256.
    """

    filter_name: str
    direction: int  # of its first packet, as the filter sees it (Direction)
    vrf: int
    ip_version: int
    protocol: int
    source: int
    destination: int
    source_port: int
    destination_port: int
    rule: MatchedRule
    epoch: int
    number: int  # order of creation
    file: str | None
    start_ns: int
    begun: int = 0  # place in the input of the packet that began it
    end_ns: int = 0
    deadline: int = 0
    tracker: TcpTracker | SctpTracker | None = None
    parent: Connection | None = None
    account: AccountKey | None = None  # of unanswered connections, while it is one
    expected: bool = False
    one_way: bool = False
    replied: bool = False
    accepted: int = 0  # packets and datagrams, both directions
    packets: list[int] = field(default_factory=lambda: [0, 0])
    bytes: list[int] = field(default_factory=lambda: [0, 0])
    dropped: int = 0
    history: str = ""
    ended: str | None = None
    expectations: list[Expectation] = field(default_factory=list)

    @property
    def state_name(self) -> str:
        """State as flow records show it."""
        if self.tracker is not None:
            return self.tracker.state.value
        if self.protocol == (ICMP if self.ip_version == IPV4 else ICMPV6):
            return "REPLIED" if self.replied else "FIRST"
        if self.replied:
            return "MULTIPLE"
        return "SINGLE" if self.accepted > 1 else "FIRST"

    def count(self, packet: Packet, direction: int, timestamp_ns: int) -> None:
        """Account for an accepted packet."""
        self.accepted += 1
        self.packets[direction] += packet.packet_count
        self.bytes[direction] += packet.byte_count
        self.end_ns = max(self.end_ns, timestamp_ns)
        for letter in history_letters(packet, direction):
            if letter not in self.history:
                self.history += letter


def history_letters(packet: Packet, direction: int) -> str:
    """Zeek's letters for one packet: SYN, SYN+ACK (H), data, FIN, RST, or a pure ACK; small for the responder."""
    if packet.protocol != TCP:
        letters = "D"
    else:
        flags = packet.flags
        letters = ""
        if flags & SYN:
            letters += "H" if flags & ACK else "S"
        if packet.payload_length:
            letters += "D"
        if flags & FIN:
            letters += "F"
        if flags & RST:
            letters += "R"
        letters = letters or "A"
    return letters.lower() if direction else letters
