# SPDX-License-Identifier: Apache-2.0
"""A vNIC for a virtual machine: the TAP whose other side its hypervisor has open.

We get its frames by a packet socket (packet(7)). The kernel would see them too, and answer in this machine's name; so
the interface is moved into an empty network namespace, where there is no address and nobody to answer, and back again
when the vNIC is taken away. The hypervisor notices nothing of it: its descriptor stays the interface's.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from overlay.namespace import apply_namespace, apply_namespace_end, namespace_entered

PACKET_SOCKET: Final = 0x10000  # native/io/tap.h, TAP_PACKET_SOCKET: the only one of the offloads that we can know
RECEIVE_BYTES: Final = 8 << 20  # a burst of super-packets of 64 KiB
_SOL_PACKET, _VNET_HDR, _IGNORE_OUTGOING = 263, 15, 23  # linux/if_packet.h
_ATTACH_FILTER, _RCVBUFFORCE = 26, 33  # asm-generic/socket.h
_ALL: Final = 3  # ETH_P_ALL
# The kernel takes a VLAN tag out of a frame before we see it: who sends one is not heard (linux/filter.h, 4 steps of
# classic BPF: load SKF_AD_VLAN_TAG_PRESENT; if it is 0, all of the frame, else nothing).
_UNTAGGED: Final = ((0x30, 0, 0, 0xFFFFF030), (0x15, 0, 1, 0), (0x06, 0, 0, 0x40000), (0x06, 0, 0, 0))


class TapError(ValueError):
    """It cannot be attached like that: a sentence."""


def read_tap(name: str) -> bool:
    """Whether the TAP of this name, in this network namespace, is up. Raises TapError: there is none, or it has other
    uses."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        link = next((item for item in netlink.link("dump") if item.get_attr("IFLA_IFNAME") == name), None)
        if link is None:
            raise TapError(f"there is no interface {name}")
        info: Any = link.get_attr("IFLA_LINKINFO")
        if info is None or info.get_attr("IFLA_INFO_KIND") != "tun" or not link.get_attr("IFLA_ADDRESS"):
            raise TapError(f"{name} is no TAP")
        if link.get_attr("IFLA_MASTER") is not None:
            raise TapError(f"{name} is a port of another interface: take it out first (ip link set {name} nomaster)")
        addresses = [
            item.get_attr("IFA_ADDRESS")
            for item in netlink.addr("dump", index=link["index"])
            if not str(item.get_attr("IFA_ADDRESS")).startswith("fe80:")
        ]
        if addresses:
            raise TapError(f"{name} has addresses of this machine ({', '.join(addresses)}): take them away first")
        return bool(link["flags"] & 1)


def apply_tap(name: str, place: Path) -> list[int]:
    """Move the TAP into a namespace of its own, named at `place`, and open it there: packet sockets, which are the
    caller's. Raises OSError, FileExistsError: there is a namespace of that name; then the TAP is where it was."""
    apply_namespace(place)
    try:
        _move(name, place)
        try:
            with namespace_entered(place):
                return [_open(name)]
        except BaseException:
            apply_tap_back(name, place, was_up=False)
            raise
    except BaseException:
        apply_namespace_end(place)
        raise


def apply_tap_end(name: str, place: Path, *, was_up: bool) -> None:
    """Move the TAP back here, if it still is there, and end its namespace. Raises OSError."""
    apply_tap_back(name, place, was_up=was_up)
    apply_namespace_end(place)


def apply_tap_back(name: str, place: Path, *, was_up: bool) -> None:
    """Move the TAP from the namespace at `place` to this one, if it still is there. Raises OSError."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with namespace_entered(place):
            if name not in [there for _, there in socket.if_nameindex()]:
                return
            _set(name, net_ns_fd=here)
    finally:
        os.close(here)
    if was_up:
        _set(name, state="up")


def _move(name: str, place: Path) -> None:
    there = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with namespace_entered(place):
            quiet = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
            if quiet.exists():
                quiet.write_text("1", encoding="ascii")
        _set(name, net_ns_fd=there)
    finally:
        os.close(there)
    with namespace_entered(place):
        _set(name, state="up")


def _set(name: str, **what: Any) -> None:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as netlink:
        try:
            netlink.link("set", index=socket.if_nametoindex(name), **what)
        except NetlinkError as error:
            raise OSError(error.code, f"interface {name}: {os.strerror(error.code)}") from None


def _open(name: str) -> int:
    """A packet socket on an interface of this thread's namespace: frames that come from it, each behind a virtio
    header, and none that we send ourselves."""
    with closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)) as made:
        made.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
        made.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        made.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, RECEIVE_BYTES)
        program = b"".join(struct.pack("HBBI", *step) for step in _UNTAGGED)
        kept = ctypes.create_string_buffer(program, len(program))
        made.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", len(_UNTAGGED), ctypes.addressof(kept)))
        made.bind((name, _ALL))
        return made.detach()
