# SPDX-License-Identifier: Apache-2.0
"""Cases of Cyclonus through this machine's kernel: one packet for each probe, at the vNICs of both pods.

SCTP probes carry an INIT, TCP's a SYN. The verdicts are Cyclonus' own; pairs with one pod on both sides are left out.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dfw.compile import compile_policy
from dfw.nftables import refuse_unsupported, render_ruleset, vnic_mark
from dfw.nftables.judge import KernelJudge
from tests.conformance.test_cyclonus import VERDICTS, documents
from tests.support.kube import loaded
from tests.support.oracle_bench import SYN, init, sctp, tcp, udp

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_tun,
    pytest.mark.needs_ipv6,
    pytest.mark.needs_tool("nft", "ip"),
    pytest.mark.needs_kernel_judge,
]
CASES, JUDGEMENTS = 106, 46_884
EVERY = 30  # of the cases, in a bounded run


def probe(protocol: str, source: str, destination: str, sport: int, dport: int) -> bytes:
    """The first packet of a connection."""
    if protocol == "TCP":
        return tcp(source, destination, (sport, dport), SYN, 1)
    if protocol == "UDP":
        return udp(source, destination, (sport, dport))
    return sctp(source, destination, (sport, dport), 0, init(1, 7))


def step_wrong(step: dict[str, Any]) -> tuple[int, list[str]]:
    """How many probes the kernel judged, and those on which it and Cyclonus differ."""
    world = loaded(*documents(step)).world
    refuse_unsupported(world)
    names = [port.name for port in world.inventory]
    numbers = {f"{port.namespace}/{port.name.rpartition('/')[2]}": at for at, port in enumerate(world.inventory, 1)}
    addresses = {f"{item['Namespace']}/{item['Name']}": item["IP"] for item in step["pods"]}
    judged, wrong = 0, []
    with KernelJudge(render_ruleset(compile_policy(world), names).ruleset) as judge:
        for at, row in enumerate(step["expected"]):
            if row["from"] == row["to"]:
                continue
            ends = addresses[row["from"]], addresses[row["to"]]
            packet = probe(row["protocol"], *ends, 1024 + at, row["port"])
            answer = judge.judge(packet, vnic_mark(numbers[row["from"]], numbers[row["to"]]))
            assert answer.state == "new", row
            judged += 1
            if bool(answer.delivered) is not VERDICTS[row["result"]]:
                wrong.append(f"{row} but {answer}")
    return judged, wrong


@pytest.mark.needs_shared_data("cyclonus/cases.jsonl.gz")
def test_cases_of_cyclonus(shared_data: Path, long_run: bool) -> None:
    cases = judged = 0
    wrong: list[str] = []
    with gzip.open(shared_data / "cyclonus" / "cases.jsonl.gz", "rt", encoding="utf-8") as lines:
        for at, line in enumerate(lines):
            if not long_run and at % EVERY:
                continue
            case = json.loads(line)
            cases += 1
            for step in case["steps"]:
                count, differing = step_wrong(step)
                judged += count
                wrong += [f"{case['description']}: {text}" for text in differing]
    assert not wrong, "\n".join(wrong[:20])
    assert (cases, judged) == (CASES, JUDGEMENTS) if long_run else cases == 4 and judged > 1500
