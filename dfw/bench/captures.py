# SPDX-License-Identifier: Apache-2.0
"""A large capture for `bench replay`, seeded, and what a firewall must say of it.

Traffic as in a data centre: TCP connections of very different lengths, many at a time, from handshake to close, both
ways, IPv4 and IPv6, every fiftieth segment sent again; a few UDP questions and answers; a scan that the last rule
refuses. Frames with data are all of one size; those without are as short as such frames are. Checksums are right.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

SERVICES: Final = 100
"""Rules before the last one; rule r allows TCP to port 2000 + r of the servers."""

_ETHERNET, _TCP_HEADER, _UDP_HEADER = 14, 32, 8
_IP_HEADER = {4: 20, 6: 40}
_FIN, _SYN, _PUSH_ACK, _ACK = 1, 2, 0x18, 0x10
_TCP, _UDP = 6, 17
_SCAN, _QUESTION = 1, 2  # kinds of flows beside TCP connections, 0
_ROWS: Final = 16384  # frames made at a time
_CLOSE = 3  # FIN, FIN, ACK
_OPEN = 3
_MTU_PAYLOAD_MIN = 8
_GAP_NS = 5_000  # between two packets of the capture, on average: 200,000 a second

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class CaptureFacts(NamedTuple):
    """What is in the capture, and so what must come out: see `expected`."""

    packets: int
    bytes: int
    connections: int
    refused: int

    def expected(self) -> dict[str, object]:
        """The part of `replay -o json` that is known beforehand."""
        decided = self.connections + self.refused
        reasons = {"state": self.packets - decided, "match": decided}
        return {
            "packets": self.packets,
            "bytes": self.bytes,
            "verdicts": {"ALLOW": self.packets - self.refused, "DROP": self.refused},
            "reasons": {name: count for name, count in reasons.items() if count},
            "created": self.connections,
        }


@dataclass(frozen=True, slots=True)
class _Flows:
    """One row a flow: kind, family, endpoints, number of its first packet in flow order, packets."""

    kind: Ints
    family: Ints
    client: Ints
    server: Ints
    sport: Ints
    dport: Ints
    first: Ints
    packets: Ints


@dataclass(frozen=True, slots=True)
class _Packets:
    """One row a packet, flow by flow and in order within: what its headers say."""

    flow: Ints
    reply: npt.NDArray[np.bool_]
    flags: Ints
    data: Ints
    seq: Ints
    ack: Ints


def write_policy(path: Path) -> None:
    """The policy that the capture is made for: SERVICES + 2 rules, of which the last refuses the scan."""
    rules = "".join(
        f"  - {{id: service-{number}, destination_groups: [servers], action: ALLOW, service_entries: "
        f"[{{resource_type: L4PortSetServiceEntry, l4_protocol: TCP, destination_ports: ['{2000 + number}']}}]}}\n"
        for number in range(SERVICES)
    )
    path.write_text(
        "resource_type: Group\nid: servers\n"
        "expression: [{resource_type: IPAddressExpression, ip_addresses: [10.1.0.0/16, 'fd00:1::/32']}]\n---\n"
        f"resource_type: SecurityPolicy\nid: bench\ncategory: Application\nrules:\n{rules}"
        "  - {id: names, destination_groups: [servers], services: [DNS-UDP], action: ALLOW}\n"
        "  - {id: rest, destination_groups: [servers], action: DROP}\n",
        encoding="utf-8",
    )


def write_capture(path: Path, *, packets: int, size: int, seed: int = 1) -> CaptureFacts:
    """Write a pcap file (microseconds, Ethernet) of about `packets` packets, a hundred a flow, frames with data `size`
    bytes long."""
    if size < _ETHERNET + _IP_HEADER[6] + _TCP_HEADER + _MTU_PAYLOAD_MIN:
        raise ValueError(f"frames of {size} bytes have no room for data")
    random = np.random.default_rng(seed)
    rows = _make_flows(random, packets, max(packets // 100, 10))
    made = _make_packets(random, rows, size)
    order, ticks = _interleave(random, rows, made)
    total = 0
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1))
        for piece, length in _frames(random, rows, made, order, ticks, size):
            file.write(piece)
            total += length
    scans = int((rows.kind == _SCAN).sum())
    return CaptureFacts(len(order), total, len(rows.kind) - scans, scans)


def _make_flows(random: np.random.Generator, packets: int, count: int) -> _Flows:
    kind = random.choice([0, _SCAN, _QUESTION], count, p=[0.8, 0.1, 0.1])
    family = np.where((random.random(count) < 0.2) & (kind == 0), 6, 4)
    weight = random.lognormal(0, 1.5, count)
    tcp = kind == 0
    budget = packets - int((kind == _SCAN).sum()) - 2 * int((kind == _QUESTION).sum())
    share = np.maximum(weight / weight[tcp].sum() * budget, _OPEN + _CLOSE + 1).astype(np.int64)
    length = np.where(tcp, share, np.where(kind == _SCAN, 1, 2))
    number = np.arange(count, dtype=np.int64)
    dport = np.where(tcp, 2000 + random.integers(0, SERVICES, count), np.where(kind == _QUESTION, 53, 9))
    return _Flows(
        kind=kind.astype(np.int64),
        family=family.astype(np.int64),
        client=random.integers(1, 60_000, count),
        server=random.integers(1, 2_000, count),
        sport=1024 + number % 60_000,  # no two flows of one client begin with the same port
        dport=dport.astype(np.int64),
        first=np.concatenate(([0], np.cumsum(length)[:-1])),
        packets=length,
    )


def _make_packets(random: np.random.Generator, flows: _Flows, size: int) -> _Packets:
    flow = np.repeat(np.arange(len(flows.kind)), flows.packets)
    at = np.arange(len(flow)) - flows.first[flow]
    left = flows.packets[flow] - at  # 1: the last of its flow
    tcp = flows.kind[flow] == 0
    middle = tcp & (at >= _OPEN) & (left > _CLOSE)
    reply = np.where(middle, random.random(len(flow)) < 0.5, tcp & ((at == 1) | (left == 2)))
    reply |= (flows.kind[flow] == _QUESTION) & (at == 1)
    again = middle & (at > _OPEN) & (random.random(len(flow)) < 0.02)
    again[1:] &= ~again[:-1]
    reply[again] = reply[np.flatnonzero(again) - 1]
    room = size - _ETHERNET - np.where(flows.family[flow] == 6, 40, 20)
    data = np.where(middle, room - _TCP_HEADER, 0)
    data = np.where(flows.kind[flow] == _QUESTION, np.where(at == 0, 32, np.minimum(room - _UDP_HEADER, 400)), data)
    flags = np.full(len(flow), _ACK)
    flags[middle] = _PUSH_ACK
    flags[tcp & (at == 0)] = _SYN
    flags[flows.kind[flow] == _SCAN] = _SYN
    flags[tcp & (at == 1)] = _SYN | _ACK
    flags[tcp & ((left == 3) | (left == 2))] = _FIN | _ACK
    # What each end has sent before each packet; a repeated segment is sent from where it began.
    takes = np.where(again, 0, data + ((flags & (_SYN | _FIN)) != 0))
    isn = random.integers(0, 1 << 32, (2, len(flows.kind)))
    sent = [_running(np.where(reply == side, takes, 0), flows.first[flow]) + isn[int(side)][flow] for side in (0, 1)]
    seq = np.where(reply, sent[1], sent[0]) - np.where(again, data, 0)
    ack = np.where(reply, sent[0], sent[1])
    ack[(flags & _ACK) == 0] = 0
    return _Packets(flow, reply.astype(np.bool_), flags, data, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF)


def _running(values: Ints, first: Ints) -> Ints:
    """Sums of what stands before each packet in its own flow."""
    before = np.cumsum(values) - values
    return np.asarray(before - before[first])


def _interleave(random: np.random.Generator, flows: _Flows, packets: _Packets) -> tuple[Ints, Ints]:
    """The packets' order in the capture, and each one's time in microseconds since its begin.

    A flow begins anywhere, and lasts up to a third of the capture; at most a tenth of a second a packet."""
    span = len(packets.flow) * _GAP_NS
    begin = random.random(len(flows.kind)) * span * 0.67
    length = np.minimum(random.random(len(flows.kind)) * 0.33 * span, flows.packets * 1e8)
    at = np.arange(len(packets.flow)) - flows.first[packets.flow]
    shift = at + random.random(len(at)) * 0.9  # in order within the flow
    when = begin[packets.flow] + shift / flows.packets[packets.flow] * length[packets.flow]
    order = np.argsort(when, kind="stable")
    return order, (when[order] / 1000).astype(np.int64)


def _frames(
    random: np.random.Generator, flows: _Flows, packets: _Packets, order: Ints, ticks: Ints, size: int
) -> Iterator[tuple[bytes, int]]:
    """Records of the file, some thousands at a time, and the bytes of their frames."""
    begun = 1_700_000_000
    text = random.integers(0, 256, size + 64, dtype=np.uint8)
    for begin in range(0, len(order), _ROWS):
        chosen, when = order[begin : begin + _ROWS], ticks[begin : begin + _ROWS]
        frames, lengths = _rows(flows, packets, chosen, text, size)
        record = np.zeros((len(chosen), 4), dtype="<u4")
        record[:, 0], record[:, 1] = begun + when // 1_000_000, when % 1_000_000
        record[:, 2] = record[:, 3] = lengths
        row = 16 + frames.shape[1]
        whole = np.concatenate((record.view(np.uint8), frames), axis=1).tobytes()
        ends = (np.arange(len(chosen)) * row + 16 + lengths).tolist()
        yield b"".join([whole[at * row : end] for at, end in enumerate(ends)]), int(lengths.sum())


def _rows(flows: _Flows, packets: _Packets, chosen: Ints, text: Bytes, size: int) -> tuple[Bytes, Ints]:
    """Frames, one a row, zero behind their ends, and their lengths."""
    flow = packets.flow[chosen]
    reply = packets.reply[chosen]
    family = flows.family[flow]
    udp = flows.kind[flow] == _QUESTION
    transport = np.where(udp, _UDP_HEADER, _TCP_HEADER) + packets.data[chosen]
    lengths = _ETHERNET + np.where(family == 6, 40, 20) + transport
    frames = np.zeros((len(chosen), size + size % 2), dtype=np.uint8)
    frames[:, 0:12] = np.where(reply[:, None], _MACS[::-1].reshape(1, 12), _MACS.reshape(1, 12))
    for number, header in _IP_HEADER.items():
        mine = np.flatnonzero(family == number)
        if len(mine) == 0:
            continue
        l4 = _ETHERNET + header
        some = frames[mine]
        _put_ip(some, number, flows, flow[mine], reply[mine], transport[mine], udp[mine])
        at = np.flatnonzero(~udp[mine])
        some[at, :] = _with_tcp(some[at], l4, flows, packets, chosen[mine[at]], text)
        at = np.flatnonzero(udp[mine])
        some[at, :] = _with_udp(some[at], l4, flows, packets, chosen[mine[at]], transport[mine[at]], text)
        some[np.arange(some.shape[1]) >= lengths[mine, None]] = 0
        _put_sum(some, l4, l4 + np.where(udp[mine], 6, 16), number, np.where(udp[mine], _UDP, _TCP), transport[mine])
        frames[mine] = some
    return frames, lengths


_MACS = np.array([[2, 0, 0, 0, 2, 2], [2, 0, 0, 0, 1, 1]], dtype=np.uint8)  # the server's, the client's


def _put(frames: Bytes, at: int, values: Ints, width: int) -> None:
    """An unsigned number of `width` bytes in network byte order in every row."""
    frames[:, at : at + width] = np.ascontiguousarray(values, dtype=">u8").view(np.uint8).reshape(-1, 8)[:, 8 - width :]


def _put_ip(
    frames: Bytes,
    family: int,
    flows: _Flows,
    flow: Ints,
    reply: npt.NDArray[np.bool_],
    transport: Ints,
    udp: npt.NDArray[np.bool_],
) -> None:
    source = np.where(reply, flows.server[flow], flows.client[flow])
    target = np.where(reply, flows.client[flow], flows.server[flow])
    net = np.where(reply, 1, 2)  # servers are in 10.1/16 and fd00:1::/32, clients in 10.2/16 and fd00:2::/32
    if family == 4:
        frames[:, 12:16] = (8, 0, 0x45, 0)
        _put(frames, 16, 20 + transport, 2)
        frames[:, 20:23] = (0x40, 0, 64)
        frames[:, 23] = np.where(udp, _UDP, _TCP)
        _put(frames, 26, 0x0A000000 + (net << 16) + source, 4)
        _put(frames, 30, 0x0A000000 + ((3 - net) << 16) + target, 4)
        _put(frames, 24, _folded(frames[:, 14:34]), 2)
        return
    frames[:, 12:15] = (0x86, 0xDD, 0x60)
    _put(frames, 18, transport, 2)
    frames[:, 20] = np.where(udp, _UDP, _TCP)
    frames[:, 21] = 64
    for at, side, host in ((22, net, source), (38, 3 - net, target)):
        _put(frames, at, 0xFD000000 + side, 4)
        _put(frames, at + 8, host, 8)


def _with_tcp(frames: Bytes, l4: int, flows: _Flows, packets: _Packets, chosen: Ints, text: Bytes) -> Bytes:
    flow, reply = packets.flow[chosen], packets.reply[chosen]
    _put(frames, l4, np.where(reply, flows.dport[flow], flows.sport[flow]), 2)
    _put(frames, l4 + 2, np.where(reply, flows.sport[flow], flows.dport[flow]), 2)
    _put(frames, l4 + 4, packets.seq[chosen], 4)
    _put(frames, l4 + 8, packets.ack[chosen], 4)
    frames[:, l4 + 12] = 0x80
    frames[:, l4 + 13] = packets.flags[chosen]
    frames[:, l4 + 14 : l4 + 16] = 255
    syn = (packets.flags[chosen] & _SYN) != 0
    # Maximum segment size and window scale in a SYN, else a time stamp; the rest is no-operation.
    in_syn = np.array([2, 4, 5, 180, 3, 3, 7, 1, 1, 1, 1, 1], dtype=np.uint8)
    frames[:, l4 + 20 : l4 + 32] = np.where(syn[:, None], in_syn, np.array([1, 1, 8, 10, *[0] * 8], dtype=np.uint8))
    frames[:, l4 + 32 :] = text[: frames.shape[1] - l4 - 32]
    return frames


def _with_udp(
    frames: Bytes, l4: int, flows: _Flows, packets: _Packets, chosen: Ints, transport: Ints, text: Bytes
) -> Bytes:
    flow, reply = packets.flow[chosen], packets.reply[chosen]
    _put(frames, l4, np.where(reply, flows.dport[flow], flows.sport[flow]), 2)
    _put(frames, l4 + 2, np.where(reply, flows.sport[flow], flows.dport[flow]), 2)
    _put(frames, l4 + 4, transport, 2)
    frames[:, l4 + 8 :] = text[: frames.shape[1] - l4 - 8]
    return frames


def _folded(rows: Bytes, start: Ints | int = 0) -> Ints:
    """The Internet checksum (RFC 1071) of each row."""
    total = np.ascontiguousarray(rows).view(">u2").sum(axis=1, dtype=np.int64) + start
    for _ in range(3):
        total = (total & 0xFFFF) + (total >> 16)
    return np.asarray(0xFFFF - total)


def _put_sum(frames: Bytes, l4: int, at: Ints, family: int, protocol: Ints, length: Ints) -> None:
    """The transport's checksum, with its pseudo-header; the addresses stand right before the transport header."""
    sums = _folded(frames[:, l4 - (8 if family == 4 else 32) :], protocol + length)
    sums = np.where((sums == 0) & (protocol == _UDP), 0xFFFF, sums)  # 0 says that there is none (RFC 768)
    rows = np.arange(len(frames))
    frames[rows, at], frames[rows, at + 1] = sums >> 8, sums & 0xFF
