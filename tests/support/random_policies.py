# SPDX-License-Identifier: Apache-2.0
"""Random small policies and packets, for property tests: five addresses of each family, few ports, few tags."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from hypothesis import strategies as st

from dfw.model import (
    ANY_PEERS,
    NOBODY,
    Action,
    Address,
    Addresses,
    AddressRange,
    AllOf,
    AnyOf,
    Condition,
    ConditionKey,
    Direction,
    ExternalIds,
    ExternalIdType,
    Family,
    FloodBinding,
    FloodLimits,
    Group,
    GroupMember,
    Inventory,
    MacAddresses,
    Machine,
    MemberType,
    Operator,
    Peers,
    Policy,
    PolicySet,
    Port,
    PortMember,
    PortRange,
    Rule,
    Segment,
    SegmentMember,
    Service,
    ServiceEntry,
    Tag,
    Tier,
    TimerBinding,
    Timers,
    default_policy,
)

ADDRESSES = [
    Address(family, base + n) for family, base in ((Family.IPV4, 0x0A000000), (Family.IPV6, 1 << 100)) for n in range(5)
]
TAGS = [Tag("app", "web"), Tag("App", "DB"), Tag("", "web"), Tag("tier", ""), Tag("tier", "Web")]
RANGES = st.builds(
    lambda family, a, b: AddressRange(
        family,
        ADDRESSES[0 if family == 1 else 5].value + min(a, b),
        ADDRESSES[0 if family == 1 else 5].value + max(a, b),
    ),
    st.sampled_from(Family),
    st.integers(0, 4),
    st.integers(0, 4),
)
CONDITIONS = st.builds(
    Condition,
    st.sampled_from(MemberType),
    st.sampled_from(ConditionKey),
    st.sampled_from(Operator),
    st.sampled_from(
        ["app|web", "|WEB", "web", "tier|", "a", "p1", "app|db,web", "p1,p2", "Debian", "", "p[12]", "app|.*B"]
    ),
    st.booleans(),
)
LEAVES = st.one_of(
    CONDITIONS,
    st.builds(Addresses, st.lists(RANGES, max_size=2).map(tuple)),
    st.builds(SegmentMember, st.sampled_from(["s1", "s2", "gone"])),
    st.builds(PortMember, st.sampled_from(["p0", "p1", "gone"])),
    st.builds(MacAddresses, st.just(("02:00:00:00:00:00",))),
    st.builds(
        ExternalIds,
        st.sampled_from(ExternalIdType),
        st.lists(st.sampled_from(["x0", "x1", "gone"]), max_size=2).map(tuple),
    ),
)
TERMS = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds(AnyOf, st.lists(inner, max_size=3).map(tuple))
        | st.builds(AllOf, st.lists(inner, min_size=1, max_size=3).map(tuple))
    ),
    max_leaves=4,
)


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    ports, machines = {}, {}
    for number in range(draw(st.integers(0, 4))):
        name = f"p{number}"
        tags = tuple(draw(st.lists(st.sampled_from(TAGS), max_size=2)))
        machine = draw(st.sampled_from([name, "shared"]))
        before = machines.get(machine, Machine(machine))
        os_name = draw(st.sampled_from(["Debian", "debian 12", ""]))
        external_id = draw(st.sampled_from(["", "x0", "x1"]))
        machines[machine] = replace(before, tags=(*before.tags, *tags), os_name=os_name, external_id=external_id)
        ips = tuple(draw(st.lists(st.sampled_from(ADDRESSES), max_size=2, unique=True)))
        ports[name] = Port(
            name, "h", draw(st.sampled_from(["s1", "s2"])), machine, f"02:00:00:00:00:0{number}", ips, tags
        )
        ports[name] = replace(ports[name], external_id=draw(st.sampled_from(["", "x0", "x1"])))
    segments = {
        name: Segment(name, 1, tags=tuple(draw(st.lists(st.sampled_from(TAGS), max_size=1)))) for name in ("s1", "s2")
    }
    return Inventory(segments=segments, machines=machines, ports=ports)


PORT_RANGES = st.builds(lambda a, b: PortRange(min(a, b), max(a, b)), st.integers(0, 4), st.integers(0, 4))
ENTRIES = st.one_of(
    st.builds(
        ServiceEntry,
        protocol=st.sampled_from([6, 17, 132]),
        source_ports=st.lists(PORT_RANGES, max_size=2).map(tuple),
        destination_ports=st.lists(PORT_RANGES, max_size=2).map(tuple),
    ),
    st.builds(ServiceEntry, protocol=st.just(6), tcp_mask=st.just(0x12), tcp_value=st.sampled_from([2, 0x12])),
    st.builds(
        ServiceEntry,
        protocol=st.just(1),
        icmp_type=st.none() | st.integers(0, 2),
        families=st.just(frozenset({Family.IPV4})),
    ),
    st.builds(
        ServiceEntry,
        protocol=st.just(58),
        icmp_type=st.integers(0, 2),
        icmp_code=st.none() | st.integers(0, 2),
        families=st.just(frozenset({Family.IPV6})),
    ),
    st.builds(ServiceEntry, protocol=st.sampled_from([None, 2, 47])),
)
FAMILIES = st.sampled_from([frozenset({Family.IPV4}), frozenset({Family.IPV6}), frozenset(Family)])


@st.composite
def worlds(draw: st.DrawFn) -> PolicySet:
    groups: dict[str, Group] = {}
    for number in range(draw(st.integers(0, 3))):
        below = st.sampled_from(sorted(groups)).map(GroupMember) if groups else st.nothing()
        groups[f"/g/{number}"] = Group(f"/g/{number}", draw(TERMS | below))
    members = st.sampled_from(sorted(groups)).map(GroupMember) if groups else st.nothing()
    peers = st.just(ANY_PEERS) | st.builds(Peers, st.lists(members | LEAVES, max_size=2).map(tuple))
    services = st.builds(lambda entries: Service("", tuple(entries)), st.lists(ENTRIES, min_size=1, max_size=2))
    rules = st.builds(
        Rule,
        path=st.just("r"),
        id=st.just("r"),
        number=st.just(1001),
        action=st.sampled_from([Action.ALLOW, Action.DROP, Action.REJECT]),
        sources=peers,
        destinations=peers,
        sources_excluded=st.booleans(),
        destinations_excluded=st.booleans(),
        services=st.lists(services, max_size=2).map(tuple),
        direction=st.sampled_from([Direction.IN, Direction.OUT, Direction.IN_OUT]),
        families=FAMILIES,
        logged=st.booleans(),
        disabled=st.sampled_from([False, False, False, True]),
        applied_to=peers,
    )
    policies = st.builds(
        Policy,
        path=st.sampled_from(["/p/a", "/p/b", "/p/c"]),
        tier=st.sampled_from([Tier.EMERGENCY, Tier.ENVIRONMENT, Tier.APPLICATION]),
        number=st.integers(0, 1),
        rules=st.lists(rules, max_size=3).map(tuple),
        stateful=st.booleans(),
        tcp_strict=st.booleans(),
        applied_to=peers,
    )
    found = draw(st.lists(policies, max_size=3, unique_by=lambda policy: policy.path))
    default = default_policy(draw(st.sampled_from([Action.ALLOW, Action.DROP])))
    excluded = draw(st.just(NOBODY) | st.just(NOBODY) | peers)
    bindings = [
        TimerBinding(f"/b{number}", draw(st.integers(0, 1)), draw(peers), Timers(udp_single=10 + number))
        for number in range(draw(st.integers(0, 2)))
    ]
    floods = [
        FloodBinding(f"/f{number}", draw(st.integers(0, 1)), draw(peers), FloodLimits(udp_active=10 + number))
        for number in range(draw(st.integers(0, 2)))
    ]
    return PolicySet(
        tuple(found),
        groups,
        {},
        draw(inventories()),
        default,
        excluded=excluded,
        timer_bindings=tuple(bindings),
        flood=draw(st.sampled_from([FloodLimits(), FloodLimits(other_active=3)])),
        flood_bindings=tuple(floods),
    )


class Packet(NamedTuple):
    source: Address
    destination: Address
    protocol: int
    first: int  # source port, or ICMP type
    second: int  # destination port, or ICMP code
    flags: int
    direction: Direction


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    offset = draw(st.sampled_from([0, 5]))
    ends = [ADDRESSES[offset + draw(st.integers(0, 4))] for _ in range(2)]
    protocol = draw(st.sampled_from([6, 6, 17, 1, 58, 132, 2, 99]))
    has_parts = protocol in (6, 17, 132, 1, 58)
    first, second = (draw(st.integers(0, 4)) if has_parts else 0 for _ in range(2))
    flags = draw(st.sampled_from([2, 0x12, 0x10, 4])) if protocol == 6 else 0
    return Packet(*ends, protocol, first, second, flags, draw(st.sampled_from([Direction.IN, Direction.OUT])))
