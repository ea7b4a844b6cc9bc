# SPDX-License-Identifier: Apache-2.0
"""Random policies of all kinds together, as documents, over a small cluster of both families; and packets.

Everything is drawn from the one `random.Random` given, so a seed is a case (and hypothesis can drive it). Names, labels
and addresses are few, so that rules meet: most packets are decided by something else than the default section.
"""

from __future__ import annotations

from random import Random
from typing import Any

from tests.support.kube import cluster_policy, namespace, network_policy, pod, security_policy

NAMESPACES = ("x", "y", "z")
PODS = tuple(f"{where}/{name}" for where in NAMESPACES for name in ("a", "b"))
MACHINES = ("m", "n")
OUTSIDE = ("203.0.113.1", "10.9.9.9", "2001:db8::1", "fd00:9::9")
NETWORKS = (
    "10.1.0.0/16",
    "10.0.0.0/8",
    "10.2.0.2/32",
    "0.0.0.0/0",
    "fd00:1::/64",
    "::/0",
    "fd00::/16",
    "203.0.113.0/24",
)
PORTS = (80, 81, 443)
PORT_NAMES = ("web", "dns")
PROTOCOLS = ("TCP", "UDP", "SCTP")
KEYS = {"app": ("a", "b", "web"), "tier": ("db", "A"), "App": ("a",)}
TAGS = ("app|web", "app|db", "tier|x")


def _labels(random: Random) -> dict[str, str]:
    return {key: random.choice(values) for key, values in KEYS.items() if random.random() < 0.6}


def selector(random: Random) -> dict[str, Any]:
    """A label selector, often an empty one."""
    found: dict[str, Any] = {}
    if random.random() < 0.4:
        key = random.choice(list(KEYS))
        found["matchLabels"] = {key: random.choice(KEYS[key])}
    if random.random() < 0.3:
        found["matchExpressions"] = [_expression(random) for _ in range(random.randint(1, 2))]
    return found


def _expression(random: Random) -> dict[str, Any]:
    key = random.choice([*KEYS, "kubernetes.io/metadata.name"])
    operator = random.choice(["In", "NotIn", "Exists", "DoesNotExist"])
    if operator in ("Exists", "DoesNotExist"):
        return {"key": key, "operator": operator}
    values = KEYS.get(key, NAMESPACES)
    return {"key": key, "operator": operator, "values": random.sample(values, random.randint(1, len(values)))}


def cluster(random: Random) -> list[dict[str, Any]]:
    """Namespaces (one may lack its manifest), pods of one or both families, machines with tags, groups."""
    documents = [namespace(name, **_labels(random)) for name in NAMESPACES if random.random() < 0.9]
    for number, name in enumerate(PODS, 1):
        ips = [f"10.{number % 3 + 1}.0.{number}", f"fd00:{number % 3 + 1}::{number}"]
        random.shuffle(ips)
        names = [(word, random.choice(PORTS), random.choice(PROTOCOLS)) for word in PORT_NAMES if random.random() < 0.7]
        documents.append(pod(name, *ips[: random.choice((1, 2, 2))], ports=names, labels=_labels(random)))
    ports = []
    for number, name in enumerate(MACHINES, 11):
        tags = [dict(zip(("scope", "tag"), tag.split("|"), strict=True)) for tag in TAGS if random.random() < 0.5]
        port: dict[str, Any] = {"name": name, "segment": "machines", "tags": tags}
        port["ips"] = [f"10.3.0.{number}", f"fd00:3::{number}"]
        if random.random() < 0.5:
            port |= {"namespace": random.choice(NAMESPACES), "labels": _labels(random)}
        ports.append(port)
    documents.append(
        {
            "apiVersion": "palisade.internal/v1alpha1",
            "kind": "Inventory",
            "segments": [{"name": "machines", "vni": 5001, "subnets": ["10.3.0.0/16", "fd00:3::/64"]}],
            "ports": ports,
        }
    )
    condition = {"resource_type": "Condition", "member_type": "VirtualMachine", "key": "Tag", "operator": "EQUALS"}
    for number, tag in enumerate(TAGS):
        documents.append({"resource_type": "Group", "id": f"g{number}", "expression": [{**condition, "value": tag}]})
    addresses = {"resource_type": "IPAddressExpression", "ip_addresses": random.sample(NETWORKS, 2)}
    documents.append({"resource_type": "Group", "id": "net", "expression": [addresses]})
    return documents


