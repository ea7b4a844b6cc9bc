# SPDX-License-Identifier: Apache-2.0
"""`palisade check --report`: what the rules become is counted, not estimated."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import jsonschema
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from dfw.check import check, check_files
from dfw.compile import compile_policy
from dfw.explosion import explosion_of
from dfw.model import rules_for
from dfw.schema import schema_files
from tests.support.kube import labels, loaded, network_policy, pod
from tests.support.random_clusters import cluster, policies

ROOT = Path(__file__).resolve().parents[2]
SHOP = [str(ROOT / "examples" / "shop" / name) for name in ("policy.yaml", "inventory.yaml")]


def test_counts_of_one_rule() -> None:
    wide = {"from": [{"namespaceSelector": {}}], "ports": [{"port": 80}, {"port": 81}, {"protocol": "UDP", "port": 53}]}
    pods = [pod(f"x/p{number}", f"10.0.{number}.2", app="a" if number < 3 else "b") for number in range(5)]
    world = loaded(*pods, network_policy("x/np", podSelector=labels(app="a"), ingress=[wide])).world
    found = explosion_of(world)
    allow = next(rule for rule in found.rules if rule.path == "np/x/np/ingress/0")
    assert (allow.vnics, allow.entries, allow.ranges, allow.programmed_bytes) == (3, 3, 5, 3 * 3 * 40)
    assert found.rules[0] is allow
    assert found.rules_written == 2 and found.vnics == 5 and found.tables == 2
    assert (found.sets, found.set_ranges, found.set_bytes) == (1, 5, 5 * 36)


@settings(max_examples=15)
@given(st.integers(0, 2**32))
def test_sums_are_those_of_the_model_and_of_the_tables(seed: int) -> None:
    random = Random(seed)
    world = loaded(*cluster(random), *policies(random)).world
    found, compiled = explosion_of(world), compile_policy(world)
    own = [compiled.tables[compiled.table_of[port.name]].entries for port in world.inventory]
    assert found.entries_on_vnics == sum(map(len, own))
    assert found.programmed_bytes == sum(table.nbytes for table in own)
    by_path: dict[str, int] = {}
    for port in world.inventory:
        numbers = set(compiled.tables[compiled.table_of[port.name]].entries["rule"].tolist())
        programmed = {item.rule.path for item in rules_for(world, port)}
        for number in numbers:
            assert compiled.rules[number].path in programmed
            by_path[compiled.rules[number].path] = by_path.get(compiled.rules[number].path, 0) + 1
    assert {rule.path: rule.vnics for rule in found.rules if rule.vnics} == {
        path: count for path, count in by_path.items() if not path.startswith("default/")
    }


def test_check_report(tmp_path: Path) -> None:
    schema = json.loads(schema_files()["check"].read_text(encoding="utf-8"))
    result = check_files(tuple(SHOP), report=True)
    jsonschema.Draft202012Validator(schema).validate(result)
    assert result["explosion"]["rules_written"] == result["counts"]["rules"]
    assert "explosion" not in check_files(tuple(SHOP))
    shown = CliRunner().invoke(check, ["--report", *SHOP], standalone_mode=False)
    assert "rules written" in shown.output and result["explosion"]["rules"][0]["rule_path"] in shown.output
    bad = tmp_path / "bad.yaml"
    bad.write_text("resource_type: Nothing\n")
    broken = check_files((str(bad),), report=True)
    jsonschema.Draft202012Validator(schema).validate(broken)
    assert broken["explosion"] is None and broken["errors"]
