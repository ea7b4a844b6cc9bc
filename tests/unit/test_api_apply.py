# SPDX-License-Identifier: Apache-2.0
"""Server-side apply and managedFields: who owns what, what a conflict says, what goes when nobody wants it any more."""

from __future__ import annotations

import copy
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor_glue.api.apply import LAST_APPLIED, applied_decode, apply_merge
from supervisor_glue.api.body import body_read
from supervisor_glue.api.decode import STRICT, WARN
from supervisor_glue.api.fieldset import object_set, path_shown, paths, set_read, set_write, union
from supervisor_glue.api.managed_fields import MOST_UPDATERS, managed_update, manager_name
from supervisor_glue.api.patch import JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, patch_apply
from supervisor_glue.api.schema import Node, schema_of
from supervisor_glue.api.status import ApiError

POD = schema_of("", "v1", "Pod")
POLICY = schema_of("networking.k8s.io", "v1", "NetworkPolicy")
CONFIG = schema_of("", "v1", "ConfigMap")
NOW, LATER = "2026-11-26T19:00:00Z", "2026-11-26T19:00:01Z"


def config(data: dict[str, str] | None = None, **metadata: Any) -> dict[str, Any]:
    item: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", **metadata}}
    return item if data is None else {**item, "data": data}


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": list(containers), **spec},
    }


def policy(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "n"}, "spec": spec}


def owners(item: dict[str, Any]) -> dict[str, set[str]]:
    """Paths by manager; `+` in front of those that applied."""
    found: dict[str, set[str]] = {}
    for entry in item["metadata"].get("managedFields", ()):
        who = ("+" if entry["operation"] == "Apply" else "") + entry["manager"]
        found.setdefault(who, set()).update(path_shown(path) for path in paths(set_read(entry["fieldsV1"])))
    return found


def test_the_recorded_answers_of_an_api_server(shared_data: Path) -> None:
    with gzip.open(shared_data / "kube-apiserver-golden" / "golden.json.gz") as file:
        golden = {entry["name"]: entry for entry in json.load(file) if "method" in entry}

    def fields(item: dict[str, Any]) -> list[Any]:
        return [{**entry, "time": ""} for entry in item["metadata"]["managedFields"]]

    def create(schema: Node, name: str, *later: str) -> None:
        """`later`: what admission sets after the fields were looked at."""
        answer = golden[name]["response"]
        new = copy.deepcopy(answer)
        for key in ("managedFields", "uid", "resourceVersion", "creationTimestamp"):
            new["metadata"].pop(key, None)
        for key in later:
            new["spec"].pop(key)
        assert fields(managed_update(schema, None, new, "python-requests", NOW)) == fields(answer)

    create(POD, "create pod", "tolerations", "priority", "preemptionPolicy")
    for name in ("netpol ok_empty", "dryrun", "w create"):
        create(POLICY, name)
    for before, name, schema, kind in (
        ("create pod", "merge patch pod", POD, MERGE_PATCH),
        ("merge patch pod", "json patch", POD, JSON_PATCH),
        ("json patch", "strategic", POD, STRATEGIC_PATCH),
        ("w create", "w patch", POLICY, MERGE_PATCH),
    ):
        live, entry = golden[before]["response"], golden[name]
        patched = patch_apply(schema, live, json.dumps(entry["request"]).encode(), kind).object
        done = managed_update(schema, live, patched, "python-requests", NOW)
        assert fields(done) == fields(entry["response"])
        own = {"managedFields": [], "resourceVersion": ""}
        one, other = ({**item, "metadata": item["metadata"] | own} for item in (done, entry["response"]))
        assert one == other
    entry = golden["ssa create"]
    request = json.loads(entry["request"])
    assert fields(apply_merge(POLICY, None, request, "t", False, NOW)) == fields(entry["response"])


