# SPDX-License-Identifier: Apache-2.0
"""A segment's tunnels where the kernel forwards. Pure but for `geneve_lack`.

VXLAN (RFC 7348) is one port of the bridge for all TEPs: its device's own table says who is where, and who gets copies
of what is for many. A Geneve device (RFC 8926) has one VNI and one peer, so there is one for each segment and TEP; the
bridge copies what is for many to all of them, and between tunnels nothing passes: their ports are isolated from each
other. One device for all peers (`external`) would want a tc filter for each MAC address, and more of them for copies.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from ipaddress import ip_address
from typing import Final

from dfw.errors import EnvironmentLacksError
from dfw.model import GENEVE, VXLAN
from dfw.nftables.namespace import PrivateNamespace
from overlay.hoststate import HostState, SegmentState, StateError

VXLAN_PORT: Final = 4789
GENEVE_PORT: Final = 6081
BRIDGE: Final = "pb"
TUNNEL: Final = "px"
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class FabricStep:
    """A line for `tool` (ip, bridge, sysctl) that makes something, and one that takes it away, if it does not go with
    something else. `of`: what it is for, where that can become another thing under the same name."""

    tool: str
    add: str
    remove: str = ""
    of: str = ""


def bridge_name(vni: int) -> str:
    """A segment's bridge."""
    return f"{BRIDGE}{vni}"


def vxlan_name(vni: int) -> str:
    """A segment's VXLAN port."""
    return f"{TUNNEL}{vni}"


def geneve_name(vni: int, tep: str) -> str:
    """A segment's Geneve port to a TEP: 14 of the 15 letters that an interface's name may have, the same whatever other
    TEPs there are. `ip -d link` says what it is for."""
    address = ip_address(tep)
    number = int(address) if address.version == 4 else int.from_bytes(blake2b(address.packed, digest_size=8).digest())
    return f"{TUNNEL}{_base36(vni, 5)}{_base36(number, 7)}"


def tunnel_name(state: HostState, segment: SegmentState, tep: int) -> str:
    """The port by which a segment reaches a TEP, by its index."""
    to = state.teps[tep]
    return geneve_name(segment.vni, to.ip) if to.encap == GENEVE else vxlan_name(segment.vni)


def plan_tunnels(state: HostState, number: int) -> Iterator[FabricStep]:
    """The tunnels of a segment, by its index; its bridge is there. Raises StateError."""
    segment = state.segments[number]
    known = {*segment.replicas, *(n.tep for n in state.neighbours if n.segment == number and n.tep is not None)}
    peers = [tep for tep in sorted(known) if state.teps[tep].encap == GENEVE]
    if len({tunnel_name(state, segment, tep) for tep in peers}) != len(peers):
        raise StateError(f"two TEPs of segment {segment.name} would have one interface's name")
    is_v6 = ip_address(state.tep).version == 6
    room = state.underlay_mtu - (70 if is_v6 else 50)
    # Whoever builds a packet over IPv6 may leave out UDP's sum (RFC 6935), as the packet core does.
    unsummed = " udp6zerocsumrx" if is_v6 else ""
    isolated = " isolated on" if peers else ""
    if not state.teps or any(tep.encap == VXLAN for tep in state.teps):
        device = vxlan_name(segment.vni)
        kind = f"type vxlan id {segment.vni} local {state.tep} dstport {VXLAN_PORT} nolearning{unsummed}"
        yield from _port(segment, device, f"mtu {room} {kind}", isolated)
        for tep in segment.replicas:
            if state.teps[tep].encap == VXLAN:
                every = f"00:00:00:00:00:00 dev {device} dst {state.teps[tep].ip} self"
                yield FabricStep("bridge", f"fdb append {every} permanent", f"fdb del {every}")
    for tep in peers:
        # Without `udpcsum` no sum is sent, not even over IPv6, where the other end may insist (RFC 8200 section 8.1)
        kind = f"type geneve id {segment.vni} remote {state.teps[tep].ip} dstport {GENEVE_PORT} udpcsum{unsummed}"
        copies = "" if tep in segment.replicas else " bcast_flood off mcast_flood off"
        yield from _port(segment, geneve_name(segment.vni, state.teps[tep].ip), f"mtu {room} {kind}", isolated + copies)


def _port(segment: SegmentState, device: str, kind: str, more: str) -> Iterator[FabricStep]:
    yield FabricStep("ip", f"link add {device} {kind}", f"link del {device}")
    yield FabricStep("ip", f"link set {device} master {bridge_name(segment.vni)} up")
    learn = "on" if segment.learn else "off"
    yield FabricStep("bridge", f"link set dev {device} learning {learn} flood {learn} neigh_suppress on{more}")


def speaks_geneve(state: HostState) -> Sequence[str]:
    """The hosts with which this one speaks Geneve."""
    return [tep.host for tep in state.teps if tep.encap == GENEVE]


@cache
def geneve_lack() -> str | None:
    """Why this kernel has no Geneve, in its own words; None where it has. Tried once, in a namespace of its own."""
    line = f"link add g0 type geneve id 1 remote 127.0.0.1 dstport {GENEVE_PORT}"
    try:
        with PrivateNamespace() as inside:
            done = inside.run(
                lambda: subprocess.run(["ip", *line.split()], capture_output=True, text=True, check=False)
            )
    except (EnvironmentLacksError, OSError) as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip().removeprefix("Error: ") or "no reason given"


def _base36(value: int, digits: int) -> str:
    found = ""
    for _ in range(digits):
        value, digit = divmod(value, 36)
        found = _DIGITS[digit] + found
    return found
