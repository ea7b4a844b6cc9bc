# SPDX-License-Identifier: Apache-2.0
"""Conversations other than TCP: UDP, ICMP, SCTP, fragments, other protocols. talk_alg.py has FTP and TFTP.

See talk_tcp.py for what a conversation is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.support.talk_tcp import Said, Talk, payload
from tests.support.wire import ACK, RST, SYN, Path, chunk, fragment, fragments

if TYPE_CHECKING:
    from tests.support.traffic import World

_TEXT = bytes(range(32, 127)) * 700
_ASKS4 = ((8, 0), (8, 0), (8, 0), (13, 14), (15, 16), (17, 18))
_ASKS6 = ((128, 129), (128, 129), (139, 140))


def udp_talk(world: World) -> Talk:
    """Questions and answers, one-sided streams, and packets on either side of each timer's end."""
    rnd = world.rnd
    path, sport, dport = world.udp_ends()
    style = rnd()
    ts = yield path, path.udp(sport, dport, payload(world))
    if style < 0.10:
        yield from _wait(world, ts, "udp_first_packet", path, sport, dport)
        return
    if style < 0.30:  # one-sided
        for _ in range(1 + int(rnd() * 6)):
            ts = yield path, path.udp(sport, dport, payload(world))
        if rnd() < 0.3:
            yield from _wait(world, ts, "udp_single", path, sport, dport)
        return
    for _ in range(1 + int(rnd() * 14)):
        forward = rnd() < 0.4
        way, ports = (path, (sport, dport)) if forward else (path.back, (dport, sport))
        ts = yield way, way.udp(*ports, payload(world) if rnd() < 0.9 else b"")
    if rnd() < 0.1:
        yield from _wait(world, ts, "udp_multiple", path, sport, dport)


def _wait(world: World, ts: int, timer: str, path: Path, sport: int, dport: int) -> Talk:
    until = world.until(ts, timer)
    if until:
        yield until
        yield path, path.udp(sport, dport, b"late")
        yield path.back, path.back.udp(dport, sport, b"later")


def multicast_talk(world: World) -> Talk:
    """To a group or to everybody: one way. Somebody answers from the group's address, which nobody may."""
    rnd = world.rnd
    path = world.group_path()
    sport, dport = world.port(), (5353, 1900, 67, 7001)[int(rnd() * 4)]
    for _ in range(1 + int(rnd() * 8)):
        if rnd() < 0.8:
            yield path, path.udp(sport, dport, payload(world))
        else:
            yield path.back, path.back.udp(dport, sport, b"echo")
    if rnd() < 0.2:
        yield path, path.tcp(sport, 80, 1, 0, SYN, 100)


def icmp_talk(world: World) -> Talk:
    """Queries and their answers, answers to nothing, types that are neither, neighbour discovery."""
    rnd = world.rnd
    path = world.path()
    number = int(rnd() * 65536) if rnd() < 0.7 else int(rnd() * 8)
    asks = _ASKS4 if path.family == 4 else _ASKS6
    ask, answer = asks[int(rnd() * len(asks))]
    ts = 0
    chance = rnd()
    if chance < 0.08:
        kind = int(rnd() * 256) if path.family == 4 else 128 + int(rnd() * 128)
        yield path, path.icmp(kind, int(rnd() * 3), number, 0, b"?")
        return
    if chance < 0.16 and path.family == 6:
        for kind in (135, 136, 133, 134, 130, 143)[: 1 + int(rnd() * 6)]:
            yield path, path.icmp(kind, 0, 0, 0, path.dst)
        return
    if chance > 0.93:  # nobody answers
        ts = yield path, path.icmp(ask, 0, number, 0, payload(world))
        until = world.until(ts, "icmp_first_packet")
        if until:
            yield until
            yield path.back, path.back.icmp(answer, 0, number, 99)
        return
    for turn in range(1 + int(rnd() * 6)):
        if chance < 0.85:
            ts = yield path, path.icmp(ask, 0, number, turn, payload(world))
        if rnd() < 0.8:
            ts = yield path.back, path.back.icmp(answer, 0, number, turn, b"pong")
        if rnd() < 0.1:
            yield path, path.icmp(answer, 0, number, turn)
        if rnd() < 0.1:
            yield path.back, path.back.icmp(ask, 0, number, turn)
        if rnd() < 0.05:
            yield path, path.icmp(ask, 1, number, turn)
    if rnd() < 0.3:
        until = world.until(ts, "icmp_error_reply")
        if until:
            yield until
            yield path.back, path.back.icmp(answer, 0, number, 99)


