# SPDX-License-Identifier: Apache-2.0
"""A workload's interface as the workload sees it: MTU, addresses, default routes. The TAP itself is the packet core's.

`read_vnic` looks, `plan_vnic` says what is missing and what is too much, `apply_vnic` does it. Addresses that the
kernel gave itself (link-local) are left alone.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, Final, NamedTuple

from overlay.enter import run_in
from overlay.hoststate import VnicState

IFA_F_NODAD: Final = 0x02  # linux/if_addr.h: the address is the fabric's to give, nobody else can have it
RTNH_F_ONLINK: Final = 4  # linux/rtnetlink.h: the gateway answers on this link, whatever the addresses say
RT_SCOPE_LINK: Final = 253  # linux/rtnetlink.h: who is meant is on this link
ON_LINK_GATEWAYS: Final = frozenset({"0.0.0.0", "::"})  # no gateway: all destinations are on the link
_FORWARDING: Final = ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding")
FAMILY_OF_VERSION: Final = {4: 2, 6: 10}  # AF_INET, AF_INET6


@dataclass(frozen=True, slots=True)
class VnicSeen:
    """An interface as it is; `index` 0: there is none."""

    index: int = 0
    mtu: int = 0
    is_up: bool = False
    ips: frozenset[str] = frozenset()
    gateways: frozenset[str] = frozenset()
    has_ipv6: bool = True
    routes: frozenset[str] = frozenset()
    forwards: bool = False


class VnicSetup(NamedTuple):
    """All of a vNIC's state that its interface is made by (`plan_vnic`). The rest, such as which table its rules are,
    changes with what other vNICs have."""

    netns: str | None
    interface: str
    mtu: int
    ips: tuple[str, ...]
    gateways: tuple[str, ...]
    routes: tuple[str, ...]


def vnic_setup(vnic: VnicState) -> VnicSetup:
    """Two that are equal need the same interface."""
    return VnicSetup(vnic.netns, vnic.interface, vnic.mtu, vnic.ips, vnic.gateways, vnic.routes)


@dataclass(frozen=True, slots=True)
class VnicStep:
    """One change. `what`: mtu, up, ip-add, ip-remove, gateway-add, gateway-remove, route-add, route-remove, forward."""

    what: str
    value: str = ""


def plan_vnic(vnic: VnicState, seen: VnicSeen) -> tuple[VnicStep, ...]:
    """What makes the interface as the state says, in order. IPv6 is left out where the machine has none."""
    wanted = [ip for ip in vnic.ips if seen.has_ipv6 or ":" not in ip]
    gateways = [ip for ip in vnic.gateways if any((":" in ip) == (":" in own) for own in wanted)]
    routes = [route for route in vnic.routes if seen.has_ipv6 or ":" not in route]
    # A default route without a gateway may be the workload's own; a gateway takes its place.
    steps = [VnicStep("gateway-remove", ip) for ip in sorted(seen.gateways - set(gateways) - ON_LINK_GATEWAYS)]
    if routes:  # a workload's own routes are its own
        steps += [VnicStep("route-remove", route) for route in sorted(seen.routes - set(routes))]
    steps += [VnicStep("ip-remove", ip) for ip in sorted(seen.ips - set(wanted))]
    if seen.mtu != vnic.mtu:
        steps.append(VnicStep("mtu", str(vnic.mtu)))
    if not seen.is_up:
        steps.append(VnicStep("up"))
    steps += [VnicStep("ip-add", ip) for ip in wanted if ip not in seen.ips]
    # A removed address or a link that was down takes its routes along.
    lost = not seen.is_up or any(step.what == "ip-remove" for step in steps)
    steps += [VnicStep("gateway-add", ip) for ip in gateways if lost or ip not in seen.gateways]
    steps += [VnicStep("route-add", route) for route in routes if lost or route not in seen.routes]
    if routes and not seen.forwards:
        steps.append(VnicStep("forward"))
    return tuple(steps)


def read_vnic(netns: str | None, interface: str) -> VnicSeen:
    """The interface in the namespace at this path (None: this one). Raises OSError where that cannot be entered."""
    return run_in(netns, lambda: _seen(interface))


def apply_vnic(netns: str | None, vnic: VnicState) -> tuple[VnicStep, ...]:
    """Make the interface as the state says, and return what had to be done.

    Raises OSError where there is no such interface or namespace.
    """
    return run_in(netns, lambda: _apply(vnic))


def _seen(interface: str) -> VnicSeen:
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        return _look(netlink, interface)


def _look(netlink: Any, interface: str) -> VnicSeen:
    found = list(netlink.link("dump", ifname=interface))
    found = [link for link in found if link.get_attr("IFLA_IFNAME") == interface]
    if not found:
        return VnicSeen()
    link = found[0]
    index = int(link["index"])
    ips = frozenset(
        f"{_text(row.get_attr('IFA_LOCAL') or row.get_attr('IFA_ADDRESS'))}/{row['prefixlen']}"
        for row in netlink.addr("dump", index=index)
        if row["index"] == index and row["scope"] == 0
    )
    rows = [
        row
        for family in FAMILY_OF_VERSION.values()
        for row in netlink.route("dump", family=family, table=254)
        if row.get_attr("RTA_OIF") == index
    ]
    return VnicSeen(
        index,
        int(link.get_attr("IFLA_MTU")),
        bool(link["flags"] & 1),
        ips,
        frozenset(_gateway(row) for row in rows if row["dst_len"] == 0),
        ipv6_is_on(interface),
        frozenset(
            f"{_text(row.get_attr('RTA_DST'))}/{row['dst_len']} via {_text(row.get_attr('RTA_GATEWAY'))}"
            for row in rows
            if row["dst_len"] != 0 and row.get_attr("RTA_GATEWAY")
        ),
        all(path.read_text(encoding="ascii").strip() == "1" for path in map(Path, _FORWARDING) if path.exists()),
    )


def ipv6_is_on(interface: str) -> bool:
    """Has this interface of the current namespace IPv6?"""
    try:
        return Path(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6").read_text(encoding="ascii").strip() == "0"
    except OSError:
        return False


def _gateway(row: Any) -> str:
    return _text(row.get_attr("RTA_GATEWAY") or ("0.0.0.0" if row["family"] == FAMILY_OF_VERSION[4] else "::"))


def _text(address: str) -> str:
    return str(ip_interface(address).ip)


def _apply(vnic: VnicState) -> tuple[VnicStep, ...]:
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        seen = _look(netlink, vnic.interface)
        if seen.index == 0:
            raise OSError(errno.ENODEV, f"there is no interface {vnic.interface!r}")
        steps = plan_vnic(vnic, seen)
        for step in steps:
            _step(netlink, seen.index, step)
        loopback_up(netlink)
    return steps


def loopback_up(netlink: Any) -> None:
    """A namespace's loopback is down when it is made, and every program expects it up."""
    for link in netlink.link("get", index=1):
        if not link["flags"] & 1:
            netlink.link("set", index=1, state="up")


