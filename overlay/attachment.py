# SPDX-License-Identifier: Apache-2.0
"""vNICs that were attached on the host itself: for a container, process or virtual machine that is there already.

They stand in a file of the agent's, outlive it, and are laid over the desired state whenever that is put in force. The
desired state has the last word: a port that it knows and has not attached anywhere gets its interface from here, and
all else from there (addresses, rules, segment); one that it attaches itself is left to it. A port that it does not know
is this host's own: no policy was compiled for it, so that it has one rule, the default that it was attached with, and
other hosts are not told of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from overlay.hoststate import (
    HostState,
    NeighbourState,
    RuleState,
    SetState,
    StateError,
    TableState,
    VnicState,
    file_replace,
)

ATTACHED: Final = "attached.json"
MOUNTED: Final = "attached-"
VERSION: Final = 1
_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_INTERFACE: Final = re.compile(r"[^\s/:]{1,15}")


class AttachError(ValueError):
    """It cannot be attached or detached like that: a sentence."""


class Attachment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A vNIC. `ips`: `address/length`, of a port of this host's own. `default`: what its one rule does, ALLOW or DROP.
    `mounted`: the name of the namespace is ours, and goes with the vNIC. `tap`: `interface` is a virtual machine's
    (overlay/tap_port.py), which `was_up` before."""

    name: str
    segment: str
    netns: str
    interface: str = "eth0"
    mac: str = ""
    ips: tuple[str, ...] = ()
    default: str = "DROP"
    mounted: bool = False
    tap: bool = False
    was_up: bool = False


def mount_name(run: Path, name: str) -> Path:
    """Where the namespace of an attached process gets a name of ours: in a lab among its other names, which `lab down`
    takes away; else in the agent's directory, from where `agent uninstall` does."""
    lab = run.parent.parent.parent
    folder = lab / "ns" if (lab / "lab.json").exists() else run
    return folder / f"{MOUNTED}{sha256(name.encode()).hexdigest()[:10]}"


class _File(msgspec.Struct):
    attachments: list[Attachment] = []
    version: int = VERSION


