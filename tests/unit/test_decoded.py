# SPDX-License-Identifier: Apache-2.0
"""Decoded objects of the Kubernetes API: the quick way reads what the manifests' readers read, and refuses the same."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from operator import itemgetter
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfw.bench.clusters import make_cluster
from dfw.errors import PolicyError
from dfw.incremental import PolicyState, Remove, Staged, Stamp
from dfw.incremental.canonical import canonical_state
from dfw.incremental.templates import Instance
from dfw.incremental.worlds import world_changes
from dfw.kube.decoded import DecodedReader
from dfw.kube.metadata import STAGED
from dfw.model import NAMESPACE_NAME_LABEL, Port
from tests.support.kube import labels, loaded, network_policy, pod
from tests.support.random_clusters import cluster, policies

EXAMPLES = 5000 if os.environ.get("PALISADE_LONG") else 60
KUBE = ("Namespace", "Pod", "NetworkPolicy", "ClusterNetworkPolicy", "SecurityPolicy")
JUNK: list[Any] = [None, "", "x", "X y", 0, -1, 70000, 1.5, True, [], {}, [None], ["x"], {"a": None}, {"a": "b"}, "::1"]


def documents(random: Random, *, staged: bool = True) -> list[dict[str, Any]]:
    """Of Kubernetes' kinds; some policies are staged, as new ones or beside those in force."""
    found = cluster(random) + policies(random)
    plain = [item for item in found if item.get("kind") in KUBE and "resource_type" not in item]
    beside = [staged_version(random, item) for item in plain if item["kind"] in KUBE[2:] and random.random() < 0.3]
    return plain + beside if staged else plain


def staged_version(random: Random, document: dict[str, Any]) -> dict[str, Any]:
    """The document as a staged change of the same policy, of another one, or as a staged deletion."""
    name = document["metadata"]["name"] + random.choice(["", "-new"])
    annotations = {STAGED: random.choice(["true", "true", "delete", "false"])}
    if annotations[STAGED] == "false":
        name += "-in-force"
    return {**document, "metadata": {**document["metadata"], "name": name, "annotations": annotations}}


def outcome(reader: DecodedReader, document: Mapping[str, Any], *, slowly: bool) -> object:
    """What comes of a document: objects of the model, or problems."""
    try:
        found = reader._read_slowly(document) if slowly else reader.read(document)
    except PolicyError as error:
        return str(error)
    return comparable(found)


def comparable(change: object) -> object:
    """Equal for equal meanings: templates are each reader's own."""
    if isinstance(change, Stamp):
        return change.key, Instance(*change).policies()
    return ("staged", comparable(change.policy)) if isinstance(change, Staged) else change


def spoil(random: Random, value: Any) -> Any:
    """One place of a document is something else, or gone."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        if random.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if random.random() < 0.1:
            return {**value, random.choice(["unknown", "cidr", "matchLabels"]): random.choice(JUNK)}
        return {**value, key: spoil(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.8:
        at = random.randrange(len(value))
        return [*value[:at], spoil(random, value[at]), *value[at + 1 :]]
    return random.choice(JUNK)


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**32))
def test_read_quickly_or_slowly(seed: int) -> None:
    random = Random(seed)
    reader = DecodedReader(PolicyState().selections.meaning)
    for document in documents(random):
        before = copy.deepcopy(document)
        assert outcome(reader, document, slowly=False) == outcome(reader, document, slowly=True)
        spoiled = spoil(random, document)
        assert outcome(reader, spoiled, slowly=False) == outcome(reader, spoiled, slowly=True)
        assert document == before


@settings(max_examples=EXAMPLES // 3)
@given(st.integers(0, 2**32))
def test_decoded_objects_compile_as_manifests_do(seed: int) -> None:
    given_documents = documents(Random(seed))
    world = loaded(*given_documents).world
    slow, quick = PolicyState(), PolicyState()
    slow.apply(world_changes(world))
    quick.apply(DecodedReader(quick.selections.meaning).read_all(given_documents))
    assert without_numbers(quick) == without_numbers(slow)
    assert (quick.what_if is None) == (slow.what_if is None) == (not world.staged)
    if quick.what_if is not None and slow.what_if is not None:
        assert without_numbers(quick.what_if) == without_numbers(slow.what_if)


def without_numbers(state: PolicyState) -> dict[str, Any]:
    """Tables without rule ids, which file mode gives by position."""
    tables = canonical_state(state)
    return {port: tuple((row[0], *row[2:]) for row in rows) for port, rows in tables.items()}


def test_policies_of_one_shape_are_read_once() -> None:
    reader = DecodedReader(PolicyState().selections.meaning)
    stamps = []
    for number in range(50):
        block = {"ipBlock": {"cidr": f"10.{number}.0.0/16"}}
        spec = {"podSelector": labels(app=f"a{number}"), "egress": [{"to": [block]}], "policyTypes": ["Egress"]}
        found = reader.read(network_policy(f"n{number}/p", **spec))
        assert isinstance(found, Stamp)
        stamps.append(found)
    assert len({id(stamp.template) for stamp in stamps}) == 1
    assert len({Instance(*stamp).policies() for stamp in stamps}) == 50


def test_nobody_can_write_a_mark() -> None:
    """The value that stands in a hole is drawn by each reader; a policy that holds another's stays what it is."""
    one, other = (DecodedReader(PolicyState().selections.meaning) for _ in range(2))
    assert one._mark_label != other._mark_label and one._mark_block != other._mark_block


