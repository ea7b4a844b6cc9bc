# SPDX-License-Identifier: Apache-2.0
"""Policies as text: the compiled arrays decoded for people, and a PolicySet written back as NSX documents."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from dfw.compile import Compiled, RuleTable
from dfw.compile_ether import EtherTable
from dfw.layout import PROTO_ANY
from dfw.load import FIRST_NUMBER, Loaded
from dfw.model import (
    Addresses,
    Alg,
    AllOf,
    AnyOf,
    Condition,
    Direction,
    ExternalIds,
    Family,
    GroupMember,
    MacAddresses,
    Peers,
    Policy,
    PolicySet,
    PortMember,
    Rule,
    SegmentMember,
    ServiceEntry,
    Term,
    Tier,
)
from dfw.nsx.flood_profile import LIMITS

ACTIONS = {0: "ALLOW", 1: "DROP", 2: "REJECT", 3: "RESUME"}
FLAGS = {1: "stateful", 2: "strict", 4: "logged", 8: "not-src", 16: "not-dst", 32: "persist"}


def range_text(item: Any) -> str:
    """A pal_range: `first-last`, or the address where it is one."""
    import ipaddress

    size = 4 if item["family"] == Family.IPV4 else 16
    assert not item["lo"][size:].any()
    assert not item["hi"][size:].any()
    first, last = (ipaddress.ip_address(bytes(item[end][:size])) for end in ("lo", "hi"))
    return str(first) if first == last else f"{first}-{last}"


def compiled_text(compiled: Compiled, loaded: Loaded) -> str:
    """Everything that was compiled, one fact a line. ND's and DHCP's entries are counted, not shown."""
    lines = ["[ports]"]
    for port in loaded.world.inventory:
        vni = loaded.world.inventory.segment_of(port).vni
        where = f"host {port.host} segment {port.segment} vni {vni} mac {port.mac} machine {port.machine}"
        ips = " ".join(map(str, port.ips))
        lines.append(f"{port.name}: {where} ips {ips or '-'} table {compiled.table_of[port.name]}")
    lines.append("[sets]")
    for item in compiled.sets:
        members = " ".join(map(range_text, item.ranges))
        lines.append(f"{item.set_id} {item.name or '(addresses)'}: {members or '(nobody)'}")
    lines.append("[rules]")
    for rule in compiled.rules:
        tag = f" tag {rule.tag}" if rule.tag else ""
        lines.append(f"{rule.number} id {rule.rule_id} {rule.tier.name} {rule.action.value} {rule.path}{tag}")
    for number, table in enumerate(compiled.tables):
        lines += [f"[table {number}]", *table_lines(table, compiled)]
    lines += ["[tap]", *table_lines(compiled.tap, compiled)]
    changed = [name for name in compiled.timers.__slots__ if getattr(compiled.timers, name) != default_timer(name)]
    for number, layer2 in enumerate(compiled.ether.tables):
        ports = " ".join(name for name, at in compiled.ether.table_of.items() if at == number)
        lines += [f"[layer 2: {ports}]", *ether_lines(layer2, compiled)]
    if len(compiled.ether.tap.entries):
        lines += ["[layer 2: tap]", *ether_lines(compiled.ether.tap, compiled)]
    lines += [f"timer {name} {getattr(compiled.timers, name)}" for name in changed]
    for port, timers in sorted(compiled.timers_of.items()):
        own = [name for name in timers.__slots__ if getattr(timers, name) != default_timer(name)]
        lines.append(f"timers of {port}: " + " ".join(f"{name} {getattr(timers, name)}" for name in own))
    lines += [f"flood {name} {limit}" for name, limit in asdict(compiled.flood).items() if limit]
    for port, limits in sorted(compiled.flood_of.items()):
        lines.append(
            f"flood of {port}: " + " ".join(f"{name} {limit}" for name, limit in asdict(limits).items() if limit)
        )
    return "\n".join(lines) + "\n"


def ether_lines(table: EtherTable, compiled: Compiled) -> list[str]:
    """One line a pal_ether_rule."""
    lines = []
    for row in table.entries:
        assert not row["reserved"].any()
        sides = []
        for side, flag in (("src", 8), ("dst", 16)):
            macs = table.macs[row[f"{side}_off"] : row[f"{side}_off"] + row[f"{side}_n"]]
            shown = "+".join(int(mac).to_bytes(6, "big").hex(":") for mac in macs)
            sides.append(("not " if row["flags"] & flag else "") + (shown or "any"))
        rule = compiled.rules[row["rule"]]
        kind = f"type {row['ether_type']:#06x}" if row["ether_type"] else "any type"
        match = f"{Direction(int(row['dir'])).name} from {sides[0]} to {sides[1]} {kind}"
        lines.append(f"{'/'.join(rule.path.split('/')[-3::2])}: {ACTIONS[int(row['action'])]} {match}")
    return lines


def default_timer(name: str) -> int:
    """NSX's default of a timer."""
    from dfw.model import Timers

    return int(getattr(Timers(), name))


