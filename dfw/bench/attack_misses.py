# SPDX-License-Identifier: Apache-2.0
"""Packets without a connection: let pass, refused, and those that begin one."""

from __future__ import annotations

from typing import Any

import numpy as np

from dfw.bench.arena import ALG, BEGUN, DROP, HOSTILE, REJECT, SECOND, STATEFUL, STATELESS, Arena, Scenario
from dfw.bench.attack_common import Genes, Order, shape_of
from dfw.bench.attack_hits import errors
from dfw.bench.frames import (
    ACK,
    RST,
    SCTP,
    SYN,
    TCP,
    UDP,
    Frames,
    addresses,
    ethernet,
    frames_join,
    ip_packets,
    sctp,
    tcp,
    udp,
)
from dfw.layout import KeyArray


def steady(arena: Arena, count: int) -> Order:
    """A clock so fast that each new connection finds one that has run out."""
    return 240 * SECOND + SECOND // 50 + np.arange(count) * (BEGUN // arena.connections)


# ---- misses ---------------------------------------------------------------------------------------------------------


def opening(arena: Arena, keys: KeyArray, genes: Genes, sent: str) -> Frames:
    """First packets with these headers: TCP as SYNs, UDP as it is (`syn`: all as SYNs, `udp`: all as UDP)."""
    count = len(keys)
    shape = shape_of(arena, genes)
    options = b"\x02\x04\x05\xb4" + b"\x01" * 32 + b"\x01\x03\x03\x07" if genes.get("ip_options") == "many" else b""
    rows = tcp(count, keys["sport"], keys["dport"], _seq(count), 0, SYN, options=options)
    packets = ip_packets(arena.family, keys["src"], keys["dst"], TCP, rows, options=shape["ip_options"])
    segments = ethernet(arena.family, packets, tags=shape["tags"], size=shape["size"])
    if sent == "syn":
        return segments
    rows = udp(count, keys["sport"], keys["dport"], b"?")
    packets = ip_packets(arena.family, keys["src"], keys["dst"], UDP, rows, options=shape["ip_options"])
    datagrams = ethernet(arena.family, packets, tags=shape["tags"], size=shape["size"])
    if sent == "udp":
        return datagrams
    return frames_join([segments, datagrams]).take(np.where(keys["proto"] == TCP, 0, count) + np.arange(count))


def _seq(count: int) -> Order:
    return np.arange(count) * 7919


def _expectations(arena: Arena) -> Frames:
    """As many announced connections as there may be, none of which comes."""
    who = 60_000_000 + np.arange(1024)
    rows = udp(1024, arena.client_port(who), 69, b"\x00\x01f\x00octet\x00")
    packets = ip_packets(arena.family, arena.client(who), arena.server(who), UDP, rows)
    return ethernet(arena.family, packets).at(clock=BEGUN, filter_number=ALG)


def allowed(arena: Arena, genes: Genes, keys: KeyArray, rng: np.random.Generator) -> Scenario:
    frames = opening(arena, keys, genes, "both").at(clock=BEGUN, filter_number=HOSTILE + STATELESS)
    return Scenario(_expectations(arena) if genes["expected"] else None, frames)


def refused(arena: Arena, genes: Genes, keys: KeyArray, rng: np.random.Generator) -> Scenario:
    sent, count = genes["sent"], len(keys)
    before = [_expectations(arena)] if genes["expected"] else []
    number = HOSTILE + DROP
    if sent == "error":
        strangers = 70_000_000 + rng.integers(0, 1 << 20, count)
        frames = errors(arena, strangers, rng.random(count) < 0.5, shape_of(arena, genes))
    elif sent == "misfit":
        rows = tcp(count, keys["sport"], keys["dport"], 1, 1, SYN | ACK)
        frames = ethernet(arena.family, ip_packets(arena.family, keys["src"], keys["dst"], TCP, rows))
    elif sent == "reject":
        # 90 peers have used up the second's answers but for one, the last of them its own: all are looked through.
        peers = np.concatenate([np.arange(90), np.full(9, 89)])
        some = np.repeat(keys[:1], len(peers))
        some["src"] = addresses(arena.family, (0x0D000000 + peers).astype(np.uint64))
        keys = keys.copy()
        keys["src"] = some["src"][-1]
        number = HOSTILE + REJECT
        before.append(opening(arena, some, {}, "both").at(clock=BEGUN, filter_number=number))
        frames = opening(arena, keys, genes, "both")
    else:
        frames = opening(arena, keys, genes, "both")
    return Scenario(frames_join(before) if before else None, frames.at(clock=BEGUN, filter_number=number))


def setups(arena: Arena, genes: Genes, keys: KeyArray, rng: np.random.Generator) -> Scenario:
    sent, count = genes["sent"], len(keys)
    clock: Any = BEGUN if genes["full"] else steady(arena, count)
    number = HOSTILE + STATEFUL
    before: list[Frames] = []
    if sent == "reopen":
        who = rng.permutation(arena.connections)[:count]
        reset = arena.segments(who, False, RST, seq=0).at(clock=BEGUN)
        before.append(
            frames_join([arena.segments(who, True, RST, seq=0).at(clock=BEGUN), reset]).at(filter_number=STATEFUL)
        )
        frames, number = arena.segments(np.resize(who, count), False, SYN, seq=5_000_000), STATEFUL
        clock = BEGUN
    elif sent == "tftp":
        who = 20_000_000 + np.arange(count)
        rows = udp(count, arena.client_port(who), 69, b"\x00\x01f\x00octet\x00")
        frames = ethernet(arena.family, ip_packets(arena.family, arena.client(who), arena.server(who), UDP, rows))
        number = ALG
    elif sent == "sctp":
        init = bytes([1, 0, 0, 20]) + (7).to_bytes(4, "big") + bytes(12)
        rows = sctp(count, keys["sport"], keys["dport"], 0, init)
        frames = ethernet(arena.family, ip_packets(arena.family, keys["src"], keys["dst"], SCTP, rows))
    else:
        frames = opening(arena, keys, genes, sent)
    if genes["full"]:
        who = 80_000_000 + np.arange(arena.capacity - arena.connections)
        syns = arena.segments(who, False, SYN, seq=-1)
        before.append(syns.at(clock=BEGUN, filter_number=STATEFUL))
    return Scenario(frames_join(before) if before else None, frames.at(clock=clock, filter_number=number))
