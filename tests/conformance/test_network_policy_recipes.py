# SPDX-License-Identifier: Apache-2.0
"""The NetworkPolicy recipes: what their text says is blocked is blocked, the rest passes. Expected by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dfw.endpoint import endpoint_parse
from dfw.model import Family
from dfw.probe import EPHEMERAL_PORT, Probe, judge_both
from tests.support.kube import PROTOCOLS, loaded, namespace, pod

OUTSIDE = "203.0.113.1"
CLUSTER = [
    namespace("default"),
    namespace("secondary"),
    namespace("dev", purpose="testing"),
    namespace("prod", purpose="production"),
    namespace("kube-system"),
    pod("default/web", "10.0.0.1", app="web"),
    pod("default/foo", "10.0.0.2", app="foo"),
    pod("secondary/test", "10.0.1.1"),
    pod("dev/test", "10.0.2.1"),
    pod("prod/test", "10.0.3.1"),
    pod("kube-system/dns", "10.0.9.1", labels={"k8s-app": "kube-dns"}),
]
# (recipe, which of its policies) -> (from, to, service, does it pass?)
Row = tuple[str, str, str, bool]
EXPECTED: dict[tuple[str, int], list[Row]] = {
    ("03-deny-all-non-whitelisted-traffic-in-the-namespace", 0): [
        ("default/foo", "default/web", "tcp/80", False),
        ("secondary/test", "default/foo", "tcp/80", False),
        (OUTSIDE, "default/web", "tcp/80", False),
        ("default/web", "secondary/test", "tcp/80", True),
    ],
    ("05-allow-traffic-from-all-namespaces", 0): [
        ("secondary/test", "default/web", "tcp/80", True),
        ("default/foo", "default/web", "tcp/80", True),
        (OUTSIDE, "default/web", "tcp/80", False),
        (OUTSIDE, "default/foo", "tcp/80", True),
    ],
    ("06-allow-traffic-from-a-namespace", 0): [
        ("dev/test", "default/web", "tcp/80", False),
        ("prod/test", "default/web", "tcp/80", True),
        ("default/foo", "default/web", "tcp/80", False),
        ("dev/test", "default/foo", "tcp/80", True),
    ],
    ("08-allow-external-traffic", 0): [
        (OUTSIDE, "default/web", "tcp/80", True),
        ("dev/test", "default/web", "tcp/443", True),
    ],
    ("11-deny-egress-traffic-from-an-application", 0): [
        ("default/foo", "default/web", "tcp/80", False),
        ("default/foo", "kube-system/dns", "udp/53", False),
        ("default/foo", OUTSIDE, "tcp/80", False),
        ("default/web", "default/foo", "tcp/80", True),
    ],
    ("11-deny-egress-traffic-from-an-application", 1): [
        ("default/foo", "kube-system/dns", "udp/53", True),
        ("default/foo", "kube-system/dns", "tcp/53", True),
        ("default/foo", "default/web", "tcp/80", False),
        ("default/foo", OUTSIDE, "tcp/80", False),
    ],
    # Its text shows foo reaching web too; its manifest allows DNS alone, as Kubernetes documents it.
    ("14-deny-external-egress-traffic", 0): [
        ("default/foo", "kube-system/dns", "udp/53", True),
        ("default/foo", OUTSIDE, "tcp/80", False),
        ("default/foo", "default/web", "tcp/80", False),
    ],
}


def manifests(text: str) -> list[dict[str, Any]]:
    """The whole manifests among a recipe's YAML blocks."""
    blocks = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    return [block for block in blocks if isinstance(block, dict) and block.get("kind") == "NetworkPolicy"]


@pytest.mark.needs_shared_data("netpol-recipes")
def test_recipes_do_what_their_text_says(shared_data: Path) -> None:
    seen = set()
    for file in sorted((shared_data / "netpol-recipes").glob("[0-9]*.md")):
        for index, policy in enumerate(manifests(file.read_text(encoding="utf-8"))):
            seen.add((file.stem, index))
            world = loaded(*CLUSTER, policy).world
            for sender, receiver, service, passes in EXPECTED[file.stem, index]:
                ends = [next(endpoint_parse(end, world).peers(Family.IPV4)) for end in (sender, receiver)]
                protocol, port = service.split("/")
                probe = Probe(ends[0], ends[1], PROTOCOLS[protocol.upper()], EPHEMERAL_PORT, int(port))
                (verdicts,) = judge_both(world, [probe], world.inventory)
                arrives = all(verdict.verdict == "ALLOW" for verdict in verdicts)
                assert arrives is passes, (file.stem, sender, receiver, service, verdicts)
    assert seen == set(EXPECTED)
