# SPDX-License-Identifier: Apache-2.0
"""Edits of small policies, and what they change, by judging every packet by both policies."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import numpy.typing as npt

from dfw.model import ANY_PEERS, Action, Direction, PolicySet
from dfw.packetdiff import Change
from tests.support.small_policies import (
    ADDRESS_BITS,
    OTHER,
    PORT_BITS,
    SERVICES,
    Masks,
    Shape,
    Small,
    a_rule,
    default_section,
    judgements,
    walk,
)


def changed_world(random: Random, world: PolicySet, shape: Shape) -> PolicySet:
    """One to three edits: a rule gone, turned round, moved, widened or new; a policy's state; the default section."""
    for _ in range(random.choice((1, 1, 2, 3))):
        world = _edited(random, world, shape)
    return world


def _edited(random: Random, world: PolicySet, shape: Shape) -> PolicySet:
    at = random.randrange(len(world.policies))
    policy = world.policies[at]
    rules = list(policy.rules)
    place = random.randrange(len(rules)) if rules else 0
    match random.randrange(8):
        case 0 if rules:
            del rules[place]
        case 1 if rules:
            other = Action.DROP if rules[place].action is Action.ALLOW else Action.ALLOW
            rules[place] = replace(rules[place], action=other)
        case 2 if rules:
            rules.insert(random.randrange(len(rules)), rules.pop(place))
        case 3 if rules:
            rules[place] = replace(rules[place], sources=ANY_PEERS, sources_excluded=False)
        case 4:
            return replace(world, default=default_section(random.choice((Action.ALLOW, Action.REJECT)), True))
        case 5:
            policy = replace(policy, stateful=random.random() < 0.5, tcp_strict=random.random() < 0.5)
        case _:
            rules.insert(place, a_rule(random, f"n{random.randrange(1000)}", policy.tier, shape))
    policies = list(world.policies)
    policies[at] = replace(policy, rules=tuple(rules))
    return replace(world, policies=tuple(policies))


def expected_changes(old: Small, new: Small) -> dict[str, Masks]:
    """Which packets are judged otherwise, by kind of change."""
    before, after = (judgements(small, walk(small), unknown=False) for small in (old, new))
    allow = list(Action).index(Action.ALLOW)
    for small, found in ((old, before), (new, after)):
        for number, port in enumerate(small.world.inventory):
            if small.world.selects(small.world.excluded, port):
                found[2 * number : 2 * number + 2] = allow
    was, is_now = ((one == allow) | (one >= 10) for one in (before, after))
    differs = before != after
    return {
        "passes": differs & ~was & is_now,
        "refused": differs & was & ~is_now,
        "refusal": differs & ~was & ~is_now,
        "state": differs & was & is_now,
    }


def packets_of(change: Change, vnics: tuple[str, ...], shape: Shape) -> npt.NDArray[np.int16]:
    """How many boxes of a change hold each packet."""
    space = change.space
    found = np.zeros((2 * shape.vnics, shape.sources, 8, len(SERVICES.rows)), dtype=np.int16)
    for box in change.boxes:
        at = np.zeros(2 * shape.vnics, dtype=np.bool_)
        for direction, numbers in space.vnics.places(box.vnics):
            for number in numbers:
                vnic = int(vnics[number][1:])
                at[2 * vnic] |= bool(direction & Direction.IN)
                at[2 * vnic + 1] |= bool(direction & Direction.OUT)
        sides = []
        for axis, mask, count in (
            (space.sources, box.sources, shape.sources),
            (space.destinations, box.destinations, 8),
        ):
            values = [number * (8 // count) << ADDRESS_BITS for number in range(count)]
            ranges = axis.ranges(mask)
            sides.append(np.array([any(item.first <= value <= item.last for item in ranges) for value in values]))
        services = np.zeros(len(SERVICES.rows), dtype=np.bool_)
        for number, (protocol, flags, sport, dport) in enumerate(SERVICES.rows):
            services[number] = any(
                (transport.protocol == protocol or (protocol == OTHER and transport.protocol not in (6, 17)))
                and (not transport.flags or flags in transport.flags)
                and all(
                    not ranges or any(item.contains(value << PORT_BITS) for item in ranges)
                    for ranges, value in ((transport.sources, sport), (transport.destinations, dport))
                )
                for transport in space.services.header_in(box.services)
            )
        first, second = at[:, None] & sides[0][None, :], sides[1][:, None] & services[None, :]
        found += first[:, :, None, None] & second[None, None, :, :]
    return found
