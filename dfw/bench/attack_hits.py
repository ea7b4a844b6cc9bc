# SPDX-License-Identifier: Apache-2.0
"""Packets of connections that there are: of everybody's, and of the attacker's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dfw.bench.arena import ALG, BEGUN, STATEFUL, Arena, Scenario
from dfw.bench.attack_common import NOPS, OWN_SENT, Genes, Order, order_draw, shape_of
from dfw.bench.frames import (
    ACK,
    FIN,
    ICMP,
    ICMP6,
    PSH,
    RST,
    SCTP,
    SYN,
    UDP,
    Frames,
    addresses,
    ethernet,
    frames_interleave,
    frames_join,
    icmp,
    ip_packets,
    sctp,
    udp,
)
from dfw.layout import FAMILY_V4


def hits(arena: Arena, genes: Genes, count: int, rng: np.random.Generator) -> Scenario:
    sent = genes["sent"]
    if sent in OWN_SENT:
        return _OWN[sent](arena, genes, count, rng)
    again = bool(genes["judged_again"])
    who = rng.permutation(arena.connections)[:count] if again else order_draw(genes, arena.connections, count, rng)
    if len(who) < count:
        who = np.resize(who, count)
    back = rng.random(count) < 0.5
    shape = shape_of(arena, genes)
    if sent == "error":
        frames = errors(arena, who, back, shape)
    else:
        flags, seq, ack, payload = {
            "ack": (ACK, 0, 0, b""),
            "data": (ACK | PSH, 0, 0, b"x"),
            "old": (ACK, -70_000_000, 0, b""),
            "far": (ACK, 1 << 30, 0, b""),
            "future": (ACK, 0, 1 << 20, b""),
            "syn": (SYN, 5, 0, b""),
            "synack": (SYN | ACK, 5, 0, b""),
            "fin": (FIN | ACK, 0, 0, b""),
            "reset": (RST, 100, 0, b""),
            "reset-far": (RST, -100, 0, b""),
        }[sent]
        options = NOPS if genes["tcp_options"] == "nops" else b""
        frames = arena.segments(who, back, flags, seq=seq, ack=ack, payload=payload, tcp_options=options, **shape)
    return Scenario(None, frames.at(clock=BEGUN, filter_number=STATEFUL), again)


def errors(arena: Arena, who: Order, back: npt.NDArray[np.bool_], shape: dict[str, Any]) -> Frames:
    """ICMP errors from routers all over, each quoting a packet that its connection really has in flight."""
    quoted = arena.segments(who, back, ACK, ip_options=shape["ip_options"]).data[:, 14:]
    size = (20 if arena.family == FAMILY_V4 else 40) + len(shape["ip_options"]) + 8
    v4 = arena.family == FAMILY_V4
    rows = icmp(len(who), 3 if v4 else 1, 3 if v4 else 4, 0, quoted[:, :size])
    to = np.where(back[:, None], arena.server(who), arena.client(who))
    router = addresses(arena.family, (0x0C000000 + np.arange(len(who))).astype(np.uint64))
    packets = ip_packets(arena.family, router, to, ICMP if v4 else ICMP6, rows)
    return ethernet(arena.family, packets, tags=shape["tags"], size=shape["size"])


# ---- hits on connections of the attacker's own ----------------------------------------------------------------------


def _own_udp(arena: Arena, genes: Genes, count: int, rng: np.random.Generator) -> Scenario:
    return _own_datagrams(arena, genes, count, rng, 53, b"?")


def _own_tftp(arena: Arena, genes: Genes, count: int, rng: np.random.Generator) -> Scenario:
    return _own_datagrams(arena, genes, count, rng, 69, b"\x00\x01file\x00octet\x00")


def _own_datagrams(
    arena: Arena, genes: Genes, count: int, rng: np.random.Generator, port: int, payload: bytes
) -> Scenario:
    own = min(4096, (arena.capacity - arena.connections) // 2)
    everyone = 20_000_000 + np.arange(own)

    def frames(who: Order) -> Frames:
        rows = udp(len(who), arena.client_port(who), port, payload)
        packets = ip_packets(arena.family, arena.client(who), arena.server(who), UDP, rows)
        return ethernet(arena.family, packets, size=genes["size"]).at(clock=BEGUN, filter_number=ALG)

    return Scenario(frames(everyone), frames(20_000_000 + order_draw(genes, own, count, rng)))


def _own_sctp(arena: Arena, genes: Genes, count: int, rng: np.random.Generator) -> Scenario:
    own = min(4096, (arena.capacity - arena.connections) // 2)
    everyone = 30_000_000 + np.arange(own)
    init = bytes([1, 0, 0, 20]) + (7).to_bytes(4, "big") + bytes(12)
    ack = bytes([2, 0, 0, 20]) + (9).to_bytes(4, "big") + bytes(12)

    def frames(who: Order, back: bool, tag: int, chunks: bytes) -> Frames:
        ports = (arena.client_port(who), 5000)
        rows = sctp(len(who), ports[back], ports[not back], tag, chunks)
        ends = (arena.client(who), arena.server(who))
        packets = ip_packets(arena.family, ends[back], ends[not back], SCTP, rows)
        return ethernet(arena.family, packets, size=genes["size"]).at(clock=BEGUN, filter_number=STATEFUL)

    steps = [(False, 0, init), (True, 7, ack), (False, 9, bytes([10, 0, 0, 4])), (True, 7, bytes([11, 0, 0, 4]))]
    before = frames_interleave([frames(everyone, *step) for step in steps])
    return Scenario(before, frames(30_000_000 + order_draw(genes, own, count, rng), False, 9, bytes([0, 0, 0, 4]) * 32))


def _commands(arena: Arena, sent: str, back: bool) -> Callable[[int], bytes]:
    """The n-th line of an FTP control connection, all of one length."""
    if sent == "port-long":
        return lambda n: (b"227 " + b"1,1,1,1,1;" * 50 + b"\r\n") if back else b"PORT " + b"9" * 490 + b"\r\n"
    if sent == "epsv":
        return lambda n: (b"229 " + b"(|||" * 120 + b"\r\n") if back else b"EPRT |1|" + b"1" * 480 + b"\r\n"
    return lambda n: b"229 x (|||%05d|)\r\n" % (1024 + n % 50000)


def _own_ftp(arena: Arena, genes: Genes, count: int, rng: np.random.Generator) -> Scenario:
    """Control connections whose every segment is a line for the ALG; the server's announce ports."""
    own = min(4096, (arena.capacity - arena.connections) // 2)
    everyone = 40_000_000 + np.arange(own)
    which = order_draw(genes, own, count, rng)
    turn, back = _occurrence(which), genes["sent"] != "port-long" or bool(rng.integers(0, 2))
    line = _commands(arena, genes["sent"], back)
    size = len(line(0))
    # A line each; rows of one length, so their bytes are laid over a common frame.
    frames = arena.segments(40_000_000 + which, back, ACK | PSH, port=21, seq=turn * size, payload=bytes(size))
    at = int(frames.length[0]) - size if frames.length[0] > 60 else 14 + (20 if arena.family == FAMILY_V4 else 40) + 20
    if genes["sent"] == "port":
        text = np.frombuffer(b"".join(line(int(n)) for n in rng.integers(0, 50000, count)), np.uint8)
        frames.data[:, at : at + size] = text.reshape(count, size)
    else:
        frames.data[:, at : at + size] = np.frombuffer(line(0), np.uint8)
    before = arena.handshakes(everyone, BEGUN, 21).at(filter_number=ALG)
    return Scenario(before, frames.at(clock=BEGUN, filter_number=ALG))


def _own_children(arena: Arena, genes: Genes, count: int, rng: np.random.Generator) -> Scenario:
    """Data connections that FTP announced: each packet renews its parent too."""
    own = min(1024, (arena.capacity - arena.connections) // 2)
    everyone = 50_000_000 + np.arange(own)
    lines = arena.segments(everyone, True, ACK | PSH, port=21, payload=b"229 x (|||33333|)\r\n")
    parts = [arena.handshakes(everyone, BEGUN, 21), lines, _data(arena, everyone, False, SYN, -1)]
    parts += [_data(arena, everyone, True, SYN | ACK, -1), _data(arena, everyone, False, ACK, 0)]
    before = frames_join([part.at(clock=BEGUN, filter_number=ALG) for part in parts])
    frames = _data(arena, 50_000_000 + order_draw(genes, own, count, rng), False, ACK, 0)
    return Scenario(before, frames.at(clock=BEGUN, filter_number=ALG))


def _data(arena: Arena, who: Order, back: bool, flags: int, seq: int) -> Frames:
    return arena.segments(who, back, flags, port=33333, seq=seq)


_OWN: Final[Mapping[str, Callable[[Arena, Genes, int, np.random.Generator], Scenario]]] = {
    "udp": _own_udp,
    "sctp": _own_sctp,
    "port": _own_ftp,
    "port-long": _own_ftp,
    "epsv": _own_ftp,
    "tftp": _own_tftp,
    "child": _own_children,
}


def _occurrence(which: Order) -> Order:
    """How often the same value stood before each."""
    order = np.argsort(which, kind="stable")
    ordered = which[order]
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    start = np.maximum.accumulate(np.where(begins, np.arange(len(which)), 0))
    out = np.empty(len(which), np.int64)
    out[order] = np.arange(len(which)) - start
    return out
