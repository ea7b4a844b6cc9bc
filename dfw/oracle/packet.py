# SPDX-License-Identifier: Apache-2.0
"""A parsed packet: plain fields, filled as far as parsing came."""

from __future__ import annotations

from dataclasses import dataclass

IPV4 = 4
IPV6 = 6

ICMP = 1
IGMP = 2
TCP = 6
UDP = 17
ICMPV6 = 58
SCTP = 132

FIN = 0x01
SYN = 0x02
RST = 0x04
PSH = 0x08
ACK = 0x10
URG = 0x20


class RefusedError(Exception):
    """Parsing ends here; the only argument is the reason, a log word of reasons.def."""


@dataclass(slots=True)
class Packet:
    """One packet as `parse` understood it.

    Offsets index `data`, the frame as captured. `end` is where the present bytes of the IP packet stop (padding is
    outside; smaller than the IP length says where the capture was cut). Lengths are those that the packet states.
    """

    data: bytes
    refusal: str | None = None
    source_mac: bytes | None = None
    destination_mac: bytes | None = None
    ether_type: int | None = None  # with both MACs: of the Ethernet header, behind its tags; None: it has none
    vni: int | None = None
    ip_version: int = 0  # 0: not IP, or refused before that was known
    l3: int = 0
    end: int = 0
    ip_length: int = 0  # the whole IP packet, in bytes; IPv6 with its 40
    source: int = -1  # addresses as integers; -1: not known
    destination: int = -1
    protocol: int = 0

    # Fragments: offset and length of the payload in bytes
    is_fragment: bool = False
    fragment_offset: int = 0
    fragment_more: bool = False
    fragment_id: int = 0
    next_header_at: int = 0  # IPv6: where the next-header field that names the fragment header stands
    reassembled: bool = False
    zero_filled: bool = False

    # Transport
    l4: int = 0
    l4_length: int = 0
    source_port: int = 0
    destination_port: int = 0  # ICMP: type * 256 + code
    payload: int = 0
    payload_length: int = 0
    flags: int = 0
    sequence: int = 0
    acknowledgement: int = 0
    window: int = 0
    scale: int | None = None
    icmp_type: int = -1  # -1: not ICMP of this family
    icmp_code: int = 0
    identifier: int = 0
    vtag: int = 0
    chunk: int = 0  # SCTP: the chunk that decides the event; 0 DATA
    chunk_t_bit: bool = False
    initiate_tag: int = 0
    fragments: int = 1  # packets that this one came in, and the sum of their IP lengths
    fragments_bytes: int = 0

    @property
    def packet_count(self) -> int:
        """How many packets on the wire this one stands for."""
        return self.fragments

    @property
    def byte_count(self) -> int:
        """IP bytes on the wire."""
        return self.fragments_bytes or self.ip_length
