# SPDX-License-Identifier: Apache-2.0
"""BFD control packets (RFC 5880 section 4.1), and how they lie in Geneve (RFC 9521 section 4). Pure.

Geneve header with the O bit, Ethernet, IPv4 or IPv6, UDP to port 3784 (RFC 5881), BFD. Whatever comes from the wire is
hostile until it has been read whole: each thing that does not fit is a `BfdError`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Final, TypeAlias

PORT: Final = 3784  # RFC 5881 section 4
VERSION: Final = 1
LENGTH: Final = 24
HOP_LIMIT: Final = 255  # RFC 5881 section 5: nobody has forwarded it
TRAFFIC_CLASS: Final = 0xC0  # CS6, network control (RFC 4594 section 3.1)
GENEVE: Final = 8
OAM: Final = 0x80
ETHERNET: Final = 0x6558
ETHERTYPE: Final = {4: 0x0800, 6: 0x86DD}
UDP: Final = 17
# Where Open vSwitch sends its BFD packets unless it is told otherwise: the addresses of the link itself.
LINK_LOCAL: Final = IPv4Network("169.254.0.0/16")
_BFD: Final = struct.Struct("!BBBBIIIII")
Ip: TypeAlias = IPv4Address | IPv6Address


class BfdError(ValueError):
    """A packet that is no BFD for this host: the message is a sentence."""


class State(IntEnum):
    """RFC 5880 section 4.1."""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3


class Diagnostic(IntEnum):
    """Why a session left the state Up (RFC 5880 section 4.1)."""

    NONE = 0
    DETECTION_EXPIRED = 1
    ECHO_FAILED = 2
    NEIGHBOUR_DOWN = 3
    PLANE_RESET = 4
    PATH_DOWN = 5
    CONCATENATED_DOWN = 6
    ADMIN_DOWN = 7
    REVERSE_DOWN = 8


@dataclass(frozen=True, slots=True)
class BfdPacket:
    """A control packet without authentication. Times in microseconds; `own`, `yours`: discriminators, as the sender
    sees them. `diagnostic`: 0 to 31, of which `Diagnostic` names nine."""

    state: State
    own: int
    yours: int
    transmit: int
    receive: int
    multiplier: int
    diagnostic: int = 0
    is_poll: bool = False
    is_final: bool = False
    is_demand: bool = False
    echo: int = 0


def packet_encode(packet: BfdPacket) -> bytes:
    """Its 24 bytes."""
    flags = packet.is_poll << 5 | packet.is_final << 4 | packet.is_demand << 1
    return _BFD.pack(
        VERSION << 5 | packet.diagnostic,
        packet.state << 6 | flags,
        packet.multiplier,
        LENGTH,
        packet.own,
        packet.yours,
        packet.transmit,
        packet.receive,
        packet.echo,
    )


def packet_decode(data: bytes) -> BfdPacket:
    """The packet in a UDP datagram's payload, as RFC 5880 section 6.8.6 has it looked at. Raises BfdError."""
    if len(data) < LENGTH:
        raise BfdError(f"{len(data)} bytes are no BFD packet")
    first, second, multiplier, length, own, yours, transmit, receive, echo = _BFD.unpack_from(data)
    if first >> 5 != VERSION:
        raise BfdError(f"BFD version {first >> 5}")
    if second & 0x04:
        raise BfdError("authentication, and none is in use")
    if not LENGTH <= length <= len(data):
        raise BfdError(f"a BFD packet of {length} bytes in {len(data)}")
    if multiplier == 0:
        raise BfdError("a detection multiplier of 0")
    if second & 0x01:
        raise BfdError("the multipoint bit")
    if own == 0:
        raise BfdError("a sender's discriminator of 0")
    state = State(second >> 6)
    if yours == 0 and state > State.DOWN:
        raise BfdError(f"state {state.name} without a discriminator of ours")
    flags = (bool(second & 0x20), bool(second & 0x10), bool(second & 0x02))
    return BfdPacket(state, own, yours, transmit, receive, multiplier, first & 31, *flags, echo)


def tep_mac(tep: Ip) -> bytes:
    """The inner MAC address of a TEP: locally administered, and its address's last four bytes."""
    return b"\x02\xbf" + tep.packed[-4:]


def frame_size(tep: str) -> int:
    """Bytes of what goes to this TEP with its outer headers, from the IP header on, without padding."""
    ip = 40 if ":" in tep else 20
    return ip + 8 + GENEVE + 14 + ip + 8 + LENGTH


