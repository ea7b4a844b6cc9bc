# SPDX-License-Identifier: Apache-2.0
"""What of the model the packet core can express."""

from __future__ import annotations

from dfw.model import Action, Alg, EffectiveRule, PolicySet, Tier

NATIVE_ACTIONS = {
    Action.ALLOW: 0,
    Action.DROP: 1,
    Action.REJECT: 2,
    Action.PASS: 3,
    Action.JUMP_TO_APPLICATION: 3,
}
"""PAL_ACTION_* by action; where a rule that leaves its tier goes on stands in pal_rule.resume."""
NATIVE_ALGS = {Alg.NONE: 0, Alg.FTP: 1, Alg.TFTP: 2}
"""PAL_ALG_* by ALG."""


def unsupported_features(world: PolicySet) -> list[tuple[EffectiveRule, str]]:
    """What the packet core cannot express: the enabled rules concerned, each with the feature's name."""
    found: list[tuple[EffectiveRule, str]] = []
    for policy in world.ordered:
        for rule in policy.rules:
            effective = EffectiveRule(policy, rule, rule.direction)
            if rule.disabled:
                continue
            if rule.action not in NATIVE_ACTIONS or (policy.tier is Tier.ETHERNET and rule.action is Action.REJECT):
                found.append((effective, f"the action {rule.action.value}"))
            entries = [entry for service in rule.services for entry in service.entries]
            found += [(effective, f"the ALG {entry.alg.value}") for entry in entries if entry.alg not in NATIVE_ALGS]
    return found
