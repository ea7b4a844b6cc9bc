# SPDX-License-Identifier: Apache-2.0
"""Who a packet's ends are, and what a vNIC may send at all: nftables tables beside that of the rules. Pure.

A bridge knows its port by the interface, and says so in the packet's mark before the bridge hands it to the rules
(br_netfilter). What is routed comes to a vNIC by its next hop's address: neighbours are fixed. The guards are
those of the packet path's step 4 (docs/packet-path.md); what is neither IP nor ARP is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from ipaddress import IPv6Address, ip_address, ip_interface
from typing import Final

from dfw.nftables.shared import RECEIVER_MASK, REFUSED_MARK, SENDER_MASK
from overlay.hoststate import HostState, StateError, VnicState
from overlay.kernel_fabric import card_name
from overlay.kernel_tunnels import BRIDGE, GENEVE_PORT, TUNNEL, VXLAN_PORT, bridge_name

TABLE: Final = "palisade-ends"
_MAC: Final = re.compile("[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_NO_RECEIVER: Final = SENDER_MASK | REFUSED_MARK  # what staged layer-2 rules have said going out stays
_PORTS: Final = f"{{ {VXLAN_PORT}, {GENEVE_PORT} }}"  # of tunnels
_UNSPECIFIED_ND: Final = "133, 135, 131, 132, 143"  # may come from ::


def render_ends(state: HostState, numbers: Mapping[str, int], closed: Collection[str] = ()) -> str:
    """Text for nft that puts both tables in the place of those before, in one transaction. `closed`: vNICs that send
    and get nothing at all. Raises StateError: an address is none."""
    for mac in (state.gateway_mac, *(vnic.mac for vnic in state.vnics)):
        if _MAC.fullmatch(mac) is None:
            raise StateError(f"{mac!r} is no MAC address")
    return "\n".join([*_bridge_table(state, numbers, closed), *_inet_table(state, numbers, closed), ""])


def _bridge_table(state: HostState, numbers: Mapping[str, int], closed: Collection[str]) -> Iterator[str]:
    cards = {vnic.name: f'"{card_name(numbers[vnic.name])}"' for vnic in state.vnics}
    yield from _begin("bridge")
    yield from _map("senders", "ifname : mark", [f"{cards[v.name]} : {numbers[v.name] << 16}" for v in state.vnics])
    yield from _receiver_chains(numbers, closed)
    for vnic in state.vnics:
        yield f" chain guard-{numbers[vnic.name]} {{"
        guard = ["drop"] if vnic.name in closed else _guard(vnic, state.gateway_mac)
        yield from (f"  {line}" for line in guard)
        yield " }"
    yield from _map(
        "receivers", "ifname : verdict", [f"{cards[v.name]} : goto to-{numbers[v.name]}" for v in state.vnics]
    )
    yield from _map(
        "guards", "ifname : verdict", [f"{cards[v.name]} : jump guard-{numbers[v.name]}" for v in state.vnics]
    )
    yield " chain prerouting {"
    yield "  type filter hook prerouting priority -300; policy accept;"
    yield f'  iifname != {{ "{CARD_ANY}", "{TUNNEL}*" }} accept'
    yield "  meta mark set 0"
    # VLAN tags of a workload's own, and what bridges say to each other.
    yield "  ether type { 0x8100, 0x88a8, 0x9100 } drop"
    yield "  ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop"
    yield "  iifname vmap @guards"
    yield "  meta mark set iifname map @senders"
    yield " }"
    # To the host itself comes nothing that the router does not understand.
    yield " chain input {"
    yield "  type filter hook input priority -10; policy accept;"
    yield f'  iifname {{ "{CARD_ANY}", "{TUNNEL}*" }} ether type != {{ ip, ip6, arp }} drop'
    yield " }"
    yield " chain forward {"
    yield "  type filter hook forward priority -10; policy accept;"
    yield "  oifname vmap @receivers"
    yield " }"
    # Routed packets, and what the host itself says, come to a card only here.
    yield " chain postrouting {"
    yield "  type filter hook postrouting priority -10; policy accept;"
    yield "  oifname vmap @receivers"
    yield " }"
    yield "}"


CARD_ANY: Final = "pv*"


def _inet_table(state: HostState, numbers: Mapping[str, int], closed: Collection[str]) -> Iterator[str]:
    yield from _begin("inet")
    yield from _receiver_chains(numbers, closed)
    for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        pairs = [
            f'"{bridge_name(state.segments[item.segment].vni)}" . {item.ip} : goto to-{numbers[item.vnic]}'
            for item in state.neighbours
            if item.vnic is not None and item.ip is not None and ip_address(item.ip).version == version
        ]
        yield from _map(f"receivers{version}", f"ifname . {kind} : verdict", pairs)
    teps = [str(ip_address(tep.ip)) for tep in state.teps]
    version = ip_address(state.tep).version
    yield f" set teps {{ type {'ipv4_addr' if version == 4 else 'ipv6_addr'}; {_elements(teps)} }}"
    yield " chain untracked-in {"
    yield "  type filter hook prerouting priority -350; policy accept;"
    yield f'  iifname != "{BRIDGE}*" udp dport {_PORTS} notrack'
    yield " }"
    yield " chain untracked-out {"
    yield "  type filter hook output priority -350; policy accept;"
    yield f"  udp dport {_PORTS} notrack"
    yield " }"
    yield " chain input {"
    yield "  type filter hook input priority -10; policy accept;"
    source = "ip saddr" if version == 4 else "ip6 saddr"
    yield f'  iifname != "{BRIDGE}*" udp dport {_PORTS} {source} != @teps drop'
    yield " }"
    yield " chain forward {"
    yield "  type filter hook forward priority -10; policy accept;"
    # Segments are reached from segments only.
    yield f'  iifname != "{BRIDGE}*" oifname "{BRIDGE}*" drop'
    yield f'  iifname "{BRIDGE}*" oifname != "{BRIDGE}*" drop'
    yield f"  meta mark & {RECEIVER_MASK:#x} != 0 accept"
    yield "  oifname . rt ip nexthop vmap @receivers4"
    yield "  oifname . rt ip6 nexthop vmap @receivers6"
    yield " }"
    yield "}"


def _guard(vnic: VnicState, gateway_mac: str) -> Iterator[str]:
    own = [ip_interface(ip).ip for ip in vnic.ips]
    v4 = [str(ip) for ip in own if ip.version == 4]
    v6 = [str(ip) for ip in (*(ip for ip in own if ip.version == 6), _link_local(vnic.mac))]
    if "spoof" in vnic.guards:
        yield f"ether saddr != {vnic.mac} drop"
        yield f"ether type arp arp saddr ether != {vnic.mac} drop"
        yield f"ether type arp arp operation request arp saddr ip {_set(['0.0.0.0', *v4], False)} drop"
        yield (
            f"ether type arp arp operation != request arp saddr ip {_set(v4, False)} drop"
            if v4
            else ("ether type arp arp operation != request drop")
        )
    else:
        yield f"ether saddr {gateway_mac} drop"
        yield "ether saddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 drop"
    if "dhcp" in vnic.guards:
        yield "udp sport 67 udp dport 68 drop"
        yield "udp sport 547 udp dport 546 drop"
    if "ra" in vnic.guards:
        yield "icmpv6 type { 134, 137 } drop"
        yield "icmp type 5 drop"
    if "spoof" in vnic.guards:
        targets = [hex(int(ip_address(ip))) for ip in v6]
        yield f"icmpv6 type 136 @th,64,128 {_set(targets, False)} drop"
        yield f"ip6 saddr :: icmpv6 type 135 @th,64,128 {_set(targets, False)} drop"
        yield f"ip6 saddr :: icmpv6 type {{ {_UNSPECIFIED_ND} }} return"
        yield f"ether type ip6 ip6 saddr {_set(v6, False)} drop"
        yield "ip saddr 0.0.0.0 udp sport 68 udp dport 67 return"
        yield f"ether type ip ip saddr {_set(v4, False)} drop" if v4 else "ether type ip drop"


def _link_local(mac: str) -> IPv6Address:
    """fe80::/64 with the EUI-64 of a MAC address (RFC 4291 appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes((octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]))
    return IPv6Address(bytes.fromhex("fe80000000000000") + identifier)


def _set(items: Sequence[str], is_in: bool) -> str:
    operator = "" if is_in else "!= "
    return f"{operator}{items[0]}" if len(items) == 1 else f"{operator}{{ {', '.join(items)} }}"


def _receiver_chains(numbers: Mapping[str, int], closed: Collection[str]) -> Iterator[str]:
    for name, number in numbers.items():
        does = "drop" if name in closed else f"meta mark set meta mark & {_NO_RECEIVER:#x} | {number}"
        yield f" chain to-{number} {{ {does}; }}"


def _begin(family: str) -> Iterator[str]:
    yield f"table {family} {TABLE} {{ }}"
    yield f"delete table {family} {TABLE}"
    yield f"table {family} {TABLE} {{"


def _map(name: str, kind: str, pairs: Sequence[str]) -> Iterator[str]:
    yield f" map {name} {{ type {kind}; {_elements(pairs)} }}"


def _elements(items: Sequence[str]) -> str:
    return f"elements = {{ {', '.join(items)} }};" if items else ""