def table_lines(table: RuleTable, compiled: Compiled) -> list[str]:
    """One line an entry."""
    lines: list[str] = []
    counts = Counter(int(row["rule"]) for row in table.entries)
    for row in table.entries:
        rule = compiled.rules[row["rule"]]
        if rule.path in ("default/nd", "default/dhcp"):
            line = f"{rule.path}: {counts[int(row['rule'])]} entries"
            lines += [] if line in lines else [line]
            continue
        lines.append(f"{'/'.join(rule.path.split('/')[-3::2])}: {entry_text(row, table)}")
    return lines


def entry_text(row: Any, table: RuleTable) -> str:
    """One pal_rule."""
    assert not row["reserved"].any()
    sides = []
    for side in ("src", "dst"):
        refs = table.set_refs[row[f"{side}_off"] : row[f"{side}_off"] + row[f"{side}_n"]]
        sides.append("any" if not len(refs) else "+".join(map(str, refs)))
    proto = "any" if row["proto"] == PROTO_ANY else str(row["proto"])
    low, high = int(row["dport_lo"]), int(row["dport_hi"])
    ports = f"{row['sport_lo']}-{row['sport_hi']} > {low}-{high}"
    if proto in ("1", "58"):
        ports = f"{low >> 8}/{low & 255}-{high >> 8}/{high & 255}"
    elif (row["sport_lo"], row["sport_hi"], low, high) == (0, 65535, 0, 65535):
        ports = ""
    flags = " ".join(name for bit, name in FLAGS.items() if row["flags"] & bit)
    alg = {0: "", 1: "alg FTP", 2: "alg TFTP"}[int(row["alg"])]
    tcp = f"tcp {row['tcp_mask']}/{row['tcp_value']}" if row["tcp_mask"] else ""
    family = {1: "v4", 2: "v6", 3: "v4+v6"}[int(row["family"])]
    match = f"{Direction(int(row['dir'])).name} {family} from {sides[0]} to {sides[1]} proto {proto}"
    action = ACTIONS[int(row["action"])]
    if action == "RESUME":
        action += f" in {Tier(int(row['resume'])).name}"
    return " ".join(filter(None, [action, match, ports, tcp, alg, flags]))


def nsx_documents(world: PolicySet) -> list[dict[str, Any]]:
    """The policy as NSX documents that mean the same (without the inventory)."""
    documents = [
        {"resource_type": "Group", "path": path, "id": group.id, "expression": expression(group.expression)}
        for path, group in world.groups.items()
    ]
    documents += [
        {
            "resource_type": "Service",
            "path": path,
            "id": path.rpartition("/")[2],
            "service_entries": [entry_document(entry) for entry in service.entries],
        }
        for path, service in world.services.items()
    ]
    documents += [policy_document(policy) for policy in world.policies]
    last = world.default.rules[-1]
    documents.append(
        {
            "resource_type": "SecurityPolicy",
            "id": "default-layer3-section",
            "rules": [{"id": "default-layer3-rule", "action": last.action.value, "logged": last.logged}],
        }
    )
    timers = {name: getattr(world.timers, name) for name in world.timers.__slots__}
    documents.append({"resource_type": "PolicyFirewallSessionTimerProfile", "id": "timers", **timers})
    for number, binding in enumerate(world.timer_bindings):
        timers = {name: getattr(binding.timers, name) for name in binding.timers.__slots__}
        profile = {"resource_type": "PolicyFirewallSessionTimerProfile", "id": f"timers-{number}"}
        documents.append({**profile, **timers})
        kind = "PolicyFirewallSessionTimerProfileBindingMap"
        which = {"path": binding.path, "sequence_number": binding.number}
        documents.append({"resource_type": kind, "firewall_session_timer_profile_path": f"timers-{number}", **which})
    floods = [("flood", world.flood)]
    for number, bound in enumerate(world.flood_bindings):
        floods.append((f"flood-{number}", bound.limits))
        kind = "PolicyFirewallFloodProtectionProfileBindingMap"
        which = {"path": bound.path, "sequence_number": bound.number}
        documents.append({"resource_type": kind, "profile_path": f"flood-{number}", **which})
    for name, limits in floods:
        given = {long: value for long, own in LIMITS.items() if (value := getattr(limits, own))}
        documents.append({"resource_type": "DistributedFloodProtectionProfile", "id": name, **given})
    if world.excluded.terms:
        members = [path for term in world.excluded.terms for item in expression(term) for path in item["paths"]]
        documents.append({"resource_type": "PolicyExcludeList", "members": members})
    return documents


def policy_document(policy: Policy) -> dict[str, Any]:
    """One SecurityPolicy."""
    category = "" if policy.uncategorised else policy.tier.name.capitalize()
    assert Tier[category.upper() or "APPLICATION"] is policy.tier
    return {
        "resource_type": "SecurityPolicy",
        "path": policy.path,
        "id": policy.path.rpartition("/")[2],
        "category": category,
        "sequence_number": policy.number,
        "stateful": policy.stateful,
        "tcp_strict": policy.tcp_strict,
        "scope": peers(policy.applied_to),
        "rules": [rule_document(rule, layer2=policy.tier is Tier.ETHERNET) for rule in policy.rules],
    }


