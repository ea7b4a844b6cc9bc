# SPDX-License-Identifier: Apache-2.0
"""Sets of packets in words and as JSON shows them: where, from, to, services. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dfw.model import PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, Direction, PortRange
from dfw.packetrules import Space
from dfw.packetservice import ServiceAxis, Transport, ports_merge
from dfw.packetset import Box

_NAMES = {PROTO_TCP: "tcp", PROTO_UDP: "udp", 132: "sctp", PROTO_ICMP: "icmp", PROTO_ICMPV6: "icmpv6", 47: "gre"}
_ALL = (PortRange(0, 65535),)
_SHOWN = 4


class ServiceSet(NamedTuple):
    """Headers of one protocol (None: of all that no rule names). Ranges: None for any. ICMP: type and code.

    `segments`: of TCP, None for any, `syn` for those that begin a connection, `other` for the rest.
    """

    protocol: int | None
    sources: tuple[PortRange, ...] | None
    destinations: tuple[PortRange, ...] | None
    is_icmp: bool
    segments: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Its fields."""
        first, second = ("icmp_types", "icmp_codes") if self.is_icmp else ("source_ports", "destination_ports")
        empty: dict[str, list[str] | None] = dict.fromkeys(
            ("source_ports", "destination_ports", "icmp_types", "icmp_codes")
        )
        filled = empty | {first: _texts(self.sources), second: _texts(self.destinations)}
        return {"protocol": self.protocol, **filled, "tcp_segments": self.segments}

    def __str__(self) -> str:
        if self.protocol is None:
            return "other protocols"
        name = _NAMES.get(self.protocol, f"protocol {self.protocol}")
        if self.is_icmp:
            parts = (("type", self.sources), ("code", self.destinations))
            return " ".join([name, *(f"{word} {_joined(ranges)}" for word, ranges in parts if ranges is not None)])
        text = name if self.destinations is None else f"{name}/{_joined(self.destinations)}"
        text += "" if self.sources is None else f" from port {_joined(self.sources)}"
        return text + {"syn": " (SYN)", "other": " (all but SYN)"}.get(self.segments or "", "")


def _texts(ranges: Sequence[PortRange] | None) -> list[str] | None:
    return None if ranges is None else [_text(item) for item in ranges]


def _text(item: PortRange) -> str:
    return str(item.first) if item.first == item.last else f"{item.first}-{item.last}"


def _joined(ranges: Sequence[PortRange]) -> str:
    texts = [_text(item) for item in ranges]
    return ",".join(texts if len(texts) <= _SHOWN + 1 else [*texts[:_SHOWN], f"… ({len(texts)} ranges)"])


def services_of(axis: ServiceAxis, mask: int) -> list[ServiceSet] | None:
    """The headers of some classes, in as few parts as joining ports gives; None for all."""
    if mask == axis.full:
        return None
    found: list[ServiceSet] = []
    by_protocol: dict[int, list[Transport]] = {}
    for transport in axis.header_in(mask):
        by_protocol.setdefault(transport.protocol, []).append(transport)
    for protocol, transports in by_protocol.items():
        if protocol in axis.other_protocols:
            found.append(ServiceSet(None, None, None, False))
        elif not transports[0].sources:
            found.append(ServiceSet(protocol, None, None, False))
        else:
            found += _rectangles(protocol, transports, protocol == axis.icmp)
    return found


def _rectangles(protocol: int, transports: Iterable[Transport], is_icmp: bool) -> list[ServiceSet]:
    """Joined along the destinations, then along the sources, then along the flags."""
    across: dict[tuple[tuple[int, ...], tuple[PortRange, ...]], list[PortRange]] = {}
    for item in transports:
        across.setdefault((item.flags, item.sources), []).extend(item.destinations)
    along: dict[tuple[tuple[int, ...], tuple[PortRange, ...]], list[PortRange]] = {}
    for (flags, sources), destinations in across.items():
        along.setdefault((flags, ports_merge(destinations)), []).extend(sources)
    whole: dict[tuple[tuple[PortRange, ...], tuple[PortRange, ...]], list[int]] = {}
    for (flags, destinations_key), parts in along.items():
        whole.setdefault((ports_merge(parts), destinations_key), []).extend(flags)
    every = (PortRange(0, 255),) if is_icmp else _ALL
    return [
        ServiceSet(
            protocol,
            None if sources_key == every else sources_key,
            None if destinations_key == every else destinations_key,
            is_icmp,
            _segments(flags_list) if protocol == PROTO_TCP else None,
        )
        for (sources_key, destinations_key), flags_list in whole.items()
    ]


def _segments(flags: Iterable[int]) -> str | None:
    begins = {value & 0x12 == 0x02 for value in flags}
    return None if len(begins) == 2 else "syn" if True in begins else "other"


def places_of(space: Space, mask: int, vnics: Sequence[str]) -> list[dict[str, Any]] | None:
    """The vNICs of some classes, by direction; None for one filter on a wire. `vnics` null: all that are compared."""
    if space.vnics.tap:
        return None
    found = []
    for direction, numbers in space.vnics.places(mask):
        names = None if len(numbers) == len(vnics) else [vnics[number] for number in numbers]
        found.append({"dir": direction.name, "vnics": names})
    return found


def set_json(space: Space, box: Box, vnics: Sequence[str]) -> dict[str, Any]:
    """One box as JSON shows it."""
    services = services_of(space.services, box.services)
    sides = {
        name: None if mask == axis.full else [str(item) for item in axis.ranges(mask)]
        for name, axis, mask in (
            ("sources", space.sources, box.sources),
            ("destinations", space.destinations, box.destinations),
        )
    }
    return {
        "family": 4 if space.family.bits == 32 else 6,
        "at": places_of(space, box.vnics, vnics),
        **sides,
        "services": None if services is None else [item.as_json() for item in services],
        "text": _sentence(space, box, sides, services, vnics),
    }


def _sentence(
    space: Space,
    box: Box,
    sides: Mapping[str, Sequence[str] | None],
    services: Sequence[ServiceSet] | None,
    vnics: Sequence[str],
) -> str:
    what = "everything" if services is None else _few([str(item) for item in services])
    ends = [f"any IPv{4 if space.family.bits == 32 else 6}" if item is None else _few(item) for item in sides.values()]
    text = f"{what} from {ends[0]} to {ends[1]}"
    places = places_of(space, box.vnics, vnics)
    if places is None:
        return text
    at = [
        f"{_WORDS[place['dir']]} {'every vNIC' if place['vnics'] is None else _few(place['vnics'])}" for place in places
    ]
    return f"{text}, {' and '.join(at)}"


_WORDS = {Direction.IN.name: "IN at", Direction.OUT.name: "OUT at", Direction.IN_OUT.name: "IN and OUT at"}


def _few(texts: Sequence[str]) -> str:
    return ", ".join(texts if len(texts) <= _SHOWN + 1 else [*texts[:_SHOWN], f"… ({len(texts)})"])
