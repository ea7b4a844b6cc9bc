# SPDX-License-Identifier: Apache-2.0
"""NSX Group documents -> model groups (reference, Part B 3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dfw.fields import (
    Cursor,
    Field,
    Read,
    Shape,
    Written,
    choice,
    listed,
    mapping,
    nearest,
    parsed,
    reference,
    shaped,
    shown_value,
    text,
    unsupported,
)
from dfw.inventory import tags
from dfw.model import (
    Addresses,
    AllOf,
    AnyOf,
    Condition,
    ConditionKey,
    ExternalIds,
    ExternalIdType,
    Family,
    Group,
    GroupMember,
    MacAddresses,
    MemberType,
    Operator,
    PortMember,
    SegmentMember,
    Term,
    mac_parse,
    pattern_check,
    range_parse,
)
from dfw.model.selector import POSITIVE, tag_matches, text_matches
from dfw.nsx.common import COMMON, Context, is_read_only

# Limits of NSX 4 that change no meaning ("Define Group Membership Criteria"): passing them is a warning.
MAXIMUM_CRITERIA = 5
MAXIMUM_CONDITIONS = 5  # of one member type in a criterion
MAXIMUM_MIXED = 15  # of several member types in a criterion
MAXIMUM_ALL_CONDITIONS = 35  # in a group
MAXIMUM_ADDRESSES = 4000
MAXIMUM_DIRECT = 500  # paths and external ids

_GROUP_TYPE = "Group"  # member_type: the groups themselves, by their tags or names
_KEYS: Mapping[MemberType | str, frozenset[ConditionKey]] = {
    MemberType.VIRTUAL_MACHINE: frozenset(ConditionKey),
    MemberType.SEGMENT_PORT: frozenset({ConditionKey.TAG, ConditionKey.NAME, ConditionKey.ALL}),
    MemberType.SEGMENT: frozenset({ConditionKey.TAG, ConditionKey.NAME, ConditionKey.ALL}),
    _GROUP_TYPE: frozenset({ConditionKey.TAG, ConditionKey.NAME}),
}
# LogicalPort and LogicalSwitch: the names that SegmentPort and Segment had in NSX-T 2.
_MEMBER_TYPES: Mapping[str, MemberType | str] = {
    **{item.value: item for item in MemberType},
    _GROUP_TYPE: _GROUP_TYPE,
    "LogicalPort": MemberType.SEGMENT_PORT,
    "LogicalSwitch": MemberType.SEGMENT,
}
_OTHER_MEMBER_TYPES = (
    *("IPSet", "Pod", "Service", "Namespace", "TransportNode", "DVPG", "DVPort", "IPAddress", "VpcSubnet"),
    *("KubernetesCluster", "KubernetesNamespace", "AntreaEgress", "AntreaIPPool", "KubernetesIngress"),
    *("KubernetesGateway", "KubernetesService", "KubernetesNode", "VpcSubnetPort"),
)
_OTHER_KEYS = ("NodeType", "GroupType", "IPAddress", "PodCidr")
_ID_TYPES = {item.value: item for item in ExternalIdType}
_OTHER_ID_TYPES = ("CloudNativeServiceInstance", "PhysicalServer")
_PORT_PATH = re.compile(r"/infra/(?:tier-1s/[^/]+/)?segments/([^/]+)(?:/ports/([^/]+))?")


def _known_words(meanings: Mapping[str, Any], others: tuple[str, ...]) -> Read:
    """A word of the API; the `others` are its words too, but name things that there are not here."""
    read_choice = choice(meanings)

    def read(cursor: Cursor) -> Any:
        if not isinstance(cursor.value, str) or cursor.value not in others:
            return read_choice(cursor)
        cursor.problem(f"{cursor.value} is not supported: there are none here; one of {', '.join(meanings)}")
        return None

    return shaped(read, Shape("choice", words=tuple(meanings)))


GROUP: Mapping[str, Field] = {
    **COMMON,
    "expression": Field(listed(lambda item: item), default=()),
    "extended_expression": Field(unsupported("identity groups need a directory")),
    "group_type": Field(listed(_known_words({"IPAddress": "IPAddress"}, ("ANTREA",))), default=()),
}
TABLES: Mapping[str, Mapping[str, Field]] = {
    "Condition": {
        **COMMON,
        "member_type": Field(_known_words(_MEMBER_TYPES, _OTHER_MEMBER_TYPES), required=True),
        "key": Field(_known_words({item.value: item for item in ConditionKey}, _OTHER_KEYS), required=True),
        "operator": Field(choice({item.value: item for item in Operator})),
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
    "MACAddressExpression": {
        **COMMON,
        "mac_addresses": Field(listed(parsed(mac_parse), empty=False), required=True, default=()),
    },
    "PathExpression": {**COMMON, "paths": Field(listed(reference, empty=False), required=True, default=())},
    "ExternalIDExpression": {
        **COMMON,
        "member_type": Field(
            _known_words({item.value: item for item in ExternalIdType}, _OTHER_ID_TYPES), required=True
        ),
        "external_ids": Field(listed(text(256), empty=False), required=True, default=()),
    },
}


def group_read(context: Context, path: str, cursor: Cursor) -> Group | None:
    """A group from its document; None, after reporting, where it is no mapping."""
    values = mapping(cursor, GROUP, ignore=is_read_only)
    if values is None:
        return None
    criteria = _criteria(context, path, values["expression"] or (), TABLES)
    _limits_check(context, cursor, values["expression"] or ())
    if "IPAddress" in values["group_type"]:
        for item in values["expression"] or ():
            if _kind_of(item) not in ("IPAddressExpression", "PathExpression", "ConjunctionOperator"):
                item.problem("a group of group_type IPAddress holds only addresses and groups of such")
    terms = tuple(item[0] if len(item) == 1 else AllOf(tuple(item)) for item in criteria)
    expression: Term = terms[0] if len(terms) == 1 else AnyOf(terms)
    return Group(path, expression, cursor.place)


def _limits_check(context: Context, cursor: Cursor, expressions: tuple[Cursor, ...]) -> None:
    """Warnings where NSX would refuse the number of expressions, conditions, addresses or members."""

    def check(at: Cursor, count: int, what: str, most: int) -> None:
        if count > most:
            context.warn("nsx-limit", at, f"{count} {what} are more than NSX takes ({most})")

    def count_of(key: str, kind: str) -> int:
        lists = (item.node.get(key) for item in expressions if _kind_of(item) == kind)
        return sum(len(node.value) for node in lists if node is not None and isinstance(node.value, list))

    selectors = [item for item in expressions if _is_selector(_kind_of(item))]
    conditions = {index: _conditions(item) for index, item in enumerate(selectors)}
    check(cursor, len(selectors), "criteria", MAXIMUM_CRITERIA)
    check(cursor, sum(map(len, conditions.values())), "conditions", MAXIMUM_ALL_CONDITIONS)
    check(cursor, count_of("ip_addresses", "IPAddressExpression"), "addresses", MAXIMUM_ADDRESSES)
    check(cursor, count_of("mac_addresses", "MACAddressExpression"), "MAC addresses", MAXIMUM_ADDRESSES)
    direct = count_of("paths", "PathExpression") + count_of("external_ids", "ExternalIDExpression")
    check(cursor, direct, "direct members", MAXIMUM_DIRECT)
    for index, item in enumerate(selectors):
        types = {_member_type_of(condition) for condition in conditions[index]}
        is_mixed = len(types) > 1
        what = "conditions of several member types" if is_mixed else "conditions"
        check(item, len(conditions[index]), what, MAXIMUM_MIXED if is_mixed else MAXIMUM_CONDITIONS)
        if is_mixed and not types <= {MemberType.SEGMENT, MemberType.SEGMENT_PORT}:
            context.warn("nsx-limit", item, "NSX mixes only the member types Segment and SegmentPort in one criterion")
    for before, operator, after in zip(expressions, expressions[1:], expressions[2:], strict=False):
        joined = operator.node.get("conjunction_operator")
        if joined is None or joined.value != "AND" or not {_kind_of(before), _kind_of(after)} <= _SELECTORS:
            continue
        both = [*_conditions(before), *_conditions(after)]
        if len(both) != 2 or len({_member_type_of(item) for item in both}) > 1:
            message = "NSX joins criteria by AND only where both are one condition of the same member type"
            context.warn("nsx-limit", operator, message)


def _conditions(cursor: Cursor) -> list[Cursor]:
    """A Condition alone, or those inside a NestedExpression."""
    if _kind_of(cursor) == "Condition":
        return [cursor]
    inside = cursor.member("expressions").items() if cursor.node.get("expressions") else []
    return [item for item in inside if _kind_of(item) == "Condition"]


def _member_type_of(cursor: Cursor) -> object:
    node = cursor.node.get("member_type")
    return _MEMBER_TYPES.get(str(node.value)) if node else None


def _criteria(context: Context, path: str, cursors: tuple[Cursor, ...], tables: Mapping[str, Any]) -> list[list[Term]]:
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
        term = _term(context, path, kind, cursor, values)
        if term is None:
            continue
        if join == "AND" and criteria:
            criteria[-1].append(term)
        else:
            criteria.append([term])
    if len(cursors) % 2 == 0 and cursors and _kind_of(cursors[-1]) == "ConjunctionOperator":
        cursors[-1].problem("the expression ends in an operator; an expression belongs after it")
    return criteria


def _kind_of(cursor: Cursor) -> str | None:
    node = cursor.node.get("resource_type")
    return node.value if node and isinstance(node.value, str) else None


_SELECTORS = frozenset({"Condition", "NestedExpression"})


def _is_selector(kind: str | None) -> bool:
    return kind in _SELECTORS


def _kind(cursor: Cursor, tables: Mapping[str, Any]) -> str | None:
    kind = _kind_of(cursor)
    if kind in tables:
        return kind
    if kind == "IdentityGroupExpression":
        cursor.problem("IdentityGroupExpression is not supported: identity groups need a directory")
    elif kind in TABLES:
        cursor.problem(f"{kind} cannot stand in a NestedExpression: only Condition and ConjunctionOperator AND can")
    else:
        node = cursor.node.get("resource_type")
        value = node.value if node else None
        what = "the field resource_type is missing" if value is None else f"{shown_value(value)} is not an expression"
        near = nearest(kind, tables, cursor.problems) if kind is not None else ""
        cursor.problem(f"{what}; one of {', '.join(tables)}{near}")
    return None


def _term(context: Context, path: str, kind: str, cursor: Cursor, values: dict[str, Any]) -> Term | None:
    match kind:
        case "Condition":
            return _condition(context, path, cursor, values)
        case "NestedExpression":
            return _nested(context, path, cursor, values)
        case "IPAddressExpression":
            if len({item.family for item in values["ip_addresses"]}) == len(Family):
                context.warn("nsx-limit", cursor, "NSX does not mix IPv4 and IPv6 in one IPAddressExpression")
            return Addresses(values["ip_addresses"])
        case "MACAddressExpression":
            return MacAddresses(values["mac_addresses"])
        case "ExternalIDExpression":
            return values["member_type"] and ExternalIds(values["member_type"], values["external_ids"])
        case _:
            members = [member_read(context, written) for written in values["paths"]]
            terms = tuple(member for member in members if member is not None)
            return terms[0] if len(terms) == 1 else AnyOf(terms)


def _condition(context: Context, path: str, cursor: Cursor, values: dict[str, Any]) -> Term | None:
    member_type, key, operator, value = (values[name] for name in ("member_type", "key", "operator", "value"))
    if member_type is None or key is None or value is None:
        return None
    if operator is None:
        # NSX: optional where a segment's or a segment port's tag is looked at, EQUALS then.
        if key is not ConditionKey.TAG or member_type not in (MemberType.SEGMENT, MemberType.SEGMENT_PORT):
            if cursor.node.get("operator") is None:
                cursor.problem("the field operator is missing")
            return None
        operator = Operator.EQUALS
    if key not in _KEYS[member_type]:
        allowed = ", ".join(item.value for item in ConditionKey if item in _KEYS[member_type])
        word = cursor.member("member_type").value
        cursor.member("key").problem(f"a {word} has no {key.value}; one of {allowed}")
        return None
    if key is ConditionKey.TAG and not value.replace("|", ""):
        cursor.member("value").problem(f"{value!r} names neither scope nor tag; write scope|tag, |tag or scope|")
        return None
    if key is not ConditionKey.TAG and values["scope_operator"]:
        cursor.member("scope_operator").problem("scope_operator concerns the key Tag only")
    if operator is Operator.MATCHES:
        try:
            pattern_check(value.partition("|")[2] if key is ConditionKey.TAG and "|" in value else value)
        except ValueError as error:
            cursor.member("value").problem(str(error))
            return None
    if member_type == _GROUP_TYPE:
        return _groups_selected(context, path, key, operator, value, values["scope_operator"])
    return Condition(member_type, key, operator, value, values["scope_operator"])


def _groups_selected(
    context: Context, own: str, key: ConditionKey, operator: Operator, value: str, scope_differs: bool
) -> Term:
    """The members of all other groups whose tags or name fit (member_type Group)."""
    positive = POSITIVE.get(operator, operator)
    found: list[Term] = []
    for path, cursor in context.group_paths.items():
        quiet = cursor._replace(problems=[])  # the group's own reading reports them
        if key is ConditionKey.NAME:
            names = [quiet.node.get(field) for field in ("display_name", "id")]
            name = next((str(node.value) for node in names if node is not None), path.rpartition("/")[2])
            fits = text_matches(positive, name.casefold(), value.casefold())
        else:
            own_tags = tags(quiet.member("tags")) if quiet.node.get("tags") else ()
            fits = any(tag_matches(tag, positive, value, scope_differs) for tag in own_tags or ())
        if fits is (operator is positive) and path != own:
            context.used.add(path)
            found.append(GroupMember(path))
    return AnyOf(tuple(found))


def _nested(context: Context, path: str, cursor: Cursor, values: dict[str, Any]) -> Term | None:
    inner = {kind: TABLES[kind] for kind in ("Condition", "ConjunctionOperator")}
    criteria = _criteria(context, path, values["expressions"] or (), inner)
    if len(criteria) > 1:
        cursor.problem("a NestedExpression joins its Conditions by AND; put alternatives beside it, joined by OR")
    terms = [term for criterion in criteria for term in criterion]
    return AllOf(tuple(terms)) if terms else None


def member_read(context: Context, written: Written) -> Term | None:
    """What a PathExpression's entry names: a segment, a port or a group, by path or bare id; None after reporting."""
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
