# SPDX-License-Identifier: Apache-2.0
"""How a host's tunnel endpoint is wired to its underlay interface, for each tier (DESIGN section 5).

Tier A: the TEP's address is not the kernel's but ours, behind the TAP `tep0`. The kernel forwards between the TAP and
the underlay: a route to the TEP, a fixed neighbour for it, and proxy ARP (ND for IPv6) on the underlay interface, so
that other hosts find the TEP there. Tiers B and C: the TEP's address stands on the underlay interface, for an ordinary
socket.

`plan_uplink` is pure; `apply_uplink` does it, `remove_uplink` undoes it. They run in the host's own network namespace.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, Final

from overlay.linux import interface_mtu
from overlay.vnic import FAMILY_OF_VERSION

TEP_INTERFACE: Final = "tep0"
TEP_MAC: Final = "02:50:56:00:00:01"  # of our end of the TAP; nobody else is on that link
TEP_KERNEL_MAC: Final = "02:50:56:00:00:02"  # of the kernel's
NUD_PERMANENT: Final = 0x80  # linux/neighbour.h
NTF_PROXY: Final = 0x08
SCOPE_LINK: Final = 253


@dataclass(frozen=True, slots=True)
class UplinkStep:
    """One change. `what`: sysctl (name, value), address, route, onlink, neighbour, proxy, mtu, up."""

    what: str
    interface: str
    value: str = ""


def own_address(tep: str) -> str:
    """An address of the host's kernel on the underlay, where it has none of its own: to ask for others' TEPs with.

    Link-local (RFC 3927, RFC 4291), from the TEP's last bytes.
    """
    address = ip_address(tep)
    if isinstance(address, IPv6Address):
        return f"{IPv6Address((0xFE80 << 112) | (int(address) & ((1 << 64) - 1)))}/64"
    third, fourth = address.packed[2:]
    return f"{IPv4Address(bytes((169, 254, 1 + third % 254, fourth)))}/32"


def plan_uplink(tier: str, underlay: str, tep: str, peers: Iterable[str], mtu: int) -> tuple[UplinkStep, ...]:
    """The wires of a TEP on the underlay interface. `mtu`: bytes of an outer IP packet. `peers`: others' TEPs."""
    v6 = ip_address(tep).version == 6
    family = "ipv6" if v6 else "ipv4"
    length = 128 if v6 else 32
    steps: list[UplinkStep] = []
    if tier == "A":
        steps += [
            UplinkStep("sysctl", f"{family}/conf/all/forwarding", "1"),
            UplinkStep("mtu", TEP_INTERFACE, str(mtu)),
            UplinkStep("up", TEP_INTERFACE),
            UplinkStep("route", TEP_INTERFACE, f"{tep}/{length}"),
            UplinkStep("neighbour", TEP_INTERFACE, tep),
        ]
        if v6:
            # The link-local address with which the kernel asks for others' TEPs: at once (RFC 4862 section 5.4).
            steps.append(UplinkStep("sysctl", f"ipv6/conf/{underlay}/accept_dad", "0"))
            steps.append(UplinkStep("sysctl", f"ipv6/conf/{underlay}/proxy_ndp", "1"))
            steps.append(UplinkStep("sysctl", f"ipv6/neigh/{underlay}/proxy_delay", "0"))  # else up to 0.8 s
            steps.append(UplinkStep("proxy", underlay, tep))
        else:
            steps += [
                UplinkStep("sysctl", f"ipv4/conf/{underlay}/proxy_arp", "1"),
                UplinkStep("sysctl", f"ipv4/neigh/{underlay}/proxy_delay", "0"),
                UplinkStep("sysctl", "ipv4/conf/all/rp_filter", "0"),
                UplinkStep("sysctl", f"ipv4/conf/{underlay}/rp_filter", "0"),
                UplinkStep("sysctl", f"ipv4/conf/{TEP_INTERFACE}/rp_filter", "0"),
            ]
            steps.append(UplinkStep("address", underlay, own_address(tep)))
    else:
        steps.append(UplinkStep("address", underlay, f"{tep}/{length}"))
    steps.append(UplinkStep("up", underlay))
    steps += [UplinkStep("onlink", underlay, f"{peer}/{length}") for peer in peers]
    return tuple(steps)