def icmp_error_talk(world: World) -> Talk:
    """Errors about packets seen of late, from their destination or from a router; quotes good, cut, changed."""
    rnd = world.rnd
    for _ in range(1 + int(rnd() * 3)):
        quoted = world.recent_packet()
        if quoted is None:
            return
        path, packet = quoted
        sender = path.back if rnd() < 0.5 else world.router_path(path)
        yield sender, icmp_error(world, sender, packet)


def icmp_error(world: World, path: Path, packet: bytes) -> bytes:
    """An ICMP error on `path` that quotes `packet`, in one case of three not quite faithfully."""
    rnd = world.rnd
    if path.family == 4:
        kind, code = ((3, 1), (3, 3), (3, 4), (3, 13), (11, 0), (12, 0), (4, 0), (5, 1), (11, 1))[int(rnd() * 9)]
        header = (packet[0] & 15) * 4
        quote = packet[: header + 8] if rnd() < 0.5 else packet[:548]
    else:
        kind, code = ((1, 0), (1, 4), (2, 0), (3, 0), (4, 1), (1, 1), (100, 0), (127, 9))[int(rnd() * 8)]
        header = 40
        quote = packet[:1232]
    chance = rnd()
    if chance < 0.06:
        quote = quote[: header + int(rnd() * 8)]
    elif chance < 0.10:
        quote = quote[: int(rnd() * header)]
    elif chance < 0.22 and len(quote) >= header + 8:
        at = header + int(rnd() * 8)  # ports, or the sequence number
        quote = quote[:at] + bytes((quote[at] ^ 1 << int(rnd() * 8),)) + quote[at + 1 :]
    elif chance < 0.28:
        at = int(rnd() * min(len(quote), header))
        quote = quote[:at] + bytes((int(rnd() * 256),)) + quote[at + 1 :]
    elif chance < 0.31 and path.family == 4 and len(quote) > 8:
        quote = quote[:6] + b"\x00\x10" + quote[8:]  # a later fragment
    elif chance < 0.33 and path.family == 4:
        quote = quote[:6] + b"\x20\x00" + quote[8:]  # the first fragment
    elif chance < 0.36 and path.family == 6:
        quote = (
            quote[:6]
            + b"\x2c"
            + quote[7:40]
            + quote[6:7]
            + b"\0\0"
            + bytes((int(rnd() * 4),))
            + b"\0\0\0\1"
            + quote[40:]
        )
    return path.icmp(kind, code, 0, 1280 if kind in (2, 3) else 0, quote)


# ---- SCTP -----------------------------------------------------------------------------------------------------------


