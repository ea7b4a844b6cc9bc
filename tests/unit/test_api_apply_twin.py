# SPDX-License-Identifier: Apache-2.0
"""Histories of applies and updates by several managers, beside the slow twin."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor_glue.api.apply import apply_merge
from supervisor_glue.api.fieldset import paths, set_read
from supervisor_glue.api.managed_fields import managed_update
from supervisor_glue.api.schema import schema_of
from supervisor_glue.api.status import ApiError
from tests.support.apply_twin import KEYS, Path, Twin, TwinConflict, table

LONG = bool(os.environ.get("PALISADE_LONG"))
POD = schema_of("", "v1", "Pod")
NOW = "2026-11-26T19:00:00Z"
NAMES, WORDS = st.sampled_from("abc"), st.sampled_from("12")
CONTAINER = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "image": WORDS,
        "command": st.lists(WORDS, min_size=1, max_size=2),
        "env": st.lists(
            st.fixed_dictionaries({"name": NAMES}, optional={"value": WORDS}),
            min_size=1,
            max_size=2,
            unique_by=lambda entry: entry["name"],
        ),
        "ports": st.lists(
            st.fixed_dictionaries({"containerPort": st.integers(1, 2), "protocol": st.sampled_from(["TCP", "UDP"])}),
            min_size=1,
            max_size=2,
            unique_by=lambda port: (port["containerPort"], port["protocol"]),
        ),
        "securityContext": st.fixed_dictionaries({"privileged": st.booleans()}),
    },
)
CONTAINERS = st.lists(CONTAINER, min_size=1, max_size=3, unique_by=lambda container: container["name"])
METADATA = st.fixed_dictionaries(
    {"name": st.just("p")},
    optional={
        "labels": st.dictionaries(NAMES, WORDS, min_size=1),
        "finalizers": st.lists(NAMES, unique=True, min_size=1),
    },
)
SPECS = st.fixed_dictionaries(
    {"containers": CONTAINERS}, optional={"nodeSelector": st.dictionaries(NAMES, WORDS, min_size=1)}
)
PODS = st.builds(
    lambda metadata, spec: {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, METADATA, SPECS
)
STEPS = st.lists(
    st.tuples(st.just("apply"), st.sampled_from(["m1", "m2", "m3"]), PODS, st.booleans())
    | st.tuples(st.just("label"), st.just("u"), NAMES, WORDS),
    min_size=2,
    max_size=7 if LONG else 5,
)


def owners(item: dict[str, Any]) -> dict[str, set[Path]]:
    """As the twin has them: without the paths of mappings and lists themselves."""
    found: dict[str, set[Path]] = {}
    for entry in item["metadata"].get("managedFields", ()):
        for path in paths(set_read(entry["fieldsV1"])):
            words = tuple(word(element, path[number - 1]) for number, element in enumerate(path))
            if words[-1] not in ("labels", *KEYS):
                found.setdefault(entry["manager"], set()).add(words)
    return found


def word(element: str, above: str) -> str:
    kind, rest = element[:2], element[2:]
    if kind == "f:":
        return rest
    value = json.loads(rest)
    return f"={value}" if kind == "v:" else ",".join(str(value[key]) for key in KEYS[above[2:]])


def held(item: dict[str, Any]) -> dict[Path, Any]:
    """What an object holds, but for mappings of which nothing is left."""
    plain = copy.deepcopy(item)
    plain["metadata"].pop("managedFields", None)
    return {path: value for path, value in table(plain).items() if value not in ({}, [])}


@settings(max_examples=5000 if LONG else 60, deadline=None)
@given(STEPS)
def test_a_history_ends_as_the_twins(steps: list[Any]) -> None:
    twin, live = Twin(), None
    for what, manager, given_item, other in steps:
        if what == "label":
            if live is None:
                continue
            metadata = live["metadata"]
            labels = {**metadata.get("labels", {}), given_item: other}
            live = managed_update(POD, live, {**live, "metadata": {**metadata, "labels": labels}}, manager, NOW)
            twin.write(manager, ("metadata", "labels", given_item), other)
        else:
            try:
                twin.apply(manager, given_item, other)
            except TwinConflict as conflict:
                try:
                    apply_merge(POD, live, given_item, manager, other, NOW)
                except ApiError as error:
                    assert len(error.details["causes"]) == len(conflict.conflicts)
                else:
                    raise AssertionError("only the twin sees a conflict") from None
                continue
            live = apply_merge(POD, live, given_item, manager, other, NOW)
        assert live is not None
        assert held(live) == twin.values
        assert owners(live) == twin.owners
