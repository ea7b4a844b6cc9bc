# SPDX-License-Identifier: Apache-2.0
"""Bytes to Packet (docs/packet-path.md section 1): link, ARP, IPv4, IPv6, decapsulation."""

from __future__ import annotations

import struct

from dfw.oracle.checksum import ChecksumState, internet_checksum, transport_checksum_state
from dfw.oracle.packet import IPV4, IPV6, UDP, Packet, RefusedError
from dfw.oracle.transport import parse_transport

# https://www.tcpdump.org/linktypes.html
LINK_NULL = 0
LINK_ETHERNET = 1
LINK_LOOP = 108
LINK_COOKED = 113
LINK_COOKED2 = 276
LINKS_RAW = frozenset({12, 14, 101})
LINK_IPV4 = 228
LINK_IPV6 = 229

_ETHERTYPE_IPV4 = 0x0800
_ETHERTYPE_ARP = 0x0806
_ETHERTYPE_IPV6 = 0x86DD
_ETHERTYPE_BRIDGED = 0x6558  # transparent Ethernet bridging: the inner frame of Geneve
_ETHERTYPES_VLAN = frozenset({0x8100, 0x88A8, 0x9100})
_MAXIMUM_TAGS = 2

_FAMILY_IPV4 = 2
_FAMILIES_IPV6 = frozenset({10, 24, 28, 30})  # Linux, NetBSD and OpenBSD, FreeBSD, Darwin

_IPV4_HEADER = struct.Struct("!BBHHHBBHII")
_HOP_BY_HOP = 0
_ROUTING = 43
_FRAGMENT = 44
_AUTHENTICATION = 51
_DESTINATION = 60
_EXTENSIONS = frozenset({_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION})
_MAXIMUM_EXTENSIONS = 8
_MAXIMUM_EXTENSION_BYTES = 256
_SOURCE_ROUTES = frozenset({131, 137})  # loose and strict, RFC 791 section 3.1

_PORT_GENEVE = 6081
_PORT_VXLAN = 4789


def parse(data: bytes, link_type: int, wire: int, *, decap: bool = False, verify: bool = False) -> Packet:
    """Parse a captured frame of `wire` bytes, of which `data` is present.

    Returns a Packet: with `refusal` where it may not pass, with ip_version 0 and no refusal where it is not IP.
    Raises ValueError for a link type that we do not know.
    """
    packet = Packet(data)
    wire = max(wire, len(data))
    try:
        ethertype, at = _parse_link(packet, link_type)
        _parse_network(packet, ethertype, at, wire - at, verify)
        if decap and packet.protocol == UDP and packet.ip_version and not packet.is_fragment:
            _open_tunnel(packet, verify)
    except RefusedError as refused:
        packet.refusal = str(refused.args[0])
    return packet


def _parse_link(packet: Packet, link_type: int) -> tuple[int, int]:
    """EtherType and offset of what follows the link header; EtherType -1: an IP version by its nibble."""
    data = packet.data
    if link_type == LINK_ETHERNET:
        return _parse_ethernet(packet, 0)
    if link_type in LINKS_RAW:
        return -1, 0
    if link_type in (LINK_IPV4, LINK_IPV6):
        return (_ETHERTYPE_IPV4 if link_type == LINK_IPV4 else _ETHERTYPE_IPV6), 0
    if link_type == LINK_COOKED:
        _require(data, 16)
        return int.from_bytes(data[14:16], "big"), 16
    if link_type == LINK_COOKED2:
        _require(data, 20)
        return int.from_bytes(data[0:2], "big"), 20
    if link_type in (LINK_NULL, LINK_LOOP):
        _require(data, 4)
        families = {int.from_bytes(data[:4], "big")}
        if link_type == LINK_NULL:
            families.add(int.from_bytes(data[:4], "little"))
        if _FAMILY_IPV4 in families:
            return _ETHERTYPE_IPV4, 4
        return (_ETHERTYPE_IPV6 if families & _FAMILIES_IPV6 else 0), 4
    raise ValueError(f"link type {link_type} is not supported")


def _require(data: bytes, length: int) -> None:
    if len(data) < length:
        raise RefusedError("short")


def _parse_ethernet(packet: Packet, at: int) -> tuple[int, int]:
    data = packet.data
    _require(data, at + 12)
    packet.destination_mac = data[at : at + 6]
    packet.source_mac = data[at + 6 : at + 12]
    _require(data, at + 14)
    ethertype = int.from_bytes(data[at + 12 : at + 14], "big")
    at += 14
    tags = 0
    while ethertype in _ETHERTYPES_VLAN:
        tags += 1
        if tags > _MAXIMUM_TAGS:
            raise RefusedError("vlan-depth")
        _require(data, at + 4)
        ethertype = int.from_bytes(data[at + 2 : at + 4], "big")
        at += 4
    packet.ether_type = ethertype
    return ethertype, at


