# SPDX-License-Identifier: Apache-2.0
"""Rules that others wrote for a real NSX: Ansible playbooks of ansible-for-nsxt, as far as they are policy rules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dfw.compile import compile_policy
from dfw.documents import documents_parse
from dfw.errors import PolicyError
from dfw.load import load_documents

# A gateway's rules have the vocabulary of ours; these two fields are the gateway's own (a Tier-0 as scope, layer 7).
_GATEWAY_ONLY = ("scope", "profiles")


def rules_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every policy rule in a playbook: mappings in a list called `rules`, with the Policy API's fields."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "rules" and isinstance(inner, list):
                yield from (item for item in inner if isinstance(item, dict) and "source_groups" in item)
            yield from rules_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from rules_in(inner)


def groups_of(rule: dict[str, Any]) -> list[dict[str, Any]]:
    """Empty groups where the rule says that there are some."""
    paths = [path for side in ("source_groups", "destination_groups") for path in rule[side] if path.startswith("/")]
    return [{"resource_type": "Group", "path": path} for path in dict.fromkeys(paths)]


@pytest.mark.needs_shared_data("ansible-nsxt")
def test_rules_of_playbooks_load_and_compile(shared_data: Path) -> None:
    found = 0
    for file in sorted((shared_data / "ansible-nsxt").rglob("*.yml")):
        for number, rule in enumerate(rules_in(yaml.safe_load(file.read_text(encoding="utf-8")))):
            found += 1
            ours = {key: value for key, value in rule.items() if key not in _GATEWAY_ONLY}
            policy = {"resource_type": "SecurityPolicy", "id": f"p{number}", "category": "Application", "rules": [ours]}
            text = "\n".join(map(json.dumps, [*groups_of(rule), policy]))
            world = load_documents(documents_parse(text.encode(), file.name)).world
            (loaded,) = world.policies[0].rules
            assert loaded.tag == rule.get("tag", "")
            assert len(loaded.services) == len(rule.get("services", ()))
            assert len(compile_policy(world).rules) == 5
            if "profiles" in rule:  # layer 7 is refused by name, never left out
                policy["rules"] = [{**ours, "profiles": rule["profiles"]}]
                with pytest.raises(PolicyError, match="profiles: not supported; layer-7"):
                    load_documents(documents_parse(f"{text}\n{json.dumps({**policy, 'id': 'q'})}".encode(), file.name))
    assert found >= 1
