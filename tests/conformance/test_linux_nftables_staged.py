# SPDX-License-Identifier: Apache-2.0
"""What staged policies would let pass: the packet core against this machine's kernel, packet by packet, both with the
same policies in force and the same staged ones.

Differences are of the classes that tests.support.kernel_agreement.NAMED lists, or the kernel has no connection because
an earlier packet is refused in force. Nothing in force is another one by it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dfw.model import Action, PolicySet
from tests.conformance.test_linux_nftables import (
    _END,
    _WEB,
    INVENTORY,
    PACKETS,
    POLICIES,
    RAW,
    WHERE,
    captures_usable,
    pytestmark,  # noqa: F401 (the marks of all tests here)
)
from tests.support.kernel_staged import StagedComparison, staged_compare, staged_world
from tests.support.oracle_bench import policies, rule
from tests.support.pcap import pcap_write
from tests.support.staged_draw import staged_as


@pytest.mark.needs_shared_data("kernel-ct-oracle", "zeek", "suricata-verify")
@WHERE
@pytest.mark.parametrize("layer2", [False, True], ids=["layer 3", "layers 2 and 3"])
def test_the_kernel_counts_what_the_core_counts(
    shared_data: Path, long_run: bool, vnics: bool, layer2: bool, record_property: Callable[[str, object], None]
) -> None:
    captures = captures_usable(shared_data, sys.maxsize if long_run else 6)
    sums: Counter[str] = Counter()
    seeds = (1, 3, 13) if layer2 else (13, 17, 23)
    for seed in range(110) if long_run else seeds:
        found = staged_compare(staged_world(seed, captures, vnics=vnics, layer2=layer2), captures, vnics=vnics)
        assert [item for item in found.differences if not item.name] == [], seed
        assert found.altered == (), seed
        sums.update(item.name for item in found.differences)
        sums.update(compared=found.same, cut=found.cut, passed=found.passed, layer2=found.layer2)
    for name, count in sums.items():
        record_property(name, count)
    assert sums["compared"] > 300 and sums["cut"] and sums["passed"] > 20
    # A vNIC of a capture has few frames that a drawn rule could mean: test_ethernet_nftables_staged.py has more.
    assert sums["layer2"] if layer2 and not vnics else layer2 or not sums["layer2"]


# Small conversations of our own: whose data is not needed


def compare(world: PolicySet, staged: PolicySet, vnics: bool, folder: Path) -> StagedComparison:
    """One policy in force, another one staged."""
    capture = folder / "cap.pcap"
    pcap_write(capture, PACKETS, RAW)
    return staged_compare(replace(staged_as(world, staged), inventory=INVENTORY), [capture], vnics=vnics)


@WHERE
@pytest.mark.parametrize("name", [name for name in POLICIES if name != "allow"])
def test_what_would_be_cut_of_small_conversations(name: str, vnics: bool, tmp_path: Path) -> None:
    found = compare(POLICIES["allow"], POLICIES[name], vnics, tmp_path)
    assert (found.differences, found.altered, found.same) == ((), (), len(PACKETS))
    # Stateless rules let pass what is invalid, too.
    assert (found.cut > 0) == (name != "flags") and found.passed == (name == "stateless")


@WHERE
def test_what_would_newly_pass_is_asked_packet_by_packet(vnics: bool, tmp_path: Path) -> None:
    found = compare(POLICIES["drop"], POLICIES["allow"], vnics, tmp_path)
    assert {item.name for item in found.differences} == {"refused in force"} and found.altered == ()
    assert found.passed + len(found.differences) == len(PACKETS) - 3 and found.passed > len(PACKETS) / 2


@WHERE
def test_another_staged_policy_is_noticed(vnics: bool, tmp_path: Path) -> None:
    world = policies(rule("web", Action.ALLOW, _WEB), _END)
    same, other = (compare(world, item, vnics, tmp_path) for item in (world, POLICIES["drop"]))
    assert (same.cut, same.passed, same.differences) == (0, 0, ()) and other.cut > 3