def _step(netlink: Any, index: int, step: VnicStep) -> None:
    if step.what == "mtu":
        netlink.link("set", index=index, mtu=int(step.value))
    elif step.what == "up":
        netlink.link("set", index=index, state="up")
    elif step.what in ("ip-add", "ip-remove"):
        ip = ip_interface(step.value)
        command = step.what.removeprefix("ip-").replace("remove", "del")
        flags = {"flags": IFA_F_NODAD} if command == "add" and ip.version == 6 else {}
        netlink.addr(command, index=index, address=str(ip.ip), prefixlen=ip.network.prefixlen, **flags)
    elif step.what == "forward":
        for path in map(Path, _FORWARDING):
            if path.exists():
                path.write_text("1", encoding="ascii")
    else:
        prefix, _, gateway = step.value.rpartition(" via ")
        ip = ip_interface(gateway)
        common = {"oif": index, "family": FAMILY_OF_VERSION[ip.version], "dst": prefix or _everything(ip.version)}
        if gateway in ON_LINK_GATEWAYS:
            netlink.route("replace", scope=RT_SCOPE_LINK, **common)
            return
        common["gateway"] = gateway
        if step.what.endswith("-add"):
            netlink.route("replace", flags=RTNH_F_ONLINK, **common)
        else:
            netlink.route("del", **common)


def _everything(version: int) -> str:
    return "0.0.0.0/0" if version == 4 else "::/0"
