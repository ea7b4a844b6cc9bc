# SPDX-License-Identifier: Apache-2.0
"""Conversations that announce others: FTP and TFTP, and the children that they announce.

See talk_tcp.py for what a conversation is.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from tests.support.talk_tcp import Side, Talk, TcpPair, pair_life, payload
from tests.support.wire import ACK, PSH, RST, SYN

if TYPE_CHECKING:
    from tests.support.traffic import World


def _text_of(address: bytes) -> str:
    return str(ipaddress.ip_address(address))


def _announce(world: World, side: Side, peer: Side, passive: bool, port: int) -> bytes:
    """The line that announces a data connection; in one case of five with something wrong in it."""
    rnd = world.rnd
    address = side.path.src if rnd() < 0.93 else peer.path.src
    commas = ",".join(map(str, address)) + f",{port >> 8},{port & 255}"
    extended = side.path.family == 6 or rnd() < 0.3
    if passive:
        line = (
            f"229 Entering Extended Passive Mode (|||{port}|)" if extended else f"227 Entering Passive Mode ({commas})."
        )
    else:
        version = 1 if side.path.family == 4 else 2
        line = f"EPRT |{version}|{_text_of(address)}|{port}|" if extended else f"PORT {commas}"
    if rnd() < 0.2:
        line = line.lower() if rnd() < 0.5 else line.replace("|", "!")
    chance = rnd()
    if chance < 0.04:
        line = line.replace(str(port), "0").replace(f",{port & 255}", ",256")
    elif chance < 0.07:
        at = int(rnd() * len(line))
        line = line[:at] + chr(32 + int(rnd() * 90)) + line[at + 1 :]
    elif chance < 0.09:
        line = line[: int(rnd() * len(line))]
    elif chance < 0.10:
        # No further draw: what else the traffic reaches depends on every one of them.
        filler = ("x" * 600, "x" * (127 - len(line)), "(|||1" * (port % 12), "9,1;2,3,4," * (port % 9))
        line = line[:4] + filler[port % 4] + line[4:]
    elif chance < 0.12:
        line = "220 hello\r\n" + line
    end = ("\r\n", "\r\n", "\r\n", "\n", "\r", "")[int(rnd() * 6)]
    return (line + end + ("NOOP\r\n" if rnd() < 0.05 else "")).encode("ascii", "replace")


def ftp_talk(world: World) -> Talk:
    """A control connection that announces data connections, some of which are then made, some twice, some late."""
    rnd = world.rnd
    path = world.path()
    pair = TcpPair(world, path, world.port(), 21 if rnd() < 0.9 else 2121)
    say, a, b = pair.say, pair.a, pair.b
    if rnd() < 0.92:
        yield say(a, SYN)
        yield say(b, SYN | ACK)
    else:
        a.taken, b.taken = b.next, a.next
    yield say(a, ACK)
    yield say(b, ACK | PSH, b"220 ready\r\n")
    ts = yield say(a, ACK)
    children: list[tuple[Talk, int | None]] = []
    announced = 12 if rnd() < 0.05 else 1 + int(rnd() * 3)
    for _ in range(announced):
        passive = rnd() < 0.5
        side = b if passive else a
        peer = pair.other(side)
        port = 20000 + int(rnd() * 3000) if rnd() < 0.95 else 0
        if rnd() < 0.1:
            side, peer = peer, side  # said by the wrong end
        line = _announce(world, side, peer, passive, port)
        ts = yield say(side, ACK | PSH, line)
        if rnd() < 0.08:
            yield (
                side.path,
                side.path.tcp(side.port, peer.port, side.next - len(line), side.taken, ACK | PSH, side.window, line),
            )
        yield say(peer, ACK)
        if rnd() < 0.75 and port:
            data = TcpPair(world, peer.path, world.port() if rnd() < 0.9 else 20, port)
            if rnd() < 0.08:
                data = TcpPair(world, side.path, world.port(), port)
            children.append((pair_life(world, data), None))
        if rnd() < 0.08:
            until = world.expiry(ts)
            if until:
                ts = yield until
        while children and rnd() < 0.85:
            yield from _some(world, children)
    while children:
        yield from _some(world, children)
        if rnd() < 0.2:
            yield say(a if rnd() < 0.5 else b, ACK | PSH, b"NOOP\r\n")
        if rnd() < 0.01:
            yield a.path, a.path.tcp(a.port, b.port, a.next, a.taken, RST, 0)


def _some(world: World, children: list[tuple[Talk, int | None]]) -> Talk:
    """A few packets of one of the children; those that are done go."""
    index = int(world.rnd() * len(children))
    child, sent = children[index]
    for _ in range(1 + int(world.rnd() * 8)):
        try:
            said = child.send(sent)  # type: ignore[arg-type]
        except StopIteration:
            del children[index]
            return
        sent = yield said
    children[index] = child, sent


def tftp_talk(world: World) -> Talk:
    """A request to port 69, and the transfer from a port of the server's choice."""
    rnd = world.rnd
    path = world.path()
    sport = world.port()
    request = bytes((0, (1, 1, 2, 3)[int(rnd() * 4)])) + b"file\0octet\0"
    ts = yield path, path.udp(sport, 69, request if rnd() < 0.95 else request[:1])
    if rnd() < 0.1:
        until = world.expiry(ts)
        if until:
            yield until
    chosen = 1024 + int(rnd() * 60000) if rnd() < 0.95 else 69
    for _ in range(1 + int(rnd() * 8)):
        yield path.back, path.back.udp(chosen, sport, b"\0\3\0\1" + payload(world))
        if rnd() < 0.8:
            yield path, path.udp(sport, chosen, b"\0\4\0\1")
        if rnd() < 0.1:
            yield path, path.udp(sport, 69, request)
