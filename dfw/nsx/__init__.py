# SPDX-License-Identifier: Apache-2.0
"""The NSX front end: Group, Service, SecurityPolicy and session timer documents -> model objects.

Two passes: the first finds out what exists, so that references may point forward and to other files; the second reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from dfw.catalogue import SERVICES_ROOT
from dfw.documents import Document
from dfw.errors import Problem
from dfw.fields import Cursor
from dfw.findings import Finding
from dfw.model import Group, Inventory, Policy, Service, Timers
from dfw.nsx.common import GROUPS_ROOT, POLICIES_ROOT, TIMER_PROFILES_ROOT, Context, path_of
from dfw.nsx.group import address_only, group_read, nesting_check
from dfw.nsx.security_policy import DEFAULT_PATH, PolicyReader
from dfw.nsx.service import Services
from dfw.nsx.timer_profile import timers_read

ROOTS = {
    "Group": GROUPS_ROOT,
    "Service": SERVICES_ROOT,
    "SecurityPolicy": POLICIES_ROOT,
    "PolicyFirewallSessionTimerProfile": TIMER_PROFILES_ROOT,
}
RESOURCE_TYPES = tuple(ROOTS)


class NsxObjects(NamedTuple):
    """What the documents define. `default`, `timers`: None where no document sets them. `used`: paths referred to."""

    groups: dict[str, Group]
    services: dict[str, Service]
    policies: tuple[Policy, ...]
    default: Policy | None
    timers: Timers | None
    used: frozenset[str]


def nsx_load(
    documents: Iterable[Document], inventory: Inventory, problems: list[Problem], findings: list[Finding]
) -> NsxObjects:
    """All NSX documents together. Problems and warnings are added to the lists."""
    context = Context(inventory, problems, findings)
    profiles: dict[str, Cursor] = {}
    registers = {
        "Group": context.group_paths,
        "Service": context.service_documents,
        "SecurityPolicy": context.policy_paths,
        "PolicyFirewallSessionTimerProfile": profiles,
    }
    for document in documents:
        cursor = Cursor(document, document.root, "", problems)
        node = cursor.node.get("resource_type")
        kind = str(node.value) if node else ""
        # Without a usable id the document is still read for its other problems, under a path that nobody can write.
        path = path_of(cursor, ROOTS[kind]) or f"{ROOTS[kind]}\0{document.file}:{document.root.line}"
        first = registers[kind].setdefault(path, cursor)
        if first is not cursor:
            cursor.problem(f"{kind} {path} was already given at {first.place.file}:{first.place.line}")
    for path, cursor in context.group_paths.items():
        group = group_read(context, path, cursor)
        if group is not None:
            context.groups[path] = group
    nesting_check(context)
    services = Services(context)
    loaded = services.load_all()
    reader = PolicyReader(context, services, address_only(context))
    policies: list[Policy] = []
    default: Policy | None = None
    for path, cursor in context.policy_paths.items():
        if path == DEFAULT_PATH:
            default = reader.read_default(cursor)
        elif (policy := reader.read(path, cursor)) is not None:
            policies.append(policy)
    return NsxObjects(context.groups, loaded, tuple(policies), default, _timers(profiles), frozenset(context.used))


def _timers(profiles: dict[str, Cursor]) -> Timers | None:
    timers: Timers | None = None
    for count, cursor in enumerate(profiles.values()):
        timers = timers_read(cursor)
        if count:
            first = next(iter(profiles.values())).place
            cursor.problem(
                f"there is already a session timer profile at {first.file}:{first.line}; it holds for all vNICs"
            )
    return timers
