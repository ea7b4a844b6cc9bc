# SPDX-License-Identifier: Apache-2.0
"""What one host is told: its vNICs, what it forwards by, and the compiled rules of its vNICs.

Computed from intent (overlay/span.py) and never stored as intent. The file is JSON; arrays of the packet core's rows
(pal_rule, pal_range …) stand in it as base64 of their bytes, in this machine's byte order. A field that this version
does not know makes it refuse the whole state: the old rules stay (DESIGN section 9).
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from dfw.model import ENCAPSULATIONS, ENFORCERS, GENEVE, NATIVE, Action, Tier

VERSION: Final = 1
GATEWAY_MAC: Final = "02:50:56:56:44:52"  # of every distributed router interface, the same on every host

TIMERS: Final = 11  # PAL_TIMERS
FLOODS: Final = 4  # PAL_FLOODS

GUARDS: Final = ("spoof", "dhcp", "ra")  # of a workload's vNIC

ROUTE_CONNECTED: Final = "connected"
ROUTE_VIA: Final = "via"
ROUTE_GATEWAY: Final = "gateway"
ROUTE_BLACKHOLE: Final = "blackhole"


class StateError(ValueError):
    """A host's state that this version cannot take: the message is a sentence."""


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class VnicState(_Struct, frozen=True):
    """A workload's card. `ips`: `address/length`. `gateways`: of its default routes; 0.0.0.0 or ::, everybody is on its
    link. `netns`: where its interface is to be, None where nothing is attached. `table`: of its rules; `ether`: of its
    layer-2 rules, None for none. `routes`: `PREFIX via ADDRESS`, of a vNIC whose kernel routes. `arriving`: it is still
    behind this TEP, and on its way here: its rules are made ready, and nothing else."""

    name: str
    mac: str
    ips: tuple[str, ...]
    segment: int
    table: int
    timers: tuple[int, ...]
    ether: int | None = None
    flood: tuple[int, ...] = (0, 0, 0, 0)
    gateways: tuple[str, ...] = ()
    mtu: int = 1500
    netns: str | None = None
    interface: str = "eth0"
    guards: tuple[str, ...] = GUARDS
    arriving: int | None = None
    routes: tuple[str, ...] = ()


class SegmentState(_Struct, frozen=True):
    """`gateway`: index of the gateway that routes for it. `replicas`: indexes of the TEPs that have vNICs on it."""

    name: str
    vni: int
    gateway: int | None = None
    replicas: tuple[int, ...] = ()
    learn: bool = False


class NeighbourState(_Struct, frozen=True):
    """A workload on a segment, here (`vnic`) or behind a TEP. `ip` None: its MAC address only."""

    segment: int
    mac: str
    ip: str | None = None
    vnic: str | None = None
    tep: int | None = None


class InterfaceState(_Struct, frozen=True):
    """A gateway's address on a segment."""

    gateway: int
    segment: int
    ip: str


class RouteState(_Struct, frozen=True):
    """A row of a gateway's table. `target`: a segment, or for kind `gateway` a gateway."""

    gateway: int
    prefix: str
    kind: str
    target: int = 0
    next_hop: str | None = None


class TepState(_Struct, frozen=True):
    """Another host's tunnel endpoint. `encap`: what is spoken with it, of ENCAPSULATIONS; `bfd`: is BFD, too? It is not
    where VXLAN is, and not with what forwards by its kernel."""

    host: str
    ip: str
    encap: str = GENEVE
    bfd: bool = True


class BfdState(_Struct, frozen=True):
    """How often this host's TEP sends BFD packets and wants them, in milliseconds (0: never), and how many of its own
    may be missed."""

    interval: int = 1000
    multiplier: int = 3


class RuleState(_Struct, frozen=True):
    """What is known of a rule when it has matched."""

    rule_id: int
    path: str
    policy: str
    tier: str
    action: str
    logged: bool = False
    tag: str = ""


class SetState(_Struct, frozen=True):
    """An address set: `name` of its group, empty for raw addresses; `ranges`: rows of pal_range."""

    name: str
    ranges: bytes


