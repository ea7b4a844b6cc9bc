# SPDX-License-Identifier: Apache-2.0
"""`palisade bench scale`: the result's shape, and that its check finds a table that is not what it should be."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from random import Random
from subprocess import CompletedProcess

import jsonschema
import pytest

from dfw.bench.clusters import Cluster, make_cluster
from dfw.bench.packets import bench_setup
from dfw.bench.scale import ScaleBench, bench_scale, host_bytes
from dfw.bench.scale import _verified as verified
from dfw.incremental import PolicyState, Remove, Stamp
from dfw.kube.decoded import DecodedReader
from dfw.schema import schema_files


@pytest.mark.parametrize("hostile", [False, True])
def test_small_run(hostile: bool) -> None:
    result = bench_scale(ScaleBench(30, 90, 120, hostile, verify=40, seed=3, runs=1))
    schema = json.loads(schema_files()["bench"].read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(result)
    assert result["verified"] and result["checked"] == 40
    assert result["largest_set"] >= (60 if hostile else 1)


def test_classify_has_the_shape_that_its_schema_says(palisade: Callable[..., CompletedProcess[str]]) -> None:
    done = palisade("bench", "classify", "--synthetic", "fw", "--count", "100", "--headers", "5000", "-o", "json")
    assert done.returncode == 0, done.stderr
    schema = json.loads(schema_files()["bench"].read_text(encoding="utf-8"))
    found = json.loads(done.stdout)
    jsonschema.Draft202012Validator(schema).validate(found)
    assert found["verified"] and found["floor_ns"]["1"] > 0 and found["core_ghz"] > 0


def test_setup_has_a_floor_of_its_own_run() -> None:
    found = bench_setup(rules=16, batch=32, connections=20_000, runs=1)
    assert found["verified"] and found["floor_ns"]["4"] > 0 and found["core_ghz"] > 0


def loaded(cluster: Cluster) -> tuple[PolicyState, DecodedReader]:
    state = PolicyState()
    reader = DecodedReader(state.selections.meaning)
    state.apply(reader.read_all(cluster))
    return state, reader


def test_the_check_can_fail() -> None:
    cluster = make_cluster(10, 30, 40, seed=1)
    for damage in ("policy", "set", "table"):
        state, reader = loaded(cluster)
        if damage == "policy":
            state.apply([Remove(Stamp, f"np/{cluster.policies[0]['metadata']['namespace']}/policy-2")])
        elif damage == "set":
            for item in state.sets.of.values():
                item.packed = item.packed[:-36]
        else:
            for table in state.tables.of:
                assert table is not None
                table.data = table.data[40:]
        assert not verified(state, reader, cluster, Random(1), 40)["verified"]
        state, reader = loaded(cluster)
        assert verified(state, reader, cluster, Random(1), 40)["verified"]


def test_cluster_shapes() -> None:
    plain, hostile = (make_cluster(100, 300, 400, seed=1, hostile=value) for value in (False, True))
    for cluster in (plain, hostile):
        assert (len(cluster.namespaces), len(cluster.policies), len(cluster.pods)) == (100, 300, 400)
        assert set(Counter(pod["metadata"]["namespace"] for pod in cluster.pods).values()) == {4}
        assert set(Counter(item["metadata"]["namespace"] for item in cluster.policies).values()) == {3}
    wide = [item for item in hostile.policies if "namespaceSelector" in str(item["spec"])]
    assert len(wide) == 30 and not any("namespaceSelector" in str(item["spec"]) for item in plain.policies)
    assert sum("scrape" in pod["metadata"]["labels"] for pod in hostile.pods) == 200
    assert plain == make_cluster(100, 300, 400, seed=1)


def test_host_bytes() -> None:
    state, _ = loaded(make_cluster(10, 30, 40, seed=1))
    found = host_bytes(state)
    tables = {slot.data for slot in state.tables.of if slot is not None}
    assert found["hosts"] == 1
    assert found["max"] == sum(map(len, tables)) + sum(len(item.packed) for item in state.sets.of.values())
