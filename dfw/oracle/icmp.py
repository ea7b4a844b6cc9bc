# SPDX-License-Identifier: Apache-2.0
"""ICMP and ICMPv6: which messages ask, answer, report errors, or stand alone; and what an error quotes (section 8)."""

from __future__ import annotations

from dfw.oracle.packet import ICMP, ICMPV6, IGMP, IPV4, IPV6, SCTP, TCP, UDP, Packet, RefusedError
from dfw.oracle.parse import walk_extensions

_ERRORS_V4 = frozenset({3, 4, 5, 11, 12})
# Query type to answer type, and back: echo, timestamp, information, address mask (RFC 792, RFC 950).
_ANSWER_V4 = {8: 0, 13: 14, 15: 16, 17: 18}
# Echo (RFC 4443), node information (RFC 4620).
_ANSWER_V6 = {128: 129, 139: 140}
_QUERY_V4 = {answer: query for query, answer in _ANSWER_V4.items()}
_QUERY_V6 = {answer: query for query, answer in _ANSWER_V6.items()}
# Multicast listeners (RFC 2710, RFC 3810) and neighbour discovery (RFC 4861): no state belongs to them.
# Redirects are not among them: as in Linux, nothing but a rule of its own lets them pass.
_STATELESS_V6 = frozenset({*range(130, 137), 143})


def is_stateless(packet: Packet) -> bool:
    """Judged by the rules packet by packet."""
    if packet.ip_version == IPV4:
        return packet.protocol == IGMP
    return packet.icmp_type in _STATELESS_V6


def is_error(packet: Packet) -> bool:
    """An ICMP error message, which quotes another packet."""
    if packet.icmp_type < 0:
        return False
    return packet.icmp_type in _ERRORS_V4 if packet.ip_version == IPV4 else packet.icmp_type < 128


def query_of(packet: Packet) -> tuple[int, int] | None:
    """(the query's type, 0 for a query and 1 for an answer), whatever the code; None for every other message."""
    answers, queries = (_ANSWER_V4, _QUERY_V4) if packet.ip_version == IPV4 else (_ANSWER_V6, _QUERY_V6)
    if packet.icmp_type in answers:
        return packet.icmp_type, 0
    if packet.icmp_type in queries:
        return queries[packet.icmp_type], 1
    return None


def parse_quote(error: Packet) -> Packet | None:
    """The packet that an ICMP error quotes, with addresses, protocol, ports or identifier, and TCP's sequence number.

    None where it cannot be read. Its lengths are not tested: routers quote as little as 8 bytes of the transport.
    """
    at = error.payload
    quote = Packet(error.data, end=error.end, l3=at)
    data = error.data
    if at >= error.end or data[at] >> 4 != error.ip_version:
        return None
    quote.ip_version = error.ip_version
    if quote.ip_version == IPV4:
        header = (data[at] & 15) * 4
        if header < 20 or at + header > error.end:
            return None
        quote.protocol = data[at + 9]
        quote.source = int.from_bytes(data[at + 12 : at + 16], "big")
        quote.destination = int.from_bytes(data[at + 16 : at + 20], "big")
        quote.l4 = at + header
        if int.from_bytes(data[at + 6 : at + 8], "big") & 0x1FFF:
            return None
    else:
        if at + 40 > error.end:
            return None
        quote.source = int.from_bytes(data[at + 8 : at + 24], "big")
        quote.destination = int.from_bytes(data[at + 24 : at + 40], "big")
        try:
            walk_extensions(quote, at + 40, error.end, at + 6, quoted=True)
        except RefusedError:
            return None
        if quote.is_fragment:
            return None
    if quote.l4 + 8 > error.end:
        return None
    return quote if _read_quoted_transport(quote) else None


def _read_quoted_transport(quote: Packet) -> bool:
    data, at = quote.data, quote.l4
    if quote.protocol in (TCP, UDP, SCTP):
        quote.source_port = int.from_bytes(data[at : at + 2], "big")
        quote.destination_port = int.from_bytes(data[at + 2 : at + 4], "big")
        quote.sequence = int.from_bytes(data[at + 4 : at + 8], "big")
    elif quote.protocol == (ICMP if quote.ip_version == IPV4 else ICMPV6):
        quote.icmp_type, quote.icmp_code = data[at], data[at + 1]
        quote.identifier = int.from_bytes(data[at + 4 : at + 6], "big")
        return query_of(quote) is not None
    return quote.ip_version in (IPV4, IPV6)
