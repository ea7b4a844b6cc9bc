# SPDX-License-Identifier: Apache-2.0
"""Every field of every NSX table, wrong in every way: refused at the field, and nothing but PolicyError comes out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfw.documents import documents_parse
from dfw.errors import PolicyError
from dfw.fields import Field
from dfw.load import load_documents
from dfw.nsx.group import GROUP
from dfw.nsx.group import TABLES as EXPRESSIONS
from dfw.nsx.security_policy import RULE, SECURITY_POLICY
from dfw.nsx.service import SERVICE
from dfw.nsx.service import TABLES as ENTRIES
from dfw.nsx.timer_profile import TIMER_PROFILE


def loaded(*documents: Any) -> None:
    load_documents(documents_parse("\n".join(map(json.dumps, documents)).encode(), "f.json"))


def refusals(*documents: Any) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        loaded(*documents)
    return [f"{problem.place.path}: {problem.message}" for problem in caught.value.problems]


def policy(*rules: Mapping[str, Any]) -> dict[str, Any]:
    return {"resource_type": "SecurityPolicy", "id": "p", "category": "Application", "rules": list(rules)}


def group(name: str, *expression: Mapping[str, Any]) -> dict[str, Any]:
    return {"resource_type": "Group", "id": name, "expression": list(expression)}


CONDITION = {
    "resource_type": "Condition",
    "member_type": "VirtualMachine",
    "key": "Tag",
    "operator": "EQUALS",
    "value": "a|b",
}

TABLES: dict[str, tuple[Mapping[str, Field], Any]] = {
    "Group": (GROUP, lambda item: {**item, "resource_type": "Group"}),
    "Service": (SERVICE, lambda item: {**item, "resource_type": "Service"}),
    "SecurityPolicy": (SECURITY_POLICY, lambda item: {**item, "resource_type": "SecurityPolicy"}),
    "TimerProfile": (TIMER_PROFILE, lambda item: {**item, "resource_type": "PolicyFirewallSessionTimerProfile"}),
    "Rule": (RULE, lambda item: policy(item)),
    **{name: (table, lambda item: group("g", item)) for name, table in EXPRESSIONS.items()},
    **{
        name: (table, lambda item: {"resource_type": "Service", "id": "s", "service_entries": [item]})
        for name, table in ENTRIES.items()
    },
}
ENTRY = {"resource_type": "L4PortSetServiceEntry", "l4_protocol": "TCP", "destination_ports": ["80"]}
VALID: dict[str, dict[str, Any]] = {
    "Group": {"id": "g"},
    "Service": {"id": "s", "service_entries": [ENTRY]},
    "SecurityPolicy": {"id": "p", "category": "Application", "rules": []},
    "TimerProfile": {"id": "t"},
    "Rule": {"id": "r", "action": "ALLOW"},
    "Condition": CONDITION,
    "NestedExpression": {"resource_type": "NestedExpression", "expressions": [CONDITION]},
    "IPAddressExpression": {"resource_type": "IPAddressExpression", "ip_addresses": ["10.0.0.1"]},
    "PathExpression": {"resource_type": "PathExpression", "paths": ["other"]},
    "L4PortSetServiceEntry": ENTRY,
    "ICMPTypeServiceEntry": {"resource_type": "ICMPTypeServiceEntry", "protocol": "ICMPv4", "icmp_type": 8},
    "IPProtocolServiceEntry": {"resource_type": "IPProtocolServiceEntry", "protocol_number": 47},
    "IGMPTypeServiceEntry": {"resource_type": "IGMPTypeServiceEntry"},
    "ALGTypeServiceEntry": {"resource_type": "ALGTypeServiceEntry", "alg": "FTP", "destination_ports": ["21"]},
    "NestedServiceServiceEntry": {"resource_type": "NestedServiceServiceEntry", "nested_service_path": "HTTP"},
}
# Read by nobody: a server's word, or a picture that we don't act on.
IGNORED = {"children", "service_type", "logging_enabled", "resource_type"}
WRONG: list[Any] = [{"a": {"b": 1}}, [[1]], 1.5, -1, 10**30, "\u0001 ", True]
CASES = [(name, key) for name in VALID for key in TABLES[name][0] if key not in IGNORED]


def test_valid_objects_are_valid() -> None:
    for name, item in VALID.items():
        loaded(TABLES[name][1](item), group("other"))


@pytest.mark.parametrize(("name", "key"), CASES)
def test_wrong_types_are_refused_at_the_field(name: str, key: str) -> None:
    _, wrap = TABLES[name]
    refused = 0
    for value in WRONG:
        try:
            loaded(wrap({**VALID[name], key: value}), group("other"))
        except PolicyError as error:
            refused += 1
            assert any(key in problem.place.path for problem in error.problems) or key in ("id", "path")
    assert refused >= 4


@pytest.mark.parametrize("name", VALID)
def test_an_unknown_sibling_is_refused_and_a_missing_field_named(name: str) -> None:
    table, wrap = TABLES[name]
    assert any("unknown field 'colour'" in line for line in refusals(wrap({**VALID[name], "colour": 1})))
    for key, field in table.items():
        if field.required and key != "resource_type":
            without = {other: value for other, value in VALID[name].items() if other != key}
            assert any(f"the field {key} is missing" in line for line in refusals(wrap(without)))
            assert any(f"the field {key} is missing" in line for line in refusals(wrap({**without, key: None})))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(sorted(RULE)),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(sorted({*RULE, *GROUP, *SECURITY_POLICY, "kind", "spec"})), inner, max_size=5
            )
        ),
        max_leaves=15,
    ),
    st.sampled_from(["Group", "Service", "SecurityPolicy", None]),
)
def test_nothing_but_policy_errors_come_out_of_any_document(value: Any, kind: str | None) -> None:
    item = {**value, "resource_type": kind} if isinstance(value, dict) and kind else value
    try:
        loaded(item)
    except PolicyError as error:
        assert error.problems