def _np_ports(random: Random, named: bool = True) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for _ in range(random.randint(1, 2)):
        item: dict[str, Any] = {"protocol": random.choice(PROTOCOLS)} if random.random() < 0.7 else {}
        kind = random.random()
        if kind < 0.5:
            item["port"] = random.choice(PORTS)
            if random.random() < 0.3:
                item["endPort"] = 443
        elif kind < 0.85 and named:
            item["port"] = random.choice(PORT_NAMES)
        found.append(item)
    return found


def _np_peer(random: Random) -> dict[str, Any]:
    if random.random() < 0.3:
        cidr, holes = random.choice(
            [("10.0.0.0/8", ["10.1.0.0/16"]), ("10.1.0.0/16", []), ("fd00::/16", ["fd00:1::/64"]), ("0.0.0.0/0", [])]
        )
        return {"ipBlock": {"cidr": cidr, **({"except": holes} if holes else {})}}
    keys = random.choice([["podSelector"], ["namespaceSelector"], ["podSelector", "namespaceSelector"]])
    return {key: selector(random) for key in keys}


def a_network_policy(random: Random, number: int) -> dict[str, Any]:
    """A NetworkPolicy with rules in either direction, and any policyTypes."""
    spec: dict[str, Any] = {"podSelector": selector(random)}
    for section, side in (("ingress", "from"), ("egress", "to")):
        if random.random() < 0.6:
            rules: list[dict[str, Any]] = [{} for _ in range(random.randint(0, 2))]
            for rule in rules:
                if random.random() < 0.7:
                    rule[side] = [_np_peer(random) for _ in range(random.randint(0, 2))]
                if random.random() < 0.7:
                    rule["ports"] = _np_ports(random)
            spec[section] = rules
    if random.random() < 0.4:
        spec["policyTypes"] = random.sample(["Ingress", "Egress"], random.randint(1, 2))
    return network_policy(f"{random.choice(NAMESPACES)}/np{number}", **spec)


def _cnp_peer(random: Random, side: str) -> dict[str, Any]:
    kind = random.choice(["namespaces", "pods", "networks"] if side == "to" else ["namespaces", "pods"])
    if kind == "networks":
        return {"networks": random.sample(NETWORKS, random.randint(1, 2))}
    if kind == "namespaces":
        return {"namespaces": selector(random)}
    both = {"podSelector": selector(random)}
    return {"pods": both | ({"namespaceSelector": selector(random)} if random.random() < 0.7 else {})}


def _cnp_protocol(random: Random, named: bool) -> dict[str, Any]:
    if named and random.random() < 0.3:
        return {"destinationNamedPort": random.choice(PORT_NAMES)}
    port = {"number": random.choice(PORTS)} if random.random() < 0.6 else {"range": {"start": 80, "end": 443}}
    return {random.choice(PROTOCOLS).lower(): {"destinationPort": port}}


def a_cluster_policy(random: Random, number: int) -> dict[str, Any]:
    """A ClusterNetworkPolicy of either tier."""
    spec: dict[str, Any] = {}
    for section, side in (("ingress", "from"), ("egress", "to")):
        rules = []
        for _ in range(random.randint(0, 2)):
            peers = [_cnp_peer(random, side) for _ in range(random.randint(1, 2))]
            rule: dict[str, Any] = {"action": random.choice(["Accept", "Deny", "Pass"]), side: peers}
            if random.random() < 0.6:
                named = all("networks" not in peer for peer in peers)
                rule["protocols"] = [_cnp_protocol(random, named) for _ in range(random.randint(1, 2))]
            rules.append(rule)
        spec[section] = rules
    subject = {"namespaces": selector(random)}
    if random.random() < 0.4:
        subject = {"pods": {"podSelector": selector(random), "namespaceSelector": selector(random)}}
    tier = random.choice(["Admin", "Admin", "Baseline"])
    return cluster_policy(f"cnp{number}", tier, random.randint(0, 3), subject=subject, **spec)


