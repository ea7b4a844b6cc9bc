# SPDX-License-Identifier: Apache-2.0
"""The closed vocabularies of a policy: tiers, actions, directions, families, protocols, ALGs.

Names are NSX's (Policy API) and Kubernetes' (ClusterNetworkPolicy); numbers follow SEMANTICS "Order" and IANA.
"""

from __future__ import annotations

from enum import Enum, IntEnum, IntFlag


class Tier(IntEnum):
    """Where a policy stands. Lower is judged first; the values are the order and nothing else."""

    ETHERNET = 0
    EMERGENCY = 1
    INFRASTRUCTURE = 2
    ADMIN = 3
    ENVIRONMENT = 4
    APPLICATION = 5
    BASELINE = 6
    DEFAULT = 7


class Action(Enum):
    """What a rule does. ALLOW, DROP and REJECT end the search.

    PASS leaves its own tier only (ClusterNetworkPolicy); JUMP_TO_APPLICATION goes on in Application (NSX, Environment).
    """

    ALLOW = "ALLOW"
    DROP = "DROP"
    REJECT = "REJECT"
    JUMP_TO_APPLICATION = "JUMP_TO_APPLICATION"
    PASS = "PASS"

    @property
    def is_final(self) -> bool:
        """True where the search for a rule ends here."""
        return self in (Action.ALLOW, Action.DROP, Action.REJECT)


class Direction(IntFlag):
    """Relative to the workload: OUT leaves it. The values are those of PAL_DIR_*."""

    IN = 1
    OUT = 2
    IN_OUT = 3


class Family(IntEnum):
    """Address family. The values are those of PAL_FAMILY_*."""

    IPV4 = 1
    IPV6 = 2

    @property
    def bits(self) -> int:
        """Width of an address in bits."""
        return 32 if self is Family.IPV4 else 128


BOTH_FAMILIES = frozenset({Family.IPV4, Family.IPV6})


class PolicyKind(IntEnum):
    """Which vocabulary a policy was written in. Within one tier and number the lower kind comes first (SEMANTICS)."""

    SECURITY_POLICY_CR = 0
    NSX = 1
    NETWORK_POLICY = 2
    CLUSTER_NETWORK_POLICY = 3
    SYSTEM = 4
    POSTURE = 5
    DEFAULT = 6


class Alg(Enum):
    """Application-level gateways by NSX's names (ALGTypeServiceEntry.alg)."""

    NONE = "NONE"
    FTP = "FTP"
    TFTP = "TFTP"
    ORACLE_TNS = "ORACLE_TNS"
    SUN_RPC_TCP = "SUN_RPC_TCP"
    SUN_RPC_UDP = "SUN_RPC_UDP"
    MS_RPC_TCP = "MS_RPC_TCP"
    MS_RPC_UDP = "MS_RPC_UDP"
    NBNS_BROADCAST = "NBNS_BROADCAST"
    NBDG_BROADCAST = "NBDG_BROADCAST"


# IANA "Assigned Internet Protocol Numbers".
PROTO_ICMP = 1
PROTO_IGMP = 2
PROTO_TCP = 6
PROTO_UDP = 17
PROTO_ICMPV6 = 58
PROTO_SCTP = 132
PROTOCOLS_WITH_PORTS = frozenset({PROTO_TCP, PROTO_UDP, PROTO_SCTP})
