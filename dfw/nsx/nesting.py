# SPDX-License-Identifier: Apache-2.0
"""What groups hold through other groups: no circles, a bounded depth, and which of them can have no port at all."""

from __future__ import annotations

from collections.abc import Iterator

from dfw.model import Addresses, AllOf, AnyOf, Group, GroupMember, MacAddresses, Term
from dfw.nsx.common import Context

MAXIMUM_NESTING = 32  # ours: bounds every walk


def members_of(term: Term) -> list[str]:
    """Paths of the groups that a term refers to directly."""
    if isinstance(term, GroupMember):
        return [term.path]
    if isinstance(term, AnyOf | AllOf):
        return [path for item in term.terms for path in members_of(item)]
    return []


def nesting_check(context: Context) -> None:
    """Report groups that contain themselves or nest too deeply, and empty them, so that every walk ends."""
    depths: dict[str, int] = {}
    for start in list(context.groups):
        trail: list[tuple[str, Iterator[str]]] = []
        opened: dict[str, None] = {}  # the trail's paths, in order
        if start not in depths:
            trail.append((start, iter(members_of(context.groups[start].expression))))
            opened[start] = None
        while trail:
            path, members = trail[-1]
            below = next((item for item in members if item in context.groups), None)
            if below is None:
                trail.pop()
                del opened[path]
                inside = members_of(context.groups[path].expression)
                depths[path] = 1 + max((depths.get(item, 0) for item in inside), default=0)
                if depths[path] > MAXIMUM_NESTING:
                    context.group_paths[path].problem(f"groups nest more than {MAXIMUM_NESTING} levels deep")
                    context.groups[path] = Group(path, AnyOf(), context.groups[path].place)
                    depths[path] = 1
            elif below in opened:
                names_open = list(opened)
                loop = [*names_open[names_open.index(below) :], below]
                names = " -> ".join(item.rpartition("/")[2] for item in loop)
                context.group_paths[below].problem(f"the group contains itself: {names}")
                context.groups[path] = Group(path, AnyOf(), context.groups[path].place)
                depths[path] = 1
                trail.pop()
                del opened[path]
            elif below not in depths:
                opened[below] = None
                trail.append((below, iter(members_of(context.groups[below].expression))))


def address_only(context: Context) -> frozenset[str]:
    """Paths of the groups that can have no port as a member: NSX refuses them in Applied-To."""
    known: dict[str, bool] = {}

    def of_group(path: str) -> bool:
        if path not in known:
            known[path] = path in context.groups and of_term(context.groups[path].expression)
        return known[path]

    def of_term(term: Term) -> bool:
        if isinstance(term, Addresses | MacAddresses):
            return True
        if isinstance(term, GroupMember):
            return of_group(term.path)
        return isinstance(term, AnyOf) and bool(term.terms) and all(of_term(item) for item in term.terms)

    return frozenset(path for path in context.groups if of_group(path))