def frame_encode(packet: BfdPacket, source: Ip, destination: Ip, vni: int, port: int, padding: int = 0) -> bytes:
    """Geneve header (8 bytes) and inner frame between two TEPs of one family. `port`: UDP source port; `padding`: bytes
    of the datagram behind the packet (RFC 9764), which nobody looks at."""
    data = packet_encode(packet) + bytes(padding)
    length = 8 + len(data)
    udp = struct.pack("!HHHH", port, PORT, length, 0) + data
    total = _sum(_pseudo(source, destination, length) + udp)
    udp = udp[:6] + struct.pack("!H", total or 0xFFFF) + data
    if source.version == 4:
        ip = struct.pack("!BBHHHBBH", 0x45, TRAFFIC_CLASS, 20 + length, 0, 0x4000, HOP_LIMIT, UDP, 0)
        ip += source.packed + destination.packed
        ip = ip[:10] + struct.pack("!H", _sum(ip)) + ip[12:]
    else:
        ip = struct.pack("!IHBB", 6 << 28 | TRAFFIC_CLASS << 20, length, UDP, HOP_LIMIT)
        ip += source.packed + destination.packed
    geneve = struct.pack("!BBHI", 0, OAM, ETHERNET, vni << 8)
    return geneve + tep_mac(destination) + tep_mac(source) + struct.pack("!H", ETHERTYPE[source.version]) + ip + udp


def frame_decode(data: bytes, header: int, tep: Ip) -> BfdPacket:
    """What a host has sent to the TEP `tep`. `header`: bytes of Geneve header and options, which the packet core has
    looked at. The inner destination is that TEP, or an address of the link itself. Raises BfdError."""
    if len(data) < header + 14:
        raise BfdError("an inner frame without an Ethernet header")
    if struct.unpack_from("!H", data, 2)[0] != ETHERNET:
        raise BfdError("no Ethernet frame inside")
    kind = struct.unpack_from("!H", data, header + 12)[0]
    inner = data[header + 14 :]
    if kind == ETHERTYPE[4]:
        source, destination, udp = _ip4(inner)
    elif kind == ETHERTYPE[6]:
        source, destination, udp = _ip6(inner)
    else:
        raise BfdError(f"an inner frame of type {kind:#06x}")
    if destination != tep and not (
        destination.is_link_local and (destination.version == 6 or destination in LINK_LOCAL)
    ):
        raise BfdError(f"for {destination}, which is not here")
    if len(udp) < 8:
        raise BfdError("no room for a UDP header")
    _, port, length, checksum = struct.unpack_from("!HHHH", udp)
    if not 8 <= length <= len(udp):
        raise BfdError(f"a UDP length of {length} in {len(udp)} bytes")
    if port != PORT:
        raise BfdError(f"for UDP port {port}")
    if checksum == 0 and destination.version == 6:
        raise BfdError("IPv6 without a UDP checksum")
    if checksum and _sum(_pseudo(source, destination, length) + udp[:length]):
        raise BfdError("a wrong UDP checksum")
    return packet_decode(udp[8:length])


def _ip4(data: bytes) -> tuple[Ip, Ip, bytes]:
    """Source, destination and what the packet carries. Raises BfdError."""
    if len(data) < 20:
        raise BfdError("no room for an IPv4 header")
    first, _, total, _, fragment, hops, protocol = struct.unpack_from("!BBHHHBB", data)
    header = (first & 15) * 4
    if first >> 4 != 4 or not 20 <= header <= total <= len(data):
        raise BfdError("lengths of an IPv4 header that do not fit")
    if fragment & 0x3FFF:
        raise BfdError("a fragment")
    if _sum(data[:header]):
        raise BfdError("a wrong IPv4 checksum")
    _check(hops, protocol)
    return IPv4Address(data[12:16]), IPv4Address(data[16:20]), data[header:total]


def _ip6(data: bytes) -> tuple[Ip, Ip, bytes]:
    if len(data) < 40:
        raise BfdError("no room for an IPv6 header")
    first, length, protocol, hops = struct.unpack_from("!IHBB", data)
    if first >> 28 != 6 or 40 + length > len(data):
        raise BfdError("lengths of an IPv6 header that do not fit")
    _check(hops, protocol)
    return IPv6Address(data[8:24]), IPv6Address(data[24:40]), data[40 : 40 + length]


def _check(hops: int, protocol: int) -> None:
    if protocol != UDP:
        raise BfdError(f"protocol {protocol}")
    if hops != HOP_LIMIT:
        raise BfdError(f"a TTL or hop limit of {hops}")


def _pseudo(source: Ip, destination: Ip, length: int) -> bytes:
    return source.packed + destination.packed + struct.pack("!II", length, UDP)


def _sum(data: bytes) -> int:
    """RFC 1071: the ones' complement of the ones' complement sum. 0 over data that has its checksum in it."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
