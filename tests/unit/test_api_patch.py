# SPDX-License-Identifier: Apache-2.0
"""JSON, merge and strategic merge patches, as an API server applies and refuses them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor_glue.api.decode import IGNORE, WARN
from supervisor_glue.api.patch import (
    APPLY_PATCH,
    JSON_PATCH,
    MERGE_PATCH,
    MOST_OPERATIONS,
    STRATEGIC_PATCH,
    json_patch,
    merge_patch,
    patch_apply,
)
from supervisor_glue.api.schema import schema_of
from supervisor_glue.api.status import ApiError
from supervisor_glue.api.strategic import StrategicError, strategic_merge

POD = schema_of("", "v1", "Pod")
CURRENT: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p", "labels": {"a": "b"}, "finalizers": ["x/1", "x/2"]},
    "spec": {
        "containers": [
            {"name": "one", "image": "1", "ports": [{"containerPort": 80, "protocol": "TCP"}]},
            {"name": "two", "image": "2", "env": [{"name": "A", "value": "a"}]},
        ],
        "volumes": [{"name": "v", "emptyDir": {}}],
        "tolerations": [{"key": "k"}],
    },
}


def strategic(patch: dict[str, Any], current: dict[str, Any] = CURRENT) -> dict[str, Any]:
    before = json.dumps([current, patch])
    merged = strategic_merge(POD, current, patch)
    assert json.dumps([current, patch]) == before
    return merged


def names(merged: dict[str, Any], field: str = "containers") -> list[str]:
    return [item["name"] for item in merged["spec"][field]]


def refusal(data: object, content_type: str, current: dict[str, Any] = CURRENT) -> ApiError:
    with pytest.raises(ApiError) as caught:
        patch_apply(POD, current, data if isinstance(data, bytes) else json.dumps(data).encode(), content_type)
    return caught.value


def test_lists_with_a_merge_key_are_merged_element_by_element() -> None:
    merged = strategic({"spec": {"containers": [{"name": "two", "image": "3"}, {"name": "three", "image": "x"}]}})
    assert names(merged) == ["one", "two", "three"]
    assert merged["spec"]["containers"][1] == {"name": "two", "image": "3", "env": [{"name": "A", "value": "a"}]}


def test_other_lists_are_replaced() -> None:
    assert strategic({"spec": {"tolerations": [{"key": "new"}]}})["spec"]["tolerations"] == [{"key": "new"}]


def test_lists_of_scalars_are_united_or_cleared() -> None:
    assert strategic({"metadata": {"finalizers": ["x/3", "x/1"]}})["metadata"]["finalizers"] == ["x/3", "x/1", "x/2"]
    left = strategic({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/1"]}})
    assert left["metadata"]["finalizers"] == ["x/2"]


def test_null_deletes() -> None:
    merged = strategic({"metadata": {"labels": None}, "spec": {"containers": [{"name": "one", "ports": None}]}})
    assert "labels" not in merged["metadata"]
    assert merged["spec"]["containers"][0] == {"name": "one", "image": "1"}


def test_directives() -> None:
    gone = strategic({"spec": {"containers": [{"name": "one", "$patch": "delete"}]}})
    assert names(gone) == ["two"]
    only = strategic({"spec": {"containers": [{"name": "new"}, {"$patch": "replace"}]}})
    assert names(only) == ["new"]
    assert strategic({"metadata": {"labels": {"$patch": "replace", "c": "d"}}})["metadata"]["labels"] == {"c": "d"}
    assert strategic({"metadata": {"labels": {"$patch": "delete"}}})["metadata"]["labels"] == {}
    kept = strategic(
        {"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}}
    )
    assert kept["spec"]["volumes"] == [{"name": "v", "hostPath": {"path": "/"}}]
    ordered = strategic({"spec": {"$setElementOrder/containers": [{"name": "two"}, {"name": "one"}]}})
    assert names(ordered) == ["two", "one"]
    both = strategic(
        {
            "spec": {
                "$setElementOrder/containers": [{"name": "new"}, {"name": "two"}],
                "containers": [{"name": "new", "image": "n"}],
            }
        }
    )
    assert names(both) == ["new", "one", "two"]


@pytest.mark.parametrize(
    "patch",
    [
        {"spec": {"containers": [{"image": "x"}]}},
        {"spec": {"containers": [{"$patch": "delete"}]}},
        {"spec": {"containers": [{"$patch": "merge", "name": "one"}]}},
        {"spec": {"containers": [{"$patch": "what", "name": "one"}]}},
        {"spec": {"containers": ["one"]}},
        {"spec": {"containers": [["one"]]}},
        {"spec": {"containers": [{"name": {"x": 1}}]}},
        {"spec": {"$patch": "what"}},
        {"spec": {"$retainKeys": "x"}},
        {"spec": {"$retainKeys": ["x"], "hostNetwork": True}},
        {"spec": {"$setElementOrder/containers": {}}},
        {"spec": {"$setElementOrder/containers": [{"name": "one"}], "containers": [{"name": "two"}]}},
        {"spec": {"$setElementOrder/containers": [{"image": "one"}]}},
        {"metadata": {"$deleteFromPrimitiveList/finalizers": "x"}},
    ],
)
def test_a_strategic_patch_that_contradicts_itself(patch: dict[str, Any]) -> None:
    with pytest.raises(StrategicError):
        strategic(patch)
    assert refusal(patch, STRATEGIC_PATCH).code == 400


def test_the_merge_patches_of_rfc_7396() -> None:
    """Appendix A, the rows whose patch is an object."""
    rows: list[tuple[Any, Any, Any]] = [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ]
    for current, patch, merged in rows:
        assert merge_patch(current, patch) == merged


VALUES = st.recursive(
    st.none() | st.integers(0, 3) | st.sampled_from("ab"),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from("abc"), inside, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(VALUES, VALUES)
def test_a_merge_patch_twice_is_once(current: Any, patch: Any) -> None:
    once = merge_patch(current, patch)
    assert merge_patch(once, patch) == once


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), VALUES), st.dictionaries(st.sampled_from("abc"), VALUES))
def test_without_a_schema_a_strategic_patch_is_a_merge_patch(current: Any, patch: Any) -> None:
    """What it does not name it has no lists of, and a null inside something new is left out."""
    own = schema_of("palisade.internal", "v1alpha1", "Supervisor").fields["spec"]
    merged = strategic_merge(own, current, patch)
    if "null" not in json.dumps([current, patch]):
        assert merged == merge_patch(current, patch)


def test_json_patch() -> None:
    done = patch_apply(POD, CURRENT, b'[{"op":"add","path":"/metadata/labels/z","value":"1"}]', JSON_PATCH)
    assert done.object["metadata"]["labels"] == {"a": "b", "z": "1"}
    assert CURRENT["metadata"]["labels"] == {"a": "b"}


@pytest.mark.parametrize(
    "operations",
    [
        [{"op": "test", "path": "/metadata/name", "value": "other"}],
        [{"op": "remove", "path": "/metadata/labels/none"}],
        [{"op": "replace", "path": "/spec/none/none", "value": 1}],
        [{"op": "add", "path": "/spec/containers/9", "value": {}}],
        [{"op": "add", "path": "/spec/containers/x", "value": {}}],
        [{"op": "add", "path": "nowhere", "value": {}}],
        [{"op": "add", "path": "/metadata/labels/x"}],
        [{"op": "add", "path": 1, "value": 1}],
        [{"op": "what", "path": "/a"}],
        [{"op": "move", "path": "/spec/containers/0/x", "from": "/spec"}],
        [{"op": "copy", "path": "/spec"}],
        [{"path": "/spec"}],
        [{}],
        [{"op": "replace", "path": "", "value": []}],
        [{"op": "remove", "path": ""}],
    ],
)
def test_a_json_patch_that_does_not_fit(operations: list[Any]) -> None:
    error = refusal(operations, JSON_PATCH)
    assert (error.code, error.reason) == (422, "Invalid")
    assert error.message == "the server rejected our request due to an error in our request"


def test_a_json_patch_is_bounded() -> None:
    operation = {"op": "test", "path": "/kind", "value": "Pod"}
    assert refusal([operation] * (MOST_OPERATIONS + 1), JSON_PATCH).code == 413
    doubled = [{"op": "copy", "from": "/spec", "path": f"/spec/{number}"} for number in range(40)]
    assert refusal(doubled, JSON_PATCH).code == 422
    assert json_patch(CURRENT, [operation]) == CURRENT


def test_what_is_no_patch() -> None:
    assert refusal(b"{", MERGE_PATCH).code == 400
    assert refusal([], MERGE_PATCH).code == 400
    assert refusal({}, JSON_PATCH).code == 400
    assert refusal([1], JSON_PATCH).code == 400
    for content_type in ("application/json", APPLY_PATCH, "", "text/html"):
        assert refusal({}, content_type).code == 415
    own = schema_of("palisade.internal", "v1alpha1", "Host")
    with pytest.raises(ApiError) as caught:
        patch_apply(own, {}, b"{}", STRATEGIC_PATCH)
    assert caught.value.code == 415
    assert STRATEGIC_PATCH not in caught.value.message.partition("(got")[0]


def test_what_is_patched_is_still_an_object_of_its_kind() -> None:
    wrong = refusal({"spec": {"containers": 1}}, MERGE_PATCH)
    assert wrong.code == 422
    assert "cannot unmarshal number into Go struct field PodSpec.spec.containers" in wrong.message
    own = schema_of("palisade.internal", "v1alpha1", "Segment")
    with pytest.raises(ApiError, match=r'Segment.palisade.internal "s" is invalid: spec.vni: Invalid value: "string"'):
        patch_apply(own, {"metadata": {"name": "s"}}, b'{"spec":{"vni":"x"}}', MERGE_PATCH)
    secret = {"metadata": {"name": "s"}, "data": {"password": "aHVudGVyMg=="}}
    with pytest.raises(ApiError) as caught:
        patch_apply(schema_of("", "v1", "Secret"), secret, b'{"data":{"other":1}}', MERGE_PATCH)
    assert "aHVudGVyMg" not in caught.value.message
    unknown = {"spec": {"fuu": 1}}
    error = refusal(unknown, STRATEGIC_PATCH)
    assert error.code == 422
    assert error.message.endswith('strict decoding error: unknown field "spec.fuu"')
    data = json.dumps(unknown).encode()
    assert patch_apply(POD, CURRENT, data, MERGE_PATCH, WARN) == (CURRENT, ('unknown field "spec.fuu"',))
    assert patch_apply(POD, CURRENT, data, MERGE_PATCH, IGNORE) == (CURRENT, ())