class TableState(_Struct, frozen=True):
    """The entries of a filter: rows of pal_rule whose `rule` is an index of `rules`; `refs`: indexes of `sets`."""

    entries: bytes
    refs: bytes


class EtherState(_Struct, frozen=True):
    """Layer-2 entries: rows of pal_ether_rule, and the MAC addresses that they refer to."""

    entries: bytes
    macs: bytes


class StagedState(_Struct, frozen=True):
    """The rules of a host's vNICs as staged policies would have them. `table_of`: of each of its vNICs, in their
    order, the index of its table; `ether_of`: likewise of its layer-2 list, None for none, empty where no vNIC has
    one."""

    rules: tuple[RuleState, ...]
    sets: tuple[SetState, ...]
    tables: tuple[TableState, ...]
    table_of: tuple[int, ...]
    ether: tuple[EtherState, ...] = ()
    ether_of: tuple[int | None, ...] = ()


class HostState(_Struct, frozen=True):
    """All that a host is told, as of one revision. `enforcer`: what is to judge its packets, of ENFORCERS. `staged`:
    what it is to count of staged policies, None where there are none, or it does not count them."""

    host: str
    revision: int
    tep: str
    underlay_mtu: int = 1600
    version: int = VERSION
    byte_order: str = sys.byteorder
    gateway_mac: str = GATEWAY_MAC
    bfd: BfdState = BfdState()
    enforcer: str = NATIVE
    vnics: tuple[VnicState, ...] = ()
    segments: tuple[SegmentState, ...] = ()
    gateways: tuple[str, ...] = ()
    neighbours: tuple[NeighbourState, ...] = ()
    interfaces: tuple[InterfaceState, ...] = ()
    routes: tuple[RouteState, ...] = ()
    teps: tuple[TepState, ...] = ()
    rules: tuple[RuleState, ...] = ()
    sets: tuple[SetState, ...] = ()
    tables: tuple[TableState, ...] = ()
    ether: tuple[EtherState, ...] = ()
    staged: StagedState | None = None


def state_encode(state: HostState) -> bytes:
    """One line of JSON."""
    return msgspec.json.encode(state) + b"\n"


