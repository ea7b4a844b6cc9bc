# SPDX-License-Identifier: Apache-2.0
"""What a host is told in parts, each with a name and a hash: only those that changed have to be sent.

`host/NAME`, `segment/NAME`, `gateway/NAME`, `tep/HOST`: what it forwards by, the same for all hosts that share a
routing domain. `vnic/PORT`, `table/HASH`, `ether/HASH`, `set/HASH`: its own vNICs and their rules. A table is the same
wherever it is: its name is its content's hash; a set's is that of what it means, so that members can come and go: a
SetChange says which.
A field that this version does not know makes it refuse (StateError): the old state stays.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

import msgspec
import numpy as np

from dfw.layout import ETHER_DTYPE, RANGE_DTYPE, RULE_DTYPE
from dfw.model import (
    NATIVE,
    Gateway,
    Host,
    Inventory,
    Port,
    Segment,
    address_parse,
    prefix_parse,
)
from overlay.hoststate import (
    BfdState,
    EtherState,
    HostState,
    RuleState,
    SetState,
    StagedState,
    StateError,
    TableState,
    VnicState,
    state_check,
)
from overlay.span import UNDERLAY_MTU, Fabric, ForwardingSpan, vnic_network

VERSION: Final = 5
HASH_CHARACTERS: Final = 32
MARK_BYTES: Final = 12
_SUMS: Final = 1 << 8 * MARK_BYTES
_SHARED: Final = ("segment/", "gateway/", "tep/")
_FAMILY: Final = slice(32, 36)  # of a row of pal_range
# A host's state is put together anew with each change, from addresses that are nearly all as before.
_address = lru_cache(maxsize=1 << 16)(address_parse)
_prefix = lru_cache(maxsize=1 << 14)(prefix_parse)


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class HostPart(_Part, frozen=True):
    """The host itself. `version`: of all parts that it is told; always sent, so that who reads another one notices."""

    tep: str
    version: int
    bfd: BfdState = BfdState()
    enforcer: str = NATIVE
    encapsulation: str | None = None


class _Version(msgspec.Struct):
    version: int


class TepPart(_Part, frozen=True):
    """Another host's tunnel endpoint, and what enforces there: it decides what the tunnel is."""

    ip: str
    enforcer: str = NATIVE
    encapsulation: str | None = None


class GatewayPart(_Part, frozen=True):
    """A gateway; `uplink`: the Tier-0 above."""

    tier: int
    uplink: str | None = None


class MemberPart(_Part, frozen=True, array_like=True):
    """A port of a segment, and where it is. Its name is nobody's business but its host's (VnicPart)."""

    host: str
    mac: str
    ips: tuple[str, ...]


class SegmentPart(_Part, frozen=True):
    """A segment with all its ports."""

    vni: int
    subnets: tuple[str, ...] = ()
    gateway: str | None = None
    ports: tuple[MemberPart, ...] = ()


class VnicPart(_Part, frozen=True):
    """A vNIC of this host, and what is in force at it, by names of parts. `staged`, `staged_ether`: its table and its
    layer-2 list as staged policies would have them, of a host that counts them."""

    segment: str
    mac: str
    ips: tuple[str, ...]
    table: str
    timers: tuple[int, ...]
    ether: str | None = None
    flood: tuple[int, ...] = (0, 0, 0, 0)
    staged: str | None = None
    staged_ether: str | None = None


class TablePart(_Part, frozen=True):
    """`entries`: rows of pal_rule, whose `rule` is an index of `rules`; `refs`: names of sets."""

    entries: bytes
    rules: tuple[RuleState, ...]
    refs: tuple[str, ...] = ()


class EtherPart(_Part, frozen=True):
    """Layer-2 entries, whose `rule` is an index of `rules`, and the MAC addresses that they refer to."""

    entries: bytes
    macs: bytes
    rules: tuple[RuleState, ...]


SetPart = SetState


class SetChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """An address set's members that came and went (rows of pal_range), and the hash of what is there then."""

    added: bytes
    removed: bytes
    hash: str


TYPES: Final[Mapping[str, type[msgspec.Struct]]] = {
    "host": HostPart,
    "tep": TepPart,
    "gateway": GatewayPart,
    "segment": SegmentPart,
    "vnic": VnicPart,
    "table": TablePart,
    "ether": EtherPart,
    "set": SetPart,
}
_encoder: Final = msgspec.json.Encoder()
_version: Final = msgspec.json.Decoder(_Version)
_decoders: Final = {kind: msgspec.json.Decoder(made) for kind, made in TYPES.items()}


def part_encode(part: msgspec.Struct) -> bytes:
    """JSON."""
    return _encoder.encode(part)


def part_decode(key: str, data: bytes) -> msgspec.Struct:
    """The part of this name. Raises StateError."""
    kind = key.partition("/")[0]
    decoder = _decoders.get(kind)
    if decoder is None:
        raise StateError(f"this agent knows no {kind!r} ({key})")
    part: msgspec.Struct = _decode(decoder, key, data)
    return part


