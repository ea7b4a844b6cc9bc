# SPDX-License-Identifier: Apache-2.0
"""What nftables refuses, and what docs/policy-semantics.md lists of it: each stands in the other."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import replace
from pathlib import Path

from dfw.model import FloodLimits, Timers
from dfw.nftables import capabilities, unsupported_features
from dfw.nftables.names import MOST_VNICS
from dfw.replay_nftables import options_refused
from dfw.replay_run import RunOptions
from overlay.kernel_show import UNABLE
from tests.support.oracle_bench import policies
from tests.unit.test_nftables import _RPC

TEXT = (Path(__file__).parent.parent.parent / "docs" / "policy-semantics.md").read_text()
_BEGIN, _END = "Refused by name (`the enforcer nftables does not support …`), never weakened: ", "Verdict lines: `rule`"
REFUSED = " ".join(TEXT[TEXT.index(_BEGIN) + len(_BEGIN) : TEXT.index(_END)].split())
POLICIES, REPLAYS = REFUSED.split(". In a replay also ")
ALG = "the ALG SUN_RPC_TCP (rule "
FEATURES = {
    "ALGs other than FTP and TFTP (`the ALG SUN_RPC_TCP (rule …)`)": (policies(_RPC), ALG),
    "session timers other than the default": (policies(timers=Timers(udp_single=12)), "session timers other than the"),
    "flood protection": (replace(policies(), flood=FloodLimits(udp_active=5)), "flood protection"),
    f"more than {MOST_VNICS:,} vNICs": (None, "vNICs (at most "),
    "of staged policies the same (`the ALG SUN_RPC_TCP (staged rule …)`)": (
        replace(policies(), staged=(replace(policies(_RPC).policies[0], staged=True),)),
        ALG.replace("rule", "staged rule"),
    ),
}


def test_each_line_about_policies_is_refused_and_nothing_else_is() -> None:
    assert re.split(r", (?!so )|; ", POLICIES) == list(FEATURES)
    for world, words in FEATURES.values():
        if world is not None:
            (said,) = unsupported_features(world)
            assert said.startswith(words)
    # What else the code may name would have no line.
    tree = ast.parse(inspect.getsource(capabilities))
    named = [node.value for node in ast.walk(tree) if isinstance(node, ast.Yield)]
    named += [
        node.value.elt
        for node in ast.walk(tree)
        if isinstance(node, ast.YieldFrom) and isinstance(node.value, ast.GeneratorExp)
    ]
    templates = ["".join(p.value for p in item.values if isinstance(p, ast.Constant)) for item in map(joined, named)]
    assert sorted(templates) == [
        " vNICs (at most )",
        "flood protection",
        "session timers other than the default",
        "the ALG  (rule )",
    ]


def joined(node: ast.expr | None) -> ast.JoinedStr:
    assert isinstance(node, ast.JoinedStr)
    return node


def test_each_option_of_a_replay_that_is_refused_has_its_word_and_each_word_its_option() -> None:
    words = REPLAYS.rstrip(". ").replace(" and an address", " an address")
    listed = {word.strip("`") for word in words.split(", ")}
    mine = {"schedules" if name.startswith("schedules") else name for name in options_refused(policies(), RunOptions())}
    assert listed == mine | {"an address that two vNICs have"}  # test_replay_nftables.py sees to that one


def test_what_live_hosts_refuse_is_listed() -> None:
    (row,) = (line for line in TEXT.splitlines() if "refused by name; BFD is not spoken" in line)
    listed = row.split("|")[1]
    assert [words for words in set(UNABLE.values()) if words not in listed] == []
    assert sorted({*UNABLE.values(), "BFD"}) == sorted(re.sub(r" \(.*?\)", "", listed).strip().split(", "))