def sctp_talk(world: World) -> Talk:
    """An association (RFC 9260 section 5), with every chunk at every time and wrong tags."""
    rnd = world.rnd
    path, sport, dport = world.sctp_ends()
    tags = [1 + int(rnd() * 0xFFFFFFF0), 1 + int(rnd() * 0xFFFFFFF0)]
    odd = 0.4 if rnd() < 0.3 else 0.04

    def say(direction: int, chunks: bytes, tag: int | None = None) -> Said:
        way = path if direction == 0 else path.back
        ports = (sport, dport) if direction == 0 else (dport, sport)
        return way, way.sctp(*ports, tags[1 - direction] if tag is None else tag, chunks)

    def stray() -> Said:
        direction = int(rnd() * 2)
        kind = (0, 1, 2, 3, 4, 6, 7, 8, 10, 11, 14, 192)[int(rnd() * 12)]
        tag = (tags[1 - direction], tags[1 - direction], tags[direction], 0, int(rnd() * 2**32))[int(rnd() * 5)]
        if kind == 1:
            return say(direction, _init(1, int(rnd() * 2**32)), 0)
        if kind == 2:
            return say(direction, _init(2, int(rnd() * 2**32)), tag)
        return say(direction, chunk(kind, int(rnd() * 2), b"\0\0\0\1"), tag)

    for _ in range(1 + (rnd() < 0.3)):
        ts = yield say(0, _init(1, tags[0]), 0)
        while rnd() < 0.1 + odd:
            yield stray()
        if rnd() < 0.05:
            yield from _wait_sctp(world, ts, "tcp_first_packet", stray)
            return
        if rnd() < 0.1:
            ts = yield say(1, _init(1, tags[1]), 0)  # collision
        ts = yield say(1, _init(2, tags[1]))
        while rnd() < 0.1 + odd:
            yield stray()
        if rnd() < 0.05:
            yield from _wait_sctp(world, ts, "tcp_opening", lambda: say(0, chunk(10, 0, b"cookie")))
        ts = yield say(0, chunk(10, 0, b"cookie") + (chunk(0, 3, b"data" * 4) if rnd() < 0.3 else b""))
        while rnd() < 0.1 + odd:
            yield stray()
        ts = yield say(1, chunk(11))
        for _ in range(int(rnd() * 10)):
            direction = int(rnd() * 2)
            body = chunk(0, 3, _TEXT[: 16 + int(rnd() * 60)]) if rnd() < 0.6 else chunk(3, 0, b"\0" * 12)
            if rnd() < 0.1:
                body = chunk(4, 0, b"\0\1\0\4") + body
            ts = yield say(direction, body)
            if rnd() < odd:
                yield stray()
        first = int(rnd() * 2)
        if rnd() < 0.2:
            reflected = rnd() < 0.4  # the T bit: with the sender's own tag
            ts = yield say(first, chunk(6, 1 if reflected else 0), tags[first] if reflected else None)
            yield from _wait_sctp(world, ts, "tcp_closed", stray)
        else:
            if rnd() < 0.03:
                yield from _wait_sctp(world, ts, "tcp_established", lambda: say(0, chunk(4, 0, b"\0\1\0\4")))
            ts = yield say(first, chunk(7, 0, b"\0\0\0\1"))
            while rnd() < 0.1 + odd:
                yield stray()
            if rnd() < 0.1:
                yield from _wait_sctp(world, ts, "tcp_closing", stray)
            ts = yield say(1 - first, chunk(8))
            while rnd() < 0.1 + odd:
                yield stray()
            if rnd() < 0.1:
                yield from _wait_sctp(world, ts, "tcp_finwait", stray)
            ts = yield say(first, chunk(14))
        while rnd() < odd:
            yield stray()


def _init(kind: int, tag: int) -> bytes:
    return chunk(kind, 0, (tag & 0xFFFFFFFF).to_bytes(4) + b"\0\1\0\0\0\x0a\0\x0a\0\0\0\1")


def _wait_sctp(world: World, ts: int, timer: str, then) -> Talk:  # type: ignore[no-untyped-def]
    until = world.until(ts, timer)
    if until and world.rnd() < 0.5:
        yield until
        yield then()


# ---- other protocols, and fragments ---------------------------------------------------------------------------------


def protocol_talk(world: World) -> Talk:
    """Protocols without ports: GRE, ESP, OSPF, IGMP, ICMP of the other family, no next header."""
    rnd = world.rnd
    path = world.path()
    number = (47, 50, 89, 2, 59, 103, 253, 58 if path.family == 4 else 1, int(rnd() * 256))[int(rnd() * 9)]
    if number in (0, 6, 17, 43, 44, 51, 60, 132) or (number in (1, 58) and path.family == (4 if number == 1 else 6)):
        number = 253
    ts = 0
    for _ in range(1 + int(rnd() * 6)):
        way = path if rnd() < 0.6 else path.back
        ts = yield way, way.ip(number, payload(world) if rnd() < 0.9 else b"")
    if rnd() < 0.1:
        until = world.until(ts, "udp_single")
        if until:
            yield until
            yield path, path.ip(number, b"late")


