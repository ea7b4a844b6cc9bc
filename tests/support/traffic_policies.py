# SPDX-License-Identifier: Apache-2.0
"""The policies and the inventory of generated traffic, in the vocabulary of users' files.

Between them every outcome is possible: ALLOW, DROP and REJECT, stateful and stateless, strict and not, ALGs, negated
groups, directions, families, Applied-To, tags. A commit from one to another lets some connections live and ends others.
"""

# ruff: noqa: E501 (a rule stays on its line)

from __future__ import annotations

from dataclasses import astuple, replace
from pathlib import Path

from dfw.load import load
from dfw.model import FloodLimits, Inventory, PolicySet, Timers

INVENTORY = """
apiVersion: palisade.internal/v1alpha1
kind: Inventory
hosts: [{name: h1, tep: 172.16.0.11}]
segments:
  - {name: front, vni: 5001, subnets: [10.1.1.0/24, "fd00:1:1::/64"]}
  - {name: back, vni: 5002, subnets: [10.1.2.0/24, "fd00:1:2::/64"]}
ports:
  - {name: web-1, host: h1, segment: front, mac: "02:00:00:00:01:01", ips: [10.1.1.11, "fd00:1:1::11"], tags: [{scope: tier, tag: web}]}
  - {name: web-2, host: h1, segment: front, mac: "02:00:00:00:01:02", ips: [10.1.1.12, "fd00:1:1::12"], tags: [{scope: tier, tag: web}]}
  - {name: app-1, host: h1, segment: back, mac: "02:00:00:00:02:01", ips: [10.1.2.11, "fd00:1:2::11"], tags: [{scope: tier, tag: app}]}
  - {name: db-1, host: h1, segment: back, mac: "02:00:00:00:02:02", ips: [10.1.2.12, "fd00:1:2::12"], tags: [{scope: tier, tag: db}]}
"""

_GROUPS = """
---
resource_type: Group
id: web
expression: [{resource_type: Condition, member_type: SegmentPort, key: Tag, operator: EQUALS, value: "tier|web"}]
---
resource_type: Group
id: inside
expression: [{resource_type: IPAddressExpression, ip_addresses: [10.1.0.0/16, "fd00:1::/32"]}]
---
resource_type: Group
id: clients
expression: [{resource_type: IPAddressExpression, ip_addresses: [10.9.0.0/16, "10.8.0.1-10.8.0.200", "fd00:9::/32"]}]
---
resource_type: Group
id: quarantine
expression: [{resource_type: IPAddressExpression, ip_addresses: [10.6.6.0/24, "fd00:6::/64"]}]
---
resource_type: Service
id: ftp
service_entries: [{resource_type: ALGTypeServiceEntry, id: a, alg: FTP, destination_ports: ["21"]}]
---
resource_type: Service
id: tftp
service_entries: [{resource_type: ALGTypeServiceEntry, id: a, alg: TFTP, destination_ports: ["69"]}]
---
resource_type: Service
id: web-ports
service_entries:
  - {resource_type: L4PortSetServiceEntry, id: a, l4_protocol: TCP, destination_ports: ["80", "443", "8000-8099"]}
  - {resource_type: L4PortSetServiceEntry, id: b, l4_protocol: UDP, destination_ports: ["443"]}
---
resource_type: Service
id: loose-ports
service_entries: [{resource_type: L4PortSetServiceEntry, id: a, l4_protocol: TCP, destination_ports: ["8100-8999"]}]
---
resource_type: Service
id: db-ports
service_entries: [{resource_type: L4PortSetServiceEntry, id: a, l4_protocol: TCP, destination_ports: ["3306"]}]
---
resource_type: Service
id: telnet
service_entries: [{resource_type: L4PortSetServiceEntry, id: a, l4_protocol: TCP, destination_ports: ["23"]}]
---
resource_type: Service
id: netbios
service_entries: [{resource_type: L4PortSetServiceEntry, id: a, l4_protocol: UDP, destination_ports: ["137"]}]
---
resource_type: Service
id: smb
service_entries: [{resource_type: L4PortSetServiceEntry, id: a, l4_protocol: TCP, destination_ports: ["445"]}]
---
resource_type: Service
id: ntp
service_entries:
  - {resource_type: L4PortSetServiceEntry, id: a, l4_protocol: UDP, destination_ports: ["123"]}
  - {resource_type: L4PortSetServiceEntry, id: b, l4_protocol: UDP, source_ports: ["123"]}
---
resource_type: Service
id: stateless-tcp
service_entries:
  - {resource_type: L4PortSetServiceEntry, id: a, l4_protocol: TCP, destination_ports: ["9000"]}
  - {resource_type: L4PortSetServiceEntry, id: b, l4_protocol: TCP, source_ports: ["9000"]}
---
resource_type: Service
id: timestamps
service_entries:
  - {resource_type: ICMPTypeServiceEntry, id: a, protocol: ICMPv4, icmp_type: 13}
  - {resource_type: ICMPTypeServiceEntry, id: b, protocol: ICMPv6, icmp_type: 139}
---
resource_type: Service
id: gre
service_entries: [{resource_type: IPProtocolServiceEntry, id: a, protocol_number: 47}]
---
resource_type: Service
id: esp
service_entries: [{resource_type: IPProtocolServiceEntry, id: a, protocol_number: 50}]
---
resource_type: Service
id: sctp
service_entries: [{resource_type: IPProtocolServiceEntry, id: a, protocol_number: 132}]
---
resource_type: Service
id: ping
service_entries:
  - {resource_type: ICMPTypeServiceEntry, id: a, protocol: ICMPv4, icmp_type: 8}
  - {resource_type: ICMPTypeServiceEntry, id: b, protocol: ICMPv6, icmp_type: 128}
"""