def test_a_conflict_is_told_in_kube_apiservers_words() -> None:
    live = managed_update(
        POLICY, None, policy(podSelector={"matchLabels": {"a": "b"}}), "kubectl-client-side-apply", NOW
    )
    wanted = policy(podSelector={"matchLabels": {"a": "c"}})
    with pytest.raises(ApiError) as caught:
        apply_merge(POLICY, live, wanted, "me", False, LATER)
    error = caught.value
    assert (error.code, error.reason) == (409, "Conflict")
    who = '"kubectl-client-side-apply" using networking.k8s.io/v1'
    assert error.message == f"Apply failed with 1 conflict: conflict with {who}: .spec.podSelector"
    assert error.details["causes"] == [
        {"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": ".spec.podSelector"}
    ]
    forced = apply_merge(POLICY, live, wanted, "me", True, LATER)
    assert forced["spec"] == wanted["spec"]
    assert owners(forced) == {"+me": {".spec.podSelector"}}


def test_conflicts_with_several_are_listed_by_manager() -> None:
    live = apply_merge(CONFIG, None, config({"x": "1"}), "b", False, NOW)
    live = apply_merge(CONFIG, live, config({"y": "1", "z": "1"}), "a", False, NOW)
    with pytest.raises(ApiError) as caught:
        apply_merge(CONFIG, live, config({"x": "2", "y": "2", "z": "2"}), "me", False, NOW)
    assert caught.value.message == (
        'Apply failed with 3 conflicts: conflicts with "a":\n- .data.y\n- .data.z\nconflicts with "b":\n- .data.x'
    )


def test_what_a_manager_gives_up_goes_unless_another_owns_it() -> None:
    live = apply_merge(CONFIG, None, config({"mine": "1", "shared": "1"}), "a", False, NOW)
    live = apply_merge(CONFIG, live, config({"shared": "1", "other": "1"}), "b", False, NOW)
    assert owners(live) == {"+a": {".data.mine", ".data.shared"}, "+b": {".data.shared", ".data.other"}}
    live = apply_merge(CONFIG, live, config({}), "a", False, NOW)
    assert live["data"] == {"shared": "1", "other": "1"}
    assert owners(live) == {"+a": {".data"}, "+b": {".data.shared", ".data.other"}}
    live = apply_merge(CONFIG, live, config(), "b", False, NOW)
    assert "data" not in live
    live = apply_merge(CONFIG, live, config({}), "a", False, NOW)
    assert "data" not in live


def test_elements_of_lists_are_owned_by_their_keys() -> None:
    live = apply_merge(POD, None, pod({"name": "one", "image": "1"}), "a", False, NOW)
    live = apply_merge(POD, live, pod({"name": "two", "image": "2"}), "b", False, NOW)
    assert [item["name"] for item in live["spec"]["containers"]] == ["one", "two"]
    # A default that the server set, which nobody owns, in an element that two own and one gives up.
    live["spec"]["containers"][0]["imagePullPolicy"] = "Always"
    live = apply_merge(POD, live, pod({"name": "one", "env": [{"name": "X", "value": "x"}]}), "b", False, NOW)
    one = {"name": "one", "image": "1", "imagePullPolicy": "Always", "env": [{"name": "X", "value": "x"}]}
    assert live["spec"]["containers"] == [one]
    assert '.spec.containers[name="one"].env[name="X"].value' in owners(live)["+b"]
    live = apply_merge(POD, live, pod(hostNetwork=True), "a", False, NOW)
    assert live["spec"]["containers"] == [{key: one[key] for key in ("name", "imagePullPolicy", "env")}]


def test_a_port_without_protocol_is_the_one_with_tcp() -> None:
    live = apply_merge(POD, None, pod({"name": "c", "ports": [{"containerPort": 80}]}), "a", False, NOW)
    live["spec"]["containers"][0]["ports"][0]["protocol"] = "TCP"
    wanted = pod(
        {"name": "c", "ports": [{"containerPort": 80, "name": "web"}, {"containerPort": 80, "protocol": "UDP"}]}
    )
    live = apply_merge(POD, live, wanted, "a", False, NOW)
    assert live["spec"]["containers"][0]["ports"] == [
        {"containerPort": 80, "name": "web", "protocol": "TCP"},
        {"containerPort": 80, "protocol": "UDP"},
    ]


