# SPDX-License-Identifier: Apache-2.0
"""From files to a PolicySet: the one way in which a policy gets into the house in file mode.

Which front end reads a document is decided by its `resource_type` (NSX) or its `apiVersion` and `kind`. All problems
of all files are reported at once; nothing is returned unless there are none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from dfw.documents import Document, Node, documents_read
from dfw.errors import PolicyError, Problem
from dfw.fields import Cursor, nearest, shown_value
from dfw.findings import Finding
from dfw.inventory import API_VERSION, INVENTORY_KINDS, inventory_load
from dfw.kube import KUBE_KINDS, ignored_kind, kube_load
from dfw.model import Action, FloodLimits, Policy, PolicyKind, PolicySet, Rule, Timers, default_policy
from dfw.nsx import RESOURCE_TYPES, nsx_load

FIRST_NUMBER = 1000  # file mode: rule_id = 1000 + position (CONTRACT section 2)
MAXIMUM_ENTRIES = 1 << 21  # of all rules; NSX takes 100,000 rules, which leaves each of them twenty


class Loaded(NamedTuple):
    """What files hold. `findings`: warnings of the reading itself. `used`: paths of groups and services referred to."""

    world: PolicySet
    findings: tuple[Finding, ...]
    used: frozenset[str]
    has_inventory: bool


def load(files: Iterable[str], *, default_action: Action | None = None) -> Loaded:
    """Read policy and inventory files (`-`: standard input). Raises PolicyError.

    `default_action`: what the default section does with whatever no rule matched, over what a document says (NSX's
    default-layer3-section); without either it is ALLOW, as NSX's.
    """
    return load_documents(documents_read(dict.fromkeys(files)), default_action=default_action)


def load_documents(documents: Sequence[Document], *, default_action: Action | None = None) -> Loaded:
    """As `load`, from documents that have been read already. Raises PolicyError."""
    problems: list[Problem] = []
    findings: list[Finding] = []
    nsx: list[Document] = []
    inventories: list[Document] = []
    manifests: list[tuple[str, Cursor]] = []
    for document, implied in _flattened(documents):
        cursor = Cursor(document, document.root, "", problems)
        register = _register(cursor, implied, findings)
        if register == "nsx":
            nsx.append(document)
        elif register == "inventory":
            inventories.append(document)
        elif register is not None:
            manifests.append((register, cursor))
    kube = kube_load(manifests, findings)
    inventory = inventory_load(inventories, problems, findings, kube.pods, kube.namespaces)
    objects = nsx_load(nsx, inventory, problems, findings)
    given = (*objects.policies, *kube.policies)
    policies = _numbered((policy for policy in given if not policy.staged), problems)
    staged = _staged_numbered((policy for policy in given if policy.staged), policies, problems, findings)
    _entries_check((*policies, *staged), problems)
    if problems:
        files = {file: number for number, file in enumerate(dict.fromkeys(document.file for document in documents))}
        raise PolicyError(
            sorted(problems, key=lambda item: (files[item.place.file], item.place.line, item.place.column))
        )
    default = objects.default or default_policy()
    if default_action is not None:
        default = default_policy(default_action, default.rules[-1].logged)
    world = PolicySet(
        policies,
        objects.groups,
        objects.services,
        inventory,
        default,
        objects.timers or Timers(),
        objects.excluded,
        objects.timer_bindings,
        objects.flood or FloodLimits(),
        objects.flood_bindings,
        staged=staged if objects.staged_default is None else (*staged, objects.staged_default),
    )
    return Loaded(world, tuple(findings), objects.used, bool(inventories or kube.pods))


class _Implied(NamedTuple):
    """What a list says of its items, which need not say it themselves (`kind: PodList`)."""

    kind: str = ""
    version: str = ""


def _flattened(documents: Iterable[Document]) -> Iterator[tuple[Document, _Implied]]:
    """Lists (`kind: List`, as `kubectl get -o yaml` prints them, or `kind: PodList`) as their items."""
    for document in documents:
        kind, version = (_text_at(document.root, key) for key in ("kind", "apiVersion"))
        items = document.root.get("items")
        if kind.endswith("List") and items is not None and isinstance(items.value, list):
            implied = _Implied(kind.removesuffix("List"), version if kind != "List" else "")
            yield from ((Document(document.file, item), implied) for item in items.value)
        else:
            yield document, _Implied()


def _text_at(node: Node, key: str) -> str:
    found = node.get(key)
    return found.value if found is not None and isinstance(found.value, str) else ""


def _register(cursor: Cursor, implied: _Implied, findings: list[Finding]) -> str | None:
    """Which front end reads this document (a Kubernetes kind by its name).

    None after reporting that none does, or where it is passed over, with a warning.
    """
    if not isinstance(cursor.value, dict):
        cursor.problem("a document is a mapping with resource_type (NSX), or apiVersion and kind")
        return None
    resource_type, kind = (cursor.node.get(key) for key in ("resource_type", "kind"))
    if resource_type is not None and kind is None:
        if resource_type.value in RESOURCE_TYPES:
            return "nsx"
        at = cursor.member("resource_type")
        near = nearest(str(resource_type.value), RESOURCE_TYPES, cursor.problems)
        at.problem(f"{shown_value(at.value)} is not supported; one of {', '.join(RESOURCE_TYPES)}{near}")
    elif resource_type is not None:
        cursor.problem("resource_type (NSX) and kind exclude each other")
    elif kind is None and not implied.kind:
        cursor.problem("neither resource_type (NSX) nor apiVersion and kind say what this document is")
    else:
        return _kind_register(cursor, implied, findings)
    return None


def _kind_register(cursor: Cursor, implied: _Implied, findings: list[Finding]) -> str | None:
    kind = _text_at(cursor.node, "kind") or implied.kind
    version = _text_at(cursor.node, "apiVersion") or implied.version
    is_inventory = kind in INVENTORY_KINDS
    wanted = (API_VERSION,) if is_inventory else KUBE_KINDS.get(kind, ())
    if is_inventory and version in ("", API_VERSION):
        if not version:
            cursor.problem(f"the field apiVersion is missing; it is {API_VERSION}")
        return "inventory"
    if version in wanted:
        return kind
    if wanted and not version:
        cursor.problem(f"the field apiVersion is missing; it is {' or '.join(wanted)}")
        return None
    passed_over = ignored_kind(version, kind) if version and not wanted else None
    if passed_over is not None:
        findings.append(Finding("ignored", cursor.place, passed_over))
        return None
    at = cursor.member("kind") if cursor.node.get("kind") is not None else cursor
    shown = f"{version}, " if version else ""
    if wanted:
        at.problem(f"{shown}kind {kind!r} is not supported; its apiVersion is {' or '.join(wanted)}")
    else:
        known = (*INVENTORY_KINDS, *KUBE_KINDS)
        near = nearest(kind, known, cursor.problems)
        at.problem(
            f"{shown}kind {shown_value(kind or at.value)} is not supported; "
            f"{', '.join(INVENTORY_KINDS)} of {API_VERSION} are, and {', '.join(KUBE_KINDS)}{near}"
        )
    return None


def _numbered(policies: Iterable[Policy], problems: list[Problem]) -> tuple[Policy, ...]:
    """Policies in order of judgement, every rule with its rule_id: the document's, else 1000 + position."""
    ordered = sorted(policies, key=lambda policy: policy.order_key)
    taken: dict[int, Rule] = {}
    for policy in ordered:
        for rule in policy.rules:
            if rule.number and taken.setdefault(rule.number, rule) is not rule and rule.place is not None:
                problems.append(
                    Problem(rule.place, f"the rule_id {rule.number} is already that of {taken[rule.number].path}")
                )
    position = 0
    spare = FIRST_NUMBER + sum(len(policy.rules) for policy in ordered) + 1  # where a document holds the position's
    numbered: list[Policy] = []
    for policy in ordered:
        rules: list[Rule] = []
        for rule in policy.rules:
            position += 1
            number = FIRST_NUMBER + position
            if not rule.number and number in taken:
                while spare in taken:
                    spare += 1
                number, spare = spare, spare + 1
            rules.append(rule if rule.number else replace(rule, number=number))
        numbered.append(replace(policy, rules=tuple(rules)))
    return tuple(numbered)


