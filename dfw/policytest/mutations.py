# SPDX-License-Identifier: Apache-2.0
"""Small changes of a policy, a rule at a time: drop it, flip its action, widen what it matches. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from dfw.explanation import service_text
from dfw.member_reason import condition_name
from dfw.model import (
    ANY_PEERS,
    BOTH_FAMILIES,
    Action,
    Addresses,
    AllOf,
    AnyOf,
    Condition,
    Direction,
    EffectiveRule,
    ExternalIds,
    GroupMember,
    MacAddresses,
    Peers,
    Policy,
    PolicyKind,
    PolicySet,
    PortMember,
    Rule,
    SegmentMember,
    Term,
    Tier,
)

_SHOWN: Final = 3
_DEFAULTS: Final = ("default/ingress", "default/egress")


class Mutation(NamedTuple):
    """`path`: the rule that is changed; `kind`: a stable word; `change`: what was changed, for people.

    `rules`: what stands in the place of each changed rule, by path; None where it is dropped.
    """

    path: str
    kind: str
    change: str
    rules: Mapping[str, EffectiveRule | None]


def mutations_of(world: PolicySet) -> Iterator[Mutation]:
    """Every mutation of every enabled rule, in order of judgement; then of what the default does with the rest."""
    for policy in world.ordered:
        if policy.kind is PolicyKind.DEFAULT:
            yield from _of_default(policy)
            continue
        for rule in policy.rules:
            if not rule.disabled:
                item = EffectiveRule(policy, rule, rule.direction)
                yield from (Mutation(rule.path, kind, text, {rule.path: new}) for kind, text, new in _of_rule(item))


def _of_default(policy: Policy) -> Iterator[Mutation]:
    rules = [rule for rule in policy.rules if rule.path in _DEFAULTS]
    for action in _flipped(rules[-1].action):
        changed = {rule.path: _effective(policy, replace(rule, action=action)) for rule in rules}
        yield Mutation("default", "flip", f"the default: {rules[-1].action.value} becomes {action.value}", changed)


def _effective(policy: Policy, rule: Rule) -> EffectiveRule:
    return EffectiveRule(policy, rule, rule.direction)


def _flipped(action: Action) -> tuple[Action, ...]:
    match action:
        case Action.ALLOW:
            return (Action.DROP,)
        case Action.DROP | Action.REJECT:
            return (Action.ALLOW,)
        case _:
            return (Action.ALLOW, Action.DROP)


def _of_rule(item: EffectiveRule) -> Iterator[tuple[str, str, EffectiveRule | None]]:
    policy, rule = item.policy, item.rule

    def changed(**fields: object) -> EffectiveRule:
        return _effective(policy, replace(rule, **fields))  # type: ignore[arg-type]

    yield "drop", "dropped", None
    for action in _flipped(rule.action):
        yield "flip", f"{rule.action.value} becomes {action.value}", changed(action=action)
    if not rule.sources.is_any:
        anyone = changed(sources=ANY_PEERS, sources_excluded=False)
        yield "sources", f"sources: {_peers_text(rule.sources, rule.sources_excluded)} becomes ANY", anyone
    if not rule.destinations.is_any:
        anywhere = changed(destinations=ANY_PEERS, destinations_excluded=False)
        shown = _peers_text(rule.destinations, rule.destinations_excluded)
        yield "destinations", f"destinations: {shown} becomes ANY", anywhere
    if rule.services:
        shown = ", ".join(map(service_text, rule.services[:_SHOWN])) + (", ..." if len(rule.services) > _SHOWN else "")
        yield "services", f"services: {shown} becomes ANY", changed(services=())
    if not item.applied_to.is_any:
        everywhere = EffectiveRule(
            replace(policy, applied_to=ANY_PEERS), replace(rule, applied_to=ANY_PEERS), rule.direction
        )
        yield "applied-to", f"Applied-To: {_peers_text(item.applied_to)} becomes all vNICs", everywhere
    if rule.direction is not Direction.IN_OUT:
        both = changed(direction=Direction.IN_OUT)
        yield "direction", f"direction: {rule.direction.name} becomes IN_OUT", both
    if rule.families != BOTH_FAMILIES and policy.tier is not Tier.ETHERNET:
        families = " and ".join(family.name for family in sorted(rule.families))
        yield "family", f"family: {families} becomes both", changed(families=BOTH_FAMILIES)


def _peers_text(peers: Peers, excluded: bool = False) -> str:
    terms = peers.terms or ()
    names = list(map(_term_text, terms[:_SHOWN])) + (["..."] if len(terms) > _SHOWN else [])
    shown = ", ".join(names) or "nobody"
    return f"all but {shown}" if excluded else shown


def _term_text(term: Term) -> str:
    match term:
        case GroupMember(path):
            return path.rpartition("/")[2]
        case Addresses(items):
            return ", ".join(map(str, items[:_SHOWN])) + (", ..." if len(items) > _SHOWN else "")
        case Condition():
            return condition_name(term)
        case SegmentMember(name):
            return f"segment {name}"
        case PortMember(name):
            return f"port {name}"
        case MacAddresses(items):
            return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")
        case ExternalIds(_, items):
            return f"external ids {', '.join(items[:_SHOWN])}" + (", ..." if len(items) > _SHOWN else "")
        case AnyOf(terms):
            return " or ".join(map(_term_text, terms[:_SHOWN])) + (" or ..." if len(terms) > _SHOWN else "")
        case AllOf(terms):
            return " and ".join(map(_term_text, terms[:_SHOWN])) + (" and ..." if len(terms) > _SHOWN else "")
        case _:
            return str(term)


def mutate(world: PolicySet, mutation: Mutation) -> PolicySet:
    """The policy with the mutation in it."""

    def policy_mutated(policy: Policy) -> Policy:
        if not any(rule.path in mutation.rules for rule in policy.rules):
            return policy
        if mutation.kind == "applied-to":
            # The policy's own would override the rule's: write it into the rules.
            own = policy.applied_to
            rules = tuple(
                replace(rule, applied_to=rule.applied_to if own.is_any else own) if changed is None else changed.rule
                for rule in policy.rules
                for changed in (mutation.rules.get(rule.path),)
            )
            return replace(policy, applied_to=ANY_PEERS, rules=rules)
        found = [mutation.rules.get(rule.path, rule) for rule in policy.rules]
        kept = tuple(item.rule if isinstance(item, EffectiveRule) else item for item in found if item is not None)
        return replace(policy, rules=kept)

    return replace(world, policies=tuple(map(policy_mutated, world.policies)), default=policy_mutated(world.default))