@pytest.mark.parametrize(
    ("live", "wanted", "merged"),
    [
        ("ab", "b", "ab"),
        ("ab", "cb", "acb"),
        ("abc", "ca", "bca"),
        ("abcd", "db", "acdb"),
        ("a", "xay", "xay"),
        ("abc", "axb", "axbc"),
        ("", "ab", "ab"),
    ],
)
def test_the_order_of_merged_lists(live: str, wanted: str, merged: str) -> None:
    before = apply_merge(POD, None, pod(*({"name": name} for name in live)), "a", False, NOW)
    after = apply_merge(POD, before, pod(*({"name": name} for name in wanted)), "b", False, NOW)
    assert "".join(item["name"] for item in after["spec"]["containers"]) == merged


def test_an_update_takes_what_it_changes_and_an_apply_keeps_the_rest() -> None:
    live = apply_merge(CONFIG, None, config({"x": "1", "y": "1"}), "a", False, NOW)
    live = managed_update(CONFIG, live, {**live, "data": {"x": "2", "y": "1", "z": "1"}}, "edit", LATER)
    assert owners(live) == {"+a": {".data.y"}, "edit": {".data.x", ".data.z"}}
    assert [entry["time"] for entry in live["metadata"]["managedFields"]] == [NOW, LATER]
    same = managed_update(CONFIG, live, copy.deepcopy(live), "edit", "2027-01-01T00:00:00Z")
    assert same == live
    gone = managed_update(CONFIG, live, {**live, "data": {"y": "1"}}, "other", LATER)
    assert owners(gone) == {"+a": {".data.y"}}


def test_a_status_is_owned_through_its_subresource() -> None:
    live = managed_update(POD, None, {**pod({"name": "c"}), "status": {"phase": "Pending"}}, "a", NOW)
    assert not any(".status" in path for path in owners(live)["a"])
    new = {**live, "status": {"phase": "Running", "podIP": "10.0.0.1"}}
    done = managed_update(POD, live, new, "spherelet", LATER, "status")
    entry = done["metadata"]["managedFields"][-1]
    assert entry["subresource"] == "status"
    assert owners(done)["spherelet"] == {".status.phase", ".status.podIP"}
    with pytest.raises(ApiError) as caught:
        apply_merge(POD, done, {**pod(), "status": {"phase": "Failed"}}, "x", False, LATER, "status")
    assert '"spherelet" with subresource "status" using v1: .status.phase' in caught.value.message
    untouched = apply_merge(POD, done, {**pod({"name": "c"}), "status": {"phase": "Failed"}}, "x", False, LATER)
    assert untouched["status"]["phase"] == "Running"


def test_managed_fields_that_a_client_sends() -> None:
    live = apply_merge(CONFIG, None, config({"x": "1"}), "a", False, NOW)
    fields = live["metadata"]["managedFields"]
    for kept in ([], None):
        sent = {**live, "metadata": {"name": "c", "managedFields": kept}}
        assert managed_update(CONFIG, live, sent, "e", NOW)["metadata"]["managedFields"] == fields
    cleared = managed_update(CONFIG, live, {**live, "metadata": {"name": "c", "managedFields": [{}]}}, "e", NOW)
    assert "managedFields" not in cleared["metadata"]
    # Nothing is tracked until somebody applies; then what was there before belongs to nobody in particular.
    changed = managed_update(CONFIG, cleared, {**cleared, "data": {"x": "2"}}, "e", NOW)
    assert "managedFields" not in changed["metadata"]
    applied = apply_merge(CONFIG, changed, config({"y": "1"}), "b", False, LATER)
    assert owners(applied) == {"+b": {".data.y"}, "before-first-apply": {".data", ".data.x"}}
    # kubectl hands what client-side apply owned over to server-side apply by a patch of managedFields.
    handed = copy.deepcopy(fields)
    handed[0]["manager"] = "kubectl"
    sent = {**live, "metadata": {**live["metadata"], "managedFields": handed}}
    assert owners(managed_update(CONFIG, live, sent, "kubectl-patch", NOW)) == {"+kubectl": {".data.x"}}
    for broken in ([{"manager": "a"}], [{"operation": "Apply", "fieldsV1": {"x:y": {}}}], [{"operation": 1}]):
        sent = {**live, "metadata": {"name": "c", "managedFields": broken}}
        assert managed_update(CONFIG, live, sent, "e", NOW)["metadata"]["managedFields"] == fields


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({**config(), "apiVersion": "v2"}, "Incorrect version specified in apply patch"),
        (config({}, managedFields=[]), "metadata.managedFields must be nil"),
    ],
)
def test_what_can_not_be_applied(wanted: dict[str, Any], said: str) -> None:
    live = apply_merge(CONFIG, None, config({"x": "1"}), "a", False, NOW)
    with pytest.raises(ApiError) as caught:
        apply_merge(CONFIG, live, wanted, "b", False, NOW)
    assert caught.value.code == 400
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (b"foo: 1", ".foo: field not declared in schema"),
        (b"metadata: {name: c, foo: 1}", ".metadata.foo: field not declared in schema"),
        (b"data: {x: 1}", ".data.x: json: cannot unmarshal number"),
        (b"data: {x: a, x: b}", 'error strict decoding YAML: duplicate field "data.x"'),
    ],
)
def test_what_can_not_be_read_to_be_applied(written: bytes, said: str) -> None:
    with pytest.raises(ApiError) as caught:
        applied_decode(CONFIG, body_read(written, "application/apply-patch+yaml"), STRICT)
    assert caught.value.code == 400
    assert said in caught.value.message


