# SPDX-License-Identifier: Apache-2.0
"""Captures through a policy, as tests look at them: packets with their judgements, and the conversations they form."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from dfw.capture import open_capture
from dfw.core import Capture
from dfw.endpoint import protocol_name
from dfw.model import PROTO_ICMP, PROTO_ICMPV6, PROTOCOLS_WITH_PORTS, Address, Family, PolicySet
from dfw.oracle.parse import parse
from dfw.policytest.errors import PolicyTestError
from dfw.policytest.rules import shown_file
from dfw.replay_run import RunOptions, run_native

_ANSWERS = {(PROTO_ICMP, 0): 8, (PROTO_ICMPV6, 129): 128}  # an echo reply, by what it answers


class Judged(NamedTuple):
    """One judgement of a packet, in the words of a verdict file."""

    vnic: str | None
    dir: str | None
    verdict: str
    reason: str
    rule_path: str | None
    ct: str


@dataclass(slots=True)
class PacketSeen:
    """A packet of a capture: `n` counts from 1 in its file. No addresses: not IP, or damaged."""

    file: str
    n: int
    source: Address | None
    destination: Address | None
    protocol: int
    sport: int
    dport: int
    judgements: list[Judged] = field(default_factory=list)

    @property
    def passes(self) -> bool:
        """Did every filter that judged it let it pass?"""
        return all(item.verdict == "ALLOW" for item in self.judgements)

    @property
    def last(self) -> Judged | None:
        """The judgement that decided; None where the packet was never judged to the end."""
        return self.judgements[-1] if self.judgements else None

    @property
    def service(self) -> str:
        """`tcp/443`, `icmp 8/0`, `gre`."""
        name = protocol_name(self.protocol)
        if self.protocol in PROTOCOLS_WITH_PORTS:
            return f"{name}/{self.dport}"
        return f"{name} {self.dport >> 8}/{self.dport & 255}" if self.protocol in (PROTO_ICMP, PROTO_ICMPV6) else name

    def __str__(self) -> str:
        ends = f"{self.source} -> {self.destination}, {self.service}" if self.source is not None else "not IP"
        return f"{shown_file(self.file)} packet {self.n} ({ends})"


@dataclass(slots=True)
class Conversation:
    """Packets of one connection, both ways, in the direction of the first of them."""

    packets: list[PacketSeen]

    @property
    def first(self) -> PacketSeen:
        """The packet that begins it in the capture."""
        return self.packets[0]

    @property
    def passes(self) -> bool:
        """Did all of its packets pass?"""
        return all(packet.passes for packet in self.packets)

    @property
    def is_cut(self) -> bool:
        """Was the packet refused that begins it?"""
        return not self.first.passes


@dataclass(frozen=True, slots=True)
class Captured:
    """What replaying captures gave. `hits`: new connections and packets by rule path; `drops`: refusals by reason."""

    packets: tuple[PacketSeen, ...]
    conversations: tuple[Conversation, ...]
    hits: dict[str, int]
    drops: dict[str, int]


def captures_judge(world: PolicySet, files: Sequence[str], options: RunOptions) -> Captured:
    """Replay captures with the packet core. Raises PolicyTestError where one cannot be read or judged."""
    __tracebackhide__ = True
    with tempfile.TemporaryDirectory(prefix="palisade-") as folder:
        verdicts = os.path.join(folder, "verdicts.jsonl")
        result = run_native(world, files, replace(options, verdicts=verdicts))
        for item in result.captures:
            if item.error:
                raise PolicyTestError(f"{shown_file(item.file)}: {item.error}")
        packets = {(packet.file, packet.n): packet for file in files for packet in _packets(file, options.decap)}
        for line in Path(verdicts).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            packet = packets[row["file"], row["n"]]
            packet.judgements.append(Judged(*(row[name] for name in Judged._fields)))
    judged = [item for packet in packets.values() for item in packet.judgements]
    return Captured(
        tuple(packets.values()),
        tuple(_conversations(packets.values())),
        {row["rule_path"]: row["hits"] for row in result.rules},
        dict(Counter(item.reason for item in judged if item.verdict != "ALLOW")),
    )


def _packets(file: str, decap: bool) -> Iterator[PacketSeen]:
    with open_capture(file) as source:
        capture = Capture(source.view)
        try:
            while len(frames := capture.frames()):
                for frame in frames:
                    yield _packet(file, frame, source.view, capture.base, decap)
        finally:
            capture.close()


def _packet(file: str, frame: Any, view: memoryview, base: int, decap: bool) -> PacketSeen:
    at = int(frame["data"]) - base
    data = bytes(view[at : at + int(frame["caplen"])])
    found = parse(data, int(frame["linktype"]), int(frame["wirelen"]), decap=decap)
    seen = PacketSeen(file, int(frame["number"]), None, None, found.protocol, found.source_port, found.destination_port)
    if found.ip_version and found.source >= 0 and found.destination >= 0:
        family = Family.IPV4 if found.ip_version == 4 else Family.IPV6
        seen.source, seen.destination = Address(family, found.source), Address(family, found.destination)
        if found.icmp_type >= 0:
            seen.sport = found.identifier
        elif found.is_fragment and found.fragment_offset:
            seen.sport = -1  # a later fragment has no ports: it belongs to no conversation that could be named
    return seen


def _conversations(packets: Iterable[PacketSeen]) -> Iterator[Conversation]:
    found: dict[object, Conversation] = {}
    for packet in packets:
        if packet.source is None or packet.sport < 0:
            continue
        key = _key(packet)
        known = found.get(key)
        if known is None:
            found[key] = Conversation([packet])
        else:
            known.packets.append(packet)
    yield from found.values()


def _key(packet: PacketSeen) -> object:
    if packet.protocol in (PROTO_ICMP, PROTO_ICMPV6):
        kind = packet.dport >> 8
        return (
            packet.protocol,
            frozenset((packet.source, packet.destination)),
            packet.sport,
            _ANSWERS.get((packet.protocol, kind), kind),
        )
    ends = (packet.source, packet.sport), (packet.destination, packet.dport)
    return packet.protocol, frozenset(ends)