_MIXED = """
---
resource_type: SecurityPolicy
id: quarantine
category: Emergency
sequence_number: 1
rules:
  - {id: out, source_groups: [quarantine], destination_groups: [ANY], services: [ANY], action: DROP}
  - {id: in, source_groups: [ANY], destination_groups: [quarantine], services: [ANY], action: REJECT}
---
resource_type: SecurityPolicy
id: plain
category: Infrastructure
sequence_number: 1
stateful: false
rules:
  - {id: ntp, source_groups: [ANY], destination_groups: [ANY], services: [ntp], action: ALLOW}
  - {id: tcp, source_groups: [ANY], destination_groups: [ANY], services: [stateless-tcp], action: ALLOW}
  - {id: times, source_groups: [clients], destination_groups: [ANY], services: [timestamps], action: ALLOW}
  - {id: esp, source_groups: [ANY], destination_groups: [ANY], services: [esp], action: REJECT}
---
resource_type: SecurityPolicy
id: environment
category: Environment
sequence_number: 1
rules:
  - {id: smb, source_groups: [ANY], destination_groups: [inside], services: [smb], action: DROP}
---
resource_type: SecurityPolicy
id: apps
category: Application
sequence_number: 10
tcp_strict: true
rules:
  - {id: web, source_groups: [ANY], destination_groups: [ANY], services: [web-ports], action: ALLOW, logged: true}
  - {id: ftp, source_groups: [ANY], destination_groups: [ANY], services: [ftp], action: ALLOW}
  - {id: tftp, source_groups: [ANY], destination_groups: [ANY], services: [tftp], action: ALLOW}
  - {id: db, source_groups: [web], destination_groups: [inside], services: [db-ports], action: ALLOW}
  - {id: db-rest, source_groups: [web], sources_excluded: true, destination_groups: [inside], services: [db-ports], action: REJECT}
  - {id: telnet, source_groups: [ANY], destination_groups: [ANY], services: [telnet], action: REJECT}
  - {id: netbios, source_groups: [ANY], destination_groups: [ANY], services: [netbios], action: REJECT}
  - {id: gre, source_groups: [ANY], destination_groups: [ANY], services: [gre], action: REJECT}
  - {id: only-in, source_groups: [ANY], destination_groups: [ANY], services: [ping], direction: IN, ip_protocol: IPV6, action: ALLOW}
---
resource_type: SecurityPolicy
id: loose
category: Application
sequence_number: 20
tcp_strict: false
scope: [ANY]
rules:
  - {id: loose, source_groups: [ANY], destination_groups: [ANY], services: [loose-ports], action: ALLOW, persist: true}
  - {id: sctp, source_groups: [ANY], destination_groups: [ANY], services: [sctp], action: ALLOW}
  - {id: web-out, source_groups: [web], destination_groups: [quarantine], destinations_excluded: true, services: [ANY], direction: OUT, scope: [web], action: ALLOW}
"""