def test_the_generated_cluster_is_read_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the whole front end was asked")

    monkeypatch.setattr(DecodedReader, "_read_slowly", refuse)
    for hostile in (False, True):
        state = PolicyState()
        found = make_cluster(20, 60, 80, seed=1, hostile=hostile)
        state.apply(DecodedReader(state.selections.meaning).read_all(found))
        assert len(state.ports.slot_of) == 80


def test_pods_without_a_vnic_and_assigned_things() -> None:
    reader = DecodedReader(PolicyState().selections.meaning)
    found = reader.read(pod("x/a", "10.0.0.1", "fd00::1"))
    assert isinstance(found, Port) and [str(ip) for ip in found.ips] == ["10.0.0.1", "fd00::1"]
    assert reader.read({**pod("x/a", "10.0.0.1"), "spec": {"hostNetwork": True}}) is None
    assert reader.read({**pod("x/a", "10.0.0.1"), "status": {"phase": "Succeeded"}}) is None
    again = reader.read(pod("x/a", "10.0.0.1"))
    assert isinstance(again, Port) and again.mac == found.mac
    described = reader.read({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}})
    assert described is not None and described.labels == {NAMESPACE_NAME_LABEL: "x"}  # type: ignore[union-attr]


@settings(max_examples=EXAMPLES // 3)
@given(st.integers(0, 2**32), st.sampled_from((0.0, 0.02, 0.3)))
def test_objects_are_read_many_at_a_time_as_one_by_one(seed: int, share: float) -> None:
    """Whatever is among them (not plain, wrong, staged, without a vNIC): the same in order, or the same errors."""
    random = Random(seed)
    listed = sorted((item for item in documents(random, staged=share > 0) * 3), key=itemgetter("kind"))
    for at, item in enumerate(listed):
        if random.random() < share:
            listed[at] = spoil(random, item)
        elif random.random() < 0.1 and item["kind"] == "Pod":
            listed[at] = {**item, "status": {"phase": "Failed"}}
    one_by_one, errors = [], []
    reader = DecodedReader(PolicyState().selections.meaning)
    for item in listed:
        try:
            one_by_one.append(reader.read(item))
        except PolicyError as error:
            errors += error.problems
    many = DecodedReader(PolicyState().selections.meaning)
    if errors:
        with pytest.raises(PolicyError) as caught:
            many.read_all(listed)
        assert list(caught.value.problems) == errors
    else:
        found = many.read_all(listed)
        assert list(map(comparable, found)) == [comparable(item) for item in one_by_one if item is not None]


def test_a_policy_put_and_removed_at_once_leaves_nothing() -> None:
    """Its selector had been shown a new pod before it was dropped, which then was no member of what it was to leave."""
    state = PolicyState()
    reader = DecodedReader(state.selections.meaning)
    put = [reader.read(network_policy(f"x/{app}", podSelector=labels(app=app))) for app in ("a", "b")]
    new = reader.read(pod("x/p", "10.0.0.1", labels={"app": "b"}))
    assert put[0] is not None and put[1] is not None and new is not None
    state.apply([put[0]])
    assert state.apply([put[1], Remove(Stamp, "np/x/b"), new]).tables == {"x/p"}
    assert len(state.units.of) == 2  # the default section's too


def test_all_problems_of_all_objects() -> None:
    reader = DecodedReader(PolicyState().selections.meaning)
    bad = [pod("x/A b", "10.0.0.1"), network_policy("x/p", ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.1/8"}}]}])]
    with pytest.raises(PolicyError) as caught:
        reader.read_all(bad)
    assert [problem.place.path for problem in caught.value.problems] == [
        "metadata.name",
        "spec.ingress[0].from[0].ipBlock.cidr",
    ]
