# SPDX-License-Identifier: Apache-2.0
"""From files to a PolicySet: the one way in which a policy gets into the house in file mode.

Which front end reads a document is decided by its `resource_type` (NSX) or its `apiVersion` and `kind`. All problems
of all files are reported at once; nothing is returned unless there are none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from dfw.documents import Document, documents_read
from dfw.errors import PolicyError, Problem
from dfw.fields import Cursor, nearest
from dfw.findings import Finding
from dfw.inventory import API_VERSION, INVENTORY_KINDS, inventory_load
from dfw.model import Action, Policy, PolicySet, Rule, Timers, default_policy
from dfw.nsx import RESOURCE_TYPES, nsx_load

FIRST_NUMBER = 1000  # file mode: rule_id = 1000 + position (CONTRACT section 2)


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
    for document in _flattened(documents):
        register = _register(Cursor(document, document.root, "", problems))
        if register == "nsx":
            nsx.append(document)
        elif register == "inventory":
            inventories.append(document)
    inventory = inventory_load(inventories, problems, findings)
    objects = nsx_load(nsx, inventory, problems, findings)
    policies = _numbered(objects.policies, problems)
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
    )
    return Loaded(world, tuple(findings), objects.used, bool(inventories))


def _flattened(documents: Iterable[Document]) -> Iterator[Document]:
    """Lists (`kind: List`, as `kubectl get -o yaml` prints them) as their items."""
    for document in documents:
        kind, items = document.root.get("kind"), document.root.get("items")
        if kind is not None and kind.value == "List" and items is not None and isinstance(items.value, list):
            yield from (Document(document.file, item) for item in items.value)
        else:
            yield document


def _register(cursor: Cursor) -> str | None:
    """Which front end reads this document; None after reporting that none does."""
    if not isinstance(cursor.value, dict):
        cursor.problem("a document is a mapping with resource_type (NSX), or apiVersion and kind")
        return None
    resource_type, kind, version = (cursor.node.get(key) for key in ("resource_type", "kind", "apiVersion"))
    if resource_type is not None and kind is None:
        if resource_type.value in RESOURCE_TYPES:
            return "nsx"
        at = cursor.member("resource_type")
        near = nearest(str(resource_type.value), RESOURCE_TYPES, cursor.problems)
        at.problem(f"{at.value!r} is not supported; one of {', '.join(RESOURCE_TYPES)}{near}")
    elif kind is not None and resource_type is None:
        if kind.value in INVENTORY_KINDS and (version is None or version.value == API_VERSION):
            if version is None:
                cursor.problem(f"the field apiVersion is missing; it is {API_VERSION}")
            return "inventory"
        at = cursor.member("kind")
        shown = f"{version.value}, " if version is not None else ""
        near = nearest(str(kind.value), INVENTORY_KINDS, cursor.problems)
        at.problem(
            f"{shown}kind {at.value!r} is not supported; {', '.join(INVENTORY_KINDS)} of {API_VERSION} are{near}"
        )
    elif kind is None:
        cursor.problem("neither resource_type (NSX) nor apiVersion and kind say what this document is")
    else:
        cursor.problem("resource_type (NSX) and kind exclude each other")
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
