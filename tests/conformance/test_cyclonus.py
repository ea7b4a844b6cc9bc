# SPDX-License-Identifier: Apache-2.0
"""Every case of Cyclonus, a generator and simulator of NetworkPolicy verdicts, through the reachability matrix.

A pod always reaches itself (README of the data): pairs with one pod on both sides are left out.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.kube import Pairs, loaded, namespace, pod

VERDICTS = {"allowed": True, "blocked": False}
CASES, STEPS, JUDGEMENTS = 106, 108, 46_884


def documents(step: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """A step's cluster. Some of its policies come without kind, as their generator's structures have none."""
    for name, own in step["namespaces"].items():
        yield namespace(name, **own)
    for item in step["pods"]:
        ports = [(port["name"], port["port"], port["protocol"]) for port in item["Ports"]]
        yield pod(f"{item['Namespace']}/{item['Name']}", item["IP"], ports=ports, labels=item["Labels"])
    for policy in step["policies_in_force"] or ():
        yield {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", **policy}


@pytest.mark.needs_shared_data("cyclonus/cases.jsonl.gz")
def test_every_case_of_cyclonus(shared_data: Path) -> None:
    cases = steps = judgements = 0
    wrong: list[str] = []
    with gzip.open(shared_data / "cyclonus" / "cases.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            case = json.loads(line)
            cases += 1
            for step in case["steps"]:
                steps += 1
                pairs = Pairs(loaded(*documents(step)).world)
                for row in step["expected"]:
                    if row["from"] == row["to"]:
                        continue
                    judgements += 1
                    found = pairs.judge(row["from"], row["to"], row["protocol"], row["port"])
                    if found != tuple(VERDICTS[row[key]] for key in ("result", "egress", "ingress")):
                        wrong.append(f"{case['description']}: {row} but {found}")
    assert not wrong, "\n".join(wrong[:20])
    assert (cases, steps, judgements) == (CASES, STEPS, JUDGEMENTS)