def rule_document(rule: Rule, *, layer2: bool = False) -> dict[str, Any]:
    """One rule; its position is its order."""
    families = {1: "IPV4", 2: "IPV6", 3: "IPV4_IPV6"}[sum(rule.families)]
    named = [service.path for service in rule.services if service.path]
    inline = [entry_document(entry) for service in rule.services if not service.path for entry in service.entries]
    document: dict[str, Any] = {
        "id": rule.id,
        "action": rule.action.value,
        "source_groups": peers(rule.sources),
        "destination_groups": peers(rule.destinations),
        "sources_excluded": rule.sources_excluded,
        "destinations_excluded": rule.destinations_excluded,
        "services": named or ["ANY"],
        "service_entries": inline,
        "scope": peers(rule.applied_to),
        "direction": rule.direction.name,
        "ip_protocol": families,
        "logged": rule.logged,
        "disabled": rule.disabled,
        "tag": rule.tag,
        "persist": rule.persist,
    }
    if layer2:
        del document["ip_protocol"]
    return document | ({"rule_id": rule.number} if rule.number >= FIRST_NUMBER else {})


def peers(value: Peers) -> list[str]:
    """Group paths and raw addresses."""
    if value.terms is None:
        return ["ANY"]
    found: list[str] = []
    for term in value.terms:
        found += [term.path] if isinstance(term, GroupMember) else [str(item) for item in addresses(term)]
    return found


def addresses(term: Term) -> tuple[Any, ...]:
    """The ranges of an Addresses term."""
    assert isinstance(term, Addresses)
    return term.items


def expression(term: Term) -> list[dict[str, Any]]:
    """An expression list: alternatives joined by OR."""
    terms = term.terms if isinstance(term, AnyOf) else (term,)
    found: list[dict[str, Any]] = []
    for item in terms:
        if found:
            found.append({"resource_type": "ConjunctionOperator", "conjunction_operator": "OR"})
        found += criterion(item)
    return found


def criterion(term: Term) -> list[dict[str, Any]]:
    """One alternative: its terms joined by AND."""
    match term:
        case AllOf(terms):
            found: list[dict[str, Any]] = []
            for item in terms:
                if found:
                    found.append({"resource_type": "ConjunctionOperator", "conjunction_operator": "AND"})
                inner = criterion(item)
                nested = isinstance(item, AllOf)
                found += [{"resource_type": "NestedExpression", "expressions": inner}] if nested else inner
            return found
        case Condition():
            return [
                {
                    "resource_type": "Condition",
                    "member_type": term.member_type.value,
                    "key": term.key.value,
                    "operator": term.operator.value,
                    "value": term.value,
                    **({"scope_operator": "NOTEQUALS"} if term.scope_differs else {}),
                }
            ]
        case Addresses(items):
            return [{"resource_type": "IPAddressExpression", "ip_addresses": [str(item) for item in items]}]
        case MacAddresses(items):
            return [{"resource_type": "MACAddressExpression", "mac_addresses": list(items)}]
        case ExternalIds(member_type, items):
            kind = {"resource_type": "ExternalIDExpression", "member_type": member_type.value}
            return [{**kind, "external_ids": list(items)}]
        case GroupMember(path):
            return [{"resource_type": "PathExpression", "paths": [path]}]
        case SegmentMember(name):
            return [{"resource_type": "PathExpression", "paths": [f"/infra/segments/{name}"]}]
        case PortMember(name):
            return [{"resource_type": "PathExpression", "paths": [name]}]
        case AnyOf():
            return expression(term)
    raise AssertionError(term)


def entry_document(entry: ServiceEntry) -> dict[str, Any]:
    """One service entry."""
    if entry.ether_type is not None:
        return {"resource_type": "EtherTypeServiceEntry", "ether_type": entry.ether_type}
    ports = {
        "source_ports": [f"{item.first}-{item.last}" for item in entry.source_ports],
        "destination_ports": [f"{item.first}-{item.last}" for item in entry.destination_ports],
    }
    if entry.alg is not Alg.NONE:
        ports["destination_ports"] = [str(entry.destination_ports[0].first)]
        return {"resource_type": "ALGTypeServiceEntry", "alg": entry.alg.value, **ports}
    if entry.protocol in (1, 58) and len(entry.families) == 1:
        found: dict[str, Any] = {"resource_type": "ICMPTypeServiceEntry"}
        found["protocol"] = "ICMPv4" if entry.protocol == 1 else "ICMPv6"
        return found | {"icmp_type": entry.icmp_type, "icmp_code": entry.icmp_code}
    if entry.protocol in (6, 17) and (entry.source_ports or entry.destination_ports):
        return {
            "resource_type": "L4PortSetServiceEntry",
            "l4_protocol": "TCP" if entry.protocol == 6 else "UDP",
            **ports,
        }
    return {"resource_type": "IPProtocolServiceEntry", "protocol_number": entry.protocol}
