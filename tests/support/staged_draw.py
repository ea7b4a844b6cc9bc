# SPDX-License-Identifier: Apache-2.0
"""Random staged policies: each of those in force may have a staged version (actions changed, rules left out or turned
round, all of them gone), others are staged only; the default section too.
"""

from __future__ import annotations

import random
from dataclasses import replace

from dfw.model import Action, Policy, PolicySet, Rule, Tier, default_policy

_ACTIONS = (Action.ALLOW, Action.DROP, Action.REJECT)


def staged_draw(rng: random.Random, worlds: list[PolicySet]) -> PolicySet:
    """One of the worlds of generated traffic, with staged policies."""
    world = rng.choice(worlds[:3])
    staged = [_changed(rng, policy) for policy in world.policies if rng.random() < 0.5]
    known = {policy.path for policy in world.policies}
    others = [policy for other in worlds for policy in other.policies if policy.path not in known]
    fresh = {policy.path: policy for policy in others if rng.random() < 0.4}
    staged += [replace(policy, staged=True) for policy in fresh.values()]
    if rng.random() < 0.3:
        default = default_policy(rng.choice(_ACTIONS))
        staged.append(replace(default, staged=True))
    numbers = {rule.number for policy in world.policies for rule in policy.rules}
    spare = iter(range(max(numbers, default=1000) + 1, 100_000))
    numbered = [
        replace(policy, rules=tuple(replace(rule, number=next(spare)) for rule in policy.rules))
        for policy in staged
        if policy.tier is not Tier.DEFAULT
    ]
    return replace(world, staged=(*numbered, *(policy for policy in staged if policy.tier is Tier.DEFAULT)))


def _changed(rng: random.Random, policy: Policy) -> Policy:
    if rng.random() < 0.1:
        return replace(policy, rules=(), staged=True)
    rules = [_rule_changed(rng, policy, rule) for rule in policy.rules if rng.random() < 0.9]
    if rng.random() < 0.2:
        rules.reverse()
    strict = policy.tcp_strict if rng.random() < 0.8 else not policy.tcp_strict and policy.stateful
    return replace(policy, rules=tuple(rules), tcp_strict=strict, staged=True)


def _rule_changed(rng: random.Random, policy: Policy, rule: Rule) -> Rule:
    if rng.random() < 0.4 and policy.tier is not Tier.ETHERNET:
        return replace(rule, action=rng.choice(_ACTIONS))
    return rule


def staged_as(world: PolicySet, wanted: PolicySet) -> PolicySet:
    """The one world with staged policies that would make the other of it."""
    default = replace(wanted.default, staged=True)
    gone = [replace(policy, rules=(), staged=True) for policy in world.policies]
    named = {policy.path: policy for policy in gone} | {
        policy.path: replace(policy, staged=True) for policy in wanted.policies
    }
    return replace(world, staged=(*named.values(), default))
