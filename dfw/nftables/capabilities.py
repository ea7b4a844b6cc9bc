# SPDX-License-Identifier: Apache-2.0
"""What of a policy nftables cannot enforce, or we do not render yet. It is refused, never weakened."""

from __future__ import annotations

from collections.abc import Iterator

from dfw.errors import UnsupportedError
from dfw.model import Alg, FloodLimits, Policy, PolicySet, Timers
from dfw.nftables.names import MOST_VNICS

ENFORCER = "nftables"
_ALGS = (Alg.NONE, Alg.FTP, Alg.TFTP)


def unsupported_features(world: PolicySet) -> Iterator[str]:
    """What of this policy the kernel would not do as written, each with the rule or the profile concerned."""
    if world.timers != Timers() or world.timer_bindings:
        where = f" ({world.timer_bindings[0].path})" if world.timer_bindings else ""
        yield f"session timers other than the default{where}"
    if world.flood != FloodLimits() or world.flood_bindings:
        where = f" ({world.flood_bindings[0].path})" if world.flood_bindings else ""
        yield f"flood protection{where}"
    if len(world.inventory.ports) > MOST_VNICS:
        yield f"{len(world.inventory.ports)} vNICs (at most {MOST_VNICS})"
    for policy in world.ordered:
        yield from _policy_features(policy, "")
    for policy in world.staged:
        yield from _policy_features(policy, "staged ")


def _policy_features(policy: Policy, word: str) -> Iterator[str]:
    for rule in policy.rules:
        if rule.disabled:
            continue
        entries = [entry for service in rule.services for entry in service.entries]
        algs = dict.fromkeys(entry.alg.value for entry in entries if entry.alg not in _ALGS)
        yield from (f"the ALG {alg} ({word}rule {rule.path})" for alg in algs)


def refuse_unsupported(world: PolicySet) -> None:
    """Raises UnsupportedError for the first thing that cannot be enforced."""
    for feature in unsupported_features(world):
        raise UnsupportedError(ENFORCER, feature)