def _parse_network(packet: Packet, ethertype: int, at: int, wire: int, verify: bool) -> None:
    """What follows the link header; `wire` bytes of it were on the wire."""
    data = packet.data
    if ethertype == -1:
        _require(data, at + 1)
        version = data[at] >> 4
        if version not in (IPV4, IPV6):
            raise RefusedError("ip-version")
        ethertype = _ETHERTYPE_IPV4 if version == IPV4 else _ETHERTYPE_IPV6
    if ethertype == _ETHERTYPE_IPV4:
        _parse_ipv4(packet, at, wire, verify)
    elif ethertype == _ETHERTYPE_IPV6:
        _parse_ipv6(packet, at, wire)
    elif ethertype == _ETHERTYPE_ARP:
        _parse_arp(data, at, wire)
        return
    else:
        return
    if not packet.is_fragment:
        parse_transport(packet)
        if verify and transport_checksum_state(packet) is ChecksumState.BAD:
            raise RefusedError("l4-checksum")


def _parse_arp(data: bytes, at: int, wire: int) -> None:
    _require(data, at + 8)
    # Ethernet, IPv4, and their address lengths (RFC 826)
    if data[at : at + 6] != b"\x00\x01\x08\x00\x06\x04" or wire < 28:
        raise RefusedError("arp-malformed")


def _parse_ipv4(packet: Packet, at: int, wire: int, verify: bool) -> None:
    data = packet.data
    present = len(data) - at
    if present < 20:
        raise RefusedError("short")
    (first, _, total, identification, fragment, _, protocol, _, source, destination) = _IPV4_HEADER.unpack_from(
        data, at
    )
    if first >> 4 != IPV4:
        raise RefusedError("ip-version")
    packet.ip_version = IPV4
    packet.l3 = at
    packet.source = source
    packet.destination = destination
    packet.protocol = protocol
    header = (first & 15) * 4
    if header < 20:
        raise RefusedError("ip-header-length")
    if total < header or total > wire:
        raise RefusedError("ip-length")
    packet.ip_length = total
    packet.end = at + min(total, present)
    if present < header:
        raise RefusedError("short")
    if verify and internet_checksum(data[at : at + header]) != 0:
        raise RefusedError("ip-checksum")
    if header > 20:
        _walk_ipv4_options(data, at + 20, at + header)
    packet.l4 = at + header
    packet.l4_length = total - header
    if fragment & 0x3FFF:
        packet.is_fragment = True
        packet.fragment_offset = (fragment & 0x1FFF) * 8
        packet.fragment_more = bool(fragment & 0x2000)
        packet.fragment_id = identification


def _walk_ipv4_options(data: bytes, at: int, end: int) -> None:
    while at < end:
        kind = data[at]
        if kind == 0:
            return
        if kind == 1:
            at += 1
            continue
        if at + 2 > end or data[at + 1] < 2 or at + data[at + 1] > end:
            raise RefusedError("ip-options")
        if kind in _SOURCE_ROUTES:
            raise RefusedError("source-route")
        at += data[at + 1]


def _parse_ipv6(packet: Packet, at: int, wire: int) -> None:
    data = packet.data
    present = len(data) - at
    if present < 40:
        raise RefusedError("short")
    if data[at] >> 4 != IPV6:
        raise RefusedError("ip-version")
    packet.ip_version = IPV6
    packet.l3 = at
    packet.source = int.from_bytes(data[at + 8 : at + 24], "big")
    packet.destination = int.from_bytes(data[at + 24 : at + 40], "big")
    payload = int.from_bytes(data[at + 4 : at + 6], "big")
    next_header = data[at + 6]
    packet.protocol = next_header
    if payload > wire - 40 or (payload == 0 and next_header == _HOP_BY_HOP):
        raise RefusedError("ip-length")
    packet.ip_length = 40 + payload
    packet.end = at + min(40 + payload, present)
    walk_extensions(packet, at + 40, at + 40 + payload, at + 6)


