# SPDX-License-Identifier: Apache-2.0
"""Warnings about a policy that is legal but hardly means what it says. Pure: a loaded policy in, findings out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dfw.findings import Finding
from dfw.load import Loaded
from dfw.membership import Membership
from dfw.model import (
    PROTO_TCP,
    PROTO_UDP,
    Action,
    Alg,
    EffectiveRule,
    GroupMember,
    Peers,
    Policy,
    PolicyKind,
    PolicySet,
    Rule,
    ServiceEntry,
    Term,
    rules_for_tap,
)
from dfw.packetexample import Examples
from dfw.packetrules import RuleReader, is_static
from dfw.rulelint import RuleFinding, rules_judge
from dfw.witness import Witness

MAXIMUM_RULES_PER_VNIC = 4000  # NSX's configuration maximum
SHOWN = 5  # names in a message
FEW_PORTS = 16  # a range of more does not name each of its ports


def lint(loaded: Loaded) -> list[Finding]:
    """All warnings, those of the reading first."""
    world = loaded.world
    membership = Membership(world)
    rules = rules_for_tap(world)
    reader = RuleReader(world, known=loaded.has_inventory and bool(world.inventory.ports))
    examples = Examples(reader)
    findings = list(loaded.findings)
    findings += _equal_numbers(world, rules, examples)
    findings += _unused(loaded)
    findings += _empty_groups(loaded, membership)
    findings += _programmed(loaded, membership, rules)
    findings += _any_any(rules, examples)
    findings += _alg_ports(rules, examples)
    findings += _decided(reader)
    return findings


def _shown(finding: Finding, witness: Witness | None) -> Finding:
    """The finding with a packet that shows it."""
    return finding if witness is None else finding._replace(witness=str(witness), packet=witness.as_json())


def _equal_numbers(world: PolicySet, rules: Iterable[EffectiveRule], examples: Examples) -> Iterator[Finding]:
    """With a packet for which the order matters, or that both match, where there is one."""
    first_policies: dict[tuple[object, ...], Policy] = {}
    of_policy: dict[str, list[EffectiveRule]] = {}
    of_path = {item.rule.path: [item] for item in rules}
    for item in rules:
        of_policy.setdefault(item.policy.path, []).append(item)
    for policy in world.ordered:
        if policy.kind is PolicyKind.NSX:
            first = first_policies.setdefault((policy.tier, policy.uncategorised, policy.number), policy)
            if first is not policy:
                message = (
                    f"policies {_id(first.path)} and {_id(policy.path)} have the same sequence_number {policy.number}; "
                    "their paths decide which comes first"
                )
                both = [of_policy.get(item.path, []) for item in (first, policy)]
                yield _shown(Finding("equal-sequence-numbers", policy.place, message), examples.of_both(*both))
        first_rules: dict[int, Rule] = {}
        for rule in policy.rules:
            if rule.sequence_number is None:
                continue
            other = first_rules.setdefault(rule.sequence_number, rule)
            if other.id != rule.id:
                message = (
                    f"rules {other.id} and {rule.id} have the same sequence_number {rule.sequence_number}; "
                    "their position decides which comes first"
                )
                both = [of_path.get(item.path, []) for item in (other, rule)]
                finding = Finding("equal-sequence-numbers", rule.place, message, rule.path)
                yield _shown(finding, examples.of_both(*both))


def _id(path: str) -> str:
    return path.rpartition("/")[2]


def _unused(loaded: Loaded) -> Iterator[Finding]:
    for kind, objects in (("group", loaded.world.groups), ("service", loaded.world.services)):
        for path, item in objects.items():
            if path not in loaded.used:
                yield Finding("unused", item.place, f"no rule, group or service refers to the {kind} {_id(path)}")


def _is_known(loaded: Loaded, terms: Iterable[Term]) -> bool:
    """Can these terms be resolved here? Without an inventory only addresses can."""
    return loaded.has_inventory or all(is_static(loaded.world, term) for term in terms)


def _empty_groups(loaded: Loaded, membership: Membership) -> Iterator[Finding]:
    for path, group in loaded.world.groups.items():
        member = GroupMember(path)
        if not _is_known(loaded, (member,)) or membership.members(Peers((member,))) or membership.addresses((member,)):
            continue
        yield Finding("empty-group", group.place, f"the group {group.id} has no member")


def _programmed(loaded: Loaded, membership: Membership, rules: Iterable[EffectiveRule]) -> Iterator[Finding]:
    """Rules whose Applied-To selects no vNIC, and vNICs with more rules than NSX takes. Needs an inventory."""
    if not loaded.has_inventory or not membership.ports:
        return
    counts = [0] * len(membership.ports)
    excluded = membership.members(loaded.world.excluded)
    for item in rules:
        selected = membership.members(item.applied_to)
        members = selected - excluded
        for number in members:
            counts[number] += 1
        if not members:
            why = "selects only vNICs of the exclusion list" if selected else "selects no vNIC"
            message = f"the rule {item.rule.id} is programmed nowhere: its Applied-To {why}"
            yield Finding("programmed-nowhere", item.rule.place, message, item.rule.path)
    worst = max(counts)
    if worst > MAXIMUM_RULES_PER_VNIC:
        port = membership.ports[counts.index(worst)]
        message = f"{worst} rules on the vNIC {port.name} are more than NSX takes ({MAXIMUM_RULES_PER_VNIC})"
        yield Finding("nsx-limit", port.place, message)


def _any_any(rules: Iterable[EffectiveRule], examples: Examples) -> Iterator[Finding]:
    for item in rules:
        rule = item.rule
        is_all = rule.sources.is_any and rule.destinations.is_any and not rule.services
        if is_all and rule.action is Action.ALLOW and item.policy.kind is not PolicyKind.DEFAULT:
            message = f"the rule {rule.id} allows everything from ANY to ANY"
            yield _shown(Finding("any-any", rule.place, message, rule.path), examples.of_rule(item))


def _alg_ports(rules: Iterable[EffectiveRule], examples: Examples) -> Iterator[Finding]:
    """Ports of FTP and TFTP allowed by their number: the ALG does not act, and no data connection is expected."""
    for item in rules:
        rule = item.rule
        if rule.action is not Action.ALLOW or not item.stateful or item.policy.kind is not PolicyKind.NSX:
            continue
        entries = [entry for service in rule.services for entry in service.entries]
        for protocol, number, alg in ((PROTO_TCP, 21, Alg.FTP), (PROTO_UDP, 69, Alg.TFTP)):
            if any(entry.alg is alg for entry in entries):
                continue
            entry = next((item for item in entries if item.protocol == protocol and _names_port(item, number)), None)
            if entry is not None:
                message = (
                    f"the rule {rule.id} allows {alg.value}'s port {number} by its number: without the service "
                    f"{alg.value} its data connections are not expected, and need rules of their own"
                )
                witness = examples.of_port(item, entry, number)
                yield _shown(Finding("alg-port", rule.place, message, rule.path), witness)


def _names_port(entry: ServiceEntry, number: int) -> bool:
    """Is this port meant, and not only inside a wide range?"""
    return any(item.contains(number) and item.last - item.first < FEW_PORTS for item in entry.destination_ports)


def _decided(reader: RuleReader) -> Iterator[Finding]:
    """Rules that decide nothing, with their proofs (dfw/rulelint.py)."""
    findings, undecided = rules_judge(reader)
    for found in findings:
        rule, by = found.item.rule, tuple(item.rule.path for item in found.by)
        message = f"the rule {rule.id} {_described(found)}"
        yield _shown(Finding(found.kind, rule.place, message, rule.path, rules=by), found.witness)
    if undecided:
        some = ", ".join(item.rule.id for item in undecided[:SHOWN])
        more = f" and {len(undecided) - SHOWN} more" if len(undecided) > SHOWN else ""
        message = f"whether these rules ever decide was not found out within bounded work: {some}{more}"
        paths = tuple(item.rule.path for item in undecided)
        yield Finding("not-decided", undecided[0].rule.place, message, rules=paths)


def _described(found: RuleFinding) -> str:
    rule, by = found.item.rule, found.by
    match found.kind:
        case "contradicting":
            return (
                f"contradicts {_name(by[0], found.item)}: both match exactly the same packets, "
                f"which is {by[0].rule.action.value} there and {rule.action.value} here"
            )
        case "unreachable" if found.witness is None:
            return "is unreachable: no packet can match it"
        case "unreachable":
            return f"is unreachable: {_listed(found)} decide about every packet at its vNICs in an earlier tier"
        case "shadowed" if len(by) == 1:
            return f"never decides: {_listed(found)}, above it, matches all of its packets ({by[0].rule.action.value})"
        case "shadowed":
            return f"never decides: {_listed(found)}, above it, match all of its packets together"
    does = "already does the same" if len(by) == 1 else "already do the same together"
    order = [item.rule.path for item in by]
    return f"does nothing: {_listed(found)}{_where(found)}, {does}" if order else "does nothing"


def _where(found: RuleFinding) -> str:
    """Above, below, or both?"""
    mine = found.item
    above = [item for item in found.by if _is_before(item, mine)]
    if len(above) == len(found.by):
        return ", above it"
    return ", above and below it" if above else ", below it"


def _is_before(one: EffectiveRule, other: EffectiveRule) -> bool:
    if one.policy.path != other.policy.path:
        return one.policy.order_key < other.policy.order_key
    places = [rule.path for rule in other.policy.rules]
    return places.index(one.rule.path) < places.index(other.rule.path)


def _listed(found: RuleFinding) -> str:
    names = [_name(item, found.item) for item in found.by[:SHOWN]]
    if len(found.by) > SHOWN:
        names.append(f"{len(found.by) - SHOWN} more")
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _name(item: EffectiveRule, mine: EffectiveRule) -> str:
    """A rule's id, of another policy with the policy's."""
    rule = item.rule
    if item.policy.path == mine.policy.path or item.policy.kind is PolicyKind.DEFAULT:
        return rule.id if item.policy.path == mine.policy.path else rule.path
    return f"{_id(item.policy.path)}/{rule.id}"
