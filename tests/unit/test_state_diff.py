# SPDX-License-Identifier: Apache-2.0
"""What a dry run says of a change, host by host; revisions that are kept; when to try again."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlay import backoff
from overlay.backoff import Backoff
from overlay.hoststate import HostState
from overlay.lab_inputs import InputFile, inputs_over, inputs_parse
from overlay.lab_record import LabPaths, LabRecord
from overlay.lab_revision import KEPT, RevisionError, revision_keep, revision_numbers, revision_read
from overlay.span import resolve_span
from overlay.state_diff import plan_state_changes

INVENTORY = """\
apiVersion: palisade.internal/v1alpha1
kind: Inventory
hosts: [{name: a, tep: 172.16.0.1}, {name: b, tep: 172.16.0.2}]
segments: [{name: s, vni: 5001, subnets: [10.1.1.0/24]}]
ports:
  - {name: one, host: a, segment: s, ips: [10.1.1.11], tags: [{scope: app, tag: web}]}
  - {name: two, host: b, segment: s, ips: [10.1.1.12], tags: [{scope: app, tag: web}]}
"""
POLICY = """\
---
resource_type: Group
id: web
expression: [{resource_type: Condition, member_type: VirtualMachine, key: Tag, operator: EQUALS, value: "app|web"}]
---
resource_type: SecurityPolicy
id: p
category: Application
rules:
  - {id: ssh, source_groups: [web], services: [SSH], action: ALLOW}
  - {id: rest, source_groups: [10.9.0.0/16], action: DROP}
"""
PATH = "/infra/domains/default/security-policies/p/rules"


def state(text: str, host: str = "a", revision: int = 1) -> HostState:
    return resolve_span(inputs_parse([InputFile("x.yaml", text.encode())]).world, revision, {})[host]


BASE = INVENTORY + POLICY


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        (BASE, BASE, []),
        (BASE, BASE.replace("SSH], action: ALLOW", "SSH], action: DROP"), ["~ vNIC one: rules", f"~ rule {PATH}/ssh"]),
        (BASE, BASE.replace("10.9.0.0/16", "10.8.0.0/16"), ["~ vNIC one: rules"]),
        (BASE, BASE.replace("id: rest", "id: end"), ["~ vNIC one: rules", f"- rule {PATH}/rest", f"+ rule {PATH}/end"]),
        (
            BASE,
            BASE.replace("ips: [10.1.1.12], tags: [{scope: app, tag: web}]", "ips: [10.1.1.13]"),
            [
                "~ group /infra/domains/default/groups/web: +10.1.1.11 -10.1.1.11-10.1.1.12",
                "~ addresses of workloads: +1 -1",
            ],
        ),
        (
            BASE,
            BASE.replace("host: b", "host: a"),
            [
                "~ segment s",
                "- TEP of host b",
                "+ vNIC two in segment s",
                "~ addresses of workloads: +1 -1",
            ],
        ),
    ],
)
def test_lines_name_what_changes(old: str, new: str, lines: list[str]) -> None:
    assert list(plan_state_changes(state(old), state(new, revision=2))) == lines


def test_from_nothing_and_to_nothing() -> None:
    made = state(BASE)
    coming, going = plan_state_changes(None, made), plan_state_changes(made, None)
    assert "+ vNIC one in segment s" in coming and f"+ rule {PATH}/ssh" in coming
    assert "- vNIC one" in going and f"- rule {PATH}/ssh" in going
    assert plan_state_changes(None, None) == ()


def test_files_are_the_whole_policy_and_workloads_only_where_they_say_so(tmp_path: Path) -> None:
    kept = (InputFile("lab.yaml", BASE.encode()),)
    only = tmp_path / "only.yaml"
    only.write_text("{resource_type: SecurityPolicy, id: q, category: Application, rules: [{id: r, action: DROP}]}")
    for _ in range(2):  # the second time over what the first has left
        found = inputs_over([str(only)], kept)
        assert [policy.path.rpartition("/")[2] for policy in found.world.policies] == ["q"]
        assert set(found.world.inventory.ports) == {"one", "two"}
        kept = found.files
    whole = tmp_path / "whole.yaml"
    whole.write_text(BASE.replace("name: two", "name: three"))
    found = inputs_over([str(whole)], kept)
    assert set(found.world.inventory.ports) == {"one", "three"} and len(found.files) == 1


def test_a_list_keeps_its_workloads(tmp_path: Path) -> None:
    pod = "{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: n}, status: {podIP: 10.3.3.3}}"
    isolation = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: d, namespace: n}, spec: {}}"
    isolation = isolation.replace("spec: {}", "spec: {podSelector: {}}")
    kept = [InputFile("l.yaml", f"{{apiVersion: v1, kind: List, items: [{pod}, {isolation}]}}".encode())]
    assert {policy.kind.name for policy in inputs_parse(kept).world.policies} == {"NETWORK_POLICY"}
    only = tmp_path / "only.yaml"
    only.write_text(POLICY)
    found = inputs_over([str(only)], kept).world
    assert list(found.inventory.ports) == ["n/x"] and [policy.path.endswith("/p") for policy in found.policies] == [
        True
    ]


def test_revisions_are_kept_and_the_oldest_go(tmp_path: Path) -> None:
    paths = LabPaths(tmp_path)
    inputs = inputs_parse([InputFile("x.yaml", BASE.encode())])
    for number in range(1, KEPT + 4):
        revision_keep(paths, LabRecord("x", revision=number, mtu=1700), inputs, "lab up")
    assert revision_numbers(paths) == list(range(4, KEPT + 4))
    found = revision_read(paths, 4)
    assert (found.revision, found.mtu, found.intent) == (4, 1700, inputs.intent)
    assert inputs_parse(found.files).intent == inputs.intent
    with pytest.raises(RevisionError, match="keeps no revision 3; it keeps 4, 5"):
        revision_read(paths, 3)
    (tmp_path / "revisions" / "5.json").write_text("{")
    with pytest.raises(RevisionError, match="cannot be read"):
        revision_read(paths, 5)


def test_tries_come_further_and_further_apart_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff.time, "monotonic", lambda: 100.0)
    retry = Backoff()
    assert retry.left() is None
    pauses = []
    for _ in range(10):
        retry.failed()
        pauses.append(retry.left())
    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    retry.done()
    assert retry.left() is None
    retry.failed()
    assert retry.left() == 0.25