def walk_extensions(packet: Packet, at: int, stated_end: int, next_header_at: int, quoted: bool = False) -> None:
    """IPv6 extension headers from `at`. Fills protocol, l4, l4_length, fragment fields. Raises RefusedError.

    `stated_end` is where the packet ends by its length, `next_header_at` where the field naming the header at `at`
    stands. `quoted`: in an ICMP error, where a first fragment shows its transport header too.
    """
    data = packet.data
    count = 0
    total = 0
    next_header = data[next_header_at]
    while next_header in _EXTENSIONS:
        count += 1
        if count > _MAXIMUM_EXTENSIONS or (next_header == _HOP_BY_HOP and count > 1):
            raise RefusedError("ext-headers")
        if at + 8 > stated_end:
            raise RefusedError("ext-length")
        if at + 8 > packet.end:
            raise RefusedError("short")
        if next_header == _FRAGMENT:
            length = 8
        elif next_header == _AUTHENTICATION:
            length = (data[at + 1] + 2) * 4
        else:
            length = (data[at + 1] + 1) * 8
        if at + length > stated_end:
            raise RefusedError("ext-length")
        if at + length > packet.end:
            raise RefusedError("short")
        total += length
        if total > _MAXIMUM_EXTENSION_BYTES:
            raise RefusedError("ext-headers")
        if next_header == _ROUTING and data[at + 2] == 0:
            raise RefusedError("source-route")
        if next_header == _FRAGMENT:
            field = int.from_bytes(data[at + 2 : at + 4], "big")
            # Neither offset nor M: an atomic fragment (RFC 6946).
            if field & (0xFFF8 if quoted else 0xFFF9):
                packet.is_fragment = True
                packet.fragment_offset = field & 0xFFF8
                packet.fragment_more = bool(field & 1)
                packet.fragment_id = int.from_bytes(data[at + 4 : at + 8], "big")
                packet.next_header_at = next_header_at
                packet.protocol = data[at]
                packet.l4 = at + 8
                packet.l4_length = stated_end - at - 8
                return
        next_header_at = at
        next_header = data[at]
        at += length
    packet.protocol = next_header
    packet.l4 = at
    packet.l4_length = stated_end - at


def parse_datagram(data: bytes, ip_version: int, *, verify: bool, zero_filled: bool) -> Packet:
    """A datagram put together from fragments, parsed from IP up. `zero_filled`: some of it was not captured."""
    packet = Packet(data, reassembled=True, zero_filled=zero_filled)
    ethertype = _ETHERTYPE_IPV4 if ip_version == IPV4 else _ETHERTYPE_IPV6
    try:
        _parse_network(packet, ethertype, 0, len(data), verify)
        if packet.is_fragment:  # a fragment in fragments: its ports would hide from the rules
            raise RefusedError("ext-headers")
    except RefusedError as refused:
        packet.refusal = str(refused.args[0])
    return packet


def _open_tunnel(packet: Packet, verify: bool) -> None:
    """Replace the packet by the inner one of Geneve (RFC 8926) or VXLAN (RFC 7348). Raises RefusedError."""
    data = packet.data
    at = packet.payload
    stated_end = at + packet.payload_length
    end = min(packet.end, stated_end)
    if packet.destination_port == _PORT_GENEVE:
        ethertype, inner, vni = _parse_geneve(data, at, end)
    elif packet.destination_port == _PORT_VXLAN:
        if at + 8 > end or not data[at] & 0x08:
            raise RefusedError("tunnel-malformed")
        ethertype, inner, vni = _ETHERTYPE_BRIDGED, at + 8, int.from_bytes(data[at + 4 : at + 7], "big")
    else:
        return
    fresh = Packet(data[:end], vni=vni)
    for name in Packet.__slots__:
        setattr(packet, name, getattr(fresh, name))
    if ethertype == _ETHERTYPE_BRIDGED:
        ethertype, inner = _parse_ethernet(packet, inner)
    _parse_network(packet, ethertype, inner, stated_end - inner, verify)


def _parse_geneve(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """EtherType and offset of the inner frame, and the VNI."""
    if at + 8 > end:
        raise RefusedError("tunnel-malformed")
    version_and_length = data[at]
    ethertype = int.from_bytes(data[at + 2 : at + 4], "big")
    inner = at + 8 + (version_and_length & 0x3F) * 4
    known = ethertype in (_ETHERTYPE_BRIDGED, _ETHERTYPE_IPV4, _ETHERTYPE_IPV6)
    if version_and_length >> 6 or not known or inner > end:
        raise RefusedError("tunnel-malformed")
    option = at + 8
    while option < inner:
        critical = data[option + 2] & 0x80
        option += 4 + (data[option + 3] & 0x1F) * 4
        if critical or option > inner:
            raise RefusedError("tunnel-malformed")
    return ethertype, inner, int.from_bytes(data[at + 4 : at + 7], "big")