def state_decode(data: bytes) -> HostState:
    """The state in these bytes. Raises StateError: another version or byte order, or what does not fit."""
    try:
        head = msgspec.json.decode(data, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateError(f"this is no host state: {error}") from error
    if head.version != VERSION:
        raise StateError(f"a host state of version {head.version}; this agent reads version {VERSION}")
    if head.byte_order != sys.byteorder:
        raise StateError(f"a host state for a {head.byte_order}-endian machine; this one is {sys.byteorder}-endian")
    try:
        state = msgspec.json.decode(data, type=HostState)
    except msgspec.DecodeError as error:
        raise StateError(f"this host state does not fit: {error}") from error
    state_check(state)
    return state


class _Head(msgspec.Struct):
    version: int
    byte_order: str


def state_write(path: str | Path, state: HostState, *, durable: bool = True) -> None:
    """Replace the file in one step: a reader sees the old state or the new one. `durable`: see file_replace.

    Raises OSError.
    """
    file_replace(path, state_encode(state), durable=durable)


def file_replace(path: str | Path, data: bytes, mode: int = 0o600, *, durable: bool = True) -> None:
    """Replace a file's content in one step; `durable`: and keep it over a power failure. Raises OSError."""
    target = Path(path)
    number, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(number, "wb") as file:
            os.fchmod(number, mode)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(number)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def state_read(path: str | Path) -> HostState:
    """The state in a file. Raises OSError, StateError."""
    return state_decode(Path(path).read_bytes())


def state_check(state: HostState) -> None:
    """Does every index point at something? Raises StateError with the first that does not."""

    def inside(what: str, index: int | None, count: int) -> None:
        if index is not None and not 0 <= index < count:
            raise StateError(f"{what} is {index}, of {count}")

    if not 0 <= state.bfd.interval <= 60_000 or not 1 <= state.bfd.multiplier <= 255:
        raise StateError(f"BFD every {state.bfd.interval} ms, {state.bfd.multiplier} times")
    _check_word("enforcer", state.enforcer, ENFORCERS)
    for number, end in enumerate(state.teps):
        _check_word(f"teps[{number}].encap", end.encap, ENCAPSULATIONS)
    _check_rules("rules", state.rules)
    if state.staged is not None:
        _check_rules("staged.rules", state.staged.rules)
        if len(state.staged.table_of) != len(state.vnics):
            raise StateError(f"{len(state.staged.table_of)} staged tables for {len(state.vnics)} vNICs")
        for vnic, table in zip(state.vnics, state.staged.table_of, strict=True):
            inside(f"the staged table of vNIC {vnic.name}", table, len(state.staged.tables))
        if state.staged.ether_of and len(state.staged.ether_of) != len(state.vnics):
            raise StateError(f"{len(state.staged.ether_of)} staged layer-2 tables for {len(state.vnics)} vNICs")
        for vnic, ether in zip(state.vnics, state.staged.ether_of, strict=False):
            inside(f"the staged layer-2 table of vNIC {vnic.name}", ether, len(state.staged.ether))
    names: set[str] = set()
    for number, vnic in enumerate(state.vnics):
        for guard in vnic.guards:
            _check_word(f"vnics[{number}].guards", guard, GUARDS)
        if vnic.name in names:
            raise StateError(f"vNIC {vnic.name} stands there twice")
        names.add(vnic.name)
        inside(f"the segment of vNIC {vnic.name}", vnic.segment, len(state.segments))
        inside(f"the table of vNIC {vnic.name}", vnic.table, len(state.tables))
        inside(f"the layer-2 table of vNIC {vnic.name}", vnic.ether, len(state.ether))
        inside(f"the TEP from which vNIC {vnic.name} comes", vnic.arriving, len(state.teps))
        if len(vnic.timers) != TIMERS or len(vnic.flood) != FLOODS:
            raise StateError(f"vNIC {vnic.name} has {len(vnic.timers)} timers and {len(vnic.flood)} flood limits")
    for segment in state.segments:
        inside(f"the gateway of segment {segment.name}", segment.gateway, len(state.gateways))
        for tep in segment.replicas:
            inside(f"a replica of segment {segment.name}", tep, len(state.teps))
    for neighbour in state.neighbours:
        inside(f"the segment of {neighbour.mac}", neighbour.segment, len(state.segments))
        inside(f"the TEP of {neighbour.mac}", neighbour.tep, len(state.teps))
        if (neighbour.vnic is None) == (neighbour.tep is None):
            raise StateError(f"{neighbour.mac} is either at a vNIC here or behind a TEP")
        if neighbour.vnic is not None and neighbour.vnic not in names:
            raise StateError(f"{neighbour.mac} is at {neighbour.vnic}, which is no vNIC here")
    for interface in state.interfaces:
        inside(f"the gateway of {interface.ip}", interface.gateway, len(state.gateways))
        inside(f"the segment of {interface.ip}", interface.segment, len(state.segments))
    for route in state.routes:
        inside(f"the gateway of {route.prefix}", route.gateway, len(state.gateways))
        if route.kind not in (ROUTE_CONNECTED, ROUTE_VIA, ROUTE_GATEWAY, ROUTE_BLACKHOLE):
            raise StateError(f"{route.kind!r} is no kind of route ({route.prefix})")
        if route.kind != ROUTE_BLACKHOLE:
            count = len(state.gateways if route.kind == ROUTE_GATEWAY else state.segments)
            inside(f"the target of {route.prefix}", route.target, count)


def _check_rules(path: str, rules: tuple[RuleState, ...]) -> None:
    for field, words in (("tier", tuple(Tier.__members__)), ("action", tuple(Action.__members__))):
        if not {getattr(rule, field) for rule in rules} <= set(words):
            for number, rule in enumerate(rules):
                _check_word(f"{path}[{number}].{field}", getattr(rule, field), words)


def _check_word(path: str, word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        raise StateError(f"{path} is {word!r}, which is none of {', '.join(known)}")