def test_what_is_to_be_applied_stays_as_it_was_written() -> None:
    body = body_read(b"data: {x: a, x: b}\nmetadata: {labels: {}, annotations: null}", "application/apply-patch+yaml")
    read = applied_decode(CONFIG, body, WARN)
    assert read.object == {"data": {"x": "b"}, "metadata": {"labels": {}, "annotations": None}}
    assert read.warnings == ('duplicate field "data.x"',)


def test_equal_elements_can_not_be_applied() -> None:
    with pytest.raises(ApiError, match=r'.spec.containers: duplicate entries for key \[name="c"\]'):
        apply_merge(POD, None, pod({"name": "c"}, {"name": "c"}), "a", False, NOW)


def test_from_client_side_apply_to_server_side_apply() -> None:
    wanted = config({"x": "1"})
    live = config({"x": "1"}, annotations={LAST_APPLIED: json.dumps(wanted)})
    live = managed_update(CONFIG, None, live, "kubectl-client-side-apply", NOW)
    changed = apply_merge(CONFIG, live, config({"x": "2"}), "kubectl", False, LATER)
    assert changed["data"] == {"x": "2"}
    assert json.loads(changed["metadata"]["annotations"][LAST_APPLIED]) == config({"x": "2"})
    with pytest.raises(ApiError):
        apply_merge(CONFIG, live, config({"x": "2"}), "somebody", False, LATER)
    live = managed_update(CONFIG, live, {**live, "data": {"x": "3"}}, "edit", LATER)
    with pytest.raises(ApiError, match=r"conflict with .edit. using v1"):
        apply_merge(CONFIG, live, config({"x": "2"}), "kubectl", False, LATER)


def test_what_the_server_added_to_a_client_side_apply_is_no_conflict() -> None:
    def default(item: dict[str, Any]) -> None:
        for rule in item["spec"].get("ingress", ()):
            for port in rule.get("ports", ()):
                port.setdefault("protocol", "TCP")

    wanted = policy(podSelector={}, ingress=[{"ports": [{"port": 80}]}])
    live = copy.deepcopy(wanted)
    live["metadata"]["annotations"] = {LAST_APPLIED: json.dumps(wanted)}
    default(live)
    live = managed_update(POLICY, None, live, "kubectl-client-side-apply", NOW)
    with pytest.raises(ApiError, match=r"\.spec\.ingress"):
        apply_merge(POLICY, live, wanted, "kubectl", False, NOW)
    done = apply_merge(POLICY, live, wanted, "kubectl", False, NOW, "", default)
    assert owners(done)["+kubectl"] == {".spec.ingress", ".spec.podSelector"}


def test_managers_that_update_are_bounded() -> None:
    live = managed_update(CONFIG, None, config({}), "m", NOW)
    for number in range(40):
        data = {**live.get("data", {}), f"k{number}": "v"}
        live = managed_update(CONFIG, live, {**live, "data": data}, f"m{number}", f"2026-11-26T20:00:{number:02d}Z")
    entries = live["metadata"]["managedFields"]
    assert len(entries) == MOST_UPDATERS
    assert {f".data.k{number}" for number in range(40)} <= set().union(*owners(live).values())
    assert "ancient-changes" in owners(live)


