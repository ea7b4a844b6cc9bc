# SPDX-License-Identifier: Apache-2.0
"""Rules, policies, and the default section."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dfw.model.place import Place
from dfw.model.schedule import Schedule
from dfw.model.selector import ANY_PEERS, Peers
from dfw.model.service import PortRange, Service, ServiceEntry
from dfw.model.words import (
    BOTH_FAMILIES,
    PROTO_ICMPV6,
    PROTO_UDP,
    Action,
    Direction,
    Family,
    PolicyKind,
    Tier,
)

DEFAULT_PATH = "default"
# NSX's own ids of its default rules: 2 layer 3 (ours is split by direction; 5 is free), 3 NDP, 4 DHCP.
DEFAULT_RULE_IDS = {"default/ingress": 2, "default/nd": 3, "default/dhcp": 4, "default/egress": 5}
EXCLUDED_PATH = "system/exclude-list"
EXCLUDED_RULE_ID = 6  # ours: NSX has no filter, and so no rule, at an excluded vNIC


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, as written. `number` is rule_id; `services` empty is ANY; `tag` is the log label.

    `applied_to`, and the policy's, are as written: `EffectiveRule.applied_to` says which one holds. `stateful` and
    `tcp_strict` belong to the policy. `sequence_number` None: the list's own order. `persist`: its connections are kept
    until they end, whatever the rules say later (SEMANTICS, Change).
    """

    path: str
    id: str
    number: int
    action: Action
    sources: Peers = ANY_PEERS
    destinations: Peers = ANY_PEERS
    sources_excluded: bool = False
    destinations_excluded: bool = False
    services: tuple[Service, ...] = ()
    direction: Direction = Direction.IN_OUT
    families: frozenset[Family] = BOTH_FAMILIES
    logged: bool = False
    tag: str = ""
    disabled: bool = False
    applied_to: Peers = ANY_PEERS
    sequence_number: int | None = None
    stateful: bool | None = None
    persist: bool = False
    place: Place | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Policy:
    """An ordered list of rules in a tier. `rules` stand in their order of judgement (the front end sorts them).

    Order within a tier: (uncategorised, number, kind, namespace, name); `number` is the NSX sequence_number, the
    ClusterNetworkPolicy priority and so on, `name` the NSX path or the Kubernetes name (SEMANTICS, Order).
    `uncategorised`: an NSX policy without category, after all others of Application. `schedule` None: always in force.
    `staged`: never in force; it says what would be (PolicySet.what_if).
    """

    path: str
    tier: Tier
    number: int
    kind: PolicyKind = PolicyKind.NSX
    namespace: str = ""
    name: str = ""
    uncategorised: bool = False
    rules: tuple[Rule, ...] = ()
    stateful: bool = True
    tcp_strict: bool = True
    applied_to: Peers = ANY_PEERS
    schedule: Schedule | None = None
    staged: bool = False
    place: Place | None = field(default=None, compare=False, repr=False)

    @property
    def order_key(self) -> tuple[int, bool, int, int, str, str]:
        """Policies are judged by ascending key."""
        return self.tier, self.uncategorised, self.number, self.kind, self.namespace, self.name or self.path


def _udp(source: int, destination: int, family: Family) -> ServiceEntry:
    return ServiceEntry(
        protocol=PROTO_UDP,
        source_ports=(PortRange(source, source),),
        destination_ports=(PortRange(destination, destination),),
        families=frozenset({family}),
    )


# RFC 4861: router and neighbour solicitation and advertisement; RFC 2710 and RFC 3810: multicast listener messages.
ND_TYPES = (133, 134, 135, 136, 130, 131, 132, 143)
_ND = Service(
    "",
    tuple(ServiceEntry(protocol=PROTO_ICMPV6, icmp_type=t, families=frozenset({Family.IPV6})) for t in ND_TYPES),
)
# RFC 2131 section 4.1 and RFC 8415 section 7.2: client, server and relay, from and to their well-known ports.
_DHCP = Service(
    "",
    tuple(_udp(s, d, Family.IPV4) for s, d in ((68, 67), (67, 68), (67, 67)))
    + tuple(_udp(s, d, Family.IPV6) for s, d in ((546, 547), (547, 546), (547, 547))),
)


def default_policy(action: Action = Action.ALLOW, logged: bool = False) -> Policy:
    """The default section: ND and MLD, DHCP, then `action` for whatever is left. Never strict (SEMANTICS).

    ND and DHCP are stateless: both are spoken from and to multicast, where no reply state can exist.
    """
    nd = Rule("default/nd", "nd", DEFAULT_RULE_IDS["default/nd"], Action.ALLOW, services=(_ND,), stateful=False)
    dhcp = replace(nd, path="default/dhcp", id="dhcp", number=DEFAULT_RULE_IDS["default/dhcp"], services=(_DHCP,))
    ingress = Rule(
        "default/ingress",
        "ingress",
        DEFAULT_RULE_IDS["default/ingress"],
        action,
        direction=Direction.IN,
        logged=logged,
    )
    egress = replace(
        ingress, path="default/egress", id="egress", number=DEFAULT_RULE_IDS["default/egress"], direction=Direction.OUT
    )
    return Policy(
        path=DEFAULT_PATH,
        tier=Tier.DEFAULT,
        number=0,
        kind=PolicyKind.DEFAULT,
        rules=(nd, dhcp, ingress, egress),
        tcp_strict=False,
    )


EXCLUDED_POLICY = Policy(
    path=EXCLUDED_PATH,
    tier=Tier.EMERGENCY,
    number=0,
    kind=PolicyKind.SYSTEM,
    rules=(Rule(EXCLUDED_PATH, "exclude-list", EXCLUDED_RULE_ID, Action.ALLOW),),
    stateful=False,
    tcp_strict=False,
)
"""What stands at the vNICs of the exclusion list instead of all other rules."""