class Attachments:
    """A host's own vNICs, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            found = msgspec.json.decode(path.read_bytes(), type=_File)
        except FileNotFoundError:
            found = _File()
        except (OSError, msgspec.DecodeError) as error:
            raise StateError(f"{path} cannot be read: {error}") from error
        if found.version != VERSION:
            raise StateError(f"{path} is of version {found.version}; this agent reads version {VERSION}")
        self.known = {item.name: item for item in found.attachments}

    def over(self, state: HostState) -> HostState:
        """The desired state with what is attached here laid over it."""
        for item in self.known.values():
            state = state_attached(state, item)
        return state

    def change(self, request: dict[str, Any], told: HostState | None, apply: Callable[[], None]) -> dict[str, Any]:
        """Attach or detach as asked, keep that, and have it put in force. Raises AttachError, with all as it was."""
        if told is None:
            raise AttachError("this host has not been told its state yet: it knows no segment")
        before = dict(self.known)
        if request["do"] == "attach":
            try:
                item = msgspec.convert(request.get("attachment"), Attachment)
            except msgspec.ValidationError as error:
                raise AttachError(f"this is no attachment: {error}") from None
            attachment_check(item, told)
            self.known[item.name] = item
        else:
            gone = self.known.pop(str(request.get("name")), None)
            if gone is None:
                raise AttachError(f"no vNIC {request.get('name')!r} was attached here; {self._names()}")
            item = gone
        try:
            apply()
        except Exception as error:
            self.known = before
            apply()
            raise AttachError(str(error)) from error
        file_replace(self.path, msgspec.json.encode(_File(list(self.known.values()))))
        return {"attachment": msgspec.to_builtins(item)}

    def _names(self) -> str:
        return f"attached are {', '.join(self.known)}" if self.known else "none is"


def attachment_check(item: Attachment, told: HostState) -> None:
    """Raises AttachError where the desired state does not let it be."""
    segments = {segment.name for segment in told.segments}
    known = next((vnic for vnic in told.vnics if vnic.name == item.name), None)
    if known is not None:
        segment = told.segments[known.segment].name
        if segment != item.segment:
            raise AttachError(f"{item.name} is on segment {segment} by the desired state, not on {item.segment}")
        if known.netns is not None:
            raise AttachError(f"{item.name} is attached by the desired state, which has the last word")
        if item.ips or item.mac:
            raise AttachError(f"{item.name} has its addresses from the desired state: give none")
    elif item.segment not in segments:
        raise AttachError(f"this host has no segment {item.segment!r}; it has {', '.join(sorted(segments)) or 'none'}")
    else:
        if item.tap and not item.mac:
            raise AttachError(f"the desired state knows no port {item.name}: give its machine's MAC address (--mac)")
        if not item.ips:
            raise AttachError(f"the desired state knows no port {item.name}: give its addresses (--ip 10.1.1.5/24)")
        taken = {neighbour.ip for neighbour in told.neighbours} | {near.ip for near in told.interfaces}
        for text in item.ips:
            try:
                address = str(ip_interface(text).ip)
            except ValueError:
                raise AttachError(f"{text!r} is no address with a length, such as 10.1.1.5/24") from None
            if address in taken:
                raise AttachError(f"{address} is somebody's already")
    if item.mac and not _MAC.fullmatch(item.mac):
        raise AttachError(f"{item.mac!r} is no MAC address such as 02:00:00:00:01:01, in small letters")
    if not _INTERFACE.fullmatch(item.interface):
        raise AttachError(f"{item.interface!r} is no name of an interface: 1 to 15 characters")
    if item.default not in ("ALLOW", "DROP"):
        raise AttachError(f"{item.default!r}: the default is ALLOW or DROP")


def state_attached(state: HostState, item: Attachment) -> HostState:
    """The state with one vNIC attached; as it was where the desired state says otherwise meanwhile. Pure."""
    try:
        attachment_check(item, state)
    except AttachError:
        return state
    vnics = list(state.vnics)
    for at, vnic in enumerate(vnics):
        if vnic.name == item.name:
            vnics[at] = msgspec.structs.replace(vnic, netns=item.netns, interface=item.interface)
            return msgspec.structs.replace(state, vnics=tuple(vnics))
    return _own(state, item)


def mac_of(item: Attachment) -> str:
    """Its MAC address, or one made of its name: locally administered, the same each time."""
    return item.mac or ":".join(f"{byte:02x}" for byte in (2, *sha256(item.name.encode()).digest()[:5]))


def _own(state: HostState, item: Attachment) -> HostState:
    """A vNIC that the desired state does not know: its rows come from the smallest policy that has it."""
    from dfw.documents import document_of
    from dfw.load import load_documents
    from dfw.model import Action
    from overlay.span import resolve_span

    segment = next(number for number, one in enumerate(state.segments) if one.name == item.segment)
    inventory = {
        "apiVersion": "palisade.internal/v1alpha1",
        "kind": "Inventory",
        "hosts": [{"name": "h", "tep": state.tep}],
        "segments": [{"name": "s", "vni": state.segments[segment].vni}],
        "ports": [{"name": "p", "host": "h", "segment": "s", "mac": mac_of(item), "ips": []}],
    }
    world = load_documents([document_of(inventory, "attached")], default_action=Action[item.default]).world
    alone = resolve_span(world, state.revision, {}, underlay_mtu=state.underlay_mtu)["h"]
    (vnic,) = alone.vnics
    table = alone.tables[vnic.table]
    gateways = [near.ip for near in state.interfaces if near.segment == segment]
    made = msgspec.structs.replace(
        vnic,
        name=item.name,
        ips=item.ips,
        segment=segment,
        table=len(state.tables),
        gateways=tuple(gateways),
        netns=item.netns,
        interface=item.interface,
        ether=None,
    )
    return msgspec.structs.replace(
        state,
        vnics=(*state.vnics, made),
        tables=(*state.tables, _shifted(table, len(state.rules), len(state.sets))),
        rules=(*state.rules, *(_renamed(rule, item) for rule in alone.rules)),
        sets=(*state.sets, *(SetState("", one.ranges) for one in alone.sets)),
        neighbours=(*state.neighbours, *_neighbours(item, made, segment)),
    )


def _neighbours(item: Attachment, vnic: VnicState, segment: int) -> list[NeighbourState]:
    return [NeighbourState(segment, vnic.mac, str(ip_interface(ip).ip), vnic=item.name, tep=None) for ip in item.ips]


def _renamed(rule: RuleState, item: Attachment) -> RuleState:
    return msgspec.structs.replace(rule, path=f"attached/{item.name}/{rule.path}")


def _shifted(table: TableState, rules: int, sets: int) -> TableState:
    """A table whose rules and sets stand behind others now."""
    from dfw.layout import RULE_DTYPE

    entries = np.frombuffer(table.entries, RULE_DTYPE).copy()
    entries["rule"] += rules
    refs = np.frombuffer(table.refs, np.uint32) + np.uint32(sets)
    return TableState(entries.tobytes(), refs.astype(np.uint32).tobytes())