# The same applications, but: web is refused with an answer, the database dropped, SCTP and ping stateless.
_CHANGED = """
---
resource_type: SecurityPolicy
id: plain
category: Infrastructure
sequence_number: 1
stateful: false
rules:
  - {id: sctp, source_groups: [ANY], destination_groups: [ANY], services: [sctp], action: ALLOW}
  - {id: ping, source_groups: [ANY], destination_groups: [ANY], services: [ping], ip_protocol: IPV4, action: ALLOW}
  - {id: loose, source_groups: [ANY], destination_groups: [ANY], services: [loose-ports], action: ALLOW}
---
resource_type: SecurityPolicy
id: apps
category: Application
sequence_number: 10
tcp_strict: true
rules:
  - {id: web, source_groups: [clients], destination_groups: [ANY], services: [web-ports], action: REJECT}
  - {id: db, source_groups: [ANY], destination_groups: [ANY], services: [db-ports], action: DROP}
  - {id: tftp, source_groups: [ANY], destination_groups: [ANY], services: [tftp], action: ALLOW}
  - {id: telnet, source_groups: [ANY], destination_groups: [ANY], services: [telnet], action: REJECT}
  - {id: netbios, source_groups: [ANY], destination_groups: [ANY], services: [netbios], action: REJECT}
  - {id: tcp6, source_groups: [ANY], destination_groups: [ANY], services: [ftp], ip_protocol: IPV6, action: ALLOW}
"""

# Everything may pass, picked up in mid-stream too, but the ALGs are still known.
_OPEN = """
---
resource_type: SecurityPolicy
id: open
category: Application
sequence_number: 10
tcp_strict: false
rules:
  - {id: ftp, source_groups: [ANY], destination_groups: [ANY], services: [ftp], action: ALLOW}
  - {id: tftp, source_groups: [ANY], destination_groups: [ANY], services: [tftp], action: ALLOW}
  - {id: telnet, source_groups: [ANY], destination_groups: [ANY], services: [telnet], action: REJECT}
  - {id: netbios, source_groups: [ANY], destination_groups: [ANY], services: [netbios], action: REJECT}
"""
_TIMERS = """
---
resource_type: PolicyFirewallSessionTimerProfile
id: timers
tcp_first_packet: 12
tcp_opening: 10
tcp_established: 120
tcp_closing: 14
tcp_finwait: 11
tcp_closed: 10
udp_first_packet: 13
udp_single: 10
udp_multiple: 15
icmp_first_packet: 12
icmp_error_reply: 10
"""

POLICIES = (_GROUPS + _MIXED, _GROUPS + _CHANGED, _GROUPS + _OPEN, _GROUPS)
"""As YAML texts. The last has no rule of its own: only the default section."""


def policies_load(
    folder: Path, *, short_timers: bool = False, no_default: bool = False, flood: FloodLimits | None = None
) -> list[PolicySet]:
    """All policies, through the product's own front end. `folder`: where to write the texts.

    `short_timers`: with timers of 10 to 15 s; `no_default`: with an empty default section (reason `no-rule`);
    `flood`: flood protection in the first of them; the others have half of the limits.
    """
    loaded = []
    for number, text in enumerate(POLICIES):
        path = folder / f"policy-{number}.yaml"
        path.write_text(INVENTORY + text + (_TIMERS if short_timers else ""), encoding="utf-8")
        world = load([str(path)]).world
        if no_default:
            world = replace(world, default=replace(world.default, rules=()))
        if flood is not None:
            limits = astuple(flood)
            world = replace(world, flood=FloodLimits(*(limit if number == 0 else limit // 2 for limit in limits)))
        loaded.append(world)
    return loaded


def inventory_of(world: PolicySet) -> Inventory:
    """The inventory that all policies share."""
    return world.inventory


def timers_of(worlds: list[PolicySet]) -> Timers:
    """The timers that all policies share."""
    return worlds[0].timers
