# SPDX-License-Identifier: Apache-2.0
"""Warnings about a policy that is legal but hardly means what it says. Pure: a loaded policy in, findings out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dfw.findings import Finding
from dfw.load import Loaded
from dfw.membership import Membership
from dfw.model import (
    Action,
    Addresses,
    AllOf,
    AnyOf,
    EffectiveRule,
    GroupMember,
    Peers,
    Policy,
    PolicyKind,
    PolicySet,
    Term,
    rules_for_tap,
)
from dfw.shadow import Resolver, Shadow, shadows

MAXIMUM_RULES_PER_VNIC = 4000  # NSX's configuration maximum


def lint(loaded: Loaded) -> list[Finding]:
    """All warnings, those of the reading first."""
    world = loaded.world
    membership = Membership(world)
    rules = rules_for_tap(world)
    findings = list(loaded.findings)
    findings += _equal_numbers(world)
    findings += _unused(loaded)
    findings += _empty_groups(loaded, membership)
    findings += _programmed(loaded, membership, rules)
    findings += _any_any(rules)
    findings += _shadowed(loaded, membership, rules)
    return findings


def _equal_numbers(world: PolicySet) -> Iterator[Finding]:
    first_policies: dict[tuple[object, ...], Policy] = {}
    for policy in world.ordered:
        if policy.kind is PolicyKind.NSX:
            first = first_policies.setdefault((policy.tier, policy.uncategorised, policy.number), policy)
            if first is not policy:
                message = (
                    f"policies {_id(first.path)} and {_id(policy.path)} have the same sequence_number {policy.number}; "
                    "their paths decide which comes first"
                )
                yield Finding("equal-sequence-numbers", policy.place, message)
        first_rules: dict[int, str] = {}
        for rule in policy.rules:
            if rule.sequence_number is None:
                continue
            name = first_rules.setdefault(rule.sequence_number, rule.id)
            if name != rule.id:
                message = (
                    f"rules {name} and {rule.id} have the same sequence_number {rule.sequence_number}; "
                    "their position decides which comes first"
                )
                yield Finding("equal-sequence-numbers", rule.place, message, rule.path)


def _id(path: str) -> str:
    return path.rpartition("/")[2]


def _unused(loaded: Loaded) -> Iterator[Finding]:
    for kind, objects in (("group", loaded.world.groups), ("service", loaded.world.services)):
        for path, item in objects.items():
            if path not in loaded.used:
                yield Finding("unused", item.place, f"no rule, group or service refers to the {kind} {_id(path)}")


def _is_static(world: PolicySet, term: Term, seen: frozenset[str] = frozenset()) -> bool:
    """True where the term's members do not depend on the inventory."""
    match term:
        case Addresses():
            return True
        case GroupMember(path):
            return path in seen or _is_static(world, world.groups[path].expression, seen | {path})
        case AnyOf(terms):
            return all(_is_static(world, item, seen) for item in terms)
        case AllOf():
            return False
        case _:
            return False


def _is_known(loaded: Loaded, terms: Iterable[Term]) -> bool:
    """Can these terms be resolved here? Without an inventory only addresses can."""
    return loaded.has_inventory or all(_is_static(loaded.world, term) for term in terms)


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
    for item in rules:
        members = membership.members(item.applied_to)
        for number in members:
            counts[number] += 1
        if not members:
            message = f"the rule {item.rule.id} is programmed nowhere: its Applied-To selects no vNIC"
            yield Finding("programmed-nowhere", item.rule.place, message, item.rule.path)
    worst = max(counts)
    if worst > MAXIMUM_RULES_PER_VNIC:
        port = membership.ports[counts.index(worst)]
        message = f"{worst} rules on the vNIC {port.name} are more than NSX takes ({MAXIMUM_RULES_PER_VNIC})"
        yield Finding("nsx-limit", port.place, message)


def _any_any(rules: Iterable[EffectiveRule]) -> Iterator[Finding]:
    for item in rules:
        rule = item.rule
        is_all = rule.sources.is_any and rule.destinations.is_any and not rule.services
        if is_all and rule.action is Action.ALLOW and item.policy.kind is not PolicyKind.DEFAULT:
            message = f"the rule {rule.id} allows everything from ANY to ANY"
            yield Finding("any-any", rule.place, message, rule.path)


def _shadowed(loaded: Loaded, membership: Membership, rules: Iterable[EffectiveRule]) -> Iterator[Finding]:
    resolver = Resolver(membership)
    boxes = [
        resolver.box(item)
        for item in rules
        if item.policy.kind is not PolicyKind.DEFAULT
        and _is_known(loaded, (*(item.rule.sources.terms or ()), *(item.rule.destinations.terms or ())))
    ]
    for shadow in shadows(boxes, resolved=loaded.has_inventory):
        yield _described(shadow)


def _described(shadow: Shadow) -> Finding:
    above, below = shadow.above.rule, shadow.below.rule
    if above.action is below.action:
        kind, what = "redundant", f"does nothing: {above.id}, above it, already does the same"
    else:
        kind, what = (
            "shadowed",
            f"never decides: {above.id}, above it, matches all of its packets ({above.action.value})",
        )
    return Finding(kind, below.place, f"the rule {below.id} {what}", below.path, shadow.witness)
