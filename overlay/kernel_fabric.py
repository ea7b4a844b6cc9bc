# SPDX-License-Identifier: Apache-2.0
"""What a host forwards by where its kernel does it: a bridge for each segment with the vNICs and its tunnels
(overlay/kernel_tunnels.py), and the distributed router as policy routing between the bridges. `plan_fabric` is pure;
`apply_fabric` does it.

Nothing is learned and nobody is asked: MAC addresses, neighbours and TEPs are those of the host's state.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from itertools import groupby
from pathlib import Path
from typing import Final

from dfw.model import GENEVE
from overlay.hoststate import ROUTE_BLACKHOLE, ROUTE_CONNECTED, ROUTE_GATEWAY, HostState, StateError
from overlay.kernel_tunnels import FabricStep, bridge_name, plan_tunnels, tunnel_name

CARD: Final = "pv"
_FIRST_TABLE: Final = 6100  # of routes, one for each routing domain
_NO_ROUTE_METRIC: Final = 0xFFFFFFF
_SETTINGS: Final = (
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/default/arp_ignore", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/addr_gen_mode", "1"),
    ("bridge/bridge-nf-call-iptables", "1"),
    ("bridge/bridge-nf-call-ip6tables", "1"),
    ("netfilter/nf_conntrack_tcp_loose", "1"),
    ("netfilter/nf_conntrack_acct", "1"),
)


def card_name(number: int) -> str:
    """The host's end of a vNIC's card."""
    return f"{CARD}{number}"


def routing_domains(state: HostState) -> list[int]:
    """Of each gateway, the first of those that it is routed together with."""
    domain = list(range(len(state.gateways)))

    def find(at: int) -> int:
        while domain[at] != at:
            at = domain[at]
        return at

    for route in state.routes:
        if route.kind == ROUTE_GATEWAY:
            one, other = sorted((find(route.gateway), find(route.target)))
            domain[other] = one
    return [find(at) for at in range(len(domain))]


def segment_zones(state: HostState) -> dict[str, int]:
    """The conntrack zone of each bridge: one for each routing domain, and for each segment that is not routed."""
    domains = routing_domains(state)
    keys = [
        f"g{domains[segment.gateway]}" if segment.gateway is not None else f"s{number}"
        for number, segment in enumerate(state.segments)
    ]
    if len(set(keys)) < 2:
        return {}
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys), 1)}
    return {bridge_name(item.vni): numbers[key] for item, key in zip(state.segments, keys, strict=True)}


def plan_fabric(state: HostState, numbers: Mapping[str, int], attached: Mapping[str, str]) -> tuple[FabricStep, ...]:
    """All that is to be there, in the order in which it is made. `numbers`: of the vNICs; `attached`: those that have a
    card, with what tells one pod's namespace from the next at the same path.

    Raises StateError: two gateways of one domain that route a prefix differently, or two domains with one address.
    """
    _refuse_shared(state)
    parts = (
        (FabricStep("sysctl", f"{name} {value}") for name, value in _SETTINGS),
        _bridges(state),
        _cards(state, numbers, attached),
        sorted(_neighbours(state, numbers, attached), key=lambda step: step.tool),
        sorted(_routes(state), key=lambda step: step.tool),  # one process for each run of one tool
    )
    return tuple(dict.fromkeys(step for part in parts for step in part))


def _refuse_shared(state: HostState) -> None:
    """What the host itself answers (REJECT, ICMP errors) goes by one table, whichever domain it is for."""
    domains = routing_domains(state)
    routes = [(ip_network(r.prefix), domains[r.gateway]) for r in state.routes if r.kind == ROUTE_CONNECTED]
    for at, (prefix, domain) in enumerate(routes):
        for other, owner in routes[:at]:
            if owner != domain and prefix.version == other.version and prefix.overlaps(other):
                names = f"{state.gateways[owner]} and {state.gateways[domain]}"
                raise StateError(f"{prefix} belongs to segments of {names}, which nftables cannot keep apart on a host")


def _bridges(state: HostState) -> Iterator[FabricStep]:
    for number, segment in enumerate(state.segments):
        bridge = bridge_name(segment.vni)
        # Its MAC address stands in the same line: a bridge takes another one from its first port.
        made = f"link add {bridge} address {state.gateway_mac} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
        yield FabricStep("ip", made, f"link del {bridge}")
        for family in ("ipv4", "ipv6"):
            for kind in ("mcast", "ucast", "app"):  # neighbours are known, and nobody is asked
                yield FabricStep("sysctl", f"{family}/neigh/{bridge}/{kind}_solicit 0")
        yield from plan_tunnels(state, number)
        yield FabricStep("ip", f"link set {bridge} up")


def _cards(state: HostState, numbers: Mapping[str, int], attached: Mapping[str, str]) -> Iterator[FabricStep]:
    for vnic in state.vnics:
        if vnic.name not in attached:
            continue
        card, segment = card_name(numbers[vnic.name]), state.segments[vnic.segment]
        peer = f"peer name {vnic.interface} address {vnic.mac} mtu {vnic.mtu} netns {vnic.netns}"
        made = f"link add {card} mtu {vnic.mtu} type veth {peer}"
        yield FabricStep("ip", made, f"link del {card}", attached[vnic.name])
        learn = "on" if segment.learn else "off"
        for tool, line in (
            ("ip", f"link set {card} master {bridge_name(segment.vni)} up"),
            ("bridge", f"link set dev {card} learning {learn} flood {learn}"),
        ):
            yield FabricStep(tool, line, of=attached[vnic.name])


def _neighbours(state: HostState, numbers: Mapping[str, int], attached: Mapping[str, str]) -> Iterator[FabricStep]:
    for item in state.neighbours:
        segment = state.segments[item.segment]
        bridge = bridge_name(segment.vni)
        pod = "" if item.vnic is None else attached.get(item.vnic, "")
        if item.vnic is None:
            assert item.tep is not None
            tunnel = tunnel_name(state, segment, item.tep)
            at = f"{item.mac} dev {tunnel} master"
            yield FabricStep("bridge", f"fdb replace {at} static", f"fdb del {at}")
            if state.teps[item.tep].encap != GENEVE:
                far = f"{item.mac} dev {tunnel} dst {state.teps[item.tep].ip} self"
                yield FabricStep("bridge", f"fdb replace {far} permanent", f"fdb del {far}")
        elif pod:
            card = card_name(numbers[item.vnic])
            at = f"{item.mac} dev {card} master"
            yield FabricStep("bridge", f"fdb replace {at} static", f"fdb del {at}", pod)
        if item.ip is not None:
            known = f"{item.ip} dev {bridge}"
            yield FabricStep("ip", f"neigh replace {known} lladdr {item.mac} nud permanent", f"neigh del {known}")


def _routes(state: HostState) -> Iterator[FabricStep]:
    domains = routing_domains(state)
    own = {str(interface.ip): interface for interface in state.interfaces}
    lengths = {(r.target, ip_network(r.prefix).version): r.prefix for r in state.routes if r.kind == ROUTE_CONNECTED}
    for ip, interface in own.items():
        version = ip_address(ip).version
        length = lengths[interface.segment, version].partition("/")[2]
        bridge = bridge_name(state.segments[interface.segment].vni)
        late = " nodad" if version == 6 else ""
        yield FabricStep("ip", f"addr replace {ip}/{length} dev {bridge}{late}", f"addr del {ip}/{length} dev {bridge}")
    known: dict[tuple[int, str], str] = {}
    for route in state.routes:
        if route.kind == ROUTE_GATEWAY:
            continue
        version = ip_network(route.prefix).version
        where = f"blackhole {route.prefix}"
        if route.kind != ROUTE_BLACKHOLE:
            via = f" via {route.next_hop}" if route.next_hop else ""
            onlink = " onlink" if route.next_hop else ""
            where = f"{route.prefix}{via} dev {bridge_name(state.segments[route.target].vni)}{onlink}"
        table = domains[route.gateway]
        if known.setdefault((table, route.prefix), where) != where:
            raise StateError(f"two routes to {route.prefix} in the routing domain of {state.gateways[table]}")
        line = f"{where} table {_FIRST_TABLE + table}"
        yield FabricStep(f"ip -{version}", f"route replace {line}", f"route del {line}")
    for version in (4, 6):
        for table in sorted(set(domains)):
            none = f"unreachable default table {_FIRST_TABLE + table} metric {_NO_ROUTE_METRIC}"
            yield FabricStep(f"ip -{version}", f"route replace {none}", f"route del {none}")
        for segment in state.segments:
            rule = f"pref {_FIRST_TABLE} iif {bridge_name(segment.vni)} "
            rule += "blackhole" if segment.gateway is None else f"lookup {_FIRST_TABLE + domains[segment.gateway]}"
            yield FabricStep(f"ip -{version}", f"rule add {rule}", f"rule del {rule}")


def apply_fabric(before: Iterable[FabricStep], steps: Iterable[FabricStep], *, anew: bool = False) -> list[str]:
    """Take away what was there before and is not to be, and make what is missing (`anew`: all; what is there stays).

    Returns what could not be made, in the tools' own words.
    """
    steps, before = tuple(steps), tuple(before)
    wanted, had = set(steps), frozenset() if anew else set(before)
    gone = [step for step in reversed(before) if step not in wanted and step.remove]
    for tool, some in groupby(gone, lambda step: step.tool):
        _run(tool, [step.remove for step in some])
    said: list[str] = []
    for tool, some in groupby((step for step in steps if step not in had), lambda step: step.tool):
        said += _run(tool, [step.add for step in some])
    return [text for text in said if "File exists" not in text]


def _run(tool: str, lines: list[str]) -> list[str]:
    if tool == "sysctl":
        return [text for line in lines for text in _setting(line)]
    done = subprocess.run(
        [*tool.split(), "-force", "-batch", "-"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    found = []
    texts = done.stderr.splitlines()
    for at, text in enumerate(texts):
        if text.startswith("Command failed"):
            number = int(text.rpartition(":")[2])
            found.append(f"{lines[number - 1]}: {texts[at - 1] if at else text}")
    if done.returncode != 0 and not found:
        found.append(done.stderr.strip() or f"{tool} ends with {done.returncode}")
    return found


def _setting(line: str) -> list[str]:
    name, _, value = line.partition(" ")
    path = Path("/proc/sys/net", name)
    if name.startswith("ipv6/") and not path.exists():
        return []
    try:
        path.write_text(value, encoding="ascii")
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    return []