def test_a_manager_is_named_by_the_request_or_the_client() -> None:
    assert manager_name("me", "kubectl/v1") == "me"
    assert manager_name("", "kubectl/v1.31 (linux)") == "kubectl"
    assert manager_name("", "") == "unknown"
    assert len(manager_name("", "x" * 300)) == 128


LONG = bool(os.environ.get("PALISADE_LONG"))
EXAMPLES = settings(max_examples=3000 if LONG else 40, deadline=None)
KEYS, WORDS = st.sampled_from("abcd"), st.sampled_from("12")
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"name": KEYS},
        optional={
            "image": WORDS,
            "command": st.lists(WORDS, min_size=1, max_size=2),
            "env": st.lists(
                st.fixed_dictionaries({"name": KEYS, "value": WORDS}), max_size=3, unique_by=lambda e: e["name"]
            ),
            "ports": st.lists(
                st.fixed_dictionaries({"containerPort": st.integers(1, 3)}, optional={"name": KEYS}),
                max_size=2,
                unique_by=lambda port: port["containerPort"],
            ),
            "securityContext": st.fixed_dictionaries({}, optional={"privileged": st.booleans()}),
        },
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda container: container["name"],
)


@st.composite
def pods(draw: st.DrawFn) -> dict[str, Any]:
    item = pod(*draw(CONTAINERS))
    if draw(st.booleans()):
        item["metadata"]["labels"] = draw(st.dictionaries(KEYS, WORDS, min_size=1))
    if draw(st.booleans()):
        item["metadata"]["finalizers"] = draw(st.lists(KEYS, unique=True, min_size=1))
    if draw(st.booleans()):
        item["spec"]["nodeSelector"] = draw(st.dictionaries(KEYS, WORDS, min_size=1))
    return item


@EXAMPLES
@given(pods(), pods())
def test_applied_twice_is_applied_once(first: dict[str, Any], second: dict[str, Any]) -> None:
    live = apply_merge(POD, None, first, "a", False, NOW)
    once = apply_merge(POD, live, second, "a", False, NOW)
    assert apply_merge(POD, once, second, "a", False, LATER) == once


@EXAMPLES
@given(pods(), pods())
def test_alone_a_manager_gets_what_it_applied_last(first: dict[str, Any], second: dict[str, Any]) -> None:
    def plain(item: dict[str, Any]) -> dict[str, Any]:
        """Lists by key in any order: what is in `live` keeps its place."""
        found = copy.deepcopy(item)
        found["metadata"].pop("managedFields")
        for container in found["spec"].get("containers", ()):
            container["env"] = {entry["name"]: entry for entry in container.get("env", ())}
            container["ports"] = {entry["containerPort"]: entry for entry in container.get("ports", ())}
        found["spec"]["containers"] = {entry["name"]: entry for entry in found["spec"].get("containers", ())}
        found["metadata"]["finalizers"] = set(found["metadata"].get("finalizers", ()))
        return found

    live = apply_merge(POD, apply_merge(POD, None, first, "a", False, NOW), second, "a", False, NOW)
    assert plain(live) == plain(apply_merge(POD, None, second, "a", False, NOW))


@EXAMPLES
@given(pods(), pods(), pods())
def test_without_force_an_apply_changes_nothing_of_another(
    first: dict[str, Any], second: dict[str, Any], third: dict[str, Any]
) -> None:
    live = apply_merge(POD, None, first, "a", False, NOW)
    for wanted in (second, third):
        before = live
        try:
            live = apply_merge(POD, before, wanted, "b", False, NOW)
        except ApiError as error:
            assert error.code == 409
            break
        again = apply_merge(POD, live, first, "a", False, NOW)
        assert owners(again).get("+a") == owners(live).get("+a") == owners(before).get("+a")


@EXAMPLES
@given(pods())
def test_a_set_is_written_and_read(item: dict[str, Any]) -> None:
    fields = object_set(POD, item)
    assert set_read(json.loads(json.dumps(set_write(fields)))) == fields
    assert union(fields, fields) == fields
