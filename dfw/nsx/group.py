# SPDX-License-Identifier: Apache-2.0
"""NSX Group documents -> model groups (reference, Part B 3)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dfw.fields import Cursor, Field, Written, choice, listed, mapping, nearest, parsed, reference, text, unsupported
from dfw.model import (
    Addresses,
    AllOf,
    AnyOf,
    Condition,
    ConditionKey,
    Family,
    Group,
    GroupMember,
    MemberType,
    Operator,
    PortMember,
    SegmentMember,
    Term,
    range_parse,
)
from dfw.nsx.common import COMMON, Context, is_read_only

# Limits of NSX that change no meaning: passing them is a warning.
MAXIMUM_CRITERIA = 5
MAXIMUM_CONDITIONS = 5
MAXIMUM_ADDRESSES = 4000
MAXIMUM_NESTING = 32  # ours: bounds every walk

_KEYS = {
    MemberType.VIRTUAL_MACHINE: frozenset(ConditionKey),
    MemberType.SEGMENT_PORT: frozenset({ConditionKey.TAG, ConditionKey.NAME}),
    MemberType.SEGMENT: frozenset({ConditionKey.TAG, ConditionKey.NAME}),
}
_PORT_PATH = re.compile(r"/infra/(?:tier-1s/[^/]+/)?segments/([^/]+)(?:/ports/([^/]+))?")

GROUP: Mapping[str, Field] = {
    **COMMON,
    "expression": Field(listed(lambda item: item), default=()),
    "extended_expression": Field(unsupported("identity groups need a directory")),
    "group_type": Field(listed(choice({"IPAddress": "IPAddress"})), default=()),
}
TABLES: Mapping[str, Mapping[str, Field]] = {
    "Condition": {
        **COMMON,
        "member_type": Field(choice({item.value: item for item in MemberType}), required=True),
        "key": Field(choice({item.value: item for item in ConditionKey}), required=True),
        "operator": Field(choice({item.value: item for item in Operator}), required=True),
        "scope_operator": Field(choice({"EQUALS": False, "NOTEQUALS": True}), default=False),
        "value": Field(text(), required=True),
        "exclude": Field(unsupported("write the condition without it")),
    },
    "ConjunctionOperator": {**COMMON, "conjunction_operator": Field(choice({"AND": "AND", "OR": "OR"}), required=True)},
    "NestedExpression": {**COMMON, "expressions": Field(listed(lambda item: item, empty=False), required=True)},
    "IPAddressExpression": {
        **COMMON,
        "ip_addresses": Field(listed(parsed(range_parse), empty=False), required=True, default=()),
    },
    "PathExpression": {**COMMON, "paths": Field(listed(reference, empty=False), required=True, default=())},
}
_NOT_YET = ("MACAddressExpression", "ExternalIDExpression", "IdentityGroupExpression")


def group_read(context: Context, path: str, cursor: Cursor) -> Group | None:
    """A group from its document; None, after reporting, where it is no mapping."""
    values = mapping(cursor, GROUP, ignore=is_read_only)
    if values is None:
        return None
    criteria = _criteria(context, values["expression"] or (), TABLES)
    if len(criteria) > MAXIMUM_CRITERIA:
        context.warn("nsx-limit", cursor, f"{len(criteria)} criteria are more than NSX takes ({MAXIMUM_CRITERIA})")
    terms = tuple(item[0] if len(item) == 1 else AllOf(tuple(item)) for item in criteria)
    expression: Term = terms[0] if len(terms) == 1 else AnyOf(terms)
    return Group(path, expression, cursor.place)


def _criteria(context: Context, cursors: tuple[Cursor, ...], tables: Mapping[str, Any]) -> list[list[Term]]:
    """Alternatives, each a list of terms joined by AND (which binds closer than OR)."""
    criteria: list[list[Term]] = []
    join = "OR"
    for index, cursor in enumerate(cursors):
        kind = _kind(cursor, tables)
        if kind is None:
            continue
        is_operator = kind == "ConjunctionOperator"
        if is_operator is (index % 2 == 0):
            right = "an expression" if is_operator else "a ConjunctionOperator"
            cursor.problem(f"{kind} stands where {right} belongs: expressions and operators alternate")
            return criteria
        values = mapping(cursor, tables[kind], ignore=is_read_only)
        if values is None:
            continue
        if is_operator:
            join = values["conjunction_operator"] or "OR"
            continue
        if join == "AND" and not (_is_selector(kind) and _is_selector(_kind_of(cursors[index - 2]))):
            cursor.problem("AND joins only Conditions and NestedExpressions; addresses and paths are joined by OR")
        term = _term(context, kind, cursor, values)
        if term is None:
            continue
        if join == "AND" and criteria:
            criteria[-1].append(term)
        else:
            criteria.append([term])
    if len(cursors) % 2 == 0 and cursors and _kind_of(cursors[-1]) == "ConjunctionOperator":
        cursors[-1].problem("the expression ends in an operator; an expression belongs after it")
    return criteria


def _kind_of(cursor: Cursor) -> object:
    node = cursor.node.get("resource_type")
    return node.value if node else None


def _is_selector(kind: object) -> bool:
    return kind in ("Condition", "NestedExpression")


def _kind(cursor: Cursor, tables: Mapping[str, Any]) -> str | None:
    kind = _kind_of(cursor)
    if isinstance(kind, str) and kind in tables:
        return kind
    if kind in _NOT_YET:
        cursor.problem(f"{kind} is not supported")
    elif kind in TABLES:
        cursor.problem(f"{kind} cannot stand in a NestedExpression: only Condition and ConjunctionOperator AND can")
    else:
        what = "the field resource_type is missing" if kind is None else f"{kind!r} is not an expression"
        near = nearest(kind, tables, cursor.problems) if isinstance(kind, str) else ""
        cursor.problem(f"{what}; one of {', '.join(tables)}{near}")
    return None


def _term(context: Context, kind: str, cursor: Cursor, values: dict[str, Any]) -> Term | None:
    match kind:
        case "Condition":
            return _condition(cursor, values)
        case "NestedExpression":
            return _nested(context, cursor, values)
        case "IPAddressExpression":
            return _addresses(context, cursor, values)
        case _:
            members = [_member(context, written) for written in values["paths"]]
            terms = tuple(member for member in members if member is not None)
            return terms[0] if len(terms) == 1 else AnyOf(terms)


def _condition(cursor: Cursor, values: dict[str, Any]) -> Condition | None:
    member_type, key, operator, value = (values[name] for name in ("member_type", "key", "operator", "value"))
    if member_type is None or key is None or operator is None or value is None:
        return None
    if key not in _KEYS[member_type]:
        allowed = ", ".join(item.value for item in ConditionKey if item in _KEYS[member_type])
        cursor.member("key").problem(f"a {member_type.value} has no {key.value}; one of {allowed}")
        return None
    if key is ConditionKey.TAG and not value.replace("|", ""):
        cursor.member("value").problem(f"{value!r} names neither scope nor tag; write scope|tag, |tag or scope|")
        return None
    if key is not ConditionKey.TAG and values["scope_operator"]:
        cursor.member("scope_operator").problem("scope_operator concerns the key Tag only")
    return Condition(member_type, key, operator, value, values["scope_operator"])


def _nested(context: Context, cursor: Cursor, values: dict[str, Any]) -> Term | None:
    inner = {kind: TABLES[kind] for kind in ("Condition", "ConjunctionOperator")}
    criteria = _criteria(context, values["expressions"] or (), inner)
    if len(criteria) > 1:
        cursor.problem("a NestedExpression joins its Conditions by AND; put alternatives beside it, joined by OR")
    terms = [term for criterion in criteria for term in criterion]
    if len(terms) > MAXIMUM_CONDITIONS:
        context.warn("nsx-limit", cursor, f"{len(terms)} conditions are more than NSX takes ({MAXIMUM_CONDITIONS})")
    return AllOf(tuple(terms)) if terms else None


def _addresses(context: Context, cursor: Cursor, values: dict[str, Any]) -> Term | None:
    items = values["ip_addresses"]
    if len({item.family for item in items}) == len(Family):
        context.warn("nsx-limit", cursor, "NSX does not mix IPv4 and IPv6 in one IPAddressExpression")
    if len(items) > MAXIMUM_ADDRESSES:
        context.warn("nsx-limit", cursor, f"{len(items)} addresses are more than NSX takes ({MAXIMUM_ADDRESSES})")
    return Addresses(items)


def _member(context: Context, written: Written) -> Term | None:
    """What a PathExpression's entry names: a segment, a port or a group, by path or bare id."""
    inventory = context.inventory
    found = _PORT_PATH.fullmatch(written.text)
    if found:
        segment, port = found[1], found[2]
        if port is None and segment in inventory.segments:
            return SegmentMember(segment)
        if port is not None and port in inventory.ports and inventory.ports[port].segment == segment:
            return PortMember(port)
        context.problem(written, f"there is no {'segment' if port is None else 'port'} {written.text!r}")
        return None
    if not written.text.startswith("/"):
        kinds: list[tuple[str, Term]] = []
        if written.text in inventory.segments:
            kinds.append(("segment", SegmentMember(written.text)))
        if written.text in inventory.ports:
            kinds.append(("port", PortMember(written.text)))
        if context.groups_called(written.text):
            kinds.append(("group", GroupMember("")))
        if len(kinds) > 1:
            names = " and a ".join(kind for kind, _ in kinds)
            context.problem(written, f"{written.text!r} is a {names}; write the path")
            return None
        if kinds and kinds[0][0] != "group":
            return kinds[0][1]
    path = context.group_path(written)
    return GroupMember(path) if path is not None else None


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
        if isinstance(term, Addresses):
            return True
        if isinstance(term, GroupMember):
            return of_group(term.path)
        return isinstance(term, AnyOf) and bool(term.terms) and all(of_term(item) for item in term.terms)

    return frozenset(path for path in context.groups if of_group(path))
