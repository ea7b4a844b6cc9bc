# SPDX-License-Identifier: Apache-2.0
"""The built-in services under /infra/services/, as a fresh NSX has them.

Ids, display names and ports follow NSX's own list where it is publicly known, IANA's service names otherwise. One
difference on purpose: `DNS` is TCP and UDP (NSX's is TCP alone, with DNS-UDP beside it), because resolvers use both.
NSX's services that rest on an ALG other than FTP and TFTP are absent: we do not have those gateways.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from dfw.model import (
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    Alg,
    Family,
    PortRange,
    Service,
    ServiceEntry,
)

SERVICES_ROOT = "/infra/services/"

# id: entries, joined by "+". tcp, udp, sctp: ports and ranges; icmp, icmpv6: type or type/code or "all"; ip: protocol.
_TABLE = """
Active_Directory_Server: tcp 464
Active_Directory_Server_UDP: udp 464
AD_Server: tcp 1024
AMQP: tcp 5672
AMQPS: tcp 5671
BFD: udp 3784,4784
BGP: tcp 179
Cassandra: tcp 9042
CIM-HTTP: tcp 5988
CIM-HTTPS: tcp 5989
Consul: tcp 8300-8302,8500 + udp 8301-8302
DHCP-Client: udp 68
DHCP-Server: udp 67
DHCPv6_Client: udp 546
DHCPv6_Server: udp 547
DNS: tcp 53 + udp 53
DNS-TCP: tcp 53
DNS-UDP: udp 53
DNS-over-TLS: tcp 853
Docker: tcp 2375-2376
Elasticsearch: tcp 9200,9300
etcd: tcp 2379-2380
FTP: ftp 21
FTPS: tcp 989-990
Geneve: udp 6081
Git: tcp 9418
GRE: ip 47
HTTP: tcp 80
HTTP-8080: tcp 8080
HTTPS: tcp 443
HTTPS-8443: tcp 8443
IBM_DB2: tcp 50000
ICMP-ALL: icmp all
ICMPv4-ALL: icmp all
ICMPv6-ALL: icmpv6 all
ICMP_Destination_Unreachable: icmp 3
ICMP_Echo_Reply: icmp 0
ICMP_Echo_Request: icmp 8
ICMP_Redirect: icmp 5
ICMP_Router_Advertisement: icmp 9
ICMP_Router_Solicitation: icmp 10
ICMP_Source_Quench: icmp 4
ICMP_Time_Exceeded: icmp 11
IGMP: ip 2
IKE: udp 500
IKE_Key_Exchange: udp 500
IKE_NAT_Traversal: udp 4500
IMAP: tcp 143
IMAP_SSL: tcp 993
IPP: tcp 631
IPSec-AH: ip 51
IPSec-ESP: ip 50
IPv6-ICMP_Destination_Unreachable: icmpv6 1
IPv6-ICMP_Echo_Reply: icmpv6 129
IPv6-ICMP_Echo_Request: icmpv6 128
IPv6-ICMP_Multicast_Listener_Done: icmpv6 132
IPv6-ICMP_Multicast_Listener_Query: icmpv6 130
IPv6-ICMP_Multicast_Listener_Report: icmpv6 131
IPv6-ICMP_Neighbor_Advertisement: icmpv6 136
IPv6-ICMP_Neighbor_Solicitation: icmpv6 135
IPv6-ICMP_Packet_Too_Big: icmpv6 2
IPv6-ICMP_Parameter_Problem: icmpv6 4
IPv6-ICMP_Redirect: icmpv6 137
IPv6-ICMP_Router_Advertisement: icmpv6 134
IPv6-ICMP_Router_Solicitation: icmpv6 133
IPv6-ICMP_Time_Exceeded: icmpv6 3
iSCSI: tcp 3260
Kafka: tcp 9092-9093
KERBEROS: tcp 88
KERBEROS-UDP: udp 88
Kubelet: tcp 10250
Kubernetes-API: tcp 6443
L2TP: udp 1701
LDAP: tcp 389
LDAP-over-SSL: tcp 636
LDAP-UDP: udp 389
Memcached: tcp 11211
Microsoft_SQL_Server: tcp 1433
MongoDB: tcp 27017
MQTT: tcp 1883
MQTTS: tcp 8883
MS-DS-TCP: tcp 445
MS-DS-UDP: udp 445
MS-SQL-M: udp 1434
MS-SQL-S: tcp 1433
MySQL: tcp 3306
NATS: tcp 4222
NBDG-Unicast: udp 138
NBNS-Unicast: udp 137
NBSS: tcp 139
NFS: tcp 2049 + udp 2049
NFS-TCP: tcp 2049
NFS-UDP: udp 2049
NTP: udp 123
NTP_Time_Server: udp 123
OpenVPN: udp 1194
Oracle: tcp 1521
OSPF: ip 89
POP3: tcp 110
POP3_SSL: tcp 995
PostgreSQL: tcp 5432
PPTP: tcp 1723
Prometheus: tcp 9090
QUIC: udp 443
RabbitMQ: tcp 5672
RADIUS: udp 1812
RADIUS-Accounting: udp 1813
RDP: tcp 3389
Redis: tcp 6379
RTSP: tcp 554
SCTP-ALL: sctp
SIP: tcp 5060 + udp 5060
SIP-TLS: tcp 5061
SMB: tcp 445
SMTP: tcp 25
SMTP-Submission: tcp 587
SMTP_TLS: tcp 587
SMTPS: tcp 465
SNMP-Receive: udp 162
SNMP-Send: udp 161
SOAP: tcp 8080
SSH: tcp 22
STUN: udp 3478
Syslog-Server: tcp 514
Syslog-Server-UDP: udp 514
Syslog-TLS: tcp 6514
TACACS: tcp 49
TCP-ALL: tcp
TELNET: tcp 23
TFTP: tftp 69
UDP-ALL: udp
vMotion: tcp 8000
VMware_Remote_Console: tcp 902-903
VNC: tcp 5900-5999
VRRP: ip 112
VXLAN: udp 4789
Windows-Global-Catalog: tcp 3268
Windows-Global-Catalog-over-SSL: tcp 3269
WINS: tcp 42
WINS-UDP: udp 42
WireGuard: udp 51820
ZooKeeper: tcp 2181
"""
_PROTOCOLS = {"tcp": PROTO_TCP, "udp": PROTO_UDP, "sctp": PROTO_SCTP, "ftp": PROTO_TCP, "tftp": PROTO_UDP}
_ALGS = {"ftp": Alg.FTP, "tftp": Alg.TFTP}
_ICMP = {"icmp": (PROTO_ICMP, Family.IPV4), "icmpv6": (PROTO_ICMPV6, Family.IPV6)}


def _entry(text: str) -> ServiceEntry:
    kind, _, value = text.strip().partition(" ")
    if kind == "ip":
        return ServiceEntry(protocol=int(value))
    if kind in _ICMP:
        protocol, family = _ICMP[kind]
        icmp_type = None if value == "all" else int(value)
        return ServiceEntry(protocol=protocol, icmp_type=icmp_type, families=frozenset({family}))
    ranges = tuple(_ports(item) for item in value.split(",") if item)
    return ServiceEntry(protocol=_PROTOCOLS[kind], destination_ports=ranges, alg=_ALGS.get(kind, Alg.NONE))


def _ports(text: str) -> PortRange:
    first, _, last = text.partition("-")
    return PortRange(int(first), int(last or first))


@cache
def _lines() -> dict[str, str]:
    return dict(line.split(": ") for line in _TABLE.strip().splitlines())


@cache
def catalogue_find(path_or_id: str) -> Service | None:
    """The built-in service with this id, display name (`ICMP ALL`) or path; None where there is none."""
    name = path_or_id.removeprefix(SERVICES_ROOT)
    lines = _lines()
    for known in (name, name.replace(" ", "_"), name.replace(" ", "-")):
        if known in lines:
            return Service(SERVICES_ROOT + known, tuple(_entry(part) for part in lines[known].split("+")))
    return None


def catalogue_ids() -> Iterator[str]:
    """The ids of all built-in services."""
    return iter(_lines())
