# SPDX-License-Identifier: Apache-2.0
"""Fragments, held until their datagram is whole (docs/packet-path.md section 3; RFC 791, RFC 5722, RFC 8200)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dfw.model import Limits
from dfw.oracle.checksum import internet_checksum
from dfw.oracle.limits import OTHERS, prefix_of, share_of, side_of
from dfw.oracle.packet import IPV4, Packet
from dfw.oracle.parse import parse_datagram

_LIFETIME_TICKS = 3_000
_MAXIMUM_DATAGRAM = 65_535
_DATAGRAMS_PER_WORKER = 1_024
_FRAGMENTS_PER_DATAGRAM = 64
_BLOCKS_PER_WORKER = 16_384
_BLOCK = 256
_BLOCKS_PER_DATAGRAM = 32  # of a budget's share

# filter, VRF, IP version, source, destination, identification, protocol (IPv4), and whose it is: the filter's own
# workload's or others'
FragmentKey = tuple[str, int, int, int, int, int, int, str]

Ticket = TypeVar("Ticket")


@dataclass(slots=True)
class Piece(Generic[Ticket]):
    """One fragment. `content`: its payload, zeros where it was not captured."""

    packet: Packet
    ticket: Ticket
    content: bytes

    @property
    def first(self) -> int:
        """Offset of its first byte in the datagram."""
        return self.packet.fragment_offset

    @property
    def end(self) -> int:
        """Offset after its last byte."""
        return self.packet.fragment_offset + len(self.content)


@dataclass(slots=True)
class Datagram(Generic[Ticket]):
    """The fragments of one key. `refused`: they overlapped, and nothing is held any more."""

    deadline: int
    direction: int  # of its first fragment at the filter
    pieces: list[Piece[Ticket]] = field(default_factory=list)
    refused: bool = False

    @property
    def length(self) -> int | None:
        """Where the last fragment ends; None before it came."""
        return next((piece.end for piece in self.pieces if not piece.packet.fragment_more), None)


@dataclass(slots=True)
class Outcome(Generic[Ticket]):
    """What became of fragments: those refused, with the reason, and at most one datagram that is now whole."""

    refused: list[tuple[Piece[Ticket], str]] = field(default_factory=list)
    whole: Packet | None = None
    pieces: list[Piece[Ticket]] = field(default_factory=list)


@dataclass(slots=True)
class FragmentStore(Generic[Ticket]):
    """All datagrams that one worker waits for."""

    verify: bool = False
    limits: Limits = field(default_factory=Limits)
    _datagrams: dict[FragmentKey, Datagram[Ticket]] = field(default_factory=dict)

    def add(
        self, filter_name: str, direction: int, vrf: int, packet: Packet, ticket: Ticket, now: int
    ) -> Outcome[Ticket]:
        """Take in one fragment at tick `now`. Also returns the fragments whose time has run out."""
        outcome: Outcome[Ticket] = Outcome(refused=list(self._expire(now)))
        protocol = packet.protocol if packet.ip_version == IPV4 else 0
        ends = (packet.source, packet.destination)
        key = (filter_name, vrf, packet.ip_version, *ends, packet.fragment_id, protocol, side_of(direction))
        present = packet.data[packet.l4 : packet.end]
        piece = Piece(packet, ticket, present.ljust(packet.l4_length, b"\0"))
        datagram = self._datagrams.get(key)
        reason = self._refusal(key, direction, datagram, piece)
        if reason is not None:
            outcome.refused.append((piece, reason))
            return outcome
        if datagram is None:
            datagram = self._datagrams[key] = Datagram(now + _LIFETIME_TICKS, direction)
        if _contradicts(datagram, piece):
            outcome.refused += [(held, "frag-overlap") for held in (*datagram.pieces, piece)]
            datagram.pieces.clear()
            datagram.refused = True
            return outcome
        datagram.pieces.append(piece)
        if sum(len(held.content) for held in datagram.pieces) == datagram.length:
            del self._datagrams[key]
            self._complete(datagram, outcome)
        return outcome

    def flush(self, now: int) -> list[tuple[Piece[Ticket], str]]:
        """End of input: everything that is still held."""
        left = list(self._expire(now))
        for datagram in self._datagrams.values():
            left += [(piece, "frag-incomplete") for piece in datagram.pieces]
        self._datagrams.clear()
        return left

    def _expire(self, now: int) -> Iterator[tuple[Piece[Ticket], str]]:
        for key, datagram in list(self._datagrams.items()):
            if now > datagram.deadline:
                del self._datagrams[key]
                for piece in datagram.pieces:
                    yield piece, "frag-timeout"

    def _refusal(
        self, key: FragmentKey, direction: int, datagram: Datagram[Ticket] | None, piece: Piece[Ticket]
    ) -> str | None:
        """Why this one fragment may not even be held."""
        packet = piece.packet
        header = packet.l4 - packet.l3 if packet.ip_version == IPV4 else 0
        length = len(piece.content)
        if not length or (packet.fragment_more and length % 8) or header + piece.end > _MAXIMUM_DATAGRAM:
            return "frag-length"
        if datagram is not None and datagram.refused:
            return "frag-overlap"
        if datagram is not None:
            if any(_same(held, piece) for held in datagram.pieces):
                return "frag-duplicate"
            if _contradicts(datagram, piece):
                return None  # refused with the whole datagram; nothing is held
        return "frag-limit" if self._exceeds_limits(key, direction, datagram, piece) else None

    def _exceeds_limits(
        self, key: FragmentKey, direction: int, datagram: Datagram[Ticket] | None, piece: Piece[Ticket]
    ) -> bool:
        if datagram is not None and len(datagram.pieces) >= _FRAGMENTS_PER_DATAGRAM:
            return True
        direction = direction if datagram is None else datagram.direction
        side = side_of(direction)
        limits, everything = self.limits, list(self._datagrams.items())
        own_side = [item for item in everything if item[0][0] == key[0] and side_of(item[1].direction) == side]
        from_source = [item for item in own_side if item[0][2:4] == key[2:4]]
        shares = [
            (everything, _DATAGRAMS_PER_WORKER, _BLOCKS_PER_WORKER),
            _share(own_side, share_of(limits.fragments_own, limits.fragments_others, direction)),
            _share(from_source, limits.fragments_source),
        ]
        if side == OTHERS:
            prefix = prefix_of(*key[2:4])
            shares.append(_share([i for i in own_side if prefix_of(*i[0][2:4]) == prefix], limits.fragments_prefix))
        fresh = datagram is None
        return any(
            len(held) + fresh > datagrams or _blocks_of(held) + _blocks(piece) > blocks
            for held, datagrams, blocks in shares
        )

    def _complete(self, datagram: Datagram[Ticket], outcome: Outcome[Ticket]) -> None:
        """Put a datagram together whose fragments are all there."""
        pieces = sorted(datagram.pieces, key=lambda piece: piece.first)
        first = pieces[0].packet
        payload = b"".join(piece.content for piece in pieces)
        data = _first_header(first, len(payload)) + payload
        if len(data) > _MAXIMUM_DATAGRAM + (0 if first.ip_version == IPV4 else 40):
            outcome.refused += [(piece, "frag-length") for piece in datagram.pieces]
            return
        zero_filled = any(piece.packet.end < piece.packet.l4 + len(piece.content) for piece in pieces)
        whole = parse_datagram(data, first.ip_version, verify=self.verify, zero_filled=zero_filled)
        whole.vni = first.vni
        whole.fragments = len(pieces)
        whole.fragments_bytes = sum(piece.packet.ip_length for piece in pieces)
        outcome.whole = whole
        outcome.pieces = datagram.pieces


Held = list[tuple[FragmentKey, Datagram[Ticket]]]


def _share(held: Held[Ticket], datagrams: int) -> tuple[Held[Ticket], int, int]:
    """A budget: what is held of it, and its datagrams and blocks."""
    return held, datagrams, datagrams * _BLOCKS_PER_DATAGRAM


def _blocks_of(held: Held[Ticket]) -> int:
    return sum(_blocks(piece) for _, datagram in held for piece in datagram.pieces)


def _blocks(piece: Piece[Ticket]) -> int:
    return -(-len(piece.content) // _BLOCK)


def _same(held: Piece[Ticket], piece: Piece[Ticket]) -> bool:
    return (
        held.first == piece.first
        and held.packet.fragment_more is piece.packet.fragment_more
        and held.content == piece.content
    )


def _contradicts(datagram: Datagram[Ticket], piece: Piece[Ticket]) -> bool:
    """Does the fragment overlap another, or say something else about where the datagram ends?"""
    if any(piece.first < held.end and held.first < piece.end for held in datagram.pieces):
        return True
    length = datagram.length
    if piece.packet.fragment_more:
        return length is not None and piece.end > length
    return length is not None or any(held.end > piece.end for held in datagram.pieces)


def _first_header(first: Packet, payload: int) -> bytes:
    """The first fragment's headers as those of the whole datagram."""
    header = bytearray(first.data[first.l3 : first.l4])
    if first.ip_version == IPV4:
        header[2:4] = min(len(header) + payload, _MAXIMUM_DATAGRAM).to_bytes(2, "big")
        flags = int.from_bytes(header[6:8], "big") & ~0x3FFF
        header[6:8] = flags.to_bytes(2, "big")
        header[10:12] = b"\0\0"
        header[10:12] = internet_checksum(bytes(header)).to_bytes(2, "big")
        return bytes(header)
    next_header_at = first.next_header_at - first.l3
    header[next_header_at] = first.protocol
    del header[-8:]
    header[4:6] = min(len(header) - 40 + payload, _MAXIMUM_DATAGRAM).to_bytes(2, "big")
    return bytes(header)
