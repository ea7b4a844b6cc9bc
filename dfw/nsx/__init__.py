# SPDX-License-Identifier: Apache-2.0
"""The NSX front end: Group, Service, SecurityPolicy and profile documents -> model objects.

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
from dfw.model import (
    NOBODY,
    FloodBinding,
    FloodLimits,
    Group,
    Inventory,
    Peers,
    Policy,
    Service,
    TimerBinding,
    Timers,
)
from dfw.nsx.binding import binding_path
from dfw.nsx.common import (
    EXCLUDE_LIST_ID,
    EXCLUDE_LIST_ROOT,
    FLOOD_BINDINGS,
    FLOOD_PROFILES_ROOT,
    GROUPS_ROOT,
    POLICIES_ROOT,
    SCHEDULERS_ROOT,
    TIMER_BINDINGS,
    TIMER_PROFILES_ROOT,
    Context,
    path_of,
)
from dfw.nsx.exclude_list import exclude_list_read
from dfw.nsx.flood_profile import floods_load
from dfw.nsx.group import group_read
from dfw.nsx.nesting import address_only, nesting_check
from dfw.nsx.scheduler import schedule_read
from dfw.nsx.security_policy import DEFAULT_PATH, PolicyReader, is_staged
from dfw.nsx.service import Services
from dfw.nsx.timer_profile import timers_load

ROOTS = {
    "Group": GROUPS_ROOT,
    "Service": SERVICES_ROOT,
    "SecurityPolicy": POLICIES_ROOT,
    "PolicyExcludeList": EXCLUDE_LIST_ROOT,
    "PolicyFirewallSessionTimerProfile": TIMER_PROFILES_ROOT,
    "PolicyFirewallScheduler": SCHEDULERS_ROOT,
    "DistributedFloodProtectionProfile": FLOOD_PROFILES_ROOT,
}
_ONLY_IDS = {"PolicyExcludeList": EXCLUDE_LIST_ID}
# Bound to groups: the collection under the group.
BINDINGS = {
    "PolicyFirewallSessionTimerProfileBindingMap": TIMER_BINDINGS,
    "PolicyFirewallFloodProtectionProfileBindingMap": FLOOD_BINDINGS,
}
RESOURCE_TYPES = (*ROOTS, *BINDINGS)


class NsxObjects(NamedTuple):
    """What the documents define. `default`, `timers`, `flood`: None where no document sets them. `used`: paths
    that something refers to.

    `policies` holds staged ones too, each beside the enforced one of its path.
    """

    groups: dict[str, Group]
    services: dict[str, Service]
    policies: tuple[Policy, ...]
    default: Policy | None
    staged_default: Policy | None
    timers: Timers | None
    timer_bindings: tuple[TimerBinding, ...]
    flood: FloodLimits | None
    flood_bindings: tuple[FloodBinding, ...]
    excluded: Peers
    used: frozenset[str]


def nsx_load(
    documents: Iterable[Document], inventory: Inventory, problems: list[Problem], findings: list[Finding]
) -> NsxObjects:
    """All NSX documents together. Problems and warnings are added to the lists."""
    context = Context(inventory, problems, findings)
    registers: dict[str, dict[str, Cursor]] = {
        **{kind: {} for kind in RESOURCE_TYPES},
        "Group": context.group_paths,
        "Service": context.service_documents,
        "SecurityPolicy": context.policy_paths,
    }
    staged: dict[str, Cursor] = {}
    for document in documents:
        cursor = Cursor(document, document.root, "", problems)
        node = cursor.node.get("resource_type")
        kind = str(node.value) if node else ""
        if kind in ROOTS:
            found = path_of(cursor, ROOTS[kind], _ONLY_IDS.get(kind))
            if found and kind in _ONLY_IDS:
                found = ROOTS[kind] + _ONLY_IDS[kind]  # whatever it is called, there is one
        else:
            found = binding_path(cursor, BINDINGS[kind])
        # Without a usable id the document is still read for its other problems, under a path that nobody can write.
        path = found or f"{kind}/\0{document.file}:{document.root.line}"
        register = staged if kind == "SecurityPolicy" and is_staged(cursor) else registers[kind]
        first = register.setdefault(path, cursor)
        if first is not cursor:
            cursor.problem(f"{kind} {path} was already given at {first.place.file}:{first.place.line}")
    for path, cursor in context.group_paths.items():
        group = group_read(context, path, cursor)
        if group is not None:
            context.groups[path] = group
    nesting_check(context)
    services = Services(context)
    loaded = services.load_all()
    no_ports = address_only(context)
    schedules = {path: schedule_read(path, cursor) for path, cursor in registers["PolicyFirewallScheduler"].items()}
    reader = PolicyReader(context, services, no_ports, schedules)
    policies: list[Policy] = []
    defaults: dict[bool, Policy | None] = {}
    for register in (context.policy_paths, staged):
        for path, cursor in register.items():
            if path == DEFAULT_PATH:
                defaults[register is staged] = reader.read_default(cursor)
            elif (policy := reader.read(path, cursor)) is not None:
                policies.append(policy)
    timers, timer_bindings = timers_load(
        context,
        registers["PolicyFirewallSessionTimerProfile"],
        registers["PolicyFirewallSessionTimerProfileBindingMap"],
        no_ports,
    )
    flood, flood_bindings = floods_load(
        context,
        registers["DistributedFloodProtectionProfile"],
        registers["PolicyFirewallFloodProtectionProfileBindingMap"],
        no_ports,
    )
    excluded = [exclude_list_read(context, cursor, no_ports) for cursor in registers["PolicyExcludeList"].values()]
    return NsxObjects(
        context.groups,
        loaded,
        tuple(policies),
        defaults.get(False),
        defaults.get(True),
        timers,
        timer_bindings,
        flood,
        flood_bindings,
        excluded[0] if excluded else NOBODY,
        frozenset(context.used),
    )