def _entries_check(policies: Iterable[Policy], problems: list[Problem]) -> None:
    """Report where rules come to more table entries than are compiled: a few lines of ports can ask for billions."""
    total = 0
    sizes: dict[str, int] = {}
    for rule in (rule for policy in policies for rule in policy.rules):
        entries = 0
        for service in rule.services:
            if service.path not in sizes or not service.path:
                sizes[service.path] = sum(
                    max(1, len(entry.source_ports)) * max(1, len(entry.destination_ports)) for entry in service.entries
                )
            entries += sizes[service.path]
        total += entries
        if total > MAXIMUM_ENTRIES and rule.place is not None:
            message = f"with the {entries} entries of this rule (one for each pair of port ranges) there are more than"
            problems.append(Problem(rule.place, f"{message} {MAXIMUM_ENTRIES}; write ranges, or fewer services"))
            return


def _staged_numbered(
    policies: Iterable[Policy], enforced: Sequence[Policy], problems: list[Problem], findings: list[Finding]
) -> tuple[Policy, ...]:
    """Staged policies, numbered so that no enforced rule's number changes.

    A rule has the document's number, else that of the enforced rule of its path, else one after all others.
    """
    ordered = sorted(policies, key=lambda policy: policy.order_key)
    replaced = {policy.path for policy in ordered}
    of_path = {rule.path: rule.number for policy in enforced for rule in policy.rules}
    taken = {rule.number: rule.path for policy in enforced if policy.path not in replaced for rule in policy.rules}
    for rule in (rule for policy in ordered for rule in policy.rules if rule.number):
        if taken.setdefault(rule.number, rule.path) != rule.path and rule.place is not None:
            message = f"the rule_id {rule.number} is already that of {taken[rule.number]}"
            problems.append(Problem(rule.place, message))
    spare = max((*of_path.values(), *taken, FIRST_NUMBER)) + 1
    numbered: list[Policy] = []
    known = {policy.path for policy in enforced}
    for policy in ordered:
        if not policy.rules and policy.path not in known and policy.kind is not PolicyKind.NETWORK_POLICY:
            message = f"the staged policy {policy.path} has no rules and replaces none: it would change nothing"
            findings.append(Finding("no-effect", policy.place, message))
        rules: list[Rule] = []
        for rule in policy.rules:
            number = rule.number or of_path.get(rule.path, 0)
            if not rule.number and taken.setdefault(number, rule.path) != rule.path:
                number = 0
            if not number:
                number, spare = spare, spare + 1
            rules.append(replace(rule, number=number))
        numbered.append(replace(policy, rules=tuple(rules)))
    return tuple(numbered)