def _sp_peer(random: Random) -> dict[str, Any]:
    kinds = [random.choice(("podSelector", "vmSelector")), "namespaceSelector"]
    found: dict[str, Any] = {kind: selector(random) for kind in kinds if random.random() < 0.5}
    if not found or random.random() < 0.2:
        found["ipBlocks"] = [{"cidr": random.choice(NETWORKS)}]
    return found


def a_security_policy(random: Random, number: int) -> dict[str, Any]:
    """nsx-operator's SecurityPolicy, in both spellings."""
    rules = []
    for _ in range(random.randint(1, 3)):
        is_in = random.random() < 0.5
        rule: dict[str, Any] = {
            "action": random.choice(["allow", "drop", "Reject"]),
            "direction": random.choice(["in", "Ingress"] if is_in else ["out", "Egress"]),
        }
        if random.random() < 0.7:
            side = random.choice(["sources", "from"] if is_in else ["destinations", "to"])
            rule[side] = [_sp_peer(random) for _ in range(random.randint(1, 2))]
        if random.random() < 0.6:
            rule["ports"] = _np_ports(random)
        if random.random() < 0.3:
            rule["appliedTo"] = [{random.choice(["podSelector", "vmSelector"]): selector(random)}]
        rules.append(rule)
    spec: dict[str, Any] = {"priority": random.randint(0, 20)}
    if random.random() < 0.4:
        spec["appliedTo"] = [{"podSelector": selector(random)}]
    return security_policy(f"{random.choice(NAMESPACES)}/sp{number}", *rules, **spec)


def an_nsx_policy(random: Random, number: int) -> dict[str, Any]:
    """An NSX policy of any category: groups, addresses, negation, Applied-To, jumps."""
    category = random.choice(["Emergency", "Infrastructure", "Environment", "Application", "Application"])
    groups = ["g0", "g1", "g2", "net", "10.1.0.0/16", "fd00:1::/64"]
    rules = []
    for index in range(random.randint(1, 3)):
        actions = ["ALLOW", "DROP", "REJECT", *(["JUMP_TO_APPLICATION"] * 2 if category == "Environment" else [])]
        rule: dict[str, Any] = {"id": f"r{index}", "action": random.choice(actions)}
        for side in ("source", "destination"):
            if random.random() < 0.5:
                rule[f"{side}_groups"] = random.sample(groups, random.randint(1, 2))
                rule[f"{side}s_excluded"] = random.random() < 0.3
        if random.random() < 0.5:
            rule["services"] = random.sample(["HTTP", "HTTPS", "DNS-UDP"], 1)
        if random.random() < 0.3:
            rule["scope"] = random.sample(["g0", "g1", "g2"], 1)
        rule["direction"] = random.choice(["IN", "OUT", "IN_OUT"])
        rule["ip_protocol"] = random.choice(["IPV4", "IPV6", "IPV4_IPV6", "IPV4_IPV6"])
        rules.append(rule)
    return {
        "resource_type": "SecurityPolicy",
        "id": f"p{number}",
        "category": category,
        "sequence_number": random.choice([0, 10, 2010, 2050, 2090, 3000]),
        "stateful": random.random() < 0.8,
        "rules": rules,
    }


def policies(random: Random) -> list[dict[str, Any]]:
    """Some policies of each kind."""
    makers = (a_network_policy, a_cluster_policy, a_security_policy, an_nsx_policy)
    return [make(random, number) for make in makers for number in range(random.randint(0, 4))]
