# SPDX-License-Identifier: Apache-2.0
"""Every field of every table, wrong in every way: refused at its place, and nothing but PolicyError comes out.

The fields, and what would be wrong in each, come from the tables that the front ends read by: a field added there is
tested here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dfw.check import check
from dfw.documents import documents_parse
from dfw.errors import PolicyError
from dfw.fields import Field, shape_of
from dfw.inventory import KINDS as INVENTORY_KINDS
from dfw.load import load_documents
from dfw.nsx import RESOURCE_TYPES
from dfw.nsx.exclude_list import EXCLUDE_LIST
from dfw.nsx.flood_profile import FLOOD_BINDING, FLOOD_PROFILE
from dfw.nsx.group import GROUP
from dfw.nsx.group import TABLES as EXPRESSIONS
from dfw.nsx.scheduler import INTERVAL, SCHEDULER
from dfw.nsx.security_policy import RULE, SECURITY_POLICY
from dfw.nsx.service import SERVICE
from dfw.nsx.service import TABLES as ENTRIES
from dfw.nsx.timer_profile import TIMER_BINDING, TIMER_PROFILE
from tests.support import wrong_fields
from tests.support.wrong_fields import FILE, Kind, documents, lines_of, text_of, wrong_values

CONDITION = {
    "resource_type": "Condition",
    "member_type": "VirtualMachine",
    "key": "Tag",
    "operator": "EQUALS",
    "value": "a|b",
}
ENTRY = {"resource_type": "L4PortSetServiceEntry", "l4_protocol": "TCP", "destination_ports": ["80"]}
INVENTORY = {"apiVersion": "palisade.internal/v1alpha1", "kind": "Inventory"}
OTHER = {"resource_type": "Group", "id": "other"}
DATES = {"start_date": "03/02/2026", "end_date": "03/31/2026", "timezone": "UTC"}
MAP = "PolicyFirewallSessionTimerProfileBindingMap"
FLOOD, FLOOD_MAP = "DistributedFloodProtectionProfile", "PolicyFirewallFloodProtectionProfileBindingMap"
PROFILES = {MAP: "PolicyFirewallSessionTimerProfile", FLOOD_MAP: FLOOD}


def _top(kind: str, table: Mapping[str, Field], **fields: Any) -> Kind:
    return Kind(table, {"resource_type": kind, **fields}, {})


KINDS: dict[str, Kind] = {
    "Group": _top("Group", GROUP, id="g"),
    "Service": _top("Service", SERVICE, id="s", service_entries=[ENTRY]),
    "SecurityPolicy": _top("SecurityPolicy", SECURITY_POLICY, id="p", category="Application", rules=[]),
    "PolicyExcludeList": _top("PolicyExcludeList", EXCLUDE_LIST, members=["other"]),
    "PolicyFirewallSessionTimerProfile": _top("PolicyFirewallSessionTimerProfile", TIMER_PROFILE, id="t"),
    MAP: _top(
        MAP,
        TIMER_BINDING,
        id="m",
        parent_path="/infra/domains/default/groups/other",
        firewall_session_timer_profile_path="profile",
    ),
    FLOOD: _top(FLOOD, FLOOD_PROFILE, id="f"),
    FLOOD_MAP: _top(
        FLOOD_MAP, FLOOD_BINDING, id="m", parent_path="/infra/domains/default/groups/other", profile_path="profile"
    ),
    "PolicyFirewallScheduler": _top("PolicyFirewallScheduler", SCHEDULER, id="s", **DATES),
    "PolicyTimeIntervalValue": Kind(
        INTERVAL,
        {"start_interval": "9:00", "end_interval": "10:00"},
        {"resource_type": "PolicyFirewallScheduler", "id": "s", **DATES},
        ("time_interval", 0),
    ),
    "Rule": Kind(RULE, {"id": "r", "action": "ALLOW"}, {"resource_type": "SecurityPolicy", "id": "p"}, ("rules", 0)),
}
_EXPRESSIONS: dict[str, dict[str, Any]] = {
    "Condition": CONDITION,
    "NestedExpression": {"expressions": [CONDITION]},
    "IPAddressExpression": {"ip_addresses": ["10.0.0.1"]},
    "MACAddressExpression": {"mac_addresses": ["02:00:00:00:00:01"]},
    "PathExpression": {"paths": ["other"]},
    "ExternalIDExpression": {"member_type": "VirtualMachine", "external_ids": ["x"]},
}
_ENTRIES: dict[str, dict[str, Any]] = {
    "L4PortSetServiceEntry": ENTRY,
    "ICMPTypeServiceEntry": {"protocol": "ICMPv4", "icmp_type": 8},
    "IPProtocolServiceEntry": {"protocol_number": 47},
    "IGMPTypeServiceEntry": {},
    "EtherTypeServiceEntry": {"ether_type": 0x0806},
    "ALGTypeServiceEntry": {"alg": "FTP", "destination_ports": ["21"]},
    "NestedServiceServiceEntry": {"nested_service_path": "HTTP"},
}
_INVENTORY: dict[str, dict[str, Any]] = {
    "Host": {"name": "h", "tep": "172.16.0.1"},
    "Gateway": {"name": "g", "tier": 1},
    "Segment": {"name": "s", "vni": 5, "subnets": ["10.0.0.0/24"]},
    "Machine": {"name": "m", "os_name": "x"},
    "Port": {"name": "p", "mac": "02:00:00:00:00:01", "ips": ["10.0.0.1"]},
}
for name, fields in _EXPRESSIONS.items():
    group = {"resource_type": "Group", "id": "g"}
    KINDS[name] = Kind(EXPRESSIONS[name], {"resource_type": name, **fields}, group, ("expression", 0))
for name, fields in _ENTRIES.items():
    service = {"resource_type": "Service", "id": "s"}
    KINDS[name] = Kind(ENTRIES[name], {"resource_type": name, **fields}, service, ("service_entries", 0))
for name, fields in _INVENTORY.items():
    plural, table = INVENTORY_KINDS[name]
    KINDS[name] = Kind(table, fields, INVENTORY, (plural, 0))

# Read by nobody: a server's word, or a picture that we don't act on.
IGNORED = {"children", "service_type", "resource_type"}
NAMES = ("id", "path", "display_name", "parent_path")  # they say which object it is; complaints stand at the object
CASES = [(name, key) for name, kind in KINDS.items() for key in kind.table if key not in IGNORED]


def problems_of(*items: Any) -> list[tuple[str, int, str]]:
    """With what they may refer to."""
    kinds = {item.get("resource_type") for item in items if isinstance(item, dict)}
    bound = [{"resource_type": profile, "id": "profile"} for kind, profile in PROFILES.items() if kind in kinds]
    return wrong_fields.problems_of(*items, OTHER, *bound)


def test_every_kind_is_here() -> None:
    assert set(RESOURCE_TYPES) <= set(KINDS)
    assert set(EXPRESSIONS) - {"ConjunctionOperator"} <= set(KINDS)
    assert set(ENTRIES) <= set(KINDS)
    assert set(INVENTORY_KINDS) <= set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_valid_objects_are_valid(name: str) -> None:
    assert problems_of(KINDS[name].wrapped(KINDS[name].valid)) == []


@pytest.mark.parametrize(("name", "key"), CASES)
def test_wrong_types_and_ranges_are_refused_at_the_field(name: str, key: str) -> None:
    kind = KINDS[name]
    at = (*kind.at, key)
    refused = 0
    for value in wrong_values(kind.table[key].read):
        document = kind.wrapped({**kind.valid, key: value})
        found = problems_of(document)
        if not found and shape_of(kind.table[key].read) is None:
            continue  # a reader of its own making may take some of these
        assert found, f"{value!r} was taken"
        refused += 1
        if key in NAMES:
            continue
        lines = lines_of(document, at)
        here = [item for item in found if item[0].startswith(text_of(at)) and item[1] in lines]
        assert here, (value, found)
        assert all(len(message) > 8 for _, _, message in here)
    assert refused >= 3


@pytest.mark.parametrize(("name", "key"), CASES)
def test_null_is_as_good_as_missing(name: str, key: str) -> None:
    kind = KINDS[name]
    without = {other: value for other, value in kind.valid.items() if other != key}
    missing = problems_of(kind.wrapped(without))
    null = problems_of(kind.wrapped({**without, key: None}))
    assert [message for _, _, message in missing] == [message for _, _, message in null]
    if kind.table[key].required:
        assert any(f"the field {key} is missing" in message for _, _, message in missing)


@pytest.mark.parametrize("name", KINDS)
def test_an_unknown_sibling_is_refused_at_its_place(name: str) -> None:
    kind = KINDS[name]
    document = kind.wrapped({**kind.valid, "colour": 1})
    at = (*kind.at, "colour")
    found = problems_of(document)
    assert [(path, line) for path, line, _ in found] == [(text_of(at), lines_of(document, at)[0])]
    assert "unknown field 'colour'" in found[0][2]
    (almost,) = list(kind.table)[-1:]
    assert any(
        "did you mean" in message for _, _, message in problems_of(kind.wrapped({**kind.valid, almost + "s": 1}))
    )


@pytest.mark.parametrize("name", KINDS)
def test_all_of_a_documents_errors_at_once(name: str) -> None:
    kind = KINDS[name]
    wrong = {
        key: {"a": 1}
        for key, field in kind.table.items()
        if shape_of(field.read) is not None and key not in (*IGNORED, *NAMES, "resource_type")
    }
    found = {path for path, _, _ in problems_of(kind.wrapped({**kind.valid, **wrong}))}
    assert {text_of((*kind.at, key)) for key in wrong} <= found


def test_check_ends_with_2_and_names_file_line_and_path(tmp_path: Any) -> None:
    file = tmp_path / "bad.json"
    file.write_bytes(documents({**KINDS["SecurityPolicy"].valid, "sequence_number": -1}))
    done = CliRunner().invoke(check, [str(file)], standalone_mode=False)
    assert done.return_value == 2
    assert f"{file}:6:21: sequence_number: -1 is not a sequence number (0-999999)" in done.output


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(sorted(RULE)),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(sorted({*RULE, *GROUP, *SECURITY_POLICY, *SCHEDULER, "kind", "spec"})),
                inner,
                max_size=5,
            )
        ),
        max_leaves=15,
    ),
    st.sampled_from([*RESOURCE_TYPES, None]),
)
def test_nothing_but_policy_errors_come_out_of_any_document(value: Any, kind: str | None) -> None:
    item = {**value, "resource_type": kind} if isinstance(value, dict) and kind else value
    try:
        load_documents(documents_parse(documents(item), FILE))
    except PolicyError as error:
        assert error.problems