def fragment_talk(world: World) -> Talk:
    """Datagrams in fragments: in any order, twice, overlapping, incomplete, late, and both ways."""
    rnd = world.rnd
    path, sport, dport = world.udp_ends()
    ident = int(rnd() * 65536)
    for _ in range(1 + int(rnd() * 4)):
        way, ports = (path, (sport, dport)) if rnd() < 0.6 else (path.back, (dport, sport))
        chance = rnd()
        size = 16 + int(rnd() * 400)
        if chance < 0.6:
            packet = way.udp(*ports, _TEXT[:size])
        elif chance < 0.75:
            packet = way.icmp(8 if way.family == 4 else 128, 0, ident, 1, _TEXT[:size])
        elif chance < 0.9:
            packet = way.tcp(*ports, int(rnd() * 2**32), 0, (SYN, ACK)[int(rnd() * 2)], 500, _TEXT[:size])
        else:
            packet = way.ip(47, _TEXT[:size])
        ident = (ident + 1) & 0xFFFF
        for piece in _pieces(world, packet, ident):
            ts = yield way, piece
            if rnd() < 0.01:
                yield ((ts // 10_000_000 + 3000 + (rnd() < 0.5)) * 10_000_000) + int(rnd() * 9_999_999)


def _pieces(world: World, packet: bytes, ident: int) -> Iterator[bytes]:
    """The fragments of a packet, as they may arrive."""
    rnd = world.rnd
    header = 40 if packet[0] >> 4 == 6 else (packet[0] & 15) * 4
    length = len(packet) - header
    cuts = sorted({8 * (1 + int(rnd() * ((length - 1) // 8))) for _ in range(1 + int(rnd() * 4))} - {0})
    cuts = [cut for cut in cuts if cut < length]
    pieces = fragments(packet, cuts, ident)
    if rnd() < 0.3:
        pieces.reverse()
    elif rnd() < 0.4:
        pieces.sort(key=lambda _: rnd())
    chance = rnd()
    at = int(rnd() * len(pieces))
    if chance < 0.08:
        pieces.insert(int(rnd() * (len(pieces) + 1)), pieces[at])  # exactly twice
    elif chance < 0.12:
        changed = pieces[at][:-1] + bytes((pieces[at][-1] ^ 255,))
        pieces.insert(int(rnd() * (len(pieces) + 1)), changed)
    elif chance < 0.22:  # another that overlaps, ends too early, ends too late, or is too short or long
        offset = 8 * int(rnd() * (length // 8 + 3))
        body = _TEXT[: (0, 4, 8, 16, 24, 13)[int(rnd() * 6)]]
        pieces.insert(at, fragment(packet, header, body, offset, rnd() < 0.5, ident))
    elif chance < 0.25:
        pieces.insert(at, fragment(packet, header, _TEXT[:40], 65528 - 8 * int(rnd() * 6), rnd() < 0.5, ident))
    elif chance < 0.35:
        del pieces[at]
    elif chance < 0.37:
        pieces = [fragment(packet, header, packet[header:], 0, False, ident)]  # atomic
    return iter(pieces)


def fragment_flood(world: World) -> Talk:
    """Datagrams never finished, up to the limits: for a source, for a filter, of fragments for one datagram."""
    rnd = world.rnd
    path = world.path()
    whole = path.udp(9, 9, _TEXT[:1000])
    header = 40 if path.family == 6 else 20
    if rnd() < 0.4:
        ident = int(rnd() * 65536)
        for index in range(67):
            yield path, fragment(whole, header, _TEXT[:8], 8 * index, True, ident)
        yield path, fragment(whole, header, _TEXT[:8], 8 * 67, False, ident)
        return
    sources = [path] if rnd() < 0.7 else [world.path() for _ in range(6)]
    for index in range(66 * len(sources)):
        way = sources[index % len(sources)]
        packet = way.udp(9, 9, _TEXT[:100])
        yield way, fragment(packet, 40 if way.family == 6 else 20, _TEXT[:16], 0, True, index)


def reject_burst(world: World) -> Talk:
    """Many refused packets in one second, of one source or of many, so that the answers run out."""
    rnd = world.rnd
    path = world.path()
    many = rnd() < 0.4
    for _ in range(130 if many else 14):
        if many:
            path = world.path()
        chance = rnd()
        if chance < 0.6:
            yield path, path.tcp(world.port(), 23, int(rnd() * 2**32), 0, SYN if rnd() < 0.9 else ACK, 500)
        elif chance < 0.7:
            yield path, path.tcp(world.port(), 23, 5, 6, RST, 500)
        else:
            yield path, path.udp(world.port(), 137, payload(world))