def read_mtu(interface: str) -> int | None:
    """Bytes of an IP packet that this interface carries; None where there is none. Its peer may carry less."""
    try:
        return interface_mtu(interface)
    except OSError:
        return None


def read_address_interface(address: str) -> str | None:
    """Which interface has this address, so that the kernel takes what comes for it; None: none has. Raises OSError."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        for found in netlink.get_addr(family=FAMILY_OF_VERSION[ip_address(address).version]):
            if ip_address(found.get("local") or found.get("address")) == ip_address(address):
                return str(netlink.get_links(found["index"])[0].get("ifname"))
    return None


def apply_uplink(steps: Iterable[UplinkStep]) -> None:
    """Make it so; what is so already stays. Raises OSError with the step that could not be done."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as netlink:
        for step in steps:
            try:
                _step(netlink, step)
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise OSError(error.code, f"{step.what} {step.value} on {step.interface}: {error}") from error


def remove_uplink(steps: Iterable[UplinkStep]) -> None:
    """Take away addresses, routes and neighbours again, as far as they are there; sysctls stay as they are."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as netlink:
        for step in reversed(tuple(steps)):
            with contextlib.suppress(NetlinkError, OSError):
                _undo(netlink, step)


def _index(netlink: Any, interface: str) -> int:
    found = netlink.link_lookup(ifname=interface)
    if not found:
        raise OSError(errno.ENODEV, f"there is no interface {interface!r}")
    return int(found[0])


def _split(prefix: str) -> tuple[str, int, int]:
    """Address, length, family."""
    address, _, length = prefix.partition("/")
    version = ip_address(address).version
    return address, int(length or (32 if version == 4 else 128)), FAMILY_OF_VERSION[version]


def _step(netlink: Any, step: UplinkStep) -> None:
    if step.what == "sysctl":
        Path("/proc/sys/net", step.interface).write_text(step.value, encoding="ascii")
        return
    index = _index(netlink, step.interface)
    if step.what == "mtu":
        netlink.link("set", index=index, mtu=int(step.value))
    elif step.what == "up":
        netlink.link("set", index=index, state="up")
    elif step.what == "address":
        address, length, _ = _split(step.value)
        flags = {"flags": 0x02} if ":" in address else {}
        netlink.addr("replace", index=index, address=address, prefixlen=length, **flags)
    elif step.what == "onlink":
        _onlink(netlink, index, step.value)
    elif step.what == "route":
        address, length, family = _split(step.value)
        netlink.route("replace", dst=f"{address}/{length}", oif=index, family=family, scope=_scope(family))
    else:
        address, _, family = _split(step.value)
        if step.what == "proxy":
            netlink.neigh("replace", dst=address, ifindex=index, family=family, flags=NTF_PROXY)
        else:
            netlink.neigh("replace", dst=address, lladdr=TEP_MAC, ifindex=index, family=family, state=NUD_PERMANENT)


def _scope(family: int) -> int:
    return SCOPE_LINK if family == FAMILY_OF_VERSION[4] else 0


def _onlink(netlink: Any, index: int, prefix: str) -> None:
    """A peer's TEP is on the link, unless the host has a way to it already (a routed underlay)."""
    from pyroute2.netlink.exceptions import NetlinkError

    address, _, family = _split(prefix)
    with contextlib.suppress(NetlinkError):
        if list(netlink.route("get", dst=address, family=family)):
            return
    netlink.route("replace", dst=prefix, oif=index, family=family, scope=_scope(family))


def _undo(netlink: Any, step: UplinkStep) -> None:
    if step.what not in ("address", "route", "onlink", "neighbour", "proxy"):
        return
    index = _index(netlink, step.interface)
    address, length, family = _split(step.value)
    if step.what == "address":
        netlink.addr("del", index=index, address=address, prefixlen=length)
    elif step.what in ("route", "onlink"):
        netlink.route("del", dst=f"{address}/{length}", oif=index, family=family, scope=_scope(family))
    elif step.what == "proxy":
        netlink.neigh("del", dst=address, ifindex=index, family=family, flags=NTF_PROXY)
    else:
        netlink.neigh("del", dst=address, ifindex=index, family=family)