def _decode(decoder: msgspec.json.Decoder[Any], key: str, data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except msgspec.DecodeError as error:
        raise StateError(f"{key} does not fit: {error}") from error


def part_hash(data: bytes) -> str:
    """Of a part's content."""
    return sha256(data).hexdigest()[:HASH_CHARACTERS]


def part_mark(key: str, content_hash: str) -> bytes:
    """By which a host says that it knows this part with this content: MARK_BYTES."""
    return sha256(f"{key}\0{content_hash}".encode()).digest()[:MARK_BYTES]


def part_is_shared(key: str) -> bool:
    """A part that is the same for all hosts of a routing domain."""
    return key.startswith(_SHARED)


def marks_split(marks: bytes) -> frozenset[bytes]:
    """Marks that stand one after the other."""
    return frozenset(marks[at : at + MARK_BYTES] for at in range(0, len(marks), MARK_BYTES))


def marks_sum(marks: Iterable[bytes]) -> int:
    """The sum of marks (big-endian numbers, modulo 2 ** (8 * MARK_BYTES)): it says in a few bytes which parts are
    known, whatever the order in which they came. It guards against loss, not against who wants to be told too little:
    that is a host's own affair."""
    return sum(int.from_bytes(mark, "big") for mark in marks) % _SUMS


def sum_with(known: int, gone: bytes | None, new: bytes | None) -> int:
    """The sum when one mark goes and another comes."""
    return (known + int.from_bytes(new or b"", "big") - int.from_bytes(gone or b"", "big")) % _SUMS


def set_compare(before: bytes, after: bytes) -> SetChange:
    """From one content of a set's part to another. Raises StateError."""
    first, then = (part_decode("set/", data).ranges for data in (before, after))  # type: ignore[attr-defined]
    # A large set changes often, and by few rows: those at its beginning and end that are the same are not looked at.
    head = _same(first, then)
    first, then = first[head:], then[head:]
    tail = _same(first, then, step=-1)
    had, has = (set(_rows(ranges[: len(ranges) - tail])) for ranges in (first, then))
    return SetChange(b"".join(sorted(has - had)), b"".join(sorted(had - has)), part_hash(after))


def _same(one: bytes, other: bytes, step: int = 1) -> int:
    """How many bytes, of whole rows, are the same from the beginning on, or (`step` -1) from the end on."""
    first, second = (np.frombuffer(data, np.uint8)[::step] for data in (one, other))
    length = min(len(first), len(second))
    differs = first[:length] != second[:length]
    same = int(differs.argmax()) if differs.any() else length
    return same - same % RANGE_DTYPE.itemsize


def set_change(before: bytes, changes: Sequence[SetChange]) -> bytes:
    """A set's part after changes, one after the other. What is there then is what the last of them says, or StateError:
    it was one of another content. The rows that stay are not looked at: a large set changes often."""
    if not changes:
        return before
    part = part_decode("set/", before)
    assert isinstance(part, SetPart)
    ranges = bytearray(part.ranges)
    for change in changes:
        for row in _rows(change.removed):
            at = _place(ranges, row)
            if ranges[at : at + len(row)] == row:
                del ranges[at : at + len(row)]
        for row in _rows(change.added):
            at = _place(ranges, row)
            if ranges[at : at + len(row)] != row:
                ranges[at:at] = row
    after = part_encode(SetPart(part.name, bytes(ranges)))
    if part_hash(after) != changes[-1].hash:
        raise StateError(f"the members of {part.name or 'a set'} are not those that have changed")
    return after


def _place(ranges: bytearray, row: bytes) -> int:
    """Where a row is, or belongs: in the order of pal_range's."""
    size = RANGE_DTYPE.itemsize

    def order(at: int) -> bytes:
        return _order(ranges[at * size : (at + 1) * size])

    return size * bisect_left(range(len(ranges) // size), _order(row), key=order)


def _order(row: bytes | bytearray) -> bytes:
    return bytes(row[_FAMILY] + row[: _FAMILY.start])


def _rows(ranges: bytes) -> list[bytes]:
    size = RANGE_DTYPE.itemsize
    return [ranges[at : at + size] for at in range(0, len(ranges), size)]


def parts_assemble(host: str, parts: Mapping[str, bytes], revision: int) -> HostState:
    """The state that these parts are. Raises StateError: something is missing, or does not fit."""
    try:
        state = _Assembly(host, parts).state(revision)
    except KeyError as error:
        raise StateError(f"the parts of {host} are not complete: {error.args[0]} is missing") from error
    except ValueError as error:
        raise StateError(f"the parts of {host} do not fit: {error}") from error
    state_check(state)
    return state


class _Assembly:
    def __init__(self, host: str, parts: Mapping[str, bytes]) -> None:
        own = f"host/{host}"
        version = _decode(_version, own, parts[own]).version
        if version != VERSION:  # looked at first: what another version sends need not fit at all
            raise StateError(f"parts of version {version}; this agent reads version {VERSION}")
        self.parts: dict[str, Any] = {key: part_decode(key, data) for key, data in parts.items()}
        self.own: HostPart = self.parts[own]
        hosts = {
            name: Host(name, _address(part.ip), enforcer=part.enforcer, encapsulation=part.encapsulation)
            for name, part in self._of("tep")
            if name != host
        }
        bfd, tep = self.own.bfd, _address(self.own.tep)
        self.host = hosts[host] = Host(
            host,
            tep,
            bfd_interval=bfd.interval,
            bfd_multiple=bfd.multiplier,
            enforcer=self.own.enforcer,
            encapsulation=self.own.encapsulation,
        )
        segments, ports = {}, {}
        for name, part in self._of("segment"):
            segments[name] = Segment(name, part.vni, tuple(map(_prefix, part.subnets)), part.gateway)
            for number, item in enumerate(part.ports):
                if item.host != host:
                    there = f"{name} {number}"
                    ips = tuple(map(_address, item.ips))
                    ports[there] = Port(there, item.host, name, there, item.mac, ips)
        for name, part in self._of("vnic"):
            ips = tuple(map(_address, part.ips))
            ports[name] = Port(name, host, part.segment, name, part.mac, ips)
        gateways = {name: Gateway(name, part.tier, part.uplink) for name, part in self._of("gateway")}
        self.fabric = Fabric(Inventory(hosts, gateways, segments, {}, ports), ())

    def _of(self, kind: str) -> list[tuple[str, Any]]:
        prefix = f"{kind}/"
        found = [(key[len(prefix) :], part) for key, part in self.parts.items() if key.startswith(prefix)]
        return sorted(found, key=lambda item: item[0])

    def state(self, revision: int) -> HostState:
        span = ForwardingSpan(self.fabric, self.host)
        made = _Tables()
        tables: dict[str, int] = {}
        ether: dict[str, int] = {}
        staged: list[tuple[str | None, str | None]] = []
        vnics = []
        for port in span.own:
            part: VnicPart = self.parts[f"vnic/{port.name}"]
            staged.append((part.staged, part.staged_ether))
            segment = self.fabric.inventory.segments[port.segment]
            vnics.append(
                VnicState(
                    name=port.name,
                    mac=port.mac,
                    segment=span.number_of[port.segment],
                    table=tables.setdefault(part.table, len(tables)),
                    timers=part.timers,
                    ether=None if part.ether is None else ether.setdefault(part.ether, len(ether)),
                    flood=part.flood,
                    **vnic_network(port, segment, self.host, UNDERLAY_MTU),
                )
            )
        table_states = tuple(made.table(self.parts[key]) for key in tables)
        ether_states = tuple(made.ether(self.parts[key]) for key in ether)
        return HostState(
            host=self.host.name,
            revision=revision,
            tep=self.own.tep,
            underlay_mtu=UNDERLAY_MTU,
            bfd=self.own.bfd,
            enforcer=self.own.enforcer,
            vnics=tuple(vnics),
            **span.forwarding()._asdict(),
            rules=tuple(made.rules),
            sets=tuple(self.parts[key] for key in made.sets),
            tables=table_states,
            ether=ether_states,
            staged=self._staged(staged),
        )

    def _staged(self, keys: Sequence[tuple[str | None, str | None]]) -> StagedState | None:
        """From the names of tables and layer-2 lists, of each vNIC in order."""
        named = [key for key, _ in keys if key is not None]
        if not named:
            return None
        if len(named) < len(keys):
            raise StateError("staged policies are counted at all vNICs of a host, or at none")
        made = _Tables()
        numbers = {key: number for number, key in enumerate(dict.fromkeys(named))}
        tables = tuple(made.table(self.parts[key]) for key in numbers)
        sets = tuple(self.parts[key] for key in made.sets)
        listed = {key: number for number, key in enumerate(dict.fromkeys(key for _, key in keys if key is not None))}
        ether = tuple(made.ether(self.parts[key]) for key in listed)
        ether_of = tuple(None if key is None else listed[key] for _, key in keys) if listed else ()
        return StagedState(tuple(made.rules), sets, tables, tuple(numbers[key] for key in named), ether, ether_of)


class _Tables:
    """Tables of one world, and the rules and sets by which they count."""

    def __init__(self) -> None:
        self.rules: dict[RuleState, int] = {}
        self.sets: dict[str, int] = {}

    def _numbers(self, rules: tuple[RuleState, ...]) -> Any:
        return np.array([self.rules.setdefault(rule, len(self.rules)) for rule in rules], dtype=np.uint32)

    def table(self, part: TablePart) -> TableState:
        entries = np.frombuffer(part.entries, dtype=RULE_DTYPE).copy()
        numbers = self._numbers(part.rules)
        if len(entries):
            if int(entries["rule"].max()) >= len(numbers):
                raise StateError("an entry names a rule that its table does not have")
            entries["rule"] = numbers[entries["rule"]]
        refs = np.array([self.sets.setdefault(key, len(self.sets)) for key in part.refs], dtype=np.uint32)
        return TableState(entries.tobytes(), refs.tobytes())

    def ether(self, part: EtherPart) -> EtherState:
        entries = np.frombuffer(part.entries, dtype=ETHER_DTYPE).copy()
        numbers = self._numbers(part.rules)
        if len(entries):
            entries["rule"] = numbers[entries["rule"]]
        return EtherState(entries.tobytes(), part.macs)
