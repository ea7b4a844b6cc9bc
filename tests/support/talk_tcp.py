# SPDX-License-Identifier: Apache-2.0
"""TCP conversations of two simulated ends: whole lives, odd openings and closings, and segments that do not fit.

A conversation is a Python generator. It yields `(path, packet)` and is sent the packet's time in nanoseconds, or it
yields a time (an int) until which it wants to sleep. What the ends know (next sequence numbers, windows) is kept here,
so that most segments are legal, and the others miss by as much as is wanted: by one, by the window, by its slack.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from tests.support.wire import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG, Path

if TYPE_CHECKING:
    from tests.support.traffic import World

Said = tuple[Path, bytes]
Talk = Generator[Said | int, int, None]

_M = 0xFFFFFFFF
_TEXT = bytes(range(32, 127)) * 16
MSS = b"\x02\x04\x05\xb4"
WINDOWS = (65535, 65535, 64240, 29200, 8192, 8192, 1024, 502, 64, 1, 0)
# Flags of every event of docs/packet-path.md section 6, with the marks that do not count.
EVENTS = (
    SYN,
    SYN,
    SYN | URG,
    SYN | ECE | CWR,
    SYN | ACK,
    SYN | ACK,
    FIN | ACK,
    FIN | ACK,
    FIN | ACK | URG,
    FIN | ACK | PSH,
    ACK,
    ACK,
    ACK | PSH,
    ACK | URG,
    ACK | ECE,
    RST,
    RST,
    RST | ACK,
    RST | ACK,
)


class Side:
    """One end: what it has sent, what it has taken in, what it advertises (raw, as in the header)."""

    __slots__ = ("iss", "next", "offered", "path", "port", "right", "scale", "taken", "window")

    def __init__(self, path: Path, port: int, iss: int, window: int, offered: int | None) -> None:
        self.path = path
        self.port = port
        self.iss = self.next = iss
        self.window = window
        self.offered = offered
        self.scale = 0
        self.taken = 0
        self.right = 0


class TcpPair:
    """Two sides; `a` opens. `say` sends a segment as its sender would, and the other side takes it in."""

    __slots__ = ("a", "b", "rnd", "world")

    def __init__(self, world: World, path: Path, sport: int, dport: int) -> None:
        self.world = world
        self.rnd = world.rnd
        self.a = self._side(path, sport)
        self.b = self._side(path.back, dport)

    def _side(self, path: Path, port: int) -> Side:
        rnd = self.rnd
        chance = rnd()
        if chance < 0.25:
            iss = (1 << 32) - 1 - int(rnd() * 3000)
        elif chance < 0.35:
            iss = (1 << 31) - int(rnd() * 3000)
        else:
            iss = int(rnd() * (1 << 32))
        offered = (None, None, 0, 2, 7, 7, 8, 14, 15)[int(rnd() * 9)]
        return Side(path, port, iss & _M, WINDOWS[int(rnd() * len(WINDOWS) * (1 if rnd() < 0.3 else 0.55))], offered)

    def other(self, side: Side) -> Side:
        """The peer of a side."""
        return self.b if side is self.a else self.a

    def say(self, side: Side, flags: int, payload: bytes = b"", lost: bool = False) -> Said:
        """The next segment of a side; `lost`: the peer does not take it in."""
        peer = self.b if side is self.a else self.a
        options = b""
        if flags & SYN:
            options = self._options(side)
        packet = side.path.tcp(
            side.port, peer.port, side.next, side.taken if flags & ACK else 0, flags, side.window, payload, options
        )
        side.next = (side.next + len(payload) + (1 if flags & (SYN | FIN) else 0)) & _M
        if not lost:
            peer.taken = side.next
        if flags & SYN:
            side.right = (side.taken + side.window) & _M
            if flags & ACK:
                both = side.offered is not None and peer.offered is not None
                side.scale = min(side.offered or 0, 14) if both else 0
                peer.scale = min(peer.offered or 0, 14) if both else 0
        else:
            side.right = (side.taken + (side.window << side.scale)) & _M
        return side.path, packet

    def _options(self, side: Side) -> bytes:
        if side.offered is None:
            return MSS if self.rnd() < 0.7 else b""
        scale = bytes((3, 3, side.offered))
        chance = self.rnd()
        if chance < 0.5:
            return MSS + b"\x01" + scale
        if chance < 0.9:
            return MSS + b"\x04\x02\x08\x0a" + b"\0\1\2\3\0\0\0\0" + b"\x01" + scale
        if chance < 0.95:
            return b"\x03\x03\x05\x01" + scale + b"\x00"  # twice: the last counts
        return MSS + b"\x01" + scale + b"\xfe\x00\x01\x01"  # and an option of length 0 after it

    def again(self, side: Side, back: int, size: int, flags: int = ACK) -> Said:
        """A segment that begins `back` bytes before the side's next one."""
        peer = self.other(side)
        seq = (side.next - back) & _M
        return side.path, side.path.tcp(
            side.port, peer.port, seq, side.taken, flags, side.window, _TEXT[: min(size, back)]
        )

    def odd(self, side: Side | None = None, flags: int | None = None) -> Said:
        """Any event from any side, with numbers at the edges of what fits."""
        rnd = self.rnd
        if side is None:
            side = self.a if rnd() < 0.5 else self.b
        peer = self.other(side)
        if flags is None:
            flags = EVENTS[int(rnd() * len(EVENTS))]
        window = 1 if rnd() < 0.2 else max(peer.window << peer.scale, 1)
        own = max(side.window << side.scale, 66000)
        seq = self._pick(
            (side.next, side.next, peer.taken, side.iss, side.next - 1, side.next + 1, peer.right, peer.right + 1)
            + (peer.right - 1, peer.right + 66000, peer.right + 66001, side.next - window, side.next - window - 1)
            + (side.next + 100, int(rnd() * _M))
        )
        ack = self._pick(
            (side.taken, side.taken, peer.next, peer.next + 1, peer.next - own, peer.next - own - 1, peer.iss + 1)
            + (peer.iss, 0, side.taken - 1, int(rnd() * _M))
        )
        size = int(rnd() * rnd() * 200) if rnd() < 0.4 else 0
        options = self._options(side) if flags & SYN else b""
        if rnd() < 0.5:
            options += b"\0" * (-len(options) % 4)
        options = options[: len(options) // 4 * 4]
        return side.path, side.path.tcp(
            side.port,
            peer.port,
            seq,
            ack if flags & ACK or rnd() < 0.2 else 0,
            flags,
            side.window,
            _TEXT[:size],
            options,
        )

    def _pick(self, values: tuple[int, ...]) -> int:
        return values[int(self.rnd() * len(values))] & _M


def payload(world: World) -> bytes:
    """Between 1 and 180 bytes; seldom a full segment."""
    chance = world.rnd()
    if chance < 0.03:
        return _TEXT[:1448]
    return _TEXT[: 1 + int(chance * chance * 180)]


def tcp_life(world: World) -> Talk:
    """A connection from SYN to the end, with an oddity here and there; one in four carries on on the same ports."""
    path, sport, dport = world.tcp_ends()
    yield from pair_life(world, TcpPair(world, path, sport, dport))


def pair_life(world: World, pair: TcpPair) -> Talk:
    """The life of one pair, and perhaps of its successors on the same ports."""
    rnd = world.rnd
    odd = 0.35 if rnd() < 0.15 else 0.02
    while True:
        ready = yield from _open(world, pair, odd)
        if ready:
            yield from _exchange(world, pair, odd)
            yield from _close(world, pair, odd)
        if rnd() > 0.25:
            return
        a, b = pair.a, pair.b
        if rnd() < 0.2:
            a, b = b, a
        beyond = rnd() < 0.7
        pair = TcpPair(world, a.path, a.port, b.port)
        if beyond:  # RFC 6191: a new sequence number beyond the old ones
            pair.a.iss = pair.a.next = (a.next + 64000 + int(rnd() * 100000)) & _M


def _open(world: World, pair: TcpPair, odd: float) -> Generator[Said | int, int, bool]:
    """The opening. Returns whether both sides are established."""
    rnd, say, a, b = world.rnd, pair.say, pair.a, pair.b
    chance = rnd()
    if chance < 0.06:  # joined in mid-stream
        a.taken, b.taken = b.next, a.next
        return True
    early = payload(world) if chance > 0.95 else b""  # Fast Open (RFC 7413)
    ts = yield say(a, SYN | (ECE | CWR if rnd() < 0.05 else 0), early)
    while rnd() < 0.08 + odd:
        yield pair.odd()
    if rnd() < 0.06:
        waited = world.until(ts, "tcp_first_packet")
        if waited:
            ts = yield waited
    if rnd() < 0.08:
        a.next = a.iss
        ts = yield say(a, SYN)  # retransmission
    if chance < 0.10:
        return False  # nobody answers
    if chance < 0.13:  # refused
        b.next = 0
        b.taken = a.next
        yield b.path, b.path.tcp(b.port, a.port, 0, a.next if rnd() < 0.8 else a.next + 1, RST | ACK, 0)
        yield from _after(world, pair, "tcp_closed", ts)
        return False
    if chance < 0.16:  # the peer still has an old connection (RFC 9293 figure 9)
        old = int(rnd() * _M)
        yield b.path, b.path.tcp(b.port, a.port, int(rnd() * _M), old, ACK, 500)
        yield a.path, a.path.tcp(a.port, b.port, old if rnd() < 0.8 else old + 1, 0, RST, 0)
        return False
    if chance < 0.22:
        return (yield from _open_simultaneously(world, pair, odd, early))
    if chance < 0.24:
        b.taken = a.next + (1, -1, 1000)[int(rnd() * 3)] & _M  # a SYN+ACK that answers something else
    elif early and rnd() < 0.5:
        b.taken = a.iss + 1 & _M  # the SYN's data was not taken in
        a.next = b.taken
    ts = yield say(b, SYN | ACK, payload(world) if early and rnd() < 0.3 else b"")
    while rnd() < 0.08 + odd:
        yield pair.odd()
    if rnd() < 0.08:
        b.next = b.iss
        ts = yield say(b, SYN | ACK)
    if rnd() < 0.04:
        waited = world.until(ts, "tcp_opening")
        if waited:
            yield waited
    if rnd() < 0.03:
        yield from _take_over(world, pair)
    if rnd() < 0.03:
        return True  # the handshake's ACK is lost
    yield say(a, ACK)
    return True


def _open_simultaneously(world: World, pair: TcpPair, odd: float, early: bytes) -> Generator[Said | int, int, bool]:
    rnd, say, a, b = world.rnd, pair.say, pair.a, pair.b
    b.taken = 0
    ts = yield say(b, SYN)
    while rnd() < 0.15 + odd:
        yield pair.odd()
    if rnd() < 0.15:
        waited = world.until(ts, "tcp_opening")
        if waited:
            yield waited
    a.next, b.next = (a.iss + len(early)) & _M, b.iss
    order = (a, b) if rnd() < 0.5 else (b, a)
    for side in order if rnd() < 0.8 else order[:1]:
        side.taken = pair.other(side).iss + 1 & _M
        side.next = side.iss
        yield say(side, SYN | ACK)
        while rnd() < 0.1 + odd:
            yield pair.odd()
    a.next, b.next = a.iss + 1 + len(early) & _M, b.iss + 1 & _M
    a.taken, b.taken = b.next, a.next
    for side in (a, b):
        if rnd() < 0.6:
            yield say(side, ACK)
    return True


def _take_over(world: World, pair: TcpPair) -> Talk:
    """One end lost its memory and begins anew; the other agrees (SYN passed over, SYN+ACK takes over), or not."""
    rnd, say = world.rnd, pair.say
    a, b = (pair.a, pair.b) if rnd() < 0.8 else (pair.b, pair.a)
    a.iss = a.next = int(rnd() * _M)
    a.taken = 0
    yield say(a, SYN)
    if rnd() < 0.3:
        yield pair.odd()
    if rnd() < 0.75:
        b.iss = b.next = int(rnd() * _M)
        if rnd() < 0.1:
            b.taken = b.taken + 1 & _M
        yield say(b, SYN | ACK)
        yield say(a, ACK)


def _exchange(world: World, pair: TcpPair, odd: float) -> Talk:
    """Data both ways, retransmissions, old duplicates, keep-alives, probes."""
    rnd, say = world.rnd, pair.say
    side = pair.a
    rounds = int(rnd() * rnd() * 24) if rnd() < 0.95 else 80
    ts = 0
    for _ in range(rounds):
        chance = rnd()
        if chance < 0.5:
            side = pair.other(side)
        if chance < 0.84:
            ts = yield say(side, ACK | PSH if chance < 0.4 else ACK, payload(world))
            if chance < 0.6:
                ts = yield say(pair.other(side), ACK)
        elif chance < 0.87:
            yield pair.again(side, 1 + int(rnd() * 200), 100)  # retransmission
        elif chance < 0.885:
            yield pair.again(side, 1, int(rnd() * 2))  # keep-alive (RFC 9293 section 3.8.4)
            yield say(pair.other(side), ACK)
        elif chance < 0.90:
            side.window = WINDOWS[int(rnd() * len(WINDOWS))]
            yield say(side, ACK)
        elif chance < 0.915:
            yield pair.again(side, int(rnd() * (1 << int(3 + rnd() * 16))), 50)  # an old duplicate
        elif chance < 0.93:
            yield say(side, ACK, payload(world), lost=True)
            yield say(pair.other(side), ACK)
            pair.other(side).taken = side.next
        elif chance < 0.94:
            side.next = side.next + int(rnd() * 70000) & _M  # packets that the firewall did not see
        elif chance < 0.945:
            yield from _take_over(world, pair)
        elif chance < 0.957 and ts:
            waited = world.until(ts, "tcp_established")
            if waited:
                yield waited
        if rnd() < odd:
            yield pair.odd()
            if rnd() < 0.1:
                return


def _close(world: World, pair: TcpPair, odd: float) -> Talk:
    """FINs in any order, or a RST; then what may still come."""
    rnd, say = world.rnd, pair.say
    first, second = (pair.a, pair.b) if rnd() < 0.5 else (pair.b, pair.a)
    chance = rnd()
    if chance < 0.05:
        return  # both vanish
    if chance < 0.17:
        exact = first.next if rnd() < 0.6 else first.next + int(rnd() * 300)
        ts = yield (
            first.path,
            first.path.tcp(first.port, second.port, exact, first.taken, RST | (ACK if rnd() < 0.5 else 0), 0),
        )
        while rnd() < 0.4:
            yield pair.odd()
        yield from _after(world, pair, "tcp_closed", ts)
        return
    ts = yield say(first, FIN | ACK, payload(world) if rnd() < 0.3 else b"")
    while rnd() < 0.06 + odd:
        yield pair.odd()
    if rnd() < 0.06:
        waited = world.until(ts, "tcp_closing")
        if waited:
            ts = yield waited
    if chance < 0.27:  # both at once
        second.taken = second.taken - 1 & _M
        ts = yield say(second, FIN | ACK)
        while rnd() < 0.15 + odd:
            yield pair.odd()
        if rnd() < 0.2:
            yield from _after(world, pair, "tcp_finwait", ts)
            return
        second.taken = first.next
        yield say(second, ACK)
        ts = yield say(first, ACK)
    else:
        if chance < 0.6:
            yield say(second, ACK)
            while rnd() < 0.3:
                yield say(second, ACK, payload(world))  # half-closed
                yield say(first, ACK)
        ts = yield say(second, FIN | ACK)
        if rnd() < 0.07:
            yield pair.again(second, 1, 0, FIN | ACK)
        if chance > 0.62:
            ts = yield say(first, ACK)
    while rnd() < 0.12 + odd:
        ts = yield pair.odd() if rnd() < 0.6 else say(second if rnd() < 0.5 else first, ACK)
    if rnd() < 0.05:
        yield first.path, first.path.tcp(first.port, second.port, first.next, first.taken, RST, 0)
    yield from _after(world, pair, "tcp_finwait", ts)


def _after(world: World, pair: TcpPair, timer: str, ts: int) -> Talk:
    """After the end: sometimes a late segment just before or after the connection is forgotten."""
    if world.rnd() < 0.05:
        waited = world.until(ts, timer)
        if waited:
            yield waited
            yield pair.again(pair.b, 1, 0)
